//! The actor that keeps one VM connected.
//!
//! ```text
//!            ┌──────────── wanted, or backoff over ◄───────────┐
//!            ▼                                                 │
//!       connecting ──► connected ── broken ──► event ──► waiting (50 ms … 5 s)
//!            │             └► event, but for the first try     ▲
//!            └── no process, held by another, … ───────────────┘
//! ```
//!
//! Whoever wants the session while there is none makes the actor try at once and gets the outcome
//! of that try, so the answer "off" is never an old one. Each VM has its own actor: a QEMU that
//! hangs costs nobody but its own callers. The actor ends when its handle is dropped.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hypervisor::{EventKind, HypervisorEvent, Trouble};
use nic_model::VmId;
use tokio::sync::{Mutex, MutexGuard, broadcast, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::client::{ConnectError, Dialer, milliseconds};
use crate::hypervisor::{Jitter, Settings};
use crate::session::Session;

/// First wait after a failure: a VM that restarts is missed for no longer than this.
const BACKOFF_MIN: Duration = Duration::from_millis(50);

/// Longest wait: what a VM that is off costs is one failed connect in this time.
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// How long a change waits for the ones before it on the same VM. Each of them ends by the
/// deadlines of its own commands; one that takes longer has met a QEMU that hangs.
const TURN_DEADLINE: Duration = Duration::from_secs(10);

/// Callers waiting for the actor before they wait for room: far more than one VM's worker has.
const WANTED_LEN: usize = 64;

/// Why there is no session.
#[derive(Debug, Clone)]
pub(crate) enum Outage {
    /// Nobody listens: the VM is off, as far as its socket tells. A QEMU whose socket was unlinked
    /// looks the same.
    NoProcess,
    /// There may be one, but it cannot be talked to.
    Failed(Arc<ConnectError>),
    /// The runtime has ended the actor.
    Stopped,
}

impl From<Outage> for Trouble {
    fn from(outage: Outage) -> Self {
        match outage {
            Outage::NoProcess => Self::NotRunning,
            Outage::Failed(cause) => Self::Connection(Box::new(cause)),
            Outage::Stopped => Self::Connection("this process is shutting down".into()),
        }
    }
}

type Wanted = oneshot::Sender<Result<Arc<Session>, Outage>>;

/// One VM's way to its QEMU.
#[derive(Debug)]
pub(crate) struct Link {
    wanted: mpsc::Sender<Wanted>,
    changes: Mutex<()>,
    /// Ends with the handle, whatever it waits for.
    _actor: JoinSet<()>,
}

impl Link {
    /// Starts the actor on the current runtime.
    pub(crate) fn start(
        vm: VmId,
        socket: PathBuf,
        events: broadcast::Sender<HypervisorEvent>,
        settings: &Settings,
    ) -> Self {
        let (wanted, queue) = mpsc::channel(WANTED_LEN);
        let mut actor = Actor {
            vm,
            socket,
            events,
            wanted: queue,
            waiting: Vec::new(),
            backoff: BACKOFF_MIN,
            told: Told::Nothing,
            dialer: Arc::clone(&settings.dialer),
            jitter: Arc::clone(&settings.jitter),
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { actor.run().await });
        Self {
            wanted,
            changes: Mutex::new(()),
            _actor: tasks,
        }
    }

    /// The session there is, or the outcome of trying to get one now.
    pub(crate) async fn session(&self) -> Result<Arc<Session>, Outage> {
        let (wanted, answer) = oneshot::channel();
        if self.wanted.send(wanted).await.is_err() {
            return Err(Outage::Stopped);
        }
        answer.await.unwrap_or(Err(Outage::Stopped))
    }

    /// Waits until no other change of this VM is under way. One change is several commands, and
    /// those of two changes must not mix.
    pub(crate) async fn turn(&self) -> Result<MutexGuard<'_, ()>, Trouble> {
        timeout(TURN_DEADLINE, self.changes.lock())
            .await
            .map_err(|_| Trouble::TimedOut {
                waited_ms: milliseconds(TURN_DEADLINE),
            })
    }
}

struct Actor {
    vm: VmId,
    socket: PathBuf,
    events: broadcast::Sender<HypervisorEvent>,
    wanted: mpsc::Receiver<Wanted>,
    waiting: Vec<Wanted>,
    backoff: Duration,
    told: Told,
    dialer: Arc<dyn Dialer>,
    jitter: Jitter,
}

/// Whether anybody can have been told anything of the VM. Before that no event is lost to anybody,
/// and a first connection is no news.
#[derive(PartialEq, Eq)]
enum Told {
    Nothing,
    Something,
}

/// Whether anybody still holds the handle.
#[derive(PartialEq, Eq)]
enum Handle {
    Held,
    Dropped,
}

impl Actor {
    /// By reference: a future that takes its value has room for it twice (rust-lang/rust#62958).
    async fn run(&mut self) {
        loop {
            // On the heap, so that an actor that is connected holds no room for it.
            if let Some(session) = Box::pin(self.connect()).await {
                let handle = self.serve(&session).await;
                self.report();
                if handle == Handle::Dropped {
                    return;
                }
            }
            if self.wait().await == Handle::Dropped {
                return;
            }
        }
    }

    /// One try, its outcome given to everybody who wants it, after the event that tells of it.
    async fn connect(&mut self) -> Option<Arc<Session>> {
        let opened = Session::open(&self.vm, &*self.dialer, &self.socket, &self.events).await;
        let outcome = opened.map(Arc::new).map_err(|error| match error {
            ConnectError::NoProcess { .. } => Outage::NoProcess,
            ConnectError::Refused { .. }
            | ConnectError::NoGreeting { .. }
            | ConnectError::Negotiation { .. }
            | ConnectError::Identity { .. } => Outage::Failed(Arc::new(error)),
        });
        if std::mem::replace(&mut self.told, Told::Something) == Told::Something && outcome.is_ok()
        {
            self.report();
        }
        while let Ok(wanted) = self.wanted.try_recv() {
            self.waiting.push(wanted);
        }
        for wanted in self.waiting.drain(..) {
            // A caller that has given up needs no answer.
            wanted.send(outcome.clone()).ok();
        }
        outcome.ok()
    }

    async fn serve(&mut self, session: &Arc<Session>) -> Handle {
        self.backoff = BACKOFF_MIN;
        loop {
            tokio::select! {
                biased;
                () = session.qemu.closed() => return Handle::Held,
                wanted = self.wanted.recv() => match wanted {
                    Some(wanted) => drop(wanted.send(Ok(Arc::clone(session)))),
                    None => return Handle::Dropped,
                },
            }
        }
    }

    /// Waits until it is time for the next try. The wait is drawn from its upper half, so that a
    /// host's VMs do not all try in the same instant.
    async fn wait(&mut self) -> Handle {
        let jittered = (self.jitter)(self.backoff / 2..=self.backoff);
        self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
        match timeout(jittered, self.wanted.recv()).await {
            Ok(Some(wanted)) => {
                self.waiting.push(wanted);
                Handle::Held
            }
            Ok(None) => Handle::Dropped,
            Err(_) => Handle::Held,
        }
    }

    /// Says that events may have been lost.
    fn report(&self) {
        let event = HypervisorEvent {
            vm: Some(self.vm.clone()),
            kind: EventKind::Connection,
        };
        // Nobody listening is fine: an event is only a hint.
        self.events.send(event).ok();
    }
}
