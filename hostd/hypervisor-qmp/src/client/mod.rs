//! A small QMP client: what driving hot-plug needs and the published ones lack.
//!
//! ```text
//!   open: connect ──► greeting ──► qmp_capabilities ──► commands, several at once ──► broken
//!                                                           │ deadline: caller gone,
//!                                                           └ the late reply is dropped by its id
//! ```
//!
//! Every command carries an id and a deadline, so a slow answer costs its caller an error and the
//! connection nothing. Events are passed on raw: one from a newer QEMU is no reason to fail. File
//! descriptors travel with their command. The whole exchange of opening has one deadline too.
//!
//! Out-of-band execution is left off although QEMU offers it. With it, QEMU reads commands ahead of
//! executing them, and of two descriptors that arrive while one `getfd` waits the first is closed
//! (`tcp_chr_recv` in QEMU's `chardev/char-socket.c` keeps only the newest set). Without it, QEMU
//! takes one command at a time from the socket (`handle_qmp_command` in `monitor/qmp.c` suspends
//! the monitor), so commands may be sent ahead and descriptors still find their own. None of the
//! commands that work out of band is of use here.

mod dial;
mod error;
mod transport;
mod wire;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use hypervisor::Descriptor;
use nic_model::VmRunId;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;

pub use dial::{Dialer, MonitorStream, UnixDialer};
pub use error::{Broken, CommandError, ConnectError, ErrorClass};
pub use wire::{MAX_LINE_BYTES, QemuVersion, QmpEvent};

use transport::{Fate, Request, Transport};
use wire::Outcome;

/// How long connecting, greeting and negotiation may take together. QEMU does all three at once
/// when its main loop turns; what takes this long is held by another client or hangs.
pub const CONNECT_DEADLINE: Duration = Duration::from_secs(2);

/// Commands waiting to be sent before callers wait themselves: one inspection of a large VM.
const QUEUE_LEN: usize = 64;

/// Takes what QEMU reports unasked. Called on the connection's own task: it must not block.
pub type EventSink = Box<dyn Fn(QmpEvent) + Send + Sync>;

/// One command.
#[derive(Debug)]
pub struct Command {
    name: &'static str,
    arguments: Map<String, Value>,
    descriptor: Option<Descriptor>,
    deadline: Duration,
}

impl Command {
    /// The command `name` without arguments, to be answered within `deadline`.
    #[must_use]
    pub fn new(name: &'static str, deadline: Duration) -> Self {
        Self {
            name,
            arguments: Map::new(),
            descriptor: None,
            deadline,
        }
    }

    /// Adds one argument.
    #[must_use]
    pub fn with(mut self, argument: &'static str, value: impl Into<Value>) -> Self {
        self.arguments.insert(argument.to_owned(), value.into());
        self
    }

    /// Replaces all arguments.
    #[must_use]
    pub fn with_arguments(mut self, arguments: Map<String, Value>) -> Self {
        self.arguments = arguments;
        self
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Sends a file descriptor along (`SCM_RIGHTS`), as `getfd` wants it.
    #[must_use]
    pub fn passing(mut self, descriptor: impl Into<Descriptor>) -> Self {
        self.descriptor = Some(descriptor.into());
        self
    }
}

/// An open connection in command mode. Dropping it closes it.
#[derive(Debug)]
pub struct Connection {
    /// Boxed, as a queue keeps room for 32 however few wait in it.
    requests: mpsc::Sender<Box<Request>>,
    next_id: AtomicU64,
    fate: Arc<Fate>,
    version: QemuVersion,
    run: VmRunId,
    /// Ends with the connection, also while a QEMU that hangs takes nothing more.
    _transport: JoinSet<()>,
}

impl Connection {
    /// Connects to `socket` through `dialer` and brings the connection into command mode, within
    /// [`CONNECT_DEADLINE`]. Events go to `events` from then on.
    ///
    /// # Errors
    /// [`ConnectError::NoProcess`] when nobody listens, the others when somebody does and it fails.
    pub async fn open(
        dialer: &dyn Dialer,
        socket: &Path,
        events: EventSink,
    ) -> Result<Self, ConnectError> {
        match timeout(CONNECT_DEADLINE, negotiate(dialer, socket, events)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(no_greeting(socket, CONNECT_DEADLINE)),
        }
    }

    /// Sends `command` and waits for its answer, both within the command's deadline. Several may
    /// wait at once. Dropping the future abandons the command: unsent it never will be sent.
    ///
    /// # Errors
    /// See [`CommandError`]; after `TimedOut` and `Lost` QEMU may have carried the command out.
    pub fn execute(&self, command: Command) -> impl Future<Output = Result<Value, CommandError>> {
        self.query(command)
    }

    /// The same, with an answer of the form that is expected.
    ///
    /// # Errors
    /// As for [`Self::execute`], and when the answer is of another form.
    pub fn query<T: DeserializeOwned>(
        &self,
        command: Command,
    ) -> impl Future<Output = Result<T, CommandError>> {
        let name = command.name;
        let answer = self.perform(command);
        async move {
            serde_json::from_str(answer.await?.get()).map_err(|error| CommandError::NotUnderstood {
                command: name,
                problem: error.to_string(),
            })
        }
    }

    /// The same for a command whose answer says no more than that it was carried out.
    ///
    /// On the heap: who waits for several commands, one after the other or at once, would be as
    /// large as many of them, and a host that starts has all of its VMs wait.
    ///
    /// # Errors
    /// As for [`Self::execute`].
    pub fn perform(&self, command: Command) -> BoxFuture<'_, Result<Box<RawValue>, CommandError>> {
        let (name, deadline) = (command.name, command.deadline);
        let (request, answer) = self.request(command);
        Box::pin(async move {
            match timeout(deadline, self.exchange(name, request, answer)).await {
                Ok(outcome) => outcome,
                Err(_) => Err(CommandError::TimedOut {
                    command: name,
                    waited_ms: milliseconds(deadline),
                }),
            }
        })
    }

    fn request(&self, command: Command) -> (Box<Request>, oneshot::Receiver<Outcome>) {
        let (reply, answer) = oneshot::channel();
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let request = Request {
            id,
            line: wire::encode(command.name, &command.arguments, id),
            descriptor: command.descriptor,
            reply,
        };
        (Box::new(request), answer)
    }

    async fn exchange(
        &self,
        name: &'static str,
        request: Box<Request>,
        answer: oneshot::Receiver<Outcome>,
    ) -> Result<Box<RawValue>, CommandError> {
        let lost = || CommandError::Lost {
            command: name,
            cause: self.broken(),
        };
        self.requests.send(request).await.map_err(|_| lost())?;
        match answer.await.map_err(|_| lost())? {
            Outcome::Returned(value) => Ok(value),
            Outcome::Refused { class, desc } => Err(CommandError::Refused {
                command: name,
                class,
                desc,
            }),
        }
    }

    /// Waits until the connection is broken.
    pub async fn closed(&self) {
        self.requests.closed().await;
    }

    /// The version in QEMU's greeting.
    #[must_use]
    pub fn version(&self) -> QemuVersion {
        self.version
    }

    /// Which life of which process listened on the socket.
    #[must_use]
    pub fn run(&self) -> &VmRunId {
        &self.run
    }

    /// How many replies came after their command's deadline and were dropped.
    #[must_use]
    pub fn late_replies(&self) -> u64 {
        self.fate.late_replies.load(Ordering::Relaxed)
    }

    /// How many messages came that belong to no command and are no event.
    #[must_use]
    pub fn unmatched_messages(&self) -> u64 {
        self.fate.unmatched.load(Ordering::Relaxed)
    }

    fn broken(&self) -> Arc<Broken> {
        let broken = self.fate.broken.get();
        // The task leaves a reason before it ends, unless the runtime ended it.
        broken.map_or_else(|| Arc::new(Broken::Abandoned), Arc::clone)
    }
}

async fn negotiate(
    dialer: &dyn Dialer,
    socket: &Path,
    events: EventSink,
) -> Result<Connection, ConnectError> {
    let stream = dialer.dial(socket).await;
    let stream = stream.map_err(|cause| not_connected(socket, cause))?;
    let run = stream.run().map_err(|cause| ConnectError::Identity {
        socket: socket.to_owned(),
        cause,
    })?;
    let (requests, queue) = mpsc::channel(QUEUE_LEN);
    let (greeting, greeted) = oneshot::channel();
    let fate = Arc::new(Fate::default());
    let transport = Transport::new(stream, queue, greeting, events, Arc::clone(&fate));
    let mut tasks = JoinSet::new();
    tasks.spawn(transport.run());
    let mut connection = Connection {
        requests,
        next_id: AtomicU64::new(0),
        fate,
        version: QemuVersion { major: 0, minor: 0 },
        run,
        _transport: tasks,
    };
    let failed = |cause| ConnectError::Negotiation {
        socket: socket.to_owned(),
        cause,
    };
    connection.version = greeted.await.map_err(|_| {
        failed(CommandError::Lost {
            command: "the greeting",
            cause: connection.broken(),
        })
    })?;
    let capabilities = Command::new("qmp_capabilities", CONNECT_DEADLINE);
    connection.execute(capabilities).await.map_err(failed)?;
    Ok(connection)
}

fn not_connected(socket: &Path, cause: io::Error) -> ConnectError {
    let nobody = [io::ErrorKind::NotFound, io::ErrorKind::ConnectionRefused];
    if nobody.contains(&cause.kind()) {
        let socket = socket.to_owned();
        return ConnectError::NoProcess { socket, cause };
    }
    // The listener's backlog is full (unix(7), EAGAIN): others are queueing for it already.
    if cause.kind() == io::ErrorKind::WouldBlock {
        return no_greeting(socket, Duration::ZERO);
    }
    let socket = socket.to_owned();
    ConnectError::Refused { socket, cause }
}

fn no_greeting(socket: &Path, waited: Duration) -> ConnectError {
    ConnectError::NoGreeting {
        socket: socket.to_owned(),
        waited_ms: milliseconds(waited),
    }
}

pub(crate) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
