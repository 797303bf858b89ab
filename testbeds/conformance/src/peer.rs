//! The two whom everything is said to.

mod fake;
mod process;
mod real;

use std::path::Path;

use anyhow::Result;

use crate::session::Session;
use crate::transcript::Machine;

pub(crate) use fake::FakePeer;
pub(crate) use process::QemuProcess;
pub(crate) use real::RealPeer;

/// A machine with one monitor.
pub(crate) trait Peer {
    /// Where its monitor listens.
    fn socket(&self) -> &Path;

    /// Waits until the guest's driver has a device.
    fn until_probed(&mut self, session: &mut Session, device: &str) -> Result<()>;
}

/// Starts the real one.
pub(crate) fn real(machine: Machine) -> Result<Box<dyn Peer>> {
    Ok(Box::new(RealPeer::start(machine)?))
}

/// Starts the fake one.
pub(crate) fn fake(machine: Machine) -> Result<Box<dyn Peer>> {
    Ok(Box::new(FakePeer::start(machine)?))
}

/// The root ports of both: id, PCI device on the root bus, whether devices come and go.
pub(crate) const ROOT_PORTS: [(&str, u8, bool); 3] =
    [("rp1", 2, true), ("rp2", 3, true), ("rp3", 4, false)];
