//! World `netns`: a cloud of this machine's own processes and namespaces.
//!
//! Real hostd, real agents and real packets, under nobody's rights: everything happens within a
//! user namespace of its own, and ends with the program that made it.
//!
//! ```text
//!   simulator up ── launcher: outside; holds the lifeline, passes HTTP on
//!     └─ sandbox: first process of own user, pid, mount and network namespace
//!          ├─ hostd          per host, in the host's network namespace
//!          └─ vm             per VM, in its host's: QMP server, and the guest's hardware
//!               └─ guest     own pid, mount and network namespace
//!                    ├─ guest-agent
//!                    └─ container …
//! ```
//!
//! The lifeline is a pipe from the launcher to the sandbox: when its other end is closed, by
//! whatever end of the launcher, the sandbox sweeps up its files and exits, and with the first
//! process of a pid namespace the kernel ends all others in it.

mod cloud;
mod control;
mod disk;
mod event_log;
mod guest;
mod hostd;
mod journal_log;
mod launch;
mod lines;
mod machine;
mod mounts;
mod network;
mod plan;
mod process;
mod ready;
mod sandbox;
mod site;
mod snapshot;
mod start;
mod state;
mod topology;
mod trouble;

use std::io::Write;

pub use control::{ClockRequest, ControlClient, Page, RulePage, VmPage};
pub use disk::HostDisk;
pub use event_log::Event;
pub use guest::run as run_guest;
pub use guest::{AgentWanted, ContainerView, GuestClient, Link, Naming, Place, ProgramOutput};
pub use launch::{Launched, launch};
pub use machine::{GuestState, RuleStatus, Status, TransitionStatus, run as run_machine};
pub use plan::{Frames, Plan, Programs};
pub use sandbox::run as run_sandbox;
pub use site::{Claim, CloudName, Site};
pub use snapshot::{PlacedNic, Snapshot};
pub use start::Started;
pub use state::{HostState, State, VmState};
pub use topology::{
    Class, HostName, Mistakes, Network, Quota, Timeouts, Topology, TopologyError, Vm,
};
pub use trouble::Trouble;

use trouble::Doing;

/// One thread does for each process: none of them computes.
fn runtime() -> Result<tokio::runtime::Runtime, Trouble> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().doing("start the runtime")
}

/// To whoever started this process. Fails when it listens no more: it has ended.
fn say(line: &str) -> std::io::Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(line.as_bytes())?;
    stdout.flush()
}

/// Does nothing but be there: what a container is to the kernel.
pub fn run_container() -> ! {
    loop {
        std::thread::park();
    }
}
