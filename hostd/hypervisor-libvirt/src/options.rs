//! How long each call may take, and when libvirtd counts as dead.

use std::time::Duration;

/// Settings of a [`crate::LibvirtHypervisor`]; the defaults suit a production host.
#[derive(Debug, Clone)]
pub struct Options {
    /// When each call gives up.
    pub deadlines: Deadlines,
    /// How often a silent libvirtd is asked whether it lives, in whole seconds, at least one.
    pub keepalive_interval: Duration,
    /// How many times without an answer until the connection counts as broken. Five times five
    /// seconds is libvirt's own default for its clients (`keepalive_count` in libvirt.conf).
    pub keepalive_count: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            deadlines: Deadlines::default(),
            keepalive_interval: Duration::from_secs(5),
            keepalive_count: 5,
        }
    }
}

/// After how long each call ends, whatever libvirtd does. A call that ends so may yet be carried
/// out, except one that had not been sent.
#[derive(Debug, Clone, Copy)]
pub struct Deadlines {
    /// For the list of VMs: libvirtd answers from memory.
    pub list: Duration,
    /// For one VM's hardware: libvirtd answers from memory.
    pub inspect: Duration,
    /// For a plug: some 50 ms, more while somebody else's job holds the VM. libvirtd itself gives
    /// up on that after 30 s (`QEMU_JOB_WAIT_TIME`); nobody wants to wait for it.
    pub plug: Duration,
    /// For asking the guest to let go: some 20 ms, the guest is not waited for.
    pub unplug: Duration,
    /// For the carrier: some 20 ms.
    pub set_link: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            list: Duration::from_secs(5),
            inspect: Duration::from_secs(5),
            plug: Duration::from_secs(20),
            unplug: Duration::from_secs(10),
            set_link: Duration::from_secs(10),
        }
    }
}
