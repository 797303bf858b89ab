//! The daemon under test: started, killed, and its journal read past it.

mod journal;
mod process;

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail};
use async_trait::async_trait;
use host_api::Client;
use oracle::JournalView;

pub(crate) use journal::shorten_log;
pub use process::HostdProcess;

use crate::site::{BRIDGE, NETWORK, SUBNET_V4, SUBNET_V6};

/// What its journal is called, wherever it is.
pub(crate) const JOURNAL: &str = "journal.sqlite";

/// How long hostd leaves alone what has a name of ours and no record: so long that the leak check
/// finds it, and no longer, since a scenario waits for it.
pub const QUARANTINE: Duration = Duration::from_secs(20);

/// How long hostd waits for a guest that is booting: longer than any guest takes, also where it is
/// emulated on a machine that is busy.
pub const ATTACH_PATIENCE: Duration = Duration::from_secs(300);

/// Limits of the one class of VM, chosen so that a scenario reaches them with ten slots.
const CLASS: &str = "\
default_class = \"standard\"
[[class]]
name = \"standard\"
max_nics = 8
max_addresses_per_nic = 8
max_queues = 4
";

/// hostd's configuration in every world: `files` says where its own files are, `hypervisors` is
/// the part about VMs.
pub(crate) fn configuration(files: &str, hypervisors: &str) -> String {
    format!(
        "{files}{CLASS}\
         [[network]]\nname = {NETWORK:?}\nkind = \"bridge\"\nbridge = {BRIDGE:?}\n\
         mtu = 1500\nsubnets = [{SUBNET_V4:?}, {SUBNET_V6:?}]\n\
         [quota]\nmax_nics_per_host = 1000\nmax_nics_per_tenant = 100\n\
         [timeouts]\nattach_seconds = {}\nquarantine_seconds = {}\n{hypervisors}",
        ATTACH_PATIENCE.as_secs(),
        QUARANTINE.as_secs(),
    )
}

/// The daemon of one world.
#[async_trait(?Send)]
pub trait Hostd: fmt::Debug {
    /// A client of its API.
    fn client(&self) -> Client;

    /// Starts it and waits until it answers; `failpoint` names a step at which it is to die.
    async fn start(&self, failpoint: Option<&str>) -> Result<()>;

    /// Kills it with -9, the only way it is ever stopped.
    async fn kill(&self) -> Result<()>;

    /// Waits until it has died at its failpoint, as if by `kill -9`.
    async fn died(&self) -> Result<()>;

    /// A mark for [`Self::passed_since`].
    async fn mark(&self) -> Result<Mark>;

    /// Names of the failpoints that it has passed since a mark.
    async fn passed_since(&self, mark: Mark) -> Result<BTreeSet<String>>;

    /// Its journal as it stands on the disk.
    async fn journal(&self) -> Result<JournalView>;

    /// Puts records into its journal, past it.
    async fn plant_records(&self, planted: &JournalView) -> Result<()>;

    /// Ends [`Self::plant_records`]: hostd would not start from rows that it has not written.
    async fn remove_records(&self, planted: &JournalView) -> Result<()>;

    /// The last lines of its log, of all its lives together.
    fn log_tail(&self, lines: usize) -> String;

    /// Where it listens, for programs: a scenario that asks for it says which worlds have none.
    ///
    /// # Errors
    /// When it listens nowhere.
    fn socket(&self) -> Result<&Path> {
        bail!("this world's hostd is no process of this machine")
    }
}

/// A moment of a daemon's past.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark(pub(crate) u64);
