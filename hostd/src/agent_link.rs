//! One VM's line to the agent in its guest: a task that owns channel and session.
//!
//! ```text
//!   worker ── want / forget (bounded) ──► AgentLink ◄── bytes ──► channel ◄──► guest
//!      ▲                                     │
//!      └──────── AgentView (watch) ◄─────────┘
//! ```
//!
//! The pipe is dumb and the guest is hostile. So the session decides what is believed, the view
//! holds only what hostd declared, a line that misbehaves is shut and tried again later, and a
//! guest that reads nothing blocks nobody but this task. Whose agent it is follows from the
//! channel alone.

mod wire;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use agent_protocol::{
    BindError, CloseReason, FloodLimit, HostSession, NicReport, Phase, ReceiveLimits, SessionEvent,
    SessionNonce, VersionRange, WantedNic,
};
use nic_model::{BootId, NicId, VmId};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::pace::Pace;
use crate::sabotage::{self, Sabotage};
use crate::supervisor::{Course, Supervisor};
use crate::surroundings::{ChannelStream, Surroundings};
use wire::{Outgoing, move_bytes};

/// Declarations under way from a worker; it has at most one for each NIC of its VM at a time.
const QUEUE: usize = 64;
/// How long connecting to the channel may take: QEMU accepts at once or never (it serves one).
const CONNECT_DEADLINE: Duration = Duration::from_secs(1);
/// How soon a broken channel is tried again, first and at most.
const RECONNECT: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// How long a session that ended by itself is left ended: not so short that a guest that ends each
/// at once costs the host a core.
const RESTART_PAUSE: Duration = Duration::from_millis(10);
/// How long a guest that misbehaved is left alone.
const PENALTY: Duration = Duration::from_secs(5);
/// What is kept of one report: the first steps, of which a bind has about ten, the first addresses,
/// and as many characters of a message as the protocol promises bytes.
const MAX_STEPS: usize = 32;
const MAX_ADDRESSES: usize = 64;
const MAX_MESSAGE: usize = 200;

/// What the worker knows of the agent.
#[derive(Debug, Clone, Default)]
pub struct AgentView {
    /// How the session stands.
    pub state: AgentState,
    /// Since when, in milliseconds since the Unix epoch.
    pub since_ms: u64,
    /// The newest report of each declared NIC, within this session.
    pub reports: BTreeMap<NicId, Arc<SeenReport>>,
    /// The boot that the agent was last heard in, also while it is silent; `None` once the guest is
    /// heard to have been reset, or its channel has ended. After a reset that nobody has told of it
    /// is an old one: a pid of the new boot is refused then, which does no harm.
    pub boot_id: Option<BootId>,
}

/// How the session with an agent stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum AgentState {
    /// The VM has no channel, or is off.
    #[default]
    Absent,
    /// The channel is there; nobody has answered yet.
    Connecting,
    /// There is a session.
    Ready {
        /// The agent's version, chosen by the guest.
        agent: String,
        /// The guest kernel's boot id, chosen by the guest.
        boot_id: BootId,
    },
    /// The agent speaks other versions.
    Incompatible {
        /// What it speaks.
        versions: VersionRange,
    },
    /// It broke the protocol and is left alone for a while.
    Misbehaving {
        /// How.
        what: String,
    },
}

/// The same in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// The VM has no channel, or is off.
    Absent,
    /// The channel is there; nobody has answered yet.
    Connecting,
    /// There is a session.
    Ready,
    /// The agent speaks other versions, or is left alone for having broken the protocol.
    Unusable,
}

impl AgentState {
    /// How the session stands, without whose it is.
    #[must_use]
    pub fn standing(&self) -> Standing {
        match self {
            Self::Absent => Standing::Absent,
            Self::Connecting => Standing::Connecting,
            Self::Ready { .. } => Standing::Ready,
            Self::Incompatible { .. } | Self::Misbehaving { .. } => Standing::Unusable,
        }
    }
}

/// What a worker knows of one NIC from its agent.
#[derive(Debug, Clone)]
pub struct Outlook {
    /// How the session stands.
    pub standing: Standing,
    /// The newest report of the NIC within it.
    pub report: Option<Arc<SeenReport>>,
}

/// A report with hostd's own times.
#[derive(Debug, Clone)]
pub struct SeenReport {
    /// The report.
    pub report: NicReport,
    /// When the first report of this generation came in that says the link is there.
    pub link_seen_at: Option<Instant>,
    /// When this report came in.
    pub received_at: Instant,
}

/// What a worker tells the link.
enum Command {
    Channel(Option<PathBuf>),
    Want(Box<WantedNic>),
    Forget(NicId),
    GuestReset,
}

/// The worker's end.
#[derive(Clone)]
pub struct AgentHandle {
    /// Boxed, as a queue keeps room for 32 however few wait in it.
    commands: mpsc::Sender<Box<Command>>,
    view: watch::Receiver<AgentView>,
}

impl AgentHandle {
    /// Starts the task; it ends when every handle is dropped.
    #[must_use]
    pub(crate) fn spawn(
        vm: VmId,
        supervisor: &Supervisor,
        surroundings: &Surroundings,
        pace: &Pace,
    ) -> Self {
        let (commands, receiver) = mpsc::channel(QUEUE);
        let (view_out, view) = watch::channel(AgentView::default());
        let name = format!("the agent's line of VM {vm}");
        let mut link = AgentLink {
            vm,
            commands: receiver,
            session: HostSession::new(VersionRange::CURRENT, ReceiveLimits::default()),
            view: view_out,
            origin: Instant::now(),
            path: None,
            surroundings: surroundings.clone(),
            pace: pace.clone(),
        };
        supervisor.spawn(name, Course::UntilDone, async move { link.run().await });
        Self { commands, view }
    }

    /// Where the channel is; `None` while the VM has none.
    pub async fn set_channel(&self, path: Option<PathBuf>) {
        self.send(Command::Channel(path)).await;
    }

    /// Declares a NIC, now or as soon as there is a session.
    pub async fn want(&self, nic: WantedNic) {
        self.send(Command::Want(Box::new(nic))).await;
    }

    /// Takes a NIC out of the declaration.
    pub async fn forget(&self, nic: NicId) {
        self.send(Command::Forget(nic)).await;
    }

    /// The guest has been reset: whoever answered is gone, and what was said of that boot counts no
    /// more. The channel itself would tell only when pings go unanswered.
    pub async fn guest_reset(&self) {
        self.send(Command::GuestReset).await;
    }

    /// What is known now.
    #[must_use]
    pub fn view(&self) -> AgentView {
        self.view.borrow().clone()
    }

    /// How the session stands now.
    #[must_use]
    pub fn state(&self) -> AgentState {
        self.view.borrow().state.clone()
    }

    /// The boot that the guest is in, as far as anybody has said.
    #[must_use]
    pub fn boot_id(&self) -> Option<BootId> {
        self.view.borrow().boot_id
    }

    /// How the session stands, where that is not what is known already.
    #[must_use]
    pub fn state_unless(&self, known: &AgentState) -> Option<AgentState> {
        let view = self.view.borrow();
        (view.state != *known).then(|| view.state.clone())
    }

    /// What is known of one NIC now.
    #[must_use]
    pub fn outlook(&self, nic: &NicId) -> Outlook {
        let view = self.view.borrow();
        Outlook {
            standing: view.state.standing(),
            report: view.reports.get(nic).cloned(),
        }
    }

    /// Waits for a change.
    pub async fn changed(&mut self) {
        if self.view.changed().await.is_err() {
            // The task ends only with its handles, so this one is being dropped.
            std::future::pending::<()>().await;
        }
    }

    /// The link's task takes commands while it connects, reads and writes, so this never waits
    /// for a guest.
    async fn send(&self, command: Command) {
        let _ended = self.commands.send(Box::new(command)).await;
    }
}

struct AgentLink {
    vm: VmId,
    commands: mpsc::Receiver<Box<Command>>,
    session: HostSession,
    view: watch::Sender<AgentView>,
    origin: Instant,
    path: Option<PathBuf>,
    surroundings: Surroundings,
    pace: Pace,
}

/// Why a connection to a channel is over.
enum Hangup {
    /// The worker's handles are gone.
    Ended,
    /// The channel changed: use the new one at once.
    ChannelChanged,
    /// The other end closed it, or it broke.
    Broken(io::Error),
    /// The session was closed for a reason.
    Session(CloseReason),
}

impl AgentLink {
    /// By reference: a future that takes its value has room for it twice (rust-lang/rust#62958).
    async fn run(&mut self) {
        let mut pause = RECONNECT.0;
        loop {
            let Some(path) = self.path.clone() else {
                self.may_have_booted();
                self.set_state(AgentState::Absent);
                match self.next_command_or(Duration::MAX).await {
                    Some(Hangup::Ended) => return,
                    _ => continue,
                }
            };
            let dialling = connect(self.surroundings.clone(), path);
            let hangup = match self.obey_during(dialling).await {
                Ok(Ok(stream)) => {
                    let began = Instant::now();
                    let hangup = self.serve(stream).await;
                    if began.elapsed() >= RECONNECT.1 {
                        pause = RECONNECT.0;
                    }
                    hangup
                }
                Ok(Err(error)) => Hangup::Broken(error),
                Err(hangup) => hangup,
            };
            let wait = match hangup {
                Hangup::Ended => return,
                Hangup::ChannelChanged => {
                    self.may_have_booted();
                    Duration::ZERO
                }
                Hangup::Session(reason) => self.session_over(reason),
                Hangup::Broken(error) => {
                    tracing::debug!(vm = %self.vm, %error, "agent channel is not usable");
                    self.may_have_booted();
                    self.set_state(AgentState::Connecting);
                    pause = (pause * 2).min(RECONNECT.1);
                    pause
                }
            };
            if let Some(Hangup::Ended) = self.next_command_or(wait).await {
                return;
            }
        }
    }

    /// Takes commands until `work` is done; gives it up when there is no use for it any more.
    async fn obey_during<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Hangup> {
        tokio::select! {
            biased;
            hangup = self.commands_until_channel_changes() => Err(hangup),
            done = work => Ok(done),
        }
    }

    /// Waits for `pause` while taking commands; returns early when the channel changes.
    async fn next_command_or(&mut self, pause: Duration) -> Option<Hangup> {
        let Some(until) = Instant::now().checked_add(pause) else {
            return Some(self.commands_until_channel_changes().await);
        };
        tokio::time::timeout_at(until, self.commands_until_channel_changes())
            .await
            .ok()
    }

    async fn commands_until_channel_changes(&mut self) -> Hangup {
        loop {
            let Some(command) = self.commands.recv().await else {
                return Hangup::Ended;
            };
            if let Some(hangup) = self.obey(*command) {
                return hangup;
            }
        }
    }

    fn obey(&mut self, command: Command) -> Option<Hangup> {
        match command {
            Command::Channel(path) if path == self.path => None,
            Command::Channel(path) => {
                self.path = path;
                Some(Hangup::ChannelChanged)
            }
            Command::Want(nic) => {
                let id = nic.nic.clone();
                let generation = nic.generation;
                if let Err(error) = self.session.want(*nic) {
                    tracing::error!(vm = %self.vm, nic = %id, %error, "NIC cannot be declared");
                }
                self.forget_report(|view| drop_older(view, &id, generation));
                None
            }
            Command::GuestReset => {
                self.may_have_booted();
                let state = &self.view.borrow().state;
                let in_session = matches!(state, AgentState::Ready { .. });
                in_session.then_some(Hangup::Session(CloseReason::Restarted))
            }
            Command::Forget(nic) => {
                self.session.forget(&nic);
                self.forget_report(|view| drop(view.reports.remove(&nic)));
                None
            }
        }
    }

    /// Takes a report away at the worker's own word, which need not wake it.
    fn forget_report(&self, forget: impl FnOnce(&mut AgentView)) {
        self.view.send_if_modified(|view| {
            forget(view);
            false
        });
    }

    /// Talks over one connection until it is over. What ends by itself comes first: the timer sets
    /// its next deadline, the worker's queue is short; a guest may send without end.
    async fn serve(&mut self, mut stream: Box<dyn ChannelStream>) -> Hangup {
        self.set_state(AgentState::Connecting);
        let nonce = u64::from_le_bytes(self.surroundings.random());
        self.session.start(SessionNonce(nonce), self.now());
        let mut outgoing: Option<Outgoing> = None;
        loop {
            self.session.rest_for(self.pace.ping());
            if outgoing.is_none() {
                outgoing = self.session.poll_transmit().map(Outgoing::new);
            }
            if outgoing.as_ref().is_some_and(Outgoing::is_overdue) {
                return Hangup::Broken(io::ErrorKind::TimedOut.into());
            }
            let overdue_at = outgoing.as_ref().map(|outgoing| outgoing.overdue_at);
            let deadline = overdue_at.into_iter().fold(self.deadline(), Instant::min);
            let dropped = self.session.counters().dropped_bytes;
            let (session, now) = (&mut self.session, self.origin.elapsed());
            let receive = |bytes: &[u8]| session.handle_bytes(bytes, now);
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(deadline) => {
                    self.session.handle_timeout(self.now());
                }
                command = self.commands.recv() => match command.map(|command| self.obey(*command)) {
                    None => return Hangup::Ended,
                    Some(Some(hangup)) => return hangup,
                    Some(None) => {}
                },
                moved = move_bytes(&mut stream, &mut outgoing, receive) => {
                    if let Err(error) = moved {
                        return Hangup::Broken(error);
                    }
                }
            }
            if let Some(reason) = self.publish_events() {
                return Hangup::Session(reason);
            }
            // Outside a session a flood is only dropped; to drop it as fast as a guest can write
            // would cost the host a core.
            if self.session.counters().dropped_bytes > dropped {
                let limit = FloodLimit::Bytes;
                return Hangup::Session(CloseReason::Flooded { limit });
            }
        }
    }

    fn publish_events(&mut self) -> Option<CloseReason> {
        while let Some(event) = self.session.poll_event() {
            match event {
                SessionEvent::Opened { agent, boot_id, .. } => {
                    tracing::info!(vm = %self.vm, ?agent, "agent is ready");
                    self.set_boot(Some(boot_id));
                    self.set_state(AgentState::Ready { agent, boot_id });
                }
                SessionEvent::Report(report) => self.note(report),
                SessionEvent::Closed(reason) => return Some(reason),
            }
        }
        None
    }

    fn note(&self, report: NicReport) {
        let now = Instant::now();
        let report = tamed(report);
        let arrived = !matches!(report.phase, Phase::Awaited | Phase::Absent);
        self.view.send_modify(|view| {
            let was = view.reports.get(&report.nic).map(|seen| &seen.report.phase);
            if sabotage::is(Sabotage::TrustOldReports) && matches!(was, Some(Phase::Bound { .. })) {
                return;
            }
            let earlier = view
                .reports
                .get(&report.nic)
                .filter(|seen| seen.report.generation == report.generation)
                .and_then(|seen| seen.link_seen_at);
            let link_seen_at = earlier.or(arrived.then_some(now));
            let nic = report.nic.clone();
            view.reports.insert(
                nic,
                Arc::new(SeenReport {
                    report,
                    link_seen_at,
                    received_at: now,
                }),
            );
        });
    }

    fn session_over(&mut self, reason: CloseReason) -> Duration {
        let (state, wait) = match reason {
            CloseReason::Lost { .. } | CloseReason::MessagesLost | CloseReason::Restarted => {
                (AgentState::Connecting, RESTART_PAUSE)
            }
            CloseReason::Incompatible {
                theirs: versions, ..
            } => (AgentState::Incompatible { versions }, PENALTY),
            misconduct @ (CloseReason::BrokenFraming
            | CloseReason::MalformedMessage { .. }
            | CloseReason::Flooded { .. }) => (
                AgentState::Misbehaving {
                    what: format!("{misconduct:?}"),
                },
                PENALTY,
            ),
        };
        tracing::warn!(vm = %self.vm, ?state, "session with the agent is over");
        self.set_state(state);
        wait
    }

    fn set_state(&self, state: AgentState) {
        self.view.send_if_modified(|view| {
            if view.state == state {
                return false;
            }
            view.state = state;
            view.since_ms = self.surroundings.unix_ms();
            view.reports.clear();
            true
        });
    }

    /// The guest has been reset, or its channel has ended, as it does with its QEMU alone: an agent
    /// that is merely silent leaves the channel as it is.
    fn may_have_booted(&self) {
        self.set_boot(None);
    }

    fn set_boot(&self, boot_id: Option<BootId>) {
        self.view
            .send_if_modified(|view| std::mem::replace(&mut view.boot_id, boot_id) != boot_id);
    }

    fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    fn deadline(&self) -> Instant {
        let next = self
            .session
            .next_deadline()
            .unwrap_or_else(|| self.now() + PENALTY);
        self.origin + next
    }
}

async fn connect(surroundings: Surroundings, path: PathBuf) -> io::Result<Box<dyn ChannelStream>> {
    let path: &Path = &path;
    tokio::time::timeout(CONNECT_DEADLINE, surroundings.channels.dial(path))
        .await
        .unwrap_or_else(|_elapsed| Err(io::ErrorKind::TimedOut.into()))
}

/// A report as it is kept and shown: what a guest says is as long as hostd allows.
fn tamed(mut report: NicReport) -> NicReport {
    report.steps.truncate(MAX_STEPS);
    match &mut report.phase {
        Phase::Bound { addresses, .. } => addresses.truncate(MAX_ADDRESSES),
        Phase::Failed {
            error: BindError::Kernel { message, .. },
        } => {
            let readable = |character: &char| !character.is_control();
            *message = message.chars().filter(readable).take(MAX_MESSAGE).collect();
        }
        Phase::Awaited
        | Phase::Binding
        | Phase::Released
        | Phase::Absent
        | Phase::Returned
        | Phase::Failed { .. } => {}
    }
    report
}

fn drop_older(view: &mut AgentView, nic: &NicId, generation: u64) {
    let older = view
        .reports
        .get(nic)
        .is_some_and(|seen| seen.report.generation < generation);
    if older {
        view.reports.remove(nic);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link() -> (AgentLink, mpsc::Sender<Box<Command>>) {
        let (sender, commands) = mpsc::channel(QUEUE);
        let link = AgentLink {
            vm: "vm1".parse().expect("the name is valid"),
            commands,
            session: HostSession::new(VersionRange::CURRENT, ReceiveLimits::default()),
            view: watch::channel(AgentView::default()).0,
            origin: Instant::now(),
            path: None,
            surroundings: Surroundings::default(),
            pace: Pace::default(),
        };
        (link, sender)
    }

    #[tokio::test(start_paused = true)]
    async fn a_worker_does_not_wait_for_a_line_that_is_being_connected() {
        let (mut link, worker) = link();
        // tidy: sleep because paused time passes at once
        let connecting = tokio::time::sleep(CONNECT_DEADLINE);
        let telling = async {
            for number in 0..2 * QUEUE {
                let nic = format!("nic-{number:010}")
                    .parse()
                    .expect("the id is valid");
                worker.send(Box::new(Command::Forget(nic))).await.ok();
            }
        };
        let told = tokio::time::timeout(CONNECT_DEADLINE / 2, telling);

        let (connected, told) = tokio::join!(link.obey_during(connecting), told);

        assert!(connected.is_ok());
        assert!(told.is_ok(), "more than the queue holds was to be taken");
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_nobody_wants_any_more_is_given_up() {
        let (mut link, worker) = link();
        let channel = Some("/run/other".into());
        worker.send(Box::new(Command::Channel(channel))).await.ok();

        let elsewhere = link.obey_during(std::future::pending::<()>()).await;
        drop(worker);
        let nobody = link.obey_during(std::future::pending::<()>()).await;

        assert!(matches!(elsewhere, Err(Hangup::ChannelChanged)));
        assert!(matches!(nobody, Err(Hangup::Ended)));
    }
}
