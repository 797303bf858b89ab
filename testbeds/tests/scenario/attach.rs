//! Attaching, detaching and moving: a NIC arrives in a container, is usable there, and leaves
//! without a trace.

use anyhow::{Context, Result, ensure};
use futures::future::try_join_all;
use host_api::{AddressingMode, AddressingRequest, AttachNic, CreateNic, Nic, NicState};
use testbeds::bed::{Bed, Vm};
use testbeds::guest::Container;
use testbeds::requests::{
    PATIENCE, attach_new, detach, in_state, into, nic_on_blue, over_to, retire, settled,
    static_addresses,
};
use testbeds::scenario::Scenario;
use testbeds::scenarios;
use testbeds::site::{HOST_V4, LEASED_V4};

use super::usable::{has_left, is_as_told, is_bare, is_usable, link_of};

pub(crate) fn scenarios() -> Vec<Scenario> {
    scenarios![
        attach_static_v4_v6,
        attach_into_a_named_namespace,
        attach_with_dhcp,
        a_lease_is_renewed_while_the_nic_is_in_use,
        reattach_of_the_same_nic_at_once,
        move_between_vms_keeps_mac_and_addresses,
        move_between_containers_of_one_vm,
        eight_nics_into_one_vm_at_once,
        a_nic_made_first_is_attached_later,
    ]
}

async fn attach_static_v4_v6(bed: &Bed) -> Result<()> {
    let vm = bed.vm("vm1").await?;
    let client = bed.client();
    let container = vm.guest.make_container().await?;
    let request = CreateNic {
        addressing: Some(static_addresses(&["10.77.0.20/24", "fd77::20/64"])?),
        attach: Some(into(&vm, container.target())),
        ..nic_on_blue()
    };

    let nic = in_state(
        client.create_nic(&request, &settled()).await?,
        NicState::InUse,
    )?;

    ensure!(
        nic.addresses.contains(&"10.77.0.20/24".parse()?),
        "{:?}",
        nic.addresses
    );
    ensure!(
        nic.addresses.contains(&"fd77::20/64".parse()?),
        "{:?}",
        nic.addresses
    );
    is_usable(&vm, &container, &nic).await?;
    host_has_no_ipv6_on(bed, &nic).await?;
    let detached = detach(&client, &nic.id).await?;
    ensure!(detached.placement.is_none(), "{detached:?}");
    ensure!(
        (detached.mac, &detached.addressing) == (nic.mac, &nic.addressing),
        "{detached:?} differs from {nic:?}"
    );
    has_left(bed, &vm, &container, &detached).await?;
    retire(&client, &nic.id).await?;
    vm.guest.kill_container(&container).await
}

/// The host would speak on the VM's network by an address that nobody gave it.
async fn host_has_no_ipv6_on(bed: &Bed, nic: &Nic) -> Result<()> {
    let tap = nic.id.tap_name();
    let addresses = bed.host().ipv6_addresses(&tap).await?;
    ensure!(addresses.is_empty(), "on {tap}: {addresses:?}");
    Ok(())
}

async fn attach_into_a_named_namespace(bed: &Bed) -> Result<()> {
    let vm = bed.vm("vm1").await?;
    let client = bed.client();
    let container = vm.guest.make_named_container("blue").await?;

    let nic = attach_new(&client, &vm, "netns:blue".parse()?).await?;

    is_usable(&vm, &container, &nic).await?;
    retire(&client, &nic.id).await?;
    vm.guest.kill_container(&container).await?;
    vm.guest.remove_netns_name("blue").await
}

async fn attach_with_dhcp(bed: &Bed) -> Result<()> {
    let vm = bed.vm("vm1").await?;
    let client = bed.client();
    let _server = bed.host().start_dhcp_server().await?;
    let container = vm.guest.make_container().await?;
    let request = CreateNic {
        addressing: Some(by_dhcp()),
        attach: Some(into(&vm, container.target())),
        ..nic_on_blue()
    };

    let nic = in_state(
        client.create_nic(&request, &settled()).await?,
        NicState::InUse,
    )?;

    let [address] = nic.addresses.as_slice() else {
        anyhow::bail!("one leased address expected: {:?}", nic.addresses);
    };
    let (first, last) = LEASED_V4;
    let leased = first..=last;
    let is_leased = matches!(address.addr(), std::net::IpAddr::V4(v4) if leased.contains(&v4));
    ensure!(
        is_leased && address.prefix_len() == 24,
        "{address} is no lease"
    );
    is_usable(&vm, &container, &nic).await?;
    retire(&client, &nic.id).await?;
    vm.guest.kill_container(&container).await
}

pub(crate) fn by_dhcp() -> AddressingRequest {
    AddressingRequest {
        mode: AddressingMode::Dhcp,
        addresses: Vec::new(),
    }
}

async fn a_lease_is_renewed_while_the_nic_is_in_use(bed: &Bed) -> Result<()> {
    let vm = bed.vm("vm1").await?;
    let client = bed.client();
    let server = bed.host().start_dhcp_server().await?;
    let container = vm.guest.make_container().await?;
    let request = CreateNic {
        addressing: Some(by_dhcp()),
        attach: Some(into(&vm, container.target())),
        ..nic_on_blue()
    };
    let answer = client.create_nic(&request, &settled()).await?;
    let before = in_state(answer, NicState::InUse)?;

    let grants = || async {
        let grants = server.grants(before.mac).await?;
        Ok((grants >= 2).then_some(()))
    };
    let granted = bed.until("the server has granted the lease twice", PATIENCE, grants);
    let granted = granted.await;
    let log = server.log().await?;
    granted.with_context(|| log.clone())?;

    let after = client.nic(&before.id).await?;
    ensure!(
        (after.state, &after.addresses) == (NicState::InUse, &before.addresses),
        "{after:?} differs from {before:?}"
    );
    is_usable(&vm, &container, &after).await?;
    ensure!(
        server.discoveries(before.mac).await? == 1,
        "the client began anew instead of renewing: {log}"
    );
    retire(&client, &after.id).await?;
    vm.guest.kill_container(&container).await
}

async fn reattach_of_the_same_nic_at_once(bed: &Bed) -> Result<()> {
    let vm = bed.vm("vm1").await?;
    let client = bed.client();
    let container = vm.guest.make_container().await?;
    let first = attach_new(&client, &vm, container.target()).await?;

    detach(&client, &first.id).await?;
    let attach = into(&vm, container.target());
    let again = client.attach_nic(&first.id, &attach, &settled()).await?;
    let second = in_state(again, NicState::InUse).context("attaching the same NIC again")?;

    ensure!(
        (second.mac, &second.addresses) == (first.mac, &first.addresses),
        "{second:?} differs from {first:?}"
    );
    is_usable(&vm, &container, &second).await?;
    retire(&client, &second.id).await?;
    vm.guest.kill_container(&container).await
}

/// A neighbour that has spoken with the NIC at its old place reaches it at the new one.
async fn move_between_vms_keeps_mac_and_addresses(bed: &Bed) -> Result<()> {
    let (from_vm, to_vm) = bed.two_vms().await?;
    let client = bed.client();
    let from = from_vm.guest.make_container().await?;
    let neighbour = from_vm.guest.make_container().await?;
    let to = to_vm.guest.make_container().await?;
    let before = attach_new(&client, &from_vm, from.target()).await?;
    let neighbour_nic = attach_new(&client, &from_vm, neighbour.target()).await?;
    reaches(&from_vm, &neighbour, &before).await?;

    let request = over_to(&to_vm, to.target());
    let moved = client.move_nic(&before.id, &request, &settled()).await?;
    let after = in_state(moved, NicState::InUse)?;

    ensure!(
        (after.mac, &after.addresses) == (before.mac, &before.addresses),
        "{after:?} differs from {before:?}"
    );
    ensure!(
        after
            .placement
            .as_ref()
            .is_some_and(|place| place.vm == to_vm.id),
        "{after:?}"
    );
    has_left(bed, &from_vm, &from, &after).await?;
    reaches(&from_vm, &neighbour, &before).await?;
    is_usable(&to_vm, &to, &after).await?;
    for nic in [&after, &neighbour_nic] {
        retire(&client, &nic.id).await?;
    }
    from_vm.guest.kill_container(&neighbour).await?;
    from_vm.guest.kill_container(&from).await?;
    to_vm.guest.kill_container(&to).await
}

/// Every address of `nic` answers a container.
async fn reaches(vm: &Vm, from: &Container, nic: &Nic) -> Result<()> {
    for address in &nic.addresses {
        let address = address.addr();
        vm.guest.ping(&from.place(), address, PATIENCE).await?;
    }
    Ok(())
}

async fn move_between_containers_of_one_vm(bed: &Bed) -> Result<()> {
    let vm = bed.vm("vm1").await?;
    let client = bed.client();
    let from = vm.guest.make_container().await?;
    let to = vm.guest.make_container().await?;
    let before = attach_new(&client, &vm, from.target()).await?;

    let request = over_to(&vm, to.target());
    let moved = client.move_nic(&before.id, &request, &settled()).await?;
    let after = in_state(moved, NicState::InUse)?;

    ensure!(
        (after.mac, &after.addresses) == (before.mac, &before.addresses),
        "{after:?} differs from {before:?}"
    );
    is_bare(&vm, &from).await?;
    is_usable(&vm, &to, &after).await?;
    retire(&client, &after.id).await?;
    vm.guest.kill_container(&from).await?;
    vm.guest.kill_container(&to).await
}

async fn eight_nics_into_one_vm_at_once(bed: &Bed) -> Result<()> {
    let vm = bed.vm("vm1").await?;
    let client = bed.client();
    let container = vm.guest.make_container().await?;
    let requests = (0..8).map(|number| -> Result<CreateNic> {
        let attach = AttachNic {
            link_name: Some(format!("eth{number}").parse()?),
            ..into(&vm, container.target())
        };
        Ok(CreateNic {
            attach: Some(attach),
            ..nic_on_blue()
        })
    });
    let requests = requests.collect::<Result<Vec<_>>>()?;

    let wait = settled();
    let answers = try_join_all(
        requests
            .iter()
            .map(|request| client.create_nic(request, &wait)),
    )
    .await?;

    let mut nics = Vec::new();
    for answer in answers {
        nics.push(in_state(answer, NicState::InUse)?);
    }
    let links = vm.guest.links(&container.place()).await?;
    ensure!(links.len() == 8, "eight links expected: {links:?}");
    let mut distinct: Vec<_> = nics.iter().flat_map(|nic| &nic.addresses).collect();
    distinct.sort();
    distinct.dedup();
    ensure!(distinct.len() == 16, "sixteen addresses: {distinct:?}");
    for nic in &nics {
        is_as_told(&vm, &container, nic).await?;
        pings_by_itself(bed, &vm, &container, nic).await?;
    }
    try_join_all(nics.iter().map(|nic| retire(&client, &nic.id))).await?;
    vm.guest.kill_container(&container).await
}

/// The host answers what this link sends, and the bridge has seen its address behind its own tap:
/// with eight links into one network an answer may come in by any of them.
async fn pings_by_itself(bed: &Bed, vm: &Vm, container: &Container, nic: &Nic) -> Result<()> {
    let link = link_of(vm, container, nic).await?.name;
    let place = container.place();
    vm.guest.ping_over(&place, &link, HOST_V4.into()).await?;
    let (mac, tap) = (nic.mac, nic.id.tap_name());
    let learned = bed.host().learned(&tap).await?;
    ensure!(
        learned.contains(&mac),
        "{mac} was not seen behind {tap}: {learned:?}"
    );
    Ok(())
}

async fn a_nic_made_first_is_attached_later(bed: &Bed) -> Result<()> {
    let vm = bed.vm("vm1").await?;
    let client = bed.client();
    let container = vm.guest.make_container().await?;
    let made = client.create_nic(&nic_on_blue(), &settled()).await?;
    let made = in_state(made, NicState::Available)?;
    ensure!(
        made.placement.is_none() && made.addresses.len() == 2,
        "{made:?}"
    );

    let attach = into(&vm, container.target());
    let underway = client
        .attach_nic(&made.id, &attach, &testbeds::requests::at_once())
        .await?;
    let in_use = bed
        .until("the NIC is in use", PATIENCE, || async {
            let nic = client.nic(&made.id).await?;
            Ok((nic.state == NicState::InUse).then_some(nic))
        })
        .await?;

    ensure!(
        underway.nic.state == NicState::Attaching,
        "{:?}",
        underway.nic
    );
    is_usable(&vm, &container, &in_use).await?;
    retire(&client, &made.id).await?;
    vm.guest.kill_container(&container).await
}
