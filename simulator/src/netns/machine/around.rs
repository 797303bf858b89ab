//! What is around the machine, as it asks for it: the host's links, and the guest, which is told
//! what the machine does in the order in which it does it.

use std::os::fd::OwnedFd;
use std::time::Duration;

use fake_qemu::driver::Surroundings;
use fake_qemu::driver::unix::KernelTaps;
use fake_qemu::{BackendChange, GuestAct, GuestSignal, Host, TapError};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use tokio::sync::{mpsc, watch};

use crate::netns::trouble::{Doing, Trouble};

/// Signals that wait for the hardware. A NIC's whole life is ten of them, so this is room for all
/// root ports several times over.
const SIGNALS_MAX: usize = 4096;

/// Something the machine has done.
#[derive(Debug)]
pub(super) enum Told {
    /// To its guest, after so many looks at the VM.
    Guest(GuestSignal, u64),
    /// With a backend.
    Backend(BackendChange<OwnedFd>),
}

/// What was told last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Last {
    Reset,
    Other,
}

/// The machine's side.
#[derive(Debug)]
pub(super) struct Around {
    told: mpsc::Sender<Told>,
    last: Last,
    looks: watch::Receiver<u64>,
    /// Belongs to the host's namespace for life.
    socket: OwnedFd,
}

impl Around {
    /// One of a process in the host's namespace, and what it is told; `looks` counts those at the
    /// VM.
    pub(super) fn new(
        looks: watch::Receiver<u64>,
    ) -> Result<(Self, mpsc::Receiver<Told>), Trouble> {
        let (family, flags) = (AddressFamily::UNIX, SocketFlags::CLOEXEC);
        let socket = rustix::net::socket_with(family, SocketType::DGRAM, flags, None);
        let socket = socket.doing("look at the host's links")?;
        let (sender, receiver) = mpsc::channel(SIGNALS_MAX);
        let told = sender;
        let around = Self {
            told,
            last: Last::Other,
            looks,
            socket,
        };
        Ok((around, receiver))
    }

    fn tell(&mut self, told: Told) {
        let is_reset = matches!(told, Told::Guest(GuestSignal::Reset, _));
        // A machine can be reset faster than a guest boots, and over and over: by a rule about
        // something that hostd does at each reset.
        if is_reset && self.last == Last::Reset && self.waits() {
            return;
        }
        self.last = if is_reset { Last::Reset } else { Last::Other };
        if self.told.try_send(told).is_err() {
            // The guest has no idea any more what it consists of.
            tracing::error!("the hardware does not follow the machine");
            std::process::abort();
        }
    }

    /// Whether the hardware has yet to follow what it was told last.
    fn waits(&self) -> bool {
        self.told.capacity() < self.told.max_capacity()
    }
}

impl Host<OwnedFd> for Around {
    fn check_tap(&mut self, descriptor: &OwnedFd) -> Result<(), TapError> {
        KernelTaps.check_tap(descriptor)
    }

    /// Whatever there is of that name is taken, be it a tap or not: what carries frames here is
    /// this program.
    fn open_tap(&mut self, name: &str) -> Result<(), TapError> {
        let found = rustix::net::netdevice::name_to_index(&self.socket, name);
        found.map(drop).map_err(|errno| TapError(errno.to_string()))
    }
}

impl Surroundings<OwnedFd> for Around {
    fn signal(&mut self, signal: GuestSignal) -> Vec<(Duration, GuestAct)> {
        let looks = *self.looks.borrow();
        self.tell(Told::Guest(signal, looks));
        Vec::new()
    }

    fn backend(&mut self, change: BackendChange<OwnedFd>) {
        self.tell(Told::Backend(change));
    }
}
