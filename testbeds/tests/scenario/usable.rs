//! What "usable" means: the link in the container is what the API says it is, and packets pass.

use std::net::IpAddr;

use anyhow::{Result, ensure};
use host_api::Nic;
use nic_model::IpNet;
use testbeds::bed::Vm;
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

/// The link has the name, size and addresses that the API tells, is up, and the host answers over
/// it by both families.
pub(crate) async fn is_usable(vm: &Vm, container: &Container, nic: &Nic) -> Result<()> {
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

/// No link but the loopback is in the container.
pub(crate) async fn is_bare(vm: &Vm, container: &Container) -> Result<()> {
    let links = vm.guest.links(&container.place()).await?;
    ensure!(
        links.is_empty(),
        "links are left in the container: {links:?}"
    );
    Ok(())
}

fn sorted(addresses: &[IpNet]) -> Vec<IpNet> {
    let mut addresses = addresses.to_vec();
    addresses.sort();
    addresses
}
