//! Others at work behind hostd's back.

use anyhow::{Result, ensure};
use host_api::{NicState, ProblemCode};
use testbeds::bed::Bed;
use testbeds::inspection::{HostState, QemuState};
use testbeds::requests::{PATIENCE, attach_new, in_state, into, retire, settled};
use testbeds::scenario::Scenario;
use testbeds::scenarios;

use super::usable::is_usable;

pub(crate) fn scenarios() -> Vec<Scenario> {
    scenarios![
        a_nic_detached_behind_hostds_back,
        a_tap_that_nobody_owns_is_removed,
        a_link_of_somebody_elses_is_left_alone,
    ]
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
        !QemuState::of(bed.world(), &vm.id).await?.has(&nic.id),
        "QEMU still has it"
    );
    let attach = into(&vm, container.target());
    let again = client.attach_nic(&nic.id, &attach, &settled()).await?;
    is_usable(&vm, &container, &in_state(again, NicState::InUse)?).await?;
    retire(&client, &nic.id).await?;
    vm.guest.kill_container(&container).await
}

/// What a crash of an older hostd, or a restored journal, may leave.
async fn a_tap_that_nobody_owns_is_removed(bed: &Bed) -> Result<()> {
    const TAP: &str = "nf-zzzzzzzzz0";
    let netns = &bed.site().netns;
    netns.ip(&format!("tuntap add {TAP} mode tap")).await?;
    netns
        .ip(&format!("link set {TAP} master br-blue up"))
        .await?;

    bed.until("the tap is removed", PATIENCE, || async {
        let links = HostState::of(bed.site()).await?.links;
        Ok((!links.contains_key(TAP)).then_some(()))
    })
    .await
}

async fn a_link_of_somebody_elses_is_left_alone(bed: &Bed) -> Result<()> {
    const NAME: &str = "nf-other";
    let netns = &bed.site().netns;
    netns.ip(&format!("link add {NAME} type bridge")).await?;
    // Longer than hostd's quarantine and its round over the host's objects together: the tap
    // planted beside it shows that such a round has passed.
    a_tap_that_nobody_owns_is_removed(bed).await?;

    let links = HostState::of(bed.site()).await?.links;

    netns.ip(&format!("link del {NAME}")).await?;
    ensure!(
        links.contains_key(NAME),
        "{NAME} is gone, though its name is not one of ours"
    );
    Ok(())
}
