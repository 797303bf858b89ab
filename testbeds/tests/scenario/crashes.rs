//! Everything on the host that can die, killed in the middle: hostd at each named step, QEMU,
//! libvirtd. `kill -9` is the only way anything ends here.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use host_api::client::Mutation;
use host_api::{Nic, NicState, ProblemCode};
use nic_model::{ClientToken, NicId};
use testbeds::bed::{Bed, Vm};
use testbeds::guest::Container;
use testbeds::requests::{
    PATIENCE, at_once, attach_new, in_state, into, nic_into, over_to, retire, settled,
};
use testbeds::scenario::{Scenario, not_in};
use testbeds::scenarios;
use testbeds::vm::VmOptions;
use testbeds::world::{DaemonRestart, WorldKind};

use super::usable::{has_left, is_bare, is_usable};

/// Steps of an attach at which hostd can be made to die, in order.
const ATTACH_FAILPOINTS: [&str; 11] = [
    "attach.admit.after",
    "attach.make-port.before",
    "attach.make-port.after",
    "attach.declare.before",
    "attach.declare.after",
    "attach.plug.before",
    "attach.plug.after",
    "attach.arrive.after",
    "attach.bind.after",
    "attach.record.before",
    "attach.record.after",
];

/// Steps of a detach at which hostd can be made to die, in order.
const DETACH_FAILPOINTS: [&str; 15] = [
    "detach.admit.after",
    "detach.declare.before",
    "detach.declare.after",
    "detach.release.after",
    "detach.quiesce.before",
    "detach.quiesce.after",
    "detach.unplug.before",
    "detach.unplug.after",
    "detach.guest-unplug.after",
    "detach.forget.before",
    "detach.forget.after",
    "detach.record.before",
    "detach.record.after",
    "detach.remove-port.before",
    "detach.remove-port.after",
];

/// Steps of a move between two VMs, in order: it is a detach and an attach, and the record written
/// between them gives the NIC to the other VM.
const MOVE_FAILPOINTS: [&str; 4] = [
    "detach.declare.after",
    "detach.unplug.after",
    "detach.record.after",
    "attach.plug.after",
];

pub(crate) fn scenarios() -> Vec<Scenario> {
    let moving = MOVE_FAILPOINTS.map(|failpoint| {
        Scenario::new(format!("hostd_killed_moving_at::{failpoint}"), move |bed| {
            Box::pin(hostd_killed_while_moving(bed, failpoint))
        })
    });
    let attach = ATTACH_FAILPOINTS.map(|failpoint| {
        Scenario::new(format!("hostd_killed_at::{failpoint}"), move |bed| {
            Box::pin(hostd_killed_while_attaching(bed, failpoint))
        })
    });
    let detach = DETACH_FAILPOINTS.map(|failpoint| {
        Scenario::new(format!("hostd_killed_at::{failpoint}"), move |bed| {
            Box::pin(hostd_killed_while_detaching(bed, failpoint))
        })
    });
    let libvirtd = scenarios![
        libvirtd_restarted_in_mid_attach,
        libvirtd_restarted_as_an_attach_begins,
    ];
    let libvirtd = not_in(libvirtd, WorldKind::Qemu, "QEMU alone has no daemon");
    let libvirtd = not_in(libvirtd, WorldKind::Sim, "a QEMU in memory has no daemon");
    let libvirtd = not_in(libvirtd, WorldKind::Netns, "its QEMUs have no daemon");
    let mut all = scenarios![
        every_failpoint_of_hostd_is_one_to_die_at,
        qemu_killed_in_mid_attach,
        qemu_killed_while_a_nic_is_in_use,
    ];
    all.extend(libvirtd);
    all.extend(attach);
    all.extend(detach);
    all.extend(moving);
    all
}

/// hostd logs every failpoint that it passes: an undisturbed attach and detach pass those at which
/// it is killed below, and no others.
async fn every_failpoint_of_hostd_is_one_to_die_at(bed: &Bed) -> Result<()> {
    let vm = bed.vm("vm1").await?;
    let client = bed.client();
    let container = vm.guest.make_container().await?;
    let before = bed.hostd().mark().await?;

    let nic = attach_new(&client, &vm, container.target()).await?;
    retire(&client, &nic.id).await?;
    let known = ATTACH_FAILPOINTS.into_iter().chain(DETACH_FAILPOINTS);
    let known: BTreeSet<String> = known.map(str::to_owned).collect();
    let passed = bed.until("hostd has passed them all", PATIENCE, || async {
        let passed = bed.hostd().passed_since(before).await?;
        Ok(known.is_subset(&passed).then_some(passed))
    });

    let passed = passed.await?;
    let others: Vec<&String> = passed.difference(&known).collect();
    ensure!(
        others.is_empty(),
        "nothing kills hostd at {others:?}, which it passes"
    );
    vm.guest.kill_container(&container).await
}

/// Starts hostd anew, to die at `failpoint`.
async fn arm(bed: &Bed, failpoint: &str) -> Result<()> {
    bed.hostd().kill().await?;
    bed.hostd().start(Some(failpoint)).await
}

/// Waits until hostd has died at its failpoint, and starts it without any.
async fn revive(bed: &Bed, failpoint: &str) -> Result<()> {
    bed.hostd()
        .died()
        .await
        .with_context(|| format!("{failpoint} was not reached"))?;
    bed.hostd().start(None).await
}

async fn hostd_killed_while_attaching(bed: &Bed, failpoint: &str) -> Result<()> {
    let vm = bed.vm("vm1").await?;
    let client = bed.client();
    let container = vm.guest.make_container().await?;
    arm(bed, failpoint).await?;
    bed.agent_is_ready(&vm.id).await?;
    let request = nic_into(&vm, container.target());
    let token: ClientToken = failpoint.parse()?;
    let mutation = Mutation {
        token: Some(token),
        ..settled()
    };

    let first = client.create_nic(&request, &mutation).await;
    revive(bed, failpoint).await?;
    let second = client.create_nic(&request, &mutation).await?;

    let nic = in_state(second, NicState::InUse)?;
    if let Ok(first) = first {
        ensure!(
            first.nic.id == nic.id,
            "one token made {} and {}",
            first.nic.id,
            nic.id
        );
    }
    let all = client.nics().await?.nics;
    ensure!(
        all.len() == 1,
        "one request sent twice made {} NICs",
        all.len()
    );
    is_usable(&vm, &container, &nic).await?;
    retire(&client, &nic.id).await?;
    vm.guest.kill_container(&container).await
}

async fn hostd_killed_while_detaching(bed: &Bed, failpoint: &str) -> Result<()> {
    let vm = bed.vm("vm1").await?;
    let client = bed.client();
    let container = vm.guest.make_container().await?;
    let nic = attach_new(&client, &vm, container.target()).await?;
    arm(bed, failpoint).await?;
    bed.agent_is_ready(&vm.id).await?;

    // It dies in the middle of the answer, or right after it.
    drop(client.detach_nic(&nic.id, &settled()).await);
    revive(bed, failpoint).await?;

    let detached = state(bed, &nic.id, NicState::Available).await?;
    ensure!(detached.placement.is_none(), "{detached:?}");
    has_no_port(bed, &nic.id).await?;
    is_bare(&vm, &container).await?;
    bed.agent_is_ready(&vm.id).await?;
    retire(&client, &nic.id).await?;
    vm.guest.kill_container(&container).await
}

async fn hostd_killed_while_moving(bed: &Bed, failpoint: &str) -> Result<()> {
    let (from_vm, to_vm) = bed.two_vms().await?;
    let client = bed.client();
    let from = from_vm.guest.make_container().await?;
    let to = to_vm.guest.make_container().await?;
    let before = attach_new(&client, &from_vm, from.target()).await?;
    arm(bed, failpoint).await?;
    tokio::try_join!(
        bed.agent_is_ready(&from_vm.id),
        bed.agent_is_ready(&to_vm.id)
    )?;
    let request = over_to(&to_vm, to.target());
    let mutation = Mutation {
        token: Some(format!("move-{failpoint}").parse()?),
        ..settled()
    };

    // It dies in the middle of the answer.
    drop(client.move_nic(&before.id, &request, &mutation).await);
    revive(bed, failpoint).await?;
    let again = client.move_nic(&before.id, &request, &mutation).await?;

    let after = in_state(again, NicState::InUse)?;
    ensure!(
        (after.mac, &after.addresses) == (before.mac, &before.addresses),
        "{after:?} differs from {before:?}"
    );
    is_usable(&to_vm, &to, &after).await?;
    has_left(bed, &from_vm, &from, &after).await?;
    retire(&client, &after.id).await?;
    from_vm.guest.kill_container(&from).await?;
    to_vm.guest.kill_container(&to).await
}

/// What a NIC that is nowhere leaves on the host is removed, also by a hostd that did not leave it.
pub(crate) async fn has_no_port(bed: &Bed, nic: &NicId) -> Result<()> {
    bed.until("the port is removed", PATIENCE, || async {
        let links = bed.host().state().await?.links;
        let left = [nic.tap_name(), nic.ifb_name()];
        Ok((!left.iter().any(|name| links.contains_key(name))).then_some(()))
    })
    .await
}

async fn state(bed: &Bed, nic: &NicId, state: NicState) -> Result<Nic> {
    let client = bed.client();
    bed.until(&format!("{nic} is {state}"), PATIENCE, || async {
        let nic = client.nic(nic).await?;
        Ok((nic.state == state).then_some(nic))
    })
    .await
}

/// Asks for an attach and does not wait for it.
async fn begin_attach(bed: &Bed, vm: &Vm, container: &Container) -> Result<Nic> {
    let request = nic_into(vm, container.target());
    Ok(bed.client().create_nic(&request, &at_once()).await?.nic)
}

async fn until_plugged(bed: &Bed, vm: &Vm, nic: &Nic) -> Result<()> {
    bed.until("QEMU has the device", PATIENCE, || async {
        let qemu = bed.world().qemu(&vm.id).await?;
        Ok(qemu.devices.contains(&nic.id.device_id()).then_some(()))
    })
    .await
}

async fn qemu_killed_in_mid_attach(bed: &Bed) -> Result<()> {
    let vm = bed.vm("vm3").await?;
    let client = bed.client();
    let container = vm.guest.make_container().await?;
    vm.guest.agent().stall().await?;
    let nic = begin_attach(bed, &vm, &container).await?;
    until_plugged(bed, &vm, &nic).await?;

    bed.kill_vm(&vm.id).await?;

    let nic = state(bed, &nic.id, NicState::Available).await?;
    let code = nic.last_error.as_ref().map(|problem| problem.code);
    ensure!(code == Some(ProblemCode::VmStopped), "{nic:?}");
    ensure!(nic.placement.is_none(), "{nic:?}");
    retire(&client, &nic.id).await
}

async fn qemu_killed_while_a_nic_is_in_use(bed: &Bed) -> Result<()> {
    let client = bed.client();
    let vm = bed.vm("vm3").await?;
    let container = vm.guest.make_container().await?;
    let nic = attach_new(&client, &vm, container.target()).await?;

    bed.kill_vm(&vm.id).await?;
    let lost = state(bed, &nic.id, NicState::Available).await?;
    let again = bed.boot(VmOptions::named("vm3")?).await?;
    bed.agent_is_ready(&again.id).await?;
    let container = again.guest.make_container().await?;
    let attach = into(&again, container.target());
    let attached = client.attach_nic(&nic.id, &attach, &settled()).await?;

    ensure!(lost.mac == nic.mac && lost.placement.is_none(), "{lost:?}");
    is_usable(&again, &container, &in_state(attached, NicState::InUse)?).await?;
    retire(&client, &nic.id).await?;
    bed.kill_vm(&again.id).await
}

/// The device is plugged and the agent stands still, so the attach is half done for certain.
async fn libvirtd_restarted_in_mid_attach(bed: &Bed) -> Result<()> {
    let vm = bed.vm("vm1").await?;
    let client = bed.client();
    let container = vm.guest.make_container().await?;
    vm.guest.agent().stall().await?;
    let begun = begin_attach(bed, &vm, &container).await?;
    until_plugged(bed, &vm, &begun).await?;

    let restarted = bed.world().restart_daemon().await?;
    let meanwhile = client.nic(&begun.id).await?;
    vm.guest.agent().resume().await?;

    ensure!(
        restarted == DaemonRestart::Restarted,
        "this world has a daemon"
    );
    ensure!(meanwhile.state == NicState::Attaching, "{meanwhile:?}");
    let nic = state(bed, &begun.id, NicState::InUse).await?;
    ensure!(
        (nic.mac, &nic.placement) == (begun.mac, &begun.placement),
        "{nic:?} differs from {begun:?}"
    );
    is_usable(&vm, &container, &nic).await?;
    retire(&client, &nic.id).await?;
    vm.guest.kill_container(&container).await
}

/// Nothing is done yet, or the device is just being plugged: wherever it finds the attach.
async fn libvirtd_restarted_as_an_attach_begins(bed: &Bed) -> Result<()> {
    let vm = bed.vm("vm1").await?;
    let client = bed.client();
    let container = vm.guest.make_container().await?;

    let begun = begin_attach(bed, &vm, &container).await?;
    bed.world().restart_daemon().await?;

    let nic = state(bed, &begun.id, NicState::InUse).await?;
    is_usable(&vm, &container, &nic).await?;
    retire(&client, &nic.id).await?;
    vm.guest.kill_container(&container).await
}
