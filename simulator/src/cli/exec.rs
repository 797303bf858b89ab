//! `simulator exec`: a program in a VM or a container, with the terminal of whoever asks.
//!
//! This process enters the namespaces of the guest's first process, which its user may since they
//! belong to a user namespace of the same user (setns(2)), and starts the program there.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::Context;
use nic_model::{NetnsName, VmId};
use rustix::process::{Pid, PidfdFlags};
use rustix::thread::{LinkNameSpaceType, ThreadNameSpaceType};
use simulator::netns::{GuestClient, State};

use super::Which;

/// A program in a VM.
#[derive(Debug, clap::Args)]
pub(crate) struct Exec {
    #[command(flatten)]
    which: Which,
    /// Where: VM, or VM/CONTAINER
    place: Where,
    /// The program and its arguments; a shell without any
    #[arg(last = true)]
    command: Vec<String>,
}

/// A VM, or a container in it.
#[derive(Debug, Clone)]
struct Where {
    vm: VmId,
    container: Option<NetnsName>,
}

impl std::str::FromStr for Where {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (vm, container) = match text.split_once('/') {
            Some((vm, container)) => (vm, Some(container)),
            None => (text, None),
        };
        let container = container.map(str::parse).transpose();
        Ok(Self {
            vm: vm.parse().map_err(|error| format!("{error}"))?,
            container: container.map_err(|error| format!("{error}"))?,
        })
    }
}

impl Exec {
    pub(crate) fn run(&self) -> anyhow::Result<ExitCode> {
        let state = State::read(&self.which.site())?;
        let vm = state.vms.iter().find(|vm| vm.id == self.place.vm);
        let vm = vm.with_context(|| format!("there is no VM {}", self.place.vm))?;
        let container = self.container_pid(&vm.guest)?;
        enter_guest(&vm.guest).with_context(|| format!("entering {}", vm.id))?;
        if let Some(pid) = container {
            let path = format!("/proc/{pid}/ns/net");
            let netns = std::fs::File::open(path).context("finding the container")?;
            let kind = Some(LinkNameSpaceType::Network);
            rustix::thread::move_into_link_name_space(std::os::fd::AsFd::as_fd(&netns), kind)
                .context("entering the container")?;
        }
        let shell = ["/bin/sh".to_owned()];
        let words = if self.command.is_empty() {
            &shell
        } else {
            self.command.as_slice()
        };
        let status = Command::new(&words[0]).args(&words[1..]).status();
        let status = status.with_context(|| format!("running {}", words[0]))?;
        // As a shell says it.
        let code = status.code().or(status.signal().map(|signal| 128 + signal));
        let code = code.and_then(|code| u8::try_from(code).ok());
        Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
    }

    /// As the guest numbers it.
    fn container_pid(&self, guest: &Path) -> anyhow::Result<Option<u32>> {
        let Some(name) = &self.place.container else {
            return Ok(None);
        };
        let client = GuestClient::new(guest.to_owned());
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_all().build()?;
        let containers = runtime.block_on(client.containers())?;
        let found = containers.iter().find(|container| container.name == *name);
        let found = found.with_context(|| format!("there is no container {name}"))?;
        Ok(Some(found.pid))
    }
}

/// Into the namespaces of the process that listens at the guest's socket: its number as it is for
/// us comes from the kernel (`SO_PEERCRED` of unix(7)).
fn enter_guest(socket: &Path) -> anyhow::Result<()> {
    let stream = UnixStream::connect(socket)?;
    let pid = rustix::net::sockopt::socket_peercred(&stream)?.pid;
    let process = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
    let mut kinds =
        ThreadNameSpaceType::MOUNT | ThreadNameSpaceType::NETWORK | ThreadNameSpaceType::PROCESS_ID;
    if user_namespace(pid)? != user_namespace(rustix::process::getpid())? {
        kinds |= ThreadNameSpaceType::USER;
    }
    enter(&process, kinds)
}

fn enter(process: &OwnedFd, kinds: ThreadNameSpaceType) -> anyhow::Result<()> {
    let process = std::os::fd::AsFd::as_fd(process);
    Ok(rustix::thread::move_into_thread_name_spaces(
        process, kinds,
    )?)
}

/// Entering one's own once more is refused.
fn user_namespace(pid: Pid) -> std::io::Result<std::path::PathBuf> {
    std::fs::read_link(format!("/proc/{}/ns/user", pid.as_raw_nonzero()))
}
