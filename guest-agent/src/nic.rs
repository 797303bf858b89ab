//! One declared NIC: the decisions about it, and what the agent holds open for it.

use agent_protocol::{Goal, WantedNic};
use linux_network::{LinkView, Netlink};
use nic_binding::{LinkPlace, LinkSeen, NameInTarget, NicBinding, Sight, TargetSight};
use tokio::sync::mpsc;

use crate::guest::{Guest, Located, Space, in_full, seen};
use crate::identity::Device;
use crate::lease::LeaseClient;
use crate::search::search;
use crate::target::{OpenTarget, TargetNews};

/// A NIC with all that belongs to it.
#[derive(Debug)]
pub(crate) struct Nic {
    pub(crate) binding: NicBinding,
    pub(crate) target: Option<OpenTarget>,
    /// Where its link can be acted on.
    pub(crate) at: Option<Located>,
    pub(crate) lease: Option<LeaseClient>,
}

/// How hard to look for a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effort {
    /// In the namespaces that are known; the others too when the device is surely there.
    Usual,
    /// In every namespace that can be reached; without a device to go by, only for a link that may
    /// be in a target.
    Thorough,
}

/// The kernel could not be asked, so nothing is known.
#[derive(Debug, thiserror::Error)]
#[error("failed to look for the link of NIC {nic}: {problem}")]
pub(crate) struct LookError {
    nic: nic_model::NicId,
    problem: String,
}

impl Nic {
    pub(crate) fn new(wanted: WantedNic) -> Self {
        Self {
            binding: NicBinding::new(wanted),
            target: None,
            at: None,
            lease: None,
        }
    }

    /// Looks at the link and the target, and tells the decisions.
    pub(crate) async fn look(
        &mut self,
        guest: &Guest,
        news: &mpsc::Sender<TargetNews>,
        effort: Effort,
    ) -> Result<(), LookError> {
        let target = self.look_at_target(guest, news).await;
        let found = self.find(guest, effort).await?;
        let place = match found {
            Ok((located, link)) => {
                let place = self.place(guest, &located, link).await;
                self.at = Some(located);
                place.map_err(|problem| self.look_error(problem))?
            }
            Err(nowhere) => {
                self.at = None;
                nowhere
            }
        };
        let target = self.name_in_target(target).await?;
        self.binding.see(Sight { place, target });
        Ok(())
    }

    /// The link has just been seen in the guest's own namespace: all that is needed is known.
    pub(crate) async fn arrive(
        &mut self,
        guest: &Guest,
        news: &mpsc::Sender<TargetNews>,
        link: &LinkView,
    ) {
        let target = self.look_at_target(guest, news).await;
        self.at = Some(Located {
            space: guest.own.clone(),
            index: link.index,
        });
        let place = LinkPlace::Guest(seen(link));
        self.binding.see(Sight { place, target });
    }

    /// Lets go of a target that is not wanted any more: holding it open would keep it alive.
    pub(crate) fn let_go(&mut self) {
        if !self.binding.needs_target() {
            close(self.target.take());
        }
    }

    /// The NIC's link in `space`.
    pub(crate) async fn find_in(
        &self,
        space: &Space,
        guest: &Guest,
    ) -> Option<(Located, LinkView)> {
        let links = space.netlink.links().await.ok()?;
        self.pick(links, space, guest)
    }

    fn pick(
        &self,
        links: Vec<LinkView>,
        space: &Space,
        guest: &Guest,
    ) -> Option<(Located, LinkView)> {
        let wanted = self.binding.wanted();
        let is_ours = |link: &LinkView| guest.identify_by.identity(link).is_of(wanted);
        let link = links.into_iter().find(is_ours)?;
        let located = Located {
            space: space.clone(),
            index: link.index,
        };
        Some((located, link))
    }

    /// The target is opened when it is first needed and again when it has ended.
    async fn look_at_target(
        &mut self,
        guest: &Guest,
        news: &mpsc::Sender<TargetNews>,
    ) -> TargetSight {
        // One that is still open is kept for this look: a move may have failed halfway.
        if !self.binding.needs_target() {
            return TargetSight::NotWanted;
        }
        let wanted = self.binding.wanted();
        let Goal::Bound { binding } = &wanted.goal else {
            return TargetSight::NotWanted;
        };
        if self
            .target
            .as_ref()
            .is_some_and(|target| !target.is_alive())
        {
            close(self.target.take());
            if self.binding.is_bound() {
                return TargetSight::Gone;
            }
        }
        if self.target.is_none() {
            match OpenTarget::open(&binding.target, wanted, guest, news).await {
                Ok(target) => self.target = Some(target),
                Err(sight) => return sight,
            }
        }
        match &self.target {
            Some(target) => TargetSight::Present {
                identity: target.identity,
                name: NameInTarget::Free,
            },
            None => TargetSight::Gone,
        }
    }

    /// Where the link is, or which kind of nowhere it is in.
    async fn find(
        &self,
        guest: &Guest,
        effort: Effort,
    ) -> Result<Result<(Located, LinkView), LinkPlace>, LookError> {
        let target = self.target.as_ref().map(|target| &target.space);
        let last = self.at.as_ref().map(|at| &at.space);
        let device = guest.identify_by.device(self.binding.wanted());
        if device == Device::Absent {
            return Ok(Err(LinkPlace::Nowhere));
        }
        let mut asked: Vec<&Space> = Vec::new();
        let known = [Some(&guest.own), Some(&guest.holding), target, last];
        for space in known.into_iter().flatten() {
            if asked.iter().any(|asked| asked.is(space)) {
                continue;
            }
            asked.push(space);
            let links = space.netlink.links().await;
            let links = links.map_err(|error| self.look_error(in_full(&error)))?;
            if let Some(found) = self.pick(links, space, guest) {
                return Ok(Ok(found));
            }
        }
        let nowhere = match (device, effort) {
            (Device::Present, _) => LinkPlace::Hidden,
            // Without a device to go by, a link with the right address in a strange namespace may
            // be one that is still on its way into the guest, unless it has been in a target.
            (Device::Unknown, Effort::Thorough) if self.binding.may_be_in_a_target() => {
                LinkPlace::Nowhere
            }
            (Device::Absent | Device::Unknown, _) => return Ok(Err(LinkPlace::Nowhere)),
        };
        Ok(search(self, guest).await.ok_or(nowhere))
    }

    async fn place(
        &self,
        guest: &Guest,
        located: &Located,
        link: LinkView,
    ) -> Result<LinkPlace, String> {
        let space = &located.space;
        if space.is(&guest.own) {
            return Ok(LinkPlace::Guest(seen(&link)));
        }
        if space.is(&guest.holding) {
            return Ok(LinkPlace::Holding(seen(&link)));
        }
        let in_target = self
            .target
            .as_ref()
            .is_some_and(|target| target.space.is(space));
        if !in_target {
            return Ok(LinkPlace::Elsewhere(seen(&link)));
        }
        if self.binding.is_bound() {
            return Ok(LinkPlace::Target(seen(&link)));
        }
        details(&space.netlink, &link).await.map(LinkPlace::Target)
    }

    /// Whether another link has the wanted name in the target.
    async fn name_in_target(&self, sight: TargetSight) -> Result<TargetSight, LookError> {
        let TargetSight::Present { identity, .. } = sight else {
            return Ok(sight);
        };
        let (Some(target), Some(binding)) = (&self.target, self.binding.binding()) else {
            return Ok(sight);
        };
        let holder = target.space.netlink.link_by_name(&binding.link_name).await;
        let holder = holder.map_err(|error| self.look_error(in_full(&error)))?;
        let is_own = |holder: &LinkView| {
            let at = self.at.as_ref();
            at.is_some_and(|at| at.space.is(&target.space) && at.index == holder.index)
        };
        let name = match holder {
            Some(holder) if !is_own(&holder) => NameInTarget::Taken,
            Some(_) | None => NameInTarget::Free,
        };
        Ok(TargetSight::Present { identity, name })
    }

    fn look_error(&self, problem: String) -> LookError {
        LookError {
            nic: self.binding.wanted().nic.clone(),
            problem,
        }
    }
}

/// Closes what was held open of a target, on a thread of its own: closing a packet socket waits for
/// an RCU grace period (`packet_release`, Linux 6.1), and the link should not.
pub(crate) fn close(target: Option<OpenTarget>) {
    let Some(target) = target else { return };
    let closing = std::thread::Builder::new().name("target-close".to_owned());
    if let Err(error) = closing.spawn(move || drop(target)) {
        // The target went with the thread that could not be: it is closed.
        tracing::debug!(%error, "a target was closed without a thread");
    }
}

/// A link with its addresses and routes.
pub(crate) async fn details(netlink: &Netlink, link: &LinkView) -> Result<LinkSeen, String> {
    let addresses = netlink.addresses(link.index).await;
    let addresses = addresses.map_err(|error| in_full(&error))?;
    let routes = netlink.routes(link.index).await;
    let routes = routes.map_err(|error| in_full(&error))?;
    Ok(LinkSeen {
        addresses: addresses
            .into_iter()
            .filter(|address| !address.link_local && !address.duplicate)
            .map(|address| address.address)
            .collect(),
        routes: routes.into_iter().map(|view| view.route).collect(),
        ..seen(link)
    })
}
