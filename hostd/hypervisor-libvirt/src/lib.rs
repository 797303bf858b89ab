//! Hypervisor back end over libvirt.
