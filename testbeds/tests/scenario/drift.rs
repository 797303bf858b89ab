//! Others at work behind hostd's back.

use anyhow::{Result, ensure};
use host_api::{NicState, ProblemCode};
use testbeds::bed::Bed;
use testbeds::host::Planted;
use testbeds::hostd::QUARANTINE;
use testbeds::requests::{PATIENCE, at_once, attach_new, in_state, into, retire, settled};
use testbeds::scenario::{Scenario, not_in};
use testbeds::scenarios;
use testbeds::site::BRIDGE;
use testbeds::world::WorldKind;

use super::usable::{is_bare, is_usable};

pub(crate) fn scenarios() -> Vec<Scenario> {
    let monitors = scenarios![a_vm_whose_socket_disappears_is_not_taken_for_off];
    let monitors = not_in(
        monitors,
        WorldKind::Libvirt,
        "hostd has no line to QEMU but libvirt's own, which does not disappear",
    );
    let mut all = scenarios![
        a_nic_detached_behind_hostds_back,
        only_a_tap_of_ours_without_an_owner_is_removed,
        a_tap_taken_out_of_its_bridge_is_put_back,
    ];
    all.extend(monitors);
    all
}

async fn a_nic_detached_behind_hostds_back(bed: &Bed) -> Result<()> {
    let vm = bed.vm("vm1").await?;
    let client = bed.client();
    let container = vm.guest.make_container().await?;
    let nic = attach_new(&client, &vm, container.target()).await?;

    bed.world().unplug_behind_hostd(&vm.id, &nic.id).await?;

    let lost = bed
        .until("hostd has noticed", PATIENCE, || async {
            let nic = client.nic(&nic.id).await?;
            Ok((nic.state == NicState::Available).then_some(nic))
        })
        .await?;
    let code = lost.last_error.as_ref().map(|problem| problem.code);
    ensure!(code == Some(ProblemCode::DeviceRemoved), "{lost:?}");
    ensure!(
        !bed.world().qemu(&vm.id).await?.has(&nic.id),
        "QEMU still has it"
    );
    let attach = into(&vm, container.target());
    let again = client.attach_nic(&nic.id, &attach, &settled()).await?;
    is_usable(&vm, &container, &in_state(again, NicState::InUse)?).await?;
    retire(&client, &nic.id).await?;
    vm.guest.kill_container(&container).await
}

/// What a crash of an older hostd, or a restored journal, may leave; and beside it a link that only
/// begins like one of ours.
async fn only_a_tap_of_ours_without_an_owner_is_removed(bed: &Bed) -> Result<()> {
    const STRAY: &str = "nf-zzzzzzzzz0";
    const FOREIGN: &str = "nf-other";
    let host = bed.host();
    host.plant(FOREIGN, Planted::Bridge).await?;
    host.plant(STRAY, Planted::TapInNetwork).await?;
    let links = || async { anyhow::Ok(host.state().await?.links) };

    bed.until("the tap passes no frames", PATIENCE, || async {
        let master = links().await?.remove(STRAY).flatten();
        Ok((master.as_deref() != Some(BRIDGE)).then_some(()))
    })
    .await?;
    bed.until("the tap is removed", QUARANTINE + PATIENCE, || async {
        Ok((!links().await?.contains_key(STRAY)).then_some(()))
    })
    .await?;

    // hostd has looked at every link of the host by now, and more than once.
    let left = links().await?;
    host.remove_planted(FOREIGN).await?;
    ensure!(
        left.contains_key(FOREIGN),
        "{FOREIGN} is gone, though its name is not one of ours"
    );
    Ok(())
}

async fn a_tap_taken_out_of_its_bridge_is_put_back(bed: &Bed) -> Result<()> {
    let vm = bed.vm("vm1").await?;
    let client = bed.client();
    let container = vm.guest.make_container().await?;
    let nic = attach_new(&client, &vm, container.target()).await?;
    let tap = nic.id.tap_name();

    bed.host().take_out_of_bridge(&tap).await?;
    bed.until("the tap is back in its bridge", PATIENCE, || async {
        let master = bed.host().state().await?.links.remove(&tap);
        Ok((master.flatten().as_deref() == Some(BRIDGE)).then_some(()))
    })
    .await?;

    is_usable(&vm, &container, &nic).await?;
    retire(&client, &nic.id).await?;
    vm.guest.kill_container(&container).await
}

/// What a clean-up of /run, or a /tmp that is somebody's own, makes of a VM that runs on.
async fn a_vm_whose_socket_disappears_is_not_taken_for_off(bed: &Bed) -> Result<()> {
    let vm = bed.vm("vm1").await?;
    let client = bed.client();
    let container = vm.guest.make_container().await?;
    let nic = attach_new(&client, &vm, container.target()).await?;
    bed.hostd().kill().await?;
    bed.world().hide_monitor(&vm.id).await?;
    bed.hostd().start(None).await?;

    client.detach_nic(&nic.id, &at_once()).await?;
    let told = format!("a process still holds tap {}", nic.id.tap_name());
    let blocked = bed
        .until("hostd says who is in the way", PATIENCE, || async {
            let nic = client.nic(&nic.id).await?;
            let reason = nic.blocked.as_ref().map(|blocked| &blocked.reason);
            let is_told = reason.is_some_and(|reason| reason.contains(&told));
            Ok(is_told.then_some(nic))
        })
        .await?;
    let has_device = bed.world().qemu(&vm.id).await?.has(&nic.id);
    bed.world().reveal_monitor(&vm.id).await?;

    ensure!(blocked.placement == nic.placement, "{blocked:?}");
    ensure!(has_device, "QEMU has lost the device");
    bed.until("the NIC is detached", PATIENCE, || async {
        let state = client.nic(&nic.id).await?.state;
        Ok((state == NicState::Available).then_some(()))
    })
    .await?;
    is_bare(&vm, &container).await?;
    retire(&client, &nic.id).await?;
    vm.guest.kill_container(&container).await
}
