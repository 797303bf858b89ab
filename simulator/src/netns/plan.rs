//! What the processes of a simulated cloud are told when they start: one file, read by all.

use std::path::{Path, PathBuf};

use misbehaviour::Script;
use serde::{Deserialize, Serialize};

use super::site::Site;
use super::topology::Topology;
use super::trouble::{Doing, Trouble};

/// Everything there is to know before the cloud runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// What there is to be.
    pub topology: Topology,
    /// How frames get from a port of hostd into a guest.
    pub frames: Frames,
    /// What goes wrong from the start.
    pub script: Script,
    /// The programs that are run besides this one.
    pub programs: Programs,
}

/// How frames get from a port of hostd into a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Frames {
    /// hostd passes a tap's descriptor, as with a real QEMU.
    Tap,
    /// hostd's ports are pairs of virtual links: for users who may not open `/dev/net/tun`.
    Veth,
}

/// Programs beside this one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Programs {
    /// This program.
    pub simulator: PathBuf,
    /// hostd.
    pub hostd: PathBuf,
    /// The agent.
    pub guest_agent: PathBuf,
}

/// A program that is not where it is looked for.
#[derive(Debug, thiserror::Error)]
#[error("it is not there; build it with `cargo build -p {package}`")]
struct Missing {
    package: &'static str,
}

impl Programs {
    /// Those in the directory of this one.
    ///
    /// # Errors
    /// When one is missing.
    pub fn beside_this_one() -> Result<Self, Trouble> {
        let simulator = std::env::current_exe().doing("find this program")?;
        let directory = simulator.parent().unwrap_or(Path::new("/")).to_owned();
        let find = |package: &'static str| {
            let path = directory.join(package);
            match path.is_file() {
                true => Ok(path),
                false => Err(Missing { package }).doing(format_args!("find {}", path.display())),
            }
        };
        Ok(Self {
            hostd: find("hostd")?,
            guest_agent: find("guest-agent")?,
            simulator,
        })
    }
}

impl Frames {
    /// The better one of those that work here.
    #[must_use]
    pub fn possible_here() -> Self {
        let mut options = std::fs::OpenOptions::new();
        match options.read(true).write(true).open("/dev/net/tun") {
            Ok(_) => Self::Tap,
            Err(_) => Self::Veth,
        }
    }
}

impl Plan {
    /// Writes it down.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, site: &Site) -> Result<(), Trouble> {
        let text = serde_json::to_vec_pretty(self).doing("write the plan")?;
        std::fs::write(site.plan(), text).doing("write the plan")
    }

    /// Reads it.
    ///
    /// # Errors
    /// When the file cannot be read or is no plan.
    pub fn read(site: &Site) -> Result<Self, Trouble> {
        let text = std::fs::read(site.plan()).doing("read the plan")?;
        serde_json::from_slice(&text).doing("understand the plan")
    }
}
