//! Getting a cloud going from outside, and keeping its lifeline.
//!
//! ```text
//!   claim the directory ──► write the plan ──► new user and pid namespace ──► start the sandbox
//!                                               (lifeline: its standard input)
//! ```
//!
//! A process of several threads cannot leave its user namespace, so all of this happens before
//! there is a runtime; whoever has one already starts this program anew instead.

use std::fs;
use std::io::{self, BufRead, BufReader, PipeWriter};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use linux_network::{NamespaceKind, leave_namespaces};

use super::plan::Plan;
use super::site::{Claim, Site};
use super::state::State;
use super::trouble::{Doing, Trouble};

/// How long the sandbox may take to sweep up before it is killed.
const END_DEADLINE: Duration = Duration::from_secs(5);
const END_POLL: Duration = Duration::from_millis(1);

/// A cloud that runs, and ends with this.
#[derive(Debug)]
pub struct Launched {
    /// What there is of it.
    pub state: State,
    running: Running,
}

/// What runs by now. Its end is the end of all of it, and leaves nothing, however far it has come.
#[derive(Debug)]
struct Running {
    claim: Claim,
    sandbox: Option<Child>,
    lifeline: Option<PipeWriter>,
}

/// What a kernel's administrator has to change.
#[derive(Debug, thiserror::Error)]
#[error(
    "this kernel keeps namespaces from ordinary users: be root, or set user.max_user_namespaces \
     above 0, and where they exist kernel.unprivileged_userns_clone to 1 and \
     kernel.apparmor_restrict_unprivileged_userns to 0"
)]
struct NamespacesForbidden(#[source] std::io::Error);

/// The sandbox ended before it was ready: it has said why on standard error.
#[derive(Debug, thiserror::Error)]
#[error("it ended")]
struct Ended;

/// Starts a cloud and waits until it is ready. `prepare` puts into its directory what it finds.
///
/// # Errors
/// When one of that name runs, the kernel does not permit what it takes, or a part does not start.
pub fn launch(
    plan: &Plan,
    site: &Site,
    prepare: impl FnOnce(&Site) -> Result<(), Trouble>,
) -> Result<Launched, Trouble> {
    for name in plan
        .topology
        .vms
        .iter()
        .map(|vm| &vm.id)
        .chain(&plan.topology.hosts)
    {
        site.check_name(name)?;
    }
    let mut running = Running {
        claim: site.claim()?,
        sandbox: None,
        lifeline: None,
    };
    // A new one waits for the last process of this one, however this one ends.
    running
        .claim
        .pass_on()
        .doing("claim the directory for the sandbox too")?;
    plan.write(site)?;
    prepare(site)?;
    leave_user()?;
    let (stdin, lifeline) = std::io::pipe().doing("make the lifeline")?;
    let (said, stdout) = std::io::pipe().doing("listen to the sandbox")?;
    let mut command = Command::new(&plan.programs.simulator);
    command
        .arg("sandbox")
        .arg("--directory")
        .arg(site.directory());
    command
        .arg("--launcher")
        .arg(std::process::id().to_string());
    command
        .stdin(OwnedFd::from(stdin))
        .stdout(OwnedFd::from(stdout));
    running.lifeline = Some(lifeline);
    running.sandbox = Some(command.spawn().doing("start the sandbox")?);
    // Its ends of the pipes.
    drop(command);
    let mut line = String::new();
    BufReader::new(said)
        .read_line(&mut line)
        .doing("listen to the sandbox")?;
    if line.is_empty() {
        return Err(Ended).doing("wait until the sandbox is ready");
    }
    Ok(Launched {
        state: serde_json::from_str(&line).doing("understand the sandbox")?,
        running,
    })
}

impl Launched {
    /// How the cloud has ended, if it has.
    ///
    /// # Errors
    /// When that cannot be told.
    pub fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.running.ended()
    }
}

impl Running {
    fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.sandbox.as_mut().map_or(Ok(None), Child::try_wait)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.lifeline.take());
        let patience = Instant::now() + END_DEADLINE;
        if let Some(sandbox) = &mut self.sandbox {
            while matches!(sandbox.try_wait(), Ok(None)) {
                if Instant::now() > patience {
                    // It has been reaped already when it ended meanwhile.
                    sandbox.kill().unwrap_or_default();
                }
                std::thread::sleep(END_POLL);
            }
        }
        self.claim.sweep().unwrap_or_default();
    }
}

/// Into a user namespace in which this user is root, and a pid namespace for the children. Root
/// may do without the former where it is not to be had.
fn leave_user() -> Result<(), Trouble> {
    let doing = "leave this user's namespaces";
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    let left = leave_namespaces(&[NamespaceKind::User, NamespaceKind::Process]);
    match left {
        Ok(()) => {}
        Err(_) if uid.is_root() => {
            return leave_namespaces(&[NamespaceKind::Process]).doing(doing);
        }
        Err(error) => return Err(NamespacesForbidden(error.cause)).doing(doing),
    }
    let write =
        |file: &str, text: String| fs::write(format!("/proc/self/{file}"), text).doing(doing);
    // Without this right, groups may not be mapped by an ordinary user (user_namespaces(7)).
    write("setgroups", "deny".to_owned())?;
    write("uid_map", format!("0 {} 1", uid.as_raw()))?;
    write("gid_map", format!("0 {} 1", gid.as_raw()))
}
