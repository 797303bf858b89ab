//! The agent's one loop: it owns everything, and every wake-up ends in the same function.
//!
//! ```text
//!   host ──bytes──► session ─┐
//!   netlink: a link came ────┤
//!   a target ended ──────────┼──► see ──► settle: next action, do it, … until Wait ──► reports
//!   a lease changed ─────────┤
//!   a disarmed link stays ───┤
//!   every 5 s: look at all ──┘
//! ```
//!
//! Nothing is kept on disk. A restarted agent is told by the host what is wanted and sees in the
//! kernel what is; the steps that are done already are found done.

mod step;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::Duration;

use agent_protocol::{AgentEvent, AgentIdentity, AgentSession, VersionRange, WantedNic};
use nic_binding::{Action, LinkPlace, STAY, UndeclaredAction, undeclared};
use nic_model::{BootId, NetnsName, NicId};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use crate::act::perform;
use crate::channel::Channel;
use crate::guest::{EnterGuestError, Guest, in_full, seen};
use crate::identity::IdentifyBy;
use crate::kernel::{
    AdminState, ChannelKind, ConnectNetlinkError, DhcpClient, GuestKernel, LinkChange, LinkEvent,
    LinkEvents, LinkIndex, LinkView, LinuxKernel, NameEvents, Rtnetlink, WatchLinksError,
    open_channel,
};
use crate::news::{self, LeaseNews, News};
use crate::nic::{Effort, Nic};

/// How often everything is looked at, in case an event was lost.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// How soon a device without a link is looked at again, and twice as long each time after: the
/// kernel takes a link away a moment before its device, and gives one back a moment after its
/// container's namespace has ended.
const FIRST_RETRY: Duration = Duration::from_millis(20);
/// From which pause on strange namespaces are searched as well: a device that has been without a
/// link for so long was not just plugged, and looking into every process costs the guest's CPU,
/// which its kernel then needs for the plugging.
const SEARCH_FROM: Duration = Duration::from_millis(320);
/// How the agent is to run.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How links are recognised.
    pub identify_by: IdentifyBy,
    /// Name of the holding namespace.
    pub holding: NetnsName,
}

/// Why the agent could not begin, or had to end.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// A namespace is out of reach: usually for lack of privileges.
    #[error("failed to enter the guest's network")]
    Enter(#[from] EnterGuestError),
    /// The kernel does not tell of links.
    #[error("failed to watch links")]
    Watch(#[source] ConnectNetlinkError),
    /// The names of namespaces cannot be watched.
    #[error("failed to watch /run/netns")]
    WatchNames(#[source] io::Error),
    /// The channel cannot be opened.
    #[error("failed to open the channel to the host")]
    Channel(#[source] io::Error),
}

/// Runs the agent on the kernel of this process; it ends only by an error.
///
/// # Errors
/// When it cannot begin, or the kernel takes its subscription away for good.
pub async fn run(channel: &ChannelKind, settings: Settings) -> Result<(), AgentError> {
    // The socket is there when the agent is ready for it, and no earlier.
    let channel = || open_channel(channel).map_err(AgentError::Channel);
    Agent::start(LinuxKernel, channel, settings)
        .await?
        .serve()
        .await
}

/// Runs the agent on any kernel, over one pipe to the host. Dropping the future ends it and
/// whatever it has started, as `kill -9` would: nothing is tidied up.
///
/// # Errors
/// As for [`run`].
pub async fn run_in<K: GuestKernel>(
    kernel: K,
    channel: Channel,
    settings: Settings,
) -> Result<(), AgentError> {
    let started = Box::pin(Agent::start(kernel, || Ok(channel), settings));
    let mut agent = started.await?;
    agent.serve().await
}

struct Agent<K: GuestKernel> {
    guest: Guest<K>,
    watch: K::LinkEvents,
    held_watch: K::LinkEvents,
    names: K::NameEvents,
    session: AgentSession,
    channel: Channel,
    /// Boxed, since a node of the map has room for eleven.
    nics: BTreeMap<NicId, Box<Nic<K>>>,
    clients_started: u64,
    news: (mpsc::Sender<News>, mpsc::Receiver<News>),
    next_look: Instant,
    /// The pause before the next look while a link is missing.
    retry: Duration,
}

/// What the loop woke up for.
enum Wake {
    Link(Result<LinkEvent, WatchLinksError>),
    HeldLink(Result<LinkEvent, WatchLinksError>),
    Bytes(Vec<u8>),
    News(News),
    NameGone,
    RoomToSend,
    Overstay,
    Timer,
}

impl<K: GuestKernel> Agent<K> {
    async fn start(
        kernel: K,
        channel: impl FnOnce() -> Result<Channel, AgentError>,
        settings: Settings,
    ) -> Result<Self, AgentError> {
        let guest = Guest::enter(kernel, &settings.holding, settings.identify_by).await?;
        let names = guest.kernel.watch_names().map_err(AgentError::WatchNames)?;
        let watch = guest.kernel.watch_links(&guest.own.netns).await;
        let held_watch = guest.kernel.watch_links(&guest.holding.netns).await;
        Ok(Self {
            watch: watch.map_err(AgentError::Watch)?,
            held_watch: held_watch.map_err(AgentError::Watch)?,
            session: AgentSession::new(identity(guest.boot_id)),
            guest,
            names,
            channel: channel()?,
            nics: BTreeMap::new(),
            clients_started: 0,
            news: news::queue(),
            next_look: Instant::now() + LOOK_INTERVAL,
            retry: FIRST_RETRY,
        })
    }

    async fn serve(&mut self) -> Result<(), AgentError> {
        loop {
            let had_none = self.nics.is_empty();
            let wake = self.wait().await;
            // Aside, so that an agent that waits is small: a simulator has ten thousand of them.
            Box::pin(self.on_wake(wake)).await?;
            self.transmit();
            if had_none {
                self.next_look = Instant::now() + LOOK_INTERVAL;
            }
            if !self.misses_a_link() {
                self.retry = FIRST_RETRY;
            } else if self.retry < LOOK_INTERVAL {
                self.next_look = Instant::now() + self.retry;
            }
        }
    }

    async fn on_wake(&mut self, wake: Wake) -> Result<(), AgentError> {
        match wake {
            Wake::Link(Ok(event)) => self.on_link_event(event).await,
            Wake::HeldLink(Ok(event)) => self.on_held_link_event(event).await,
            Wake::Link(Err(error)) | Wake::HeldLink(Err(error)) => {
                tracing::warn!(error = in_full(&error), "subscribing to links anew");
                self.subscribe().await?;
                self.look_at_all(Effort::Usual).await;
            }
            Wake::Bytes(bytes) => self.on_bytes(&bytes).await,
            Wake::News(News::TargetEnded(nic)) => self.look(&nic, Effort::Usual).await,
            Wake::News(News::Lease(news)) => self.on_lease_news(*news).await,
            Wake::NameGone => self.on_name_gone().await,
            Wake::Overstay => self.on_overstay().await,
            Wake::Timer => {
                self.look_at_all(if self.retry < SEARCH_FROM {
                    Effort::Known
                } else {
                    Effort::Usual
                })
                .await;
                self.retry = (self.retry * 2).min(LOOK_INTERVAL);
                self.next_look = Instant::now() + LOOK_INTERVAL;
            }
            Wake::RoomToSend => {}
        }
        Ok(())
    }

    /// Without a NIC there is nothing to look at, and the guest sleeps undisturbed.
    async fn wait(&mut self) -> Wake {
        let looks = !self.nics.is_empty();
        let waits_to_send = self.session.wants_to_transmit();
        let disarmed_at = self.nics.values().filter_map(|nic| nic.disarmed_at).min();
        let overstay = disarmed_at.map(|at| at + STAY);
        // In the order of how seldom they come, so that none keeps those below it waiting: timers
        // and ends of targets, then what the host paces, and links, of which the guest can have
        // any number change, last.
        tokio::select! {
            biased;
            () = sleep_until(self.next_look), if looks => Wake::Timer,
            () = sleep_until(overstay.unwrap_or_else(Instant::now)), if overstay.is_some() => {
                Wake::Overstay
            }
            Some(news) = self.news.1.recv() => Wake::News(news),
            () = self.names.name_gone() => Wake::NameGone,
            Ok(_room) = self.channel.to_send.reserve(), if waits_to_send => Wake::RoomToSend,
            Some(bytes) = self.channel.received.recv() => Wake::Bytes(bytes),
            event = self.held_watch.next() => Wake::HeldLink(event),
            event = self.watch.next() => Wake::Link(event),
        }
    }

    /// Whether a device is there and its link is not.
    fn misses_a_link(&self) -> bool {
        let places = self.nics.values().map(|nic| nic.binding.place());
        places
            .into_iter()
            .any(|place| matches!(place, Some(LinkPlace::Hidden)))
    }

    async fn subscribe(&mut self) -> Result<(), AgentError> {
        let kernel = &self.guest.kernel;
        let watch = kernel.watch_links(&self.guest.own.netns).await;
        self.watch = watch.map_err(AgentError::Watch)?;
        let held_watch = kernel.watch_links(&self.guest.holding.netns).await;
        self.held_watch = held_watch.map_err(AgentError::Watch)?;
        Ok(())
    }

    async fn on_bytes(&mut self, bytes: &[u8]) {
        self.session.handle_bytes(bytes);
        self.transmit();
        while let Some(event) = self.session.poll_event() {
            match event {
                AgentEvent::Opened { version } => tracing::info!(version, "session opened"),
                AgentEvent::Closed(reason) => tracing::warn!(%reason, "session closed"),
                AgentEvent::Declared(nics) => self.on_declared(nics).await,
                // A NIC that was not declared when the session began is new.
                AgentEvent::Wanted(nic) => self.want(*nic, Effort::Known).await,
                AgentEvent::Forgotten(nic) => self.forget(&nic).await,
            }
        }
    }

    async fn on_declared(&mut self, declared: Vec<WantedNic>) {
        tracing::info!(nics = declared.len(), "declared");
        let kept: BTreeSet<&NicId> = declared.iter().map(|wanted| &wanted.nic).collect();
        let known: Vec<NicId> = self.nics.keys().cloned().collect();
        for nic in known.iter().filter(|nic| !kept.contains(nic)) {
            self.forget(nic).await;
        }
        for wanted in declared {
            if let Some(nic) = self.nics.get_mut(&wanted.nic) {
                nic.binding.forget_reports();
            }
            self.want(wanted, Effort::Thorough).await;
        }
        self.switch_off_undeclared().await;
    }

    /// Takes a wish; `effort` is how hard to look for the link of a NIC that is not known yet.
    async fn want(&mut self, wanted: WantedNic, effort: Effort) {
        let id = wanted.nic.clone();
        tracing::info!(nic = %id, generation = wanted.generation, "wanted");
        self.forget_earlier_at(&wanted).await;
        match self.nics.get_mut(&id) {
            Some(nic) => {
                let old_target = nic.binding.binding().map(|binding| binding.target.clone());
                nic.binding.declare(wanted);
                let target = nic.binding.binding().map(|binding| &binding.target);
                // What is held open is the old target; the link may still be in it. A release has
                // no other one, and lets go of it when the link is out.
                if target.is_some() && target != old_target.as_ref() {
                    nic.target = None;
                }
            }
            None => {
                let mut nic = Box::new(Nic::new(wanted));
                let effort = if nic.binding.may_be_in_a_target() {
                    Effort::Thorough
                } else {
                    effort
                };
                let looked = nic.look(&self.guest, &self.news.0, effort).await;
                if let Err(error) = looked {
                    tracing::warn!(%error, "will be looked for again");
                }
                self.nics.insert(id.clone(), nic);
            }
        }
        self.settle(&id).await;
    }

    /// A slot goes to another NIC only when the device in it has gone: whichever was wanted there
    /// before is not any more, even if the host's word of it was lost on the way.
    async fn forget_earlier_at(&mut self, wanted: &WantedNic) {
        let others = self.nics.iter().filter(|(id, _)| **id != wanted.nic);
        let same = others.filter(|(_, nic)| nic.binding.wanted().path == wanted.path);
        let earlier: Vec<NicId> = same.map(|(id, _)| id.clone()).collect();
        for id in &earlier {
            self.forget(id).await;
        }
    }

    async fn forget(&mut self, nic: &NicId) {
        tracing::info!(%nic, "forgotten");
        let Some(mut nic) = self.nics.remove(nic) else {
            return;
        };
        if let Some(running) = nic.lease.take() {
            running.client.stop().await;
        }
        if nic.binding.is_disarmed() {
            self.take_out(&mut nic).await;
        }
    }

    /// Nobody is left to wait for the unplug of a link that is still in its container.
    async fn take_out(&self, nic: &mut Nic<K>) {
        if !matches!(nic.where_it_was(&self.guest).await, Ok(Some(_))) {
            return;
        }
        if let Err(failure) = perform(&Action::Release, nic, &self.guest).await {
            let nic = &nic.binding.wanted().nic;
            tracing::warn!(%nic, %failure, "a forgotten link stays where it was");
        }
    }

    /// The device of a disarmed link should be gone by now.
    async fn on_overstay(&mut self) {
        let now = Instant::now();
        let mut overdue = Vec::new();
        for (id, nic) in &mut self.nics {
            if let Some(at) = nic
                .disarmed_at
                .take_if(|at| now.duration_since(*at) >= STAY)
            {
                nic.binding.disarmed_for(now.duration_since(at));
                overdue.push(id.clone());
            }
        }
        for id in overdue {
            self.look(&id, Effort::Known).await;
        }
    }

    async fn on_link_event(&mut self, event: LinkEvent) {
        match event {
            LinkEvent::Changed(link) => self.on_link(&link).await,
            LinkEvent::Gone(index) => {
                let was_here = |place: &LinkPlace| matches!(place, LinkPlace::Guest(_));
                self.on_gone(index, was_here).await;
            }
            LinkEvent::Overrun => {
                tracing::warn!("link events were lost, looking at everything");
                self.look_at_all(Effort::Usual).await;
            }
        }
    }

    /// A released NIC is unplugged while it is held. Nothing else happens there without the agent.
    async fn on_held_link_event(&mut self, event: LinkEvent) {
        match event {
            LinkEvent::Changed(_) => {}
            LinkEvent::Gone(index) => {
                let was_here = |place: &LinkPlace| matches!(place, LinkPlace::Holding(_));
                self.on_gone(index, was_here).await;
            }
            LinkEvent::Overrun => self.look_at_all(Effort::Usual).await,
        }
    }

    async fn on_gone(&mut self, index: LinkIndex, was_here: impl Fn(&LinkPlace) -> bool) {
        let is_it = |nic: &&Nic<K>| {
            nic.binding.place().is_some_and(&was_here)
                && nic.at.as_ref().is_some_and(|at| at.index == index)
        };
        let gone = self.nics.values().map(AsRef::as_ref).find(is_it);
        if let Some(id) = gone.map(|nic| nic.binding.wanted().nic.clone()) {
            self.look(&id, Effort::Known).await;
        }
    }

    async fn on_link(&mut self, link: &LinkView) {
        let identity = self.guest.identity(link);
        let mut declared = self.nics.values_mut();
        let Some(nic) = declared.find(|nic| identity.is_of(nic.binding.wanted())) else {
            return;
        };
        let id = nic.binding.wanted().nic.clone();
        match nic.binding.place() {
            None | Some(LinkPlace::Nowhere | LinkPlace::Hidden) => {
                tracing::info!(nic = %id, name = link.name, "link arrived");
                nic.arrive(&self.guest, &self.news.0, link).await;
                self.settle(&id).await;
            }
            Some(LinkPlace::Guest(_)) => {}
            // An event of before the link was moved away, or the kernel has given the link back.
            Some(LinkPlace::Holding(_) | LinkPlace::Target(_) | LinkPlace::Elsewhere(_)) => {
                let there = self.guest.own.netlink.link(link.index).await;
                let is_back = |link| self.guest.identity(&link) == identity;
                if there.is_ok_and(|there| there.is_some_and(is_back)) {
                    tracing::info!(nic = %id, name = link.name, "link came back");
                    self.look(&id, Effort::Usual).await;
                }
            }
        }
    }

    async fn on_name_gone(&mut self) {
        let kernel = &self.guest.kernel;
        let ended = |nic: &&Nic<K>| {
            let target = nic.target.as_ref();
            target.is_some_and(|open| !open.is_alive(kernel))
        };
        let ended: Vec<NicId> = self
            .nics
            .values()
            .map(AsRef::as_ref)
            .filter(ended)
            .map(|nic| nic.binding.wanted().nic.clone())
            .collect();
        for nic in ended {
            self.look(&nic, Effort::Usual).await;
        }
    }

    async fn on_lease_news(&mut self, news: LeaseNews) {
        let Some(nic) = self.nics.get_mut(&news.nic) else {
            return;
        };
        if nic
            .lease
            .as_ref()
            .is_some_and(|running| running.number == news.client)
        {
            tracing::info!(nic = %news.nic, lease = ?news.lease, "lease");
            nic.binding.see_lease(news.lease);
            self.settle(&news.nic).await;
        }
    }

    async fn look_at_all(&mut self, effort: Effort) {
        let all: Vec<NicId> = self.nics.keys().cloned().collect();
        for nic in all {
            self.look(&nic, effort).await;
        }
    }

    async fn look(&mut self, id: &NicId, effort: Effort) {
        let Some(nic) = self.nics.get_mut(id) else {
            return;
        };
        match nic.look(&self.guest, &self.news.0, effort).await {
            Ok(()) => self.settle(id).await,
            Err(error) => tracing::warn!(%error, "will be looked for again"),
        }
    }

    async fn switch_off_undeclared(&self) {
        let held = match self.guest.held().await {
            Ok(held) => held,
            Err(error) => {
                tracing::warn!(error = in_full(&error), "held links were not looked at");
                return;
            }
        };
        for link in held.iter().filter(|link| link.mac.is_some()) {
            let identity = self.guest.identity(link);
            let mut declared = self.nics.values();
            let known = declared.any(|nic| identity.is_of(nic.binding.wanted()));
            let place = LinkPlace::Holding(seen(link));
            if known || undeclared(&place) == UndeclaredAction::LeaveAlone {
                continue;
            }
            let admin = Some(AdminState::Down);
            let down = LinkChange {
                admin,
                ..LinkChange::default()
            };
            if let Err(error) = self.guest.holding.netlink.set_link(link.index, down).await {
                tracing::warn!(error = in_full(&error), "a held link stays up");
            }
        }
    }

    /// Passes on what there is room for; the rest goes when there is.
    fn transmit(&mut self) {
        while let Ok(room) = self.channel.to_send.try_reserve() {
            match self.session.poll_transmit() {
                Some(frame) => room.send(frame),
                None => break,
            }
        }
    }
}

fn identity(boot_id: BootId) -> AgentIdentity {
    AgentIdentity {
        versions: VersionRange::CURRENT,
        agent: env!("CARGO_PKG_VERSION").to_owned(),
        boot_id,
    }
}
