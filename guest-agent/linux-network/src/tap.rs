//! Taps: the host end of a VM's NIC.
//!
//! Every tap is made persistent, so that neither a crash of who made it nor one of the VM takes it
//! away, and closing its last descriptor costs microseconds instead of the 15 ms that the kernel
//! needs to unregister a link. Whether a process holds it is its carrier: the driver takes that
//! away with the last queue (`__tun_detach` in drivers/net/tun.c), see
//! [`crate::LinkView::far_end`].
//!
//! ```text
//!   absent ──attach──► held ◄──attach─── last descriptor closed ──► nobody's
//!                                                                      │
//!   absent ◄────────────────────── deleted by name ────────────────────┘
//! ```

use std::fs::OpenOptions;
use std::io;
use std::num::NonZeroU16;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use nic_model::LinkName;

use crate::netlink::link_view::Carrier;
use crate::netns::{Netns, RunInNetnsError};

const DEVICE: &str = "/dev/net/tun";

const DEADLINE: Duration = Duration::from_secs(2);

/// Frames carry a virtio-net header (offloads pass through), and no protocol number in front.
const FLAGS: i32 = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;

/// A tap to attach to; it is made if there is none of that name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TapSpec {
    /// Its name.
    pub name: LinkName,
    /// How many queues to open. More than one needs, and makes, a tap of many queues; the kernel's
    /// limit is 256.
    pub queue_count: NonZeroU16,
    /// Who may attach to it besides processes with `CAP_NET_ADMIN`, by user id.
    pub owner: Option<u32>,
}

/// From [`attach`].
#[derive(Debug, thiserror::Error)]
pub enum AttachTapError {
    /// The kernel has no TUN driver, or the device node is not there.
    #[error("{DEVICE} is missing: load the module tun, or pass the device into the container")]
    NoDevice,
    /// `CAP_NET_ADMIN` or the right to open the device is missing.
    #[error("attaching to tap {0} is not permitted: it takes CAP_NET_ADMIN and access to {DEVICE}")]
    NotPermitted(LinkName),
    /// Another process holds its only queue.
    #[error("tap {0} is held by another process")]
    Held(LinkName),
    /// A link of that name exists and is no tap, or a tap with other flags.
    #[error("link {0} exists and is not a tap of the wanted kind")]
    Mismatch(LinkName),
    /// The namespace could not be entered.
    #[error("failed to attach to tap {name}")]
    Namespace {
        /// Which.
        name: LinkName,
        /// Why.
        #[source]
        cause: RunInNetnsError,
    },
    /// Anything else.
    #[error("failed to {step} tap {name}")]
    System {
        /// Which.
        name: LinkName,
        /// What was attempted.
        step: &'static str,
        /// Why.
        #[source]
        cause: io::Error,
    },
}

/// Attaches to a tap in `netns`, making it if need be, and gives one descriptor a queue. They do
/// not block and are closed on exec.
///
/// # Errors
/// See [`AttachTapError`]. Nothing is left behind, unless the deadline passed: a tap that was made
/// then stays without a holder.
pub async fn attach(netns: &Netns, spec: TapSpec) -> Result<Vec<OwnedFd>, AttachTapError> {
    let name = spec.name.clone();
    let attached = netns.run("tap-attach", move || attach_here(&spec));
    match tokio::time::timeout(DEADLINE, attached).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(cause)) => Err(AttachTapError::Namespace { name, cause }),
        Err(elapsed) => Err(AttachTapError::System {
            name,
            step: "attach to",
            cause: elapsed.into(),
        }),
    }
}

/// The device belongs to the namespace of whoever opens it (`tun_chr_open` in drivers/net/tun.c).
fn attach_here(spec: &TapSpec) -> Result<Vec<OwnedFd>, AttachTapError> {
    let queues = (0..spec.queue_count.get())
        .map(|_| open_queue(spec))
        .collect::<Result<Vec<_>, _>>()?;
    let first = queues.first().expect("the count of queues is not zero");
    let system = |step| {
        move |cause| AttachTapError::System {
            name: spec.name.clone(),
            step,
            cause,
        }
    };
    if let Some(owner) = spec.owner {
        control(first, libc::TUNSETOWNER, owner.into()).map_err(system("set the owner of"))?;
    }
    // Last: until now what was made goes with its descriptors.
    control(first, libc::TUNSETPERSIST, 1).map_err(system("make persistent"))?;
    Ok(queues)
}

fn open_queue(spec: &TapSpec) -> Result<OwnedFd, AttachTapError> {
    let mut options = OpenOptions::new();
    let options = options
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK);
    let queue = options
        .open(DEVICE)
        .map_err(|cause| refusal(spec, "open the device of", cause))?;
    let queue = OwnedFd::from(queue);
    let flags = if spec.queue_count.get() > 1 {
        FLAGS | libc::IFF_MULTI_QUEUE
    } else {
        FLAGS
    };
    bind(&queue, spec.name.as_str(), flags).map_err(|cause| refusal(spec, "attach to", cause))?;
    Ok(queue)
}

/// A tap that stands for a NIC of somebody else's machine: named `eth0`, `eth1` and so on like the
/// link of an Ethernet driver, and gone with its descriptor, whatever namespace it has been moved
/// to.
///
/// # Errors
/// See [`AttachTapError`]. Nothing is left behind.
pub async fn plug_in(netns: &Netns) -> Result<(OwnedFd, LinkName), AttachTapError> {
    let name = unnumbered;
    let plugged = netns.run("tap-plug", move || plug_in_here(&name()));
    match tokio::time::timeout(DEADLINE, plugged).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(cause)) => Err(AttachTapError::Namespace {
            name: name(),
            cause,
        }),
        Err(elapsed) => Err(AttachTapError::System {
            name: name(),
            step: "plug in",
            cause: elapsed.into(),
        }),
    }
}

/// Its name until the kernel has put a number in; also in messages.
fn unnumbered() -> LinkName {
    let name = LinkName::try_from("eth".to_owned());
    name.expect("three letters are a name")
}

fn plug_in_here(shown: &LinkName) -> Result<(OwnedFd, LinkName), AttachTapError> {
    let spec = TapSpec {
        name: shown.clone(),
        queue_count: NonZeroU16::MIN,
        owner: None,
    };
    let mut options = OpenOptions::new();
    let options = options
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK);
    let queue = options
        .open(DEVICE)
        .map_err(|cause| refusal(&spec, "open the device of", cause))?;
    let queue = OwnedFd::from(queue);
    let bound = bind(&queue, "eth%d", FLAGS).and_then(|name| {
        let name = name.try_into();
        name.map_err(io::Error::other)
    });
    let name = bound.map_err(|cause| refusal(&spec, "plug in", cause))?;
    Ok((queue, name))
}

/// Gives the link of a tap a carrier or takes it away, whatever holds its queues
/// (`TUNSETCARRIER`, Linux 5.0).
///
/// # Errors
/// When the descriptor is no tap's, or its link is gone.
#[expect(unsafe_code, reason = "rustix has no TUN ioctls")]
pub fn set_carrier(queue: &OwnedFd, carrier: Carrier) -> io::Result<()> {
    // _IOW('T', 226, int), include/uapi/linux/if_tun.h.
    const TUNSETCARRIER: libc::Ioctl = 0x4004_54e2;
    let value = libc::c_int::from(carrier == Carrier::Present);
    // SAFETY: the descriptor is open and the request reads an int that lives through the call.
    let result = unsafe { libc::ioctl(queue.as_raw_fd(), TUNSETCARRIER, &raw const value) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

fn refusal(spec: &TapSpec, step: &'static str, cause: io::Error) -> AttachTapError {
    let name = spec.name.clone();
    match cause.raw_os_error() {
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => AttachTapError::NoDevice,
        Some(libc::EPERM | libc::EACCES) => AttachTapError::NotPermitted(name),
        Some(libc::EBUSY) => AttachTapError::Held(name),
        Some(libc::EINVAL) => AttachTapError::Mismatch(name),
        _ => AttachTapError::System { name, step, cause },
    }
}

/// Gives the name that the link has got.
#[expect(unsafe_code, reason = "rustix has no TUN ioctls")]
fn bind(queue: &OwnedFd, name: &str, flags: i32) -> io::Result<String> {
    // SAFETY: ifreq is plain integers and a union of such, for which all zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = i16::try_from(flags).map_err(io::Error::other)?;
    // SAFETY: the descriptor is open and the request is valid for reads and writes, for the call.
    let result = unsafe { libc::ioctl(queue.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    let name = request.ifr_name.iter().take_while(|byte| **byte != 0);
    Ok(name.map(|byte| char::from(byte.cast_unsigned())).collect())
}

#[expect(unsafe_code, reason = "rustix has no TUN ioctls")]
fn control(queue: &OwnedFd, request: libc::Ioctl, value: libc::c_ulong) -> io::Result<()> {
    // SAFETY: these requests take their argument by value (drivers/net/tun.c, __tun_chr_ioctl).
    let result = unsafe { libc::ioctl(queue.as_raw_fd(), request, value) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        let spec = TapSpec {
            name: "tap0".parse().unwrap(),
            queue_count: NonZeroU16::MIN,
            owner: None,
        };
        let cases = [
            (libc::ENOENT, "/dev/net/tun is missing"),
            (libc::ENODEV, "/dev/net/tun is missing"),
            (libc::EACCES, "tap0 is not permitted"),
            (libc::EPERM, "tap0 is not permitted"),
            (libc::EBUSY, "tap0 is held by another process"),
            (libc::EINVAL, "tap0 exists and is not a tap"),
            (libc::EMFILE, "failed to open the device of tap tap0"),
        ];
        for (errno, complaint) in cases {
            let cause = io::Error::from_raw_os_error(errno);
            let error = refusal(&spec, "open the device of", cause).to_string();
            assert!(error.contains(complaint), "{error}");
        }
    }
}
