//! Containers that die, vanish or are in the way.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use host_api::{CreateNic, NicState, ProblemCode};
use testbeds::bed::Bed;
use testbeds::guest::{Admin, Where};
use testbeds::requests::{
    PATIENCE, attach_new, in_state, nic_into, over_to, refusal, retire, settled,
};
use testbeds::scenario::Scenario;
use testbeds::scenarios;

use super::usable::{is_bare, is_usable};

pub(crate) fn scenarios() -> Vec<Scenario> {
    scenarios![
        a_container_killed_with_the_nic_inside,
        a_target_that_does_not_exist,
        a_pid_that_was_reused,
        a_link_name_that_is_taken_in_the_container,
    ]
}

/// The kernel gives the link back to the guest's own namespace (`default_device_exit_net`), from
/// where it must disappear at once: there it would be a way around the container's walls.
async fn a_container_killed_with_the_nic_inside(bed: &Bed) -> Result<()> {
    let vm = bed.vm("vm1").await?;
    let client = bed.client();
    let container = vm.guest.make_container().await?;
    let nic = attach_new(&client, &vm, container.target()).await?;

    vm.guest.kill_container(&container).await?;

    let degraded = bed
        .until("the NIC is reported as returned", PATIENCE, || async {
            Ok(client.nic(&nic.id).await?.degraded)
        })
        .await?;
    ensure!(degraded.reason.contains("container"), "{degraded:?}");
    let own = vm.guest.links(&Where::Guest).await?;
    ensure!(
        own.is_empty(),
        "the link is in the guest's own namespace: {own:?}"
    );
    let holding = Where::Named("nicferry-holding".to_owned());
    let held = vm.guest.links(&holding).await?;
    let link = held.iter().find(|link| link.mac == Some(nic.mac));
    ensure!(
        link.is_some_and(|link| link.admin == Admin::Down),
        "held links: {held:?}"
    );
    // What a person does about it: give the NIC to the container that takes the dead one's place.
    let successor = vm.guest.make_container().await?;
    let request = over_to(&vm, successor.target());
    let moved = client.move_nic(&nic.id, &request, &settled()).await?;
    let moved = in_state(moved, NicState::InUse)?;
    ensure!(moved.degraded.is_none(), "{moved:?}");
    ensure!(
        (moved.mac, &moved.addresses) == (nic.mac, &nic.addresses),
        "{moved:?} differs from {nic:?}"
    );
    is_usable(&vm, &successor, &moved).await?;
    retire(&client, &nic.id).await?;
    vm.guest.kill_container(&successor).await
}

/// The attach is refused for `code` by whoever waits for it, and leaves the NIC nowhere, with the
/// same reason on its record.
async fn fails(bed: &Bed, request: &CreateNic, code: ProblemCode) -> Result<()> {
    let client = bed.client();
    let problem = refusal(client.create_nic(request, &settled()).await)?;
    ensure!(problem.code == code, "{code} expected: {problem:?}");
    let nic = problem.nic.context("the refusal names the NIC")?;
    let nic = client.nic(&nic).await?;
    ensure!(
        nic.state == NicState::Available && nic.placement.is_none(),
        "{nic:?}"
    );
    let recorded = nic.last_error.as_ref().map(|problem| problem.code);
    ensure!(recorded == Some(code), "{code} expected: {nic:?}");
    retire(&client, &nic.id).await
}

async fn a_target_that_does_not_exist(bed: &Bed) -> Result<()> {
    let vm = bed.vm("vm1").await?;
    let request = nic_into(&vm, "netns:nowhere".parse()?);

    fails(bed, &request, ProblemCode::TargetGone).await
}

async fn a_pid_that_was_reused(bed: &Bed) -> Result<()> {
    let vm = bed.vm("vm1").await?;
    let container = vm.guest.make_container().await?;
    // Whoever has the pid now is in another namespace than the caller saw.
    let target = format!("pid:{}@{}", container.pid, container.netns_inode.0 + 1);
    let request = nic_into(&vm, target.parse()?);

    fails(bed, &request, ProblemCode::TargetChanged).await?;
    is_bare(&vm, &container).await?;
    vm.guest.kill_container(&container).await
}

async fn a_link_name_that_is_taken_in_the_container(bed: &Bed) -> Result<()> {
    let vm = bed.vm("vm1").await?;
    let container = vm.guest.make_container().await?;
    vm.guest.make_link(&container.place(), "eth0").await?;
    let before = vm.guest.links(&container.place()).await?;
    let request = nic_into(&vm, container.target());

    fails(bed, &request, ProblemCode::NameTaken).await?;

    let after = vm.guest.links(&container.place()).await?;
    ensure!(
        before == after && after.iter().any(|link| link.name == "eth0"),
        "the container's own links were {before:?} and are {after:?}"
    );
    vm.guest
        .ping(&container.place(), IpAddr::from([127, 0, 0, 1]), PATIENCE)
        .await?;
    vm.guest.kill_container(&container).await
}
