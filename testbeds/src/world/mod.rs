//! What a scenario runs against.
//!
//! ```text
//!   WorldKind ─ make ─► World ─ boot ─► VM runs ─ kill ─► VM is off ─ boot ─► …
//!                         │
//!                         └─ configure_hostd ─► Hostd ─ start ─► runs ─ kill ─► start ─► …
//! ```
//!
//! A world is a host of its own, in which everything is: hypervisor, hostd, bridge, DHCP server. It
//! offers what every hypervisor can do and what a scenario needs to see or to break from outside of
//! hostd. Nothing in it need be of this machine: everything is used by one thread at a time.

mod domain;
mod libvirt;
mod netns;
mod qemu;
mod sim;

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use async_trait::async_trait;
use misbehaviour::{CueOrder, PaceRule, Rule};
use nic_model::{NicId, VmId};
use serde_json::Value;

use crate::guest::Guest;
use crate::host::Host;
use crate::hostd::Hostd;
use crate::image::host_program;
use crate::inspection::QemuState;
use crate::site::{DHCP_SERVER, Foundation, Site};
use crate::vm::VmOptions;

pub use libvirt::LibvirtWorld;
pub use netns::NetnsWorld;
pub use qemu::QemuWorld;
pub use sim::{SEED_VARIABLE, SimWorld, seed};

/// Names of the VMs of a world: the `qemu` world's configuration names them all beforehand.
pub const VMS: [&str; 4] = ["vm1", "vm2", "vm3", "vm4"];

/// A hypervisor with its piece of host.
#[async_trait(?Send)]
pub trait World {
    /// Which.
    fn kind(&self) -> WorldKind;

    /// Its piece of host.
    fn host(&self) -> &dyn Host;

    /// Makes a hostd that knows its VMs, and does not start it yet.
    ///
    /// # Errors
    /// When it cannot be configured.
    fn configure_hostd(&self) -> Result<Box<dyn Hostd>>;

    /// Starts a VM that is off. Its guest still has to boot.
    async fn boot(&self, options: &VmOptions) -> Result<Box<dyn Guest>>;

    /// What the guest of a VM printed while it booted.
    async fn console(&self, vm: &VmId) -> String;

    /// Kills a VM's QEMU with -9 and waits until it is gone.
    async fn kill(&self, vm: &VmId) -> Result<()>;

    /// Runs a QMP command, past hostd.
    async fn monitor(&self, vm: &VmId, command: &str, arguments: Value) -> Result<Value>;

    /// What a VM's QEMU has of network devices.
    async fn qemu(&self, vm: &VmId) -> Result<QemuState>;

    /// Takes away the way by which a new hostd would reach a VM's QEMU, which runs on.
    async fn hide_monitor(&self, vm: &VmId) -> Result<()>;

    /// Ends [`Self::hide_monitor`].
    async fn reveal_monitor(&self, vm: &VmId) -> Result<()>;

    /// Asks the guest to let go of a NIC's device, past hostd, as an operator with the
    /// hypervisor's own tool would.
    async fn unplug_behind_hostd(&self, vm: &VmId, nic: &NicId) -> Result<()>;

    /// Kills the hypervisor's daemon with -9 and starts it again; VMs live on.
    async fn restart_daemon(&self) -> Result<DaemonRestart>;

    /// What the hypervisor knows of a VM's network devices beyond QEMU itself: libvirt's XML.
    async fn definition(&self, vm: &VmId) -> Result<BTreeSet<String>>;

    /// The end of the hypervisor's own log.
    async fn log_tail(&self, lines: usize) -> String;

    /// The simulated world behind it, for what only such a one can do or show at once; `None` where
    /// there is none.
    fn simulated(&self) -> Option<&SimWorld>;

    /// How to have things go wrong to order in it; `None` where hypervisor and guests are real, and
    /// do as they should.
    fn misbehaving(&self) -> Option<&dyn Misbehaving>;
}

/// A world in which things go wrong to order.
#[async_trait(?Send)]
pub trait Misbehaving {
    /// Has something go wrong from now on.
    ///
    /// # Errors
    /// When the rule cannot be followed.
    async fn misbehave(&self, rule: Rule) -> Result<()>;

    /// Ends [`Self::misbehave`], and tells how often the rule has been followed: of a disk that is
    /// full only that it was.
    ///
    /// # Errors
    /// When there is no such rule.
    async fn behave(&self, rule: &str) -> Result<u64>;

    /// Sets the pace of a transition of one VM, or of all.
    ///
    /// # Errors
    /// When there is no such VM, or it cannot be told.
    async fn set_pace(&self, pace: &PaceRule) -> Result<()>;

    /// Has a VM's clock go otherwise, or what waits in it to be told be done.
    ///
    /// # Errors
    /// When there is no such VM, or it cannot be told.
    async fn give(&self, vm: &VmId, order: CueOrder) -> Result<()>;
}

/// Whether there was a daemon to restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DaemonRestart {
    /// It has been killed and answers again.
    Restarted,
    /// This hypervisor has none.
    NoDaemon,
}

/// The kinds of world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WorldKind {
    /// QEMU without anything, over QMP.
    Qemu,
    /// A libvirtd of its own.
    Libvirt,
    /// Everything in memory, in virtual time.
    Sim,
    /// Processes and namespaces of this machine, without QEMU.
    Netns,
}

impl fmt::Display for WorldKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl WorldKind {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::Sim, Self::Netns, Self::Qemu, Self::Libvirt];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Qemu => "qemu",
            Self::Libvirt => "libvirt",
            Self::Sim => "sim",
            Self::Netns => "netns",
        }
    }

    /// Whether this machine can have such a world.
    ///
    /// # Errors
    /// What is missing, for people.
    pub fn runs_here(self) -> Result<()> {
        match self {
            Self::Sim => Ok(()),
            Self::Netns => namespaces_of_ones_own(&["busybox", "/sbin/ip"]),
            Self::Qemu => real_host(&[]),
            Self::Libvirt => real_host(&["libvirtd", "virsh"]),
        }
    }

    /// Makes a world of this kind, without any VM yet.
    ///
    /// # Errors
    /// When its daemons do not start.
    pub async fn make(self, foundation: Arc<Foundation>) -> Result<Box<dyn World>> {
        let site = async { anyhow::Ok(Arc::new(Site::make(foundation).await?)) };
        Ok(match self {
            Self::Sim => Box::new(SimWorld::make(seed()?)?),
            Self::Netns => Box::new(NetnsWorld::over(site.await?).await?),
            Self::Qemu => Box::new(QemuWorld::over(site.await?)),
            Self::Libvirt => Box::new(LibvirtWorld::start(site.await?).await?),
        })
    }
}

/// Where a socket is while hostd is not to find it.
fn hidden(socket: &Path) -> PathBuf {
    socket.with_extension("hidden")
}

/// The part of hostd's configuration that tells it about VMs reached by QMP: for each, where its
/// sockets of some ending are.
fn qmp_vms(file: impl Fn(&str, &str) -> PathBuf) -> String {
    let vm = |id: &str| {
        let (qmp, channel) = (file(id, "qmp"), file(id, "agent"));
        format!("[[vm]]\nid = {id:?}\nqmp = {qmp:?}\nchannel = {channel:?}\nclass = \"standard\"\n")
    };
    VMS.into_iter().map(vm).collect()
}

/// Whether this machine lets us make namespaces, and has these programs beside what a host needs.
fn namespaces_of_ones_own(programs: &[&str]) -> Result<()> {
    anyhow::ensure!(
        rustix::process::geteuid().is_root(),
        "needs root, for a network namespace with a DHCP server and a bridge in it"
    );
    for program in ["ip", "tc", DHCP_SERVER].iter().chain(programs) {
        host_program(program)?;
    }
    anyhow::ensure!(
        Path::new("/dev/net/tun").exists(),
        "this host has no /dev/net/tun"
    );
    Ok(())
}

/// Whether this machine can have guests of its own, and has these programs beside what that needs.
fn real_host(programs: &[&str]) -> Result<()> {
    namespaces_of_ones_own(programs)?;
    for program in ["dpkg-deb", "qemu-system-x86_64"] {
        host_program(program)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_world_has_the_name_that_is_asked_for_on_the_command_line() {
        assert_eq!(
            WorldKind::ALL.map(|kind| kind.to_string()),
            ["sim", "netns", "qemu", "libvirt"]
        );
    }
}
