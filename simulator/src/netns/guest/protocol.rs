//! What a simulated guest is asked from outside, and what it answers: one line of JSON each.
//!
//! It stands for a terminal in the machine: whoever has it makes containers, looks at links, runs
//! programs. nicferry itself never uses it.

use std::net::IpAddr;

use nic_model::{IpNet, MacAddr, NetnsInode, NetnsName};
use serde::{Deserialize, Serialize};

/// Longest line, in bytes: an answer holds two outputs of a program.
pub(crate) const LINE_MAX: usize = 1024 * 1024;
/// Most of a program's output that is kept of each kind, in bytes.
pub(crate) const OUTPUT_MAX: usize = 64 * 1024;

/// A request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Request {
    /// Makes a container.
    MakeContainer {
        /// What it is called here.
        name: NetnsName,
        /// Whether its namespace has the name too.
        naming: Naming,
    },
    /// Ends a container's process, and takes the name of its namespace away.
    KillContainer {
        /// Which.
        name: NetnsName,
    },
    /// Every container.
    Containers,
    /// The links of a namespace, without the loopback.
    Links {
        /// Which.
        place: Place,
    },
    /// Asks an address for an echo until so many have come.
    Ping {
        /// From where.
        place: Place,
        /// Whom.
        to: IpAddr,
        /// How many.
        count: u16,
        /// Within this time each, in milliseconds.
        patience_ms: u64,
    },
    /// Runs a program.
    Run {
        /// Where.
        place: Place,
        /// Its name and arguments.
        command: Vec<String>,
        /// For so many milliseconds at most.
        deadline_ms: u64,
    },
    /// Ends the agent, or starts it again.
    Agent {
        /// What it is to do.
        wanted: AgentWanted,
    },
}

/// Whether the namespace of a container has a name under `/run/netns`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Naming {
    /// It has the container's.
    Named,
    /// It has none and ends with the process.
    Unnamed,
}

/// Whether the agent is to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AgentWanted {
    /// It is, and is started again when it ends.
    Running,
    /// It is not.
    Stopped,
    /// It dies as by `kill -9` and is started again.
    Restarted,
}

/// A network namespace of a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// The guest's own.
    Own,
    /// A container's.
    Container(NetnsName),
    /// One that has a name.
    Netns(NetnsName),
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Reply {
    /// It is done.
    Done,
    /// The container.
    Container(ContainerView),
    /// The containers, by name.
    Containers(Vec<ContainerView>),
    /// The links, by number.
    Links(Vec<GuestLink>),
    /// How long each echo took, in milliseconds.
    Echoes(Vec<f64>),
    /// How a program ended.
    Output(Output),
    /// It is not done, for this reason.
    Failed(String),
}

/// A container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerView {
    /// What it is called.
    pub name: NetnsName,
    /// Its process, as the guest numbers them.
    pub pid: u32,
    /// Its network namespace.
    pub netns_inode: NetnsInode,
    /// Whether the namespace has the container's name.
    pub named: bool,
}

/// A link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestLink {
    /// Its name.
    pub name: String,
    /// Its Ethernet address.
    pub mac: Option<MacAddr>,
    /// Largest packet.
    pub mtu: u32,
    /// Whether it is switched on.
    pub up: bool,
    /// Whether it has a carrier.
    pub carrier: bool,
    /// Its addresses, those that reach the link alone left out.
    pub addresses: Vec<IpNet>,
}

/// How a program ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Output {
    /// Its exit status; absent when a signal ended it.
    pub status: Option<i32>,
    /// What it printed, cut off at some point.
    pub stdout: String,
    /// What it complained about, cut off at some point.
    pub stderr: String,
}
