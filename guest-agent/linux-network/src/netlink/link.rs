//! Links: finding them, changing them, moving them to another namespace.

use std::os::fd::{AsFd, AsRawFd};

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkExtentMask, LinkFlags, LinkMessage};
use nic_model::{LinkName, MacAddr, Mtu};

use super::Netlink;
use super::link_view::{AdminState, LinkIndex, LinkView};
use crate::error::{Errno, NetlinkError, operation_error};
use crate::netns::Netns;

operation_error! {
    /// From [`Netlink::links`].
    ListLinksError {} "failed to list the links"
}

operation_error! {
    /// From [`Netlink::link`] and [`Netlink::link_by_name`].
    GetLinkError { link: String = "Its name or number." } "failed to look up link {link}"
}

operation_error! {
    /// From [`Netlink::set_link`].
    SetLinkError { index: LinkIndex = "Which." } "failed to change link {index}"
}

operation_error! {
    /// From [`Netlink::delete_link`].
    DeleteLinkError { index: LinkIndex = "Which." } "failed to delete link {index}"
}

/// What to change of a link; what is `None` stays. All of it travels in one message, which the
/// kernel works through in the order of the fields here (`do_setlink` in net/core/rtnetlink.c) and
/// does not undo when a later part fails, except that nothing has happened yet when the move fails.
///
/// `N` is the handle of a namespace: another one than [`Netns`] where the kernel is simulated.
#[derive(Debug, Clone)]
pub struct LinkChange<'a, N = Netns> {
    /// Moves it, switched off, into another namespace; `name` is then the name it gets there, in
    /// one step, and what follows happens there.
    pub move_to: Option<&'a N>,
    /// Its Ethernet address.
    pub mac: Option<MacAddr>,
    /// Largest packet.
    pub mtu: Option<Mtu>,
    /// Its name. Before Linux 6.2 a link that is up cannot be renamed.
    pub name: Option<&'a LinkName>,
    /// Free text, at most 255 bytes; the empty text removes it.
    pub alias: Option<&'a str>,
    /// Switches it on or off.
    pub admin: Option<AdminState>,
}

impl<N> Default for LinkChange<'_, N> {
    fn default() -> Self {
        Self {
            move_to: None,
            mac: None,
            mtu: None,
            name: None,
            alias: None,
            admin: None,
        }
    }
}

impl LinkChange<'_> {
    fn message(&self, index: LinkIndex) -> LinkMessage {
        let mut message = LinkMessage::default();
        message.header.index = index.0;
        if let Some(admin) = self.admin {
            message.header.change_mask = LinkFlags::Up;
            message.header.flags = match admin {
                AdminState::Up => LinkFlags::Up,
                AdminState::Down => LinkFlags::empty(),
            };
        }
        let text = |text: &str| text.to_owned();
        message.attributes = [
            self.move_to
                .map(|netns| LinkAttribute::NetNsFd(netns.as_fd().as_raw_fd())),
            self.mac
                .map(|mac| LinkAttribute::Address(mac.octets().to_vec())),
            self.mtu.map(|mtu| LinkAttribute::Mtu(mtu.into())),
            self.name
                .map(|name| LinkAttribute::IfName(text(name.as_str()))),
            self.alias.map(|alias| LinkAttribute::IfAlias(text(alias))),
        ]
        .into_iter()
        .flatten()
        .collect();
        message
    }
}

impl Netlink {
    /// Every link of the namespace.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub async fn links(&self) -> Result<Vec<LinkView>, ListLinksError> {
        let request = RouteNetlinkMessage::GetLink(question());
        let links = self
            .list(request, |answer| new_link(answer).map(LinkView::from))
            .await;
        links.map_err(|cause| ListLinksError { cause })
    }

    /// The link with number `index`; `None` when there is none.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub async fn link(&self, index: LinkIndex) -> Result<Option<LinkView>, GetLinkError> {
        Ok(self.link_message(index).await?.map(LinkView::from))
    }

    /// The link named `name`; `None` when there is none.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub async fn link_by_name(&self, name: &LinkName) -> Result<Option<LinkView>, GetLinkError> {
        let mut question = question();
        question
            .attributes
            .push(LinkAttribute::IfName(name.to_string()));
        match self.find_link(question).await {
            Ok(link) => Ok(link.map(LinkView::from)),
            Err(cause) => Err(GetLinkError {
                link: name.to_string(),
                cause,
            }),
        }
    }

    /// Changes a link, see [`LinkChange`]. After a move the link has to be looked up in its new
    /// namespace: its number may be another one there.
    ///
    /// # Errors
    /// With errno `NODEV` when there is no such link, `EXIST` when the name is taken (for a move:
    /// there), `BUSY` when it is up and the kernel cannot rename it then, `INVAL` or `RANGE` for an
    /// MTU it cannot have.
    pub async fn set_link(
        &self,
        index: LinkIndex,
        change: LinkChange<'_>,
    ) -> Result<(), SetLinkError> {
        let request = RouteNetlinkMessage::SetLink(change.message(index));
        let done = self.change(request, 0).await;
        done.map_err(|cause| SetLinkError { index, cause })
    }

    /// Deletes a link that was made by software (a tap, a bridge); none is fine.
    ///
    /// # Errors
    /// With errno `OPNOTSUPP` for a link with a driver of its own.
    pub async fn delete_link(&self, index: LinkIndex) -> Result<(), DeleteLinkError> {
        let mut message = LinkMessage::default();
        message.header.index = index.0;
        match self.change(RouteNetlinkMessage::DelLink(message), 0).await {
            Err(error) if error.errno() == Some(Errno::NODEV) => Ok(()),
            done => done.map_err(|cause| DeleteLinkError { index, cause }),
        }
    }

    /// Everything the kernel tells about a link.
    pub(crate) async fn link_message(
        &self,
        index: LinkIndex,
    ) -> Result<Option<LinkMessage>, GetLinkError> {
        let mut question = question();
        question.header.index = index.0;
        let found = self.find_link(question).await;
        found.map_err(|cause| GetLinkError {
            link: index.to_string(),
            cause,
        })
    }

    async fn find_link(&self, question: LinkMessage) -> Result<Option<LinkMessage>, NetlinkError> {
        match self.get(RouteNetlinkMessage::GetLink(question), 0).await {
            Ok(answer) => new_link(answer).map(Some).ok_or(NetlinkError::Unexpected),
            Err(error) if error.errno() == Some(Errno::NODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// A question about links that leaves out their counters, more than half of each answer.
pub(crate) fn question() -> LinkMessage {
    let mut message = LinkMessage::default();
    message
        .attributes
        .push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    message
}

fn new_link(message: RouteNetlinkMessage) -> Option<LinkMessage> {
    if let RouteNetlinkMessage::NewLink(link) = message {
        Some(link)
    } else {
        None
    }
}
