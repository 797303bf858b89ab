//! The back end against a real libvirtd and a real QEMU, because what is to be known is how those
//! behave. Needs root, libvirtd and qemu-system-x86_64; leaves nothing behind.

mod outages;
mod plugging;
#[path = "../support/mod.rs"]
mod support;
