//! One declared NIC: the decisions about it, and what the agent holds open for it.

use agent_protocol::{Goal, WantedNic};
use nic_binding::{LinkPlace, LinkSeen, NameInTarget, NicBinding, Sight, TargetSight};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::guest::{Guest, Located, Space, in_full, seen};
use crate::identity::Device;
use crate::kernel::{GuestKernel, LinkView, Netns, Rtnetlink};
use crate::lease::RunningClient;
use crate::news::News;
use crate::search::search;
use crate::target::OpenTarget;

/// A NIC with all that belongs to it.
#[derive(Debug)]
pub(crate) struct Nic<K: GuestKernel> {
    pub(crate) binding: NicBinding,
    pub(crate) target: Option<OpenTarget<K>>,
    /// Where its link can be acted on.
    pub(crate) at: Option<Located<K>>,
    pub(crate) lease: Option<RunningClient<K::DhcpClient>>,
    /// Since when its link has been waiting for the unplug, disarmed in its container.
    pub(crate) disarmed_at: Option<Instant>,
}

/// How hard to look for a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effort {
    /// In the namespaces that are known, and nowhere else yet.
    Known,
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

impl<K: GuestKernel> Nic<K> {
    pub(crate) fn new(wanted: WantedNic) -> Self {
        Self {
            binding: NicBinding::new(wanted),
            target: None,
            at: None,
            lease: None,
            disarmed_at: None,
        }
    }

    /// Looks at the link and the target, and tells the decisions.
    pub(crate) async fn look(
        &mut self,
        guest: &Guest<K>,
        news: &mpsc::Sender<News>,
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
        let target = match place.link() {
            Some(link) => self.name_in_target(target, link).await?,
            // It is asked for when there is a link to bear it.
            None => target,
        };
        self.binding.see(Sight { place, target });
        Ok(())
    }

    /// The link has just been seen in the guest's own namespace: all that is needed is known.
    pub(crate) async fn arrive(
        &mut self,
        guest: &Guest<K>,
        news: &mpsc::Sender<News>,
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

    /// Lets go of a target that is not wanted any more: holding it open would keep it alive. While
    /// the link is in it, disarmed, the target's end is still to be noticed.
    pub(crate) fn let_go(&mut self) {
        let disarmed = self.binding.is_disarmed();
        self.disarmed_at = disarmed.then(|| self.disarmed_at.unwrap_or_else(Instant::now));
        if !disarmed && !self.binding.needs_target() {
            self.target = None;
        }
    }

    /// Whether the link is in the wanted target.
    pub(crate) fn is_in_target(&self) -> bool {
        let (Some(at), Some(target)) = (&self.at, &self.target) else {
            return false;
        };
        at.space.is(&target.space)
    }

    /// The NIC's link in `space`.
    pub(crate) async fn find_in(
        &self,
        space: &Space<K>,
        guest: &Guest<K>,
    ) -> Option<(Located<K>, LinkView)> {
        let links = space.netlink.links().await.ok()?;
        self.pick(links, space, guest)
    }

    fn pick(
        &self,
        links: Vec<LinkView>,
        space: &Space<K>,
        guest: &Guest<K>,
    ) -> Option<(Located<K>, LinkView)> {
        let wanted = self.binding.wanted();
        let is_ours = |link: &LinkView| guest.identity(link).is_of(wanted);
        let link = links.into_iter().find(is_ours)?;
        let located = Located {
            space: space.clone(),
            index: link.index,
        };
        Some((located, link))
    }

    /// The target is opened when it is first needed and again when it has ended.
    async fn look_at_target(&mut self, guest: &Guest<K>, news: &mpsc::Sender<News>) -> TargetSight {
        // One that is still open is kept for this look: a move may have failed halfway.
        if !self.binding.needs_target() {
            return match &self.target {
                Some(target) if !target.is_alive(&guest.kernel) => TargetSight::Gone,
                Some(_) | None => TargetSight::NotWanted,
            };
        }
        let wanted = self.binding.wanted();
        let Goal::Bound { binding } = &wanted.goal else {
            return TargetSight::NotWanted;
        };
        if self
            .target
            .as_ref()
            .is_some_and(|target| !target.is_alive(&guest.kernel))
        {
            self.target = None;
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
        guest: &Guest<K>,
        effort: Effort,
    ) -> Result<Result<(Located<K>, LinkView), LinkPlace>, LookError> {
        if let Some(found) = self.where_it_was(guest).await? {
            return Ok(Ok(found));
        }
        let target = self.target.as_ref().map(|target| &target.space);
        let last = self.at.as_ref().map(|at| &at.space);
        let device = guest.device(self.binding.wanted());
        if device == Device::Absent {
            return Ok(Err(LinkPlace::Nowhere));
        }
        let mut asked: Vec<&Space<K>> = Vec::new();
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
            (Device::Present, Effort::Known) => return Ok(Err(LinkPlace::Hidden)),
            (Device::Present, _) => LinkPlace::Hidden,
            // Without a device to go by, a link with the right address in a strange namespace may
            // be one that is still on its way into the guest, unless it has been in a target.
            (Device::Unknown, Effort::Thorough) if self.binding.may_be_in_a_target() => {
                LinkPlace::Nowhere
            }
            (Device::Absent | Device::Unknown, _) => return Ok(Err(LinkPlace::Nowhere)),
        };
        let asked = asked.iter().map(|space| space.netns.inode()).collect();
        Ok(search(self, guest, asked).await.ok_or(nowhere))
    }

    /// The link, when it is still where it was: one question instead of one per namespace.
    pub(crate) async fn where_it_was(
        &self,
        guest: &Guest<K>,
    ) -> Result<Option<(Located<K>, LinkView)>, LookError> {
        let Some(at) = &self.at else { return Ok(None) };
        let link = at.space.netlink.link(at.index).await;
        let link = link.map_err(|error| self.look_error(in_full(&error)))?;
        let links = link.into_iter().collect();
        Ok(self.pick(links, &at.space, guest))
    }

    async fn place(
        &self,
        guest: &Guest<K>,
        located: &Located<K>,
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
        if self.binding.binding().is_none() {
            let link = with_addresses(&space.netlink, &link).await?;
            return Ok(if in_target {
                LinkPlace::Target(link)
            } else {
                LinkPlace::Elsewhere(link)
            });
        }
        if !in_target {
            return Ok(LinkPlace::Elsewhere(seen(&link)));
        }
        if self.binding.is_bound() {
            return Ok(LinkPlace::Target(seen(&link)));
        }
        details(&space.netlink, &link).await.map(LinkPlace::Target)
    }

    /// Whether another link has the wanted name in the target.
    async fn name_in_target(
        &self,
        sight: TargetSight,
        link: &LinkSeen,
    ) -> Result<TargetSight, LookError> {
        let TargetSight::Present { identity, .. } = sight else {
            return Ok(sight);
        };
        let (Some(target), Some(binding)) = (&self.target, self.binding.binding()) else {
            return Ok(sight);
        };
        // Nobody else there can have the name that it bears itself.
        if self.is_in_target() && link.name == binding.link_name.as_str() {
            return Ok(sight);
        }
        let holder = target.space.netlink.link_by_name(&binding.link_name).await;
        let holder = holder.map_err(|error| self.look_error(in_full(&error)))?;
        let index = self.at.as_ref().map(|at| at.index);
        let is_own = |holder: &LinkView| self.is_in_target() && index == Some(holder.index);
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

/// A link with its addresses and routes.
pub(crate) async fn details(netlink: &impl Rtnetlink, link: &LinkView) -> Result<LinkSeen, String> {
    let with_addresses = with_addresses(netlink, link).await?;
    let routes = netlink.routes(link.index).await;
    let routes = routes.map_err(|error| in_full(&error))?;
    Ok(LinkSeen {
        routes: routes.into_iter().map(|view| view.route).collect(),
        ..with_addresses
    })
}

async fn with_addresses(netlink: &impl Rtnetlink, link: &LinkView) -> Result<LinkSeen, String> {
    let addresses = netlink.addresses(link.index).await;
    let addresses = addresses.map_err(|error| in_full(&error))?;
    Ok(LinkSeen {
        addresses: addresses
            .into_iter()
            .filter(|address| !address.link_local && !address.duplicate)
            .map(|address| address.address)
            .collect(),
        ..seen(link)
    })
}
