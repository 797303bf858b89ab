//! A cloud as a child of another program: started by running this one, ended by letting go of it.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::task::JoinHandle;

use super::control::ControlClient;
use super::guest::GuestClient;
use super::state::State;
use super::trouble::{Doing, Trouble};

/// Hundreds of VMs take their time on a machine that is busy.
const READY_DEADLINE: Duration = Duration::from_secs(60);
/// It sweeps up its files and is gone.
const END_DEADLINE: Duration = Duration::from_secs(10);
/// Most that is told of what a cloud that does not start has complained of, in bytes.
const COMPLAINT_MAX: usize = 16 * 1024;

/// A cloud that runs until this is dropped, or the program that has it ends, however it ends.
#[derive(Debug)]
pub struct Started {
    /// What there is of it.
    pub state: State,
    child: Child,
    /// When this is closed, by whatever end of this process, the cloud ends.
    lifeline: Option<ChildStdin>,
}

/// The cloud ended before it was ready.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct NotReady(String);

impl Started {
    /// Runs `simulator up` with these arguments, and waits until the cloud is ready.
    ///
    /// # Errors
    /// When it does not become ready; what it has complained of is in the cause.
    pub async fn start(simulator: &Path, arguments: &[&str]) -> Result<Self, Trouble> {
        let mut command = Command::new(simulator);
        command.args(["up", "--json", "--tied"]).args(arguments);
        Self::run(command).await
    }

    /// The same with a command of one's own, to which `up --json --tied` or the like has been
    /// given.
    ///
    /// # Errors
    /// As with [`Self::start`].
    pub async fn run(mut command: Command) -> Result<Self, Trouble> {
        let doing = "start a cloud";
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .doing(doing)?;
        let lifeline = child.stdin.take();
        let complaint = child.stderr.take().map(listen_to);
        let mut line = String::new();
        if let Some(stdout) = child.stdout.take() {
            let mut stdout = BufReader::new(stdout);
            let said = tokio::time::timeout(READY_DEADLINE, stdout.read_line(&mut line)).await;
            said.doing(doing)?.doing(doing)?;
        }
        if line.is_empty() {
            let complaint = match complaint {
                Some(complaint) => tokio::time::timeout(END_DEADLINE, complaint).await,
                None => Ok(Ok(String::new())),
            };
            let complaint = complaint.doing(doing)?.doing(doing)?;
            return Err(NotReady(complaint.trim_end().to_owned())).doing(doing);
        }
        let state = serde_json::from_str(&line).doing(doing)?;
        Ok(Self {
            state,
            child,
            lifeline,
        })
    }

    /// Where it takes orders.
    #[must_use]
    pub fn control(&self) -> ControlClient {
        ControlClient::new(self.state.control.clone())
    }

    /// The hostd of the host with this number.
    #[must_use]
    pub fn hostd(&self, number: usize) -> Option<host_api::Client> {
        let host = self.state.hosts.get(number)?;
        Some(host_api::Client::unix(&host.socket))
    }

    /// A terminal in the guest of a VM.
    #[must_use]
    pub fn guest(&self, vm: &str) -> Option<GuestClient> {
        let vm = self
            .state
            .vms
            .iter()
            .find(|known| known.id.as_str() == vm)?;
        Some(GuestClient::new(vm.guest.clone()))
    }

    /// The process whose end is the cloud's; `None` when it has ended.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Ends it, and waits until nothing of it is left.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn end(mut self) -> Result<(), Trouble> {
        drop(self.lifeline.take());
        let ended = tokio::time::timeout(END_DEADLINE, self.child.wait()).await;
        ended.doing("end a cloud")?.doing("end a cloud").map(drop)
    }
}

/// Reads what a cloud complains of for as long as there is somebody to complain, so that nobody
/// there waits for a reader, and keeps the end of it.
fn listen_to(mut complaints: impl AsyncRead + Unpin + Send + 'static) -> JoinHandle<String> {
    tokio::spawn(async move {
        let (mut kept, mut piece) = (Vec::new(), [0; 4096]);
        // A pipe that is broken is an end too.
        while let Ok(length @ 1..) = complaints.read(&mut piece).await {
            kept.extend(&piece[..length]);
            kept.drain(..kept.len().saturating_sub(COMPLAINT_MAX));
        }
        String::from_utf8_lossy(&kept).into_owned()
    })
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    #[tokio::test]
    async fn of_many_complaints_the_last_are_kept() {
        let (mut cloud, reader) = tokio::io::duplex(64);
        let complaint = listen_to(reader);

        let many = "x".repeat(2 * COMPLAINT_MAX) + "the reason";
        cloud.write_all(many.as_bytes()).await.expect("it is read");
        drop(cloud);

        let complaint = complaint.await.expect("it ends");
        assert_eq!(complaint.len(), COMPLAINT_MAX);
        assert!(complaint.ends_with("xthe reason"), "{complaint}");
    }
}
