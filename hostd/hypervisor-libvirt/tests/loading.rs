//! What libvirt costs is paid by whoever connects to one. A process of its own: what one test has
//! loaded is there for all others.

use hypervisor_libvirt::{LibvirtHypervisor, Options};

fn is_loaded() -> bool {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("a process has mappings");
    maps.contains("/libvirt.so")
}

#[test]
fn libvirt_is_loaded_by_whoever_connects() {
    let before = is_loaded();
    // Nobody listens there, which is found out later.
    let uri = "qemu+unix:///system?socket=/nonexistent";

    let connected = LibvirtHypervisor::connect(uri, Options::default());

    assert!(!before, "it is linked");
    assert!(connected.is_ok() && is_loaded());
}
