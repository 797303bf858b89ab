//! A thread for each VM, which makes libvirt's blocking calls for it.
//!
//! ```text
//!   caller ──request──► queue of the VM ──► its thread: wait for libvirtd ─► call ─► answer
//!     │ deadline                                  ▲                           │
//!     └─► gone: what is still queued is skipped   └── connection broke ───────┘
//! ```
//!
//! A call that hangs keeps its VM's thread and nobody else's. Its caller leaves at the deadline;
//! later requests for the VM wait behind it, until their own. Whatever was asked is asked again
//! when the connection breaks and comes back in time, so every operation must bear repetition.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use hypervisor::Trouble;
use nic_model::VmId;
use tokio::sync::{mpsc, oneshot};
use virt::connect::Connect;

use crate::link::{Generation, Link};
use crate::session::{Endpoint, Session};
use crate::trouble;

/// Requests that may wait for one VM. One VM has one owner in hostd, which sends one at a time;
/// the rest is room for people who look.
const QUEUE_CAPACITY: usize = 16;
/// Most VMs served at once, each with a thread and a connection. libvirtd itself takes 5000
/// connections (`max_clients` in libvirtd.conf).
const MAX_VMS: usize = 4096;
/// Wait between two attempts over a connection that breaks although libvirtd can be reached.
const RETRY_INTERVAL: Duration = Duration::from_millis(50);

/// What an operation can end with, before it is known how long it took.
#[derive(Debug)]
pub(crate) enum Failure {
    /// libvirt's own error.
    Libvirt(virt::error::Error),
    /// One that is understood already.
    Trouble(Trouble),
}

impl From<virt::error::Error> for Failure {
    fn from(error: virt::error::Error) -> Self {
        Self::Libvirt(error)
    }
}

impl From<Trouble> for Failure {
    fn from(trouble: Trouble) -> Self {
        Self::Trouble(trouble)
    }
}

type Job = Box<dyn FnOnce(&mut Desk) + Send>;

/// Whose thread makes a call.
#[derive(Clone, Copy)]
pub(crate) enum For<'a> {
    /// The thread of this VM.
    Vm(&'a VmId),
    /// The thread for questions about no VM in particular.
    Host,
}

/// All threads that make calls.
pub(crate) struct Workers {
    link: Arc<Link>,
    endpoint: Endpoint,
    host: mpsc::Sender<Job>,
    vms: Mutex<HashMap<VmId, mpsc::Sender<Job>>>,
}

impl Workers {
    pub(crate) fn new(link: Arc<Link>, endpoint: Endpoint) -> std::io::Result<Self> {
        Ok(Self {
            host: spawn("libvirt-host", Desk::new(&link, &endpoint))?,
            vms: Mutex::new(HashMap::new()),
            link,
            endpoint,
        })
    }

    /// Runs `operation` on the thread of `whose`, and again when the connection breaks under it,
    /// until the deadline.
    pub(crate) async fn call<T, F>(
        &self,
        whose: For<'_>,
        deadline: Duration,
        operation: F,
    ) -> Result<T, Trouble>
    where
        T: Send + 'static,
        F: FnMut(&Connect) -> Result<T, Failure> + Send + 'static,
    {
        let queue = self.queue(whose)?;
        let (reply, answer) = oneshot::channel();
        let job = job(Instant::now() + deadline, operation, reply);
        let answered = tokio::time::timeout(deadline, async {
            // Neither side of the two channels ends before it has answered, except by a panic.
            queue.send(job).await.ok();
            answer.await.ok()
        })
        .await;
        let result = match answered {
            Ok(Some(result)) => result,
            Ok(None) => Err(Trouble::Protocol {
                message: "the thread that asked ended without an answer".to_owned(),
            }),
            Err(_elapsed) => Err(self.out_of_time(deadline)),
        };
        if let (For::Vm(vm), Err(Trouble::NoSuchVm)) = (whose, &result) {
            self.lock().remove(vm);
        }
        result
    }

    /// Ends the threads of VMs that are not among these, once they have answered.
    pub(crate) fn keep_only(&self, vms: &[VmId]) {
        let present: HashSet<&VmId> = vms.iter().collect();
        self.lock().retain(|vm, _| present.contains(vm));
    }

    fn out_of_time(&self, deadline: Duration) -> Trouble {
        match self.link.outage() {
            Some(outage) => Trouble::Connection(Box::new(outage)),
            None => Trouble::TimedOut {
                waited_ms: u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX),
            },
        }
    }

    fn queue(&self, whose: For<'_>) -> Result<mpsc::Sender<Job>, Trouble> {
        let For::Vm(vm) = whose else {
            return Ok(self.host.clone());
        };
        let mut vms = self.lock();
        if let Some(queue) = vms.get(vm) {
            return Ok(queue.clone());
        }
        if vms.len() >= MAX_VMS {
            return Err(Trouble::Refused {
                message: format!("more than {MAX_VMS} VMs are in use"),
            });
        }
        let desk = Desk::new(&self.link, &self.endpoint);
        let queue = spawn(&format!("virt-{vm}"), desk).map_err(|error| Trouble::Refused {
            message: format!("no thread for the VM: {error}"),
        })?;
        vms.insert(vm.clone(), queue.clone());
        Ok(queue)
    }

    /// No code that holds the lock can panic, so a poisoned one is whole.
    fn lock(&self) -> MutexGuard<'_, HashMap<VmId, mpsc::Sender<Job>>> {
        self.vms
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// The thread ends when every sender of its queue is gone and the queue is empty.
fn spawn(name: &str, mut desk: Desk) -> std::io::Result<mpsc::Sender<Job>> {
    let (queue, mut jobs) = mpsc::channel::<Job>(QUEUE_CAPACITY);
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || {
            while let Some(job) = jobs.blocking_recv() {
                job(&mut desk);
            }
        })?;
    Ok(queue)
}

/// What nobody waits for any more is not begun.
fn job<T, F>(until: Instant, mut operation: F, reply: oneshot::Sender<Result<T, Trouble>>) -> Job
where
    T: Send + 'static,
    F: FnMut(&Connect) -> Result<T, Failure> + Send + 'static,
{
    Box::new(move |desk| {
        if reply.is_closed() {
            return;
        }
        // A caller that has left by now does not want the answer.
        reply.send(desk.work(until, &mut operation)).ok();
    })
}

/// What one thread has: its own connection, and the way to a new one.
struct Desk {
    link: Arc<Link>,
    endpoint: Endpoint,
    session: Option<(Generation, Session)>,
}

impl Desk {
    fn new(link: &Arc<Link>, endpoint: &Endpoint) -> Self {
        Self {
            link: Arc::clone(link),
            endpoint: endpoint.clone(),
            session: None,
        }
    }

    fn work<T>(
        &mut self,
        until: Instant,
        operation: &mut impl FnMut(&Connect) -> Result<T, Failure>,
    ) -> Result<T, Trouble> {
        loop {
            let attempt = self.attempt(until, operation);
            let Err(Trouble::Connection(cause)) = attempt else {
                return attempt;
            };
            self.session = None;
            if Instant::now() + RETRY_INTERVAL >= until {
                return Err(Trouble::Connection(cause));
            }
            tracing::debug!(%cause, "a connection to libvirtd broke, asking again");
            std::thread::sleep(RETRY_INTERVAL);
        }
    }

    fn attempt<T>(
        &mut self,
        until: Instant,
        operation: &mut impl FnMut(&Connect) -> Result<T, Failure>,
    ) -> Result<T, Trouble> {
        let begun = Instant::now();
        let session = self.session(until)?;
        operation(session.connect()).map_err(|failure| match failure {
            Failure::Libvirt(error) => trouble::from_libvirt(error, begun.elapsed()),
            Failure::Trouble(trouble) => trouble,
        })
    }

    /// The open connection, or a new one when the supervisor has seen libvirtd go and come since.
    fn session(&mut self, until: Instant) -> Result<&Session, Trouble> {
        let current = self
            .link
            .wait_until_up(until)
            .map_err(|outage| Trouble::Connection(Box::new(outage)))?;
        let reusable = self.session.take().filter(|(opened_under, session)| {
            *opened_under == current && session.connect().is_alive().unwrap_or(false)
        });
        let session = match reusable {
            Some((_, session)) => session,
            None => Session::open(&self.endpoint)
                .map_err(|error| Trouble::Connection(Box::new(error)))?,
        };
        Ok(&self.session.insert((current, session)).1)
    }
}
