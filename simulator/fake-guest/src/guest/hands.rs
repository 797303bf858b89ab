//! What people and programs in the guest do: containers, namespaces, the agent's life.

use std::time::Duration;

use guest_agent::kernel::{Errno, Ipv6, Ipv6Scope};
use nic_model::{NetnsInode, NetnsName, PciPath};

use super::{FakeGuest, PortEnd};
use crate::kernel::Answer;

/// A container's first process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Container {
    /// Its number.
    pub pid: u32,
    /// Its namespace.
    pub netns: NetnsInode,
}

impl FakeGuest {
    /// Starts a container: a process in a namespace of its own.
    ///
    /// # Errors
    /// `EAGAIN` when there are too many processes.
    pub fn start_container(&self) -> Answer<Container> {
        self.inner.with(|kernel| {
            let pid = kernel.spawn(None)?;
            let (_, _, netns) = kernel.process(pid).ok_or(Errno::SRCH)?;
            Ok(Container { pid, netns })
        })
    }

    /// The same under a number of one's choice, such as that of one that has ended.
    ///
    /// # Errors
    /// `EEXIST` when a process has the number.
    pub fn start_container_as(&self, pid: u32) -> Answer<Container> {
        self.inner.with(|kernel| {
            kernel.spawn_as(pid, None)?;
            let (_, _, netns) = kernel.process(pid).ok_or(Errno::SRCH)?;
            Ok(Container { pid, netns })
        })
    }

    /// Ends a process, and its namespace when nobody else holds that.
    ///
    /// # Errors
    /// `ESRCH` when there is none of that number.
    pub fn kill(&self, pid: u32) -> Answer<()> {
        self.inner.with(|kernel| kernel.exit(pid))
    }

    /// Makes a namespace with a name, as `ip netns add` does.
    ///
    /// # Errors
    /// `EEXIST` when there is one.
    pub fn add_netns(&self, name: &NetnsName) -> Answer<NetnsInode> {
        self.inner.with(|kernel| kernel.add_netns(name))
    }

    /// Takes the name away, as `ip netns del` does.
    ///
    /// # Errors
    /// `ENOENT` when there is none.
    pub fn remove_netns(&self, name: &NetnsName) -> Answer<()> {
        self.inner.with(|kernel| kernel.remove_netns(name))
    }

    /// Switches IPv6 on or off for all links of a namespace, as container runtimes do.
    ///
    /// # Errors
    /// `ENOENT` when there is none.
    pub fn set_ipv6(&self, netns: NetnsInode, setting: Ipv6) -> Answer<()> {
        self.inner
            .with(|kernel| kernel.set_ipv6(netns, Ipv6Scope::All, setting))
    }

    /// Ejects a device unasked.
    ///
    /// # Errors
    /// `ENODEV` when there is none.
    pub fn eject(&self, path: &PciPath) -> Answer<()> {
        self.inner.with(|kernel| kernel.eject(path))
    }

    /// Reboots it from inside.
    pub fn reboot(&self) {
        self.inner.reset_itself();
    }

    /// Ends the agent, which stays dead.
    pub fn kill_agent(&self) {
        self.inner.with_state(super::inner::State::end_agent);
    }

    /// Starts the agent, in place of one that runs.
    pub fn start_agent(&self) {
        let inner = &self.inner;
        inner.with_state(|state| inner.start(state, Duration::ZERO));
    }

    /// Stops the agent in its tracks: it is there and does nothing.
    pub fn stall_agent(&self) {
        self.inner.stop_agent();
    }

    /// Ends [`Self::stall_agent`].
    pub fn resume_agent(&self) {
        self.inner.continue_agent();
    }

    /// Opens the guest's end of the agent's port, as another program in its place.
    #[must_use]
    pub fn open_agent_port(&self) -> PortEnd {
        self.inner.port.listen()
    }

    /// Ends the agent, which its service manager starts again.
    pub fn crash_agent(&self) {
        let inner = &self.inner;
        inner.with_state(|state| {
            state.end_agent();
            inner.start(state, inner.options.restart);
        });
    }
}
