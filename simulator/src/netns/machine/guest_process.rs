//! One life of the guest in a VM: from a boot to a reset, a crash or the VM's end.

use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::time::Duration;

use linux_network::{NamespaceKind, Netns, leave_namespaces};
use nic_model::VmId;
use rustix::process::{Pid, Signal};
use tokio::sync::oneshot;

use crate::netns::plan::Programs;
use crate::netns::process::log_to;
use crate::netns::ready::said_ready;
use crate::netns::site::Site;
use crate::netns::trouble::{Doing, Trouble};

/// A guest is up within tens of milliseconds.
const BOOT_DEADLINE: Duration = Duration::from_secs(10);
/// One that is killed is gone as soon.
const KILL_PATIENCE: Duration = Duration::from_secs(4);
/// By then a guest is up, or its machine has told what keeps it from that.
pub(in crate::netns) const BOOT_MAX: Duration = BOOT_DEADLINE.saturating_add(KILL_PATIENCE);

/// A guest that is up.
#[derive(Debug)]
pub(super) struct GuestProcess {
    pid: Pid,
    /// Where its links arrive.
    pub(super) netns: Netns,
    ended: oneshot::Receiver<()>,
}

impl GuestProcess {
    /// Boots a guest.
    ///
    /// # Errors
    /// When it cannot be started or does not come up.
    pub(super) async fn boot(site: &Site, vm: &VmId, programs: &Programs) -> Result<Self, Trouble> {
        let doing = "boot the guest";
        let mut command = Command::new(&programs.simulator);
        command
            .arg("guest")
            .arg("--directory")
            .arg(site.directory());
        command
            .arg("--boot-id")
            .arg(random_boot_id())
            .arg(vm.as_str());
        log_to(&mut command, &site.log(vm.as_str()))?;
        let (said, stdout) = std::io::pipe().doing(doing)?;
        command.stdout(Stdio::from(OwnedFd::from(stdout)));
        let (pid, mut ended) = start(command).await.doing(doing)?;
        match Self::up(pid, said).await {
            Ok(netns) => Ok(Self { pid, netns, ended }),
            Err(trouble) => {
                cut_power(pid, &mut ended).await;
                Err(trouble).doing(doing)
            }
        }
    }

    /// Waits until it says that it is up, and goes to where its links arrive.
    async fn up(pid: Pid, said: std::io::PipeReader) -> Result<Netns, Trouble> {
        let doing = "wait until it is up";
        said_ready(said, BOOT_DEADLINE).await.doing(doing)?;
        let number = pid.as_raw_nonzero().get().unsigned_abs();
        Netns::open_pid(number).doing(doing)
    }

    /// Waits until a guest is gone, with all of its processes: for ever, where there is none.
    pub(super) async fn ended(guest: Option<&mut Self>) {
        match guest {
            // Closed counts as well: the thread that would tell is gone.
            Some(guest) => drop((&mut guest.ended).await),
            None => std::future::pending().await,
        }
    }

    /// Cuts its power, and waits until it is gone.
    pub(super) async fn kill(mut self) {
        cut_power(self.pid, &mut self.ended).await;
    }
}

/// Kills the first process of a guest, with which the kernel ends all others in it, and waits until
/// they have let go of what they hold. However long that takes: what comes next, a boot or the word
/// of a panic, is about a machine that has no guest any more.
async fn cut_power(pid: Pid, ended: &mut oneshot::Receiver<()>) {
    rustix::process::kill_process(pid, Signal::KILL).unwrap_or_default();
    // Closed counts as well: the thread that would tell is gone.
    let soon = tokio::time::timeout(KILL_PATIENCE, &mut *ended).await;
    if soon.is_err() {
        tracing::warn!("the guest is killed and does not end: its machine waits for that");
        drop(ended.await);
    }
}

/// Starts the first process of a new pid namespace, on a thread that lives as long as it: the guest
/// asks to end with the thread that started it (`PR_SET_PDEATHSIG` of prctl(2)).
async fn start(mut command: Command) -> std::io::Result<(Pid, oneshot::Receiver<()>)> {
    let (started_sender, started) = oneshot::channel();
    let (ended_sender, ended) = oneshot::channel();
    let life = move || {
        let spawned = leave_namespaces(&[NamespaceKind::Process])
            .map_err(std::io::Error::other)
            .and_then(|()| command.spawn());
        // Its end of the pipe.
        drop(command);
        match spawned {
            Ok(mut child) => {
                let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
                started_sender.send(Ok(pid)).unwrap_or_default();
                drop(child.wait());
                ended_sender.send(()).unwrap_or_default();
            }
            Err(error) => started_sender.send(Err(error)).unwrap_or_default(),
        }
    };
    std::thread::Builder::new()
        .name("guest".to_owned())
        .spawn(life)?;
    let pid = started.await.map_err(std::io::Error::other)??;
    Ok((pid.ok_or(rustix::io::Errno::SRCH)?, ended))
}

/// In the form of a version 4 UUID, as the kernel's.
fn random_boot_id() -> String {
    let [a, b, c, d] = rand::random::<[u32; 4]>();
    let (b1, b2) = (b >> 16, (b & 0x0fff) | 0x4000);
    let (c1, c2) = (((c >> 16) & 0x3fff) | 0x8000, c & 0xffff);
    format!("{a:08x}-{b1:04x}-{b2:04x}-{c1:04x}-{c2:04x}{d:08x}")
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_guest_that_does_not_end_is_waited_for_however_long_it_takes() {
        let mut process = Command::new("sleep").arg("60").spawn().unwrap();
        let pid = Pid::from_child(&process);
        let (end, mut ended) = oneshot::channel();
        let mut cut = std::pin::pin!(cut_power(pid, &mut ended));

        let early = tokio::time::timeout(10 * KILL_PATIENCE, &mut cut).await;

        assert!(early.is_err());
        end.send(()).unwrap();
        cut.await;
        let signal = process.wait().unwrap().signal();
        assert_eq!(signal, Some(Signal::KILL.as_raw()));
    }

    #[test]
    fn a_boot_id_is_one_that_the_kernel_could_have_made() {
        let id = random_boot_id();

        assert!(id.parse::<nic_model::BootId>().is_ok(), "{id}");
        assert_ne!(id, random_boot_id());
    }
}
