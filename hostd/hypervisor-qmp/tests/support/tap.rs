//! A tap in a network namespace of its own: nothing of it is seen outside, and nothing stays.

#![expect(
    unsafe_code,
    reason = "neither unshare nor TUNSETIFF has a safe wrapper"
)]

use std::fs::{File, OpenOptions};
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::thread::UnshareFlags;

/// Opens `queue_count` queues of a tap called `name`. The namespace lives as long as they do.
pub(crate) fn open(name: &str, queue_count: u16) -> Vec<OwnedFd> {
    let name = name.to_owned();
    // A thread of its own: its namespace ends with it, and nobody else changes theirs.
    let opened = std::thread::spawn(move || {
        // SAFETY: only the network namespace is left, which no memory depends on.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
        (0..queue_count)
            .map(|_| queue(&name, queue_count))
            .collect()
    });
    opened.join().unwrap()
}

fn queue(name: &str, queue_count: u16) -> OwnedFd {
    let device: File = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/net/tun")
        .unwrap();
    let mut flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    if queue_count > 1 {
        flags |= libc::IFF_MULTI_QUEUE;
    }
    // SAFETY: an all-zero ifreq is a valid one, with an empty name.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    request.ifr_ifru.ifru_flags = i16::try_from(flags).unwrap();
    // SAFETY: TUNSETIFF reads and writes one ifreq, which `request` is.
    let outcome = unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    assert_eq!(outcome, 0, "{}", std::io::Error::last_os_error());
    device.into()
}
