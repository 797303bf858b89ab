//! What "usable" means: the link in the container is what the API says it is, and packets pass.

use std::net::IpAddr;

use anyhow::{Result, ensure};
use host_api::Nic;
use nic_model::IpNet;
use testbeds::bed::{Bed, Vm};
use testbeds::guest::{Admin, Container, GuestLink};
use testbeds::requests::PATIENCE;
use testbeds::site::{HOST_V4, HOST_V6};

/// The link of `nic` in a container.
pub(crate) async fn link_of(vm: &Vm, container: &Container, nic: &Nic) -> Result<GuestLink> {
    let links = vm.guest.links(&container.place()).await?;
    let found = links.iter().find(|link| link.mac == Some(nic.mac));
    found
        .cloned()
        .ok_or_else(|| anyhow::anyhow!("{} with {} is not among {links:?}", nic.id, nic.mac))
}

/// The link is what the API tells, and the host answers over it by both families.
pub(crate) async fn is_usable(vm: &Vm, container: &Container, nic: &Nic) -> Result<()> {
    is_as_told(vm, container, nic).await?;
    let hosts = [IpAddr::from(HOST_V4), IpAddr::from(HOST_V6)];
    let families = |host: &IpAddr| {
        let same = |address: &IpNet| address.addr().is_ipv4() == host.is_ipv4();
        nic.addresses.iter().any(same)
    };
    for host in hosts.into_iter().filter(families) {
        vm.guest.ping(&container.place(), host, PATIENCE).await?;
    }
    Ok(())
}

/// The link has the name, size and addresses that the API tells, and is up.
pub(crate) async fn is_as_told(vm: &Vm, container: &Container, nic: &Nic) -> Result<()> {
    let link = link_of(vm, container, nic).await?;
    let wanted = nic.placement.as_ref().map(|place| place.link_name.as_str());
    ensure!(
        wanted == Some(link.name.as_str()),
        "{link:?} is to be called {wanted:?}"
    );
    ensure!(link.admin == Admin::Up, "{link:?} is to be up");
    ensure!(
        link.mtu == u32::from(nic.mtu.bytes()),
        "{link:?} is to have {:?}",
        nic.mtu
    );
    ensure!(
        sorted(&link.addresses) == sorted(&nic.addresses),
        "the guest has {:?}, hostd says {:?}",
        link.addresses,
        nic.addresses
    );
    Ok(())
}

/// No link but the loopback is in the container.
pub(crate) async fn is_bare(vm: &Vm, container: &Container) -> Result<()> {
    let links = vm.guest.links(&container.place()).await?;
    ensure!(
        links.is_empty(),
        "links are left in the container: {links:?}"
    );
    Ok(())
}

/// The NIC is placed elsewhere, and neither the VM's QEMU nor its container has anything of it.
pub(crate) async fn has_left(bed: &Bed, vm: &Vm, container: &Container, nic: &Nic) -> Result<()> {
    ensure!(
        nic.placement.as_ref().is_none_or(|place| place.vm != vm.id),
        "{nic:?} is to be elsewhere"
    );
    ensure!(
        !bed.world().qemu(&vm.id).await?.has(&nic.id),
        "QEMU of {} still has {}",
        vm.id,
        nic.id
    );
    is_bare(vm, container).await
}

fn sorted(addresses: &[IpNet]) -> Vec<IpNet> {
    let mut addresses = addresses.to_vec();
    addresses.sort();
    addresses
}
