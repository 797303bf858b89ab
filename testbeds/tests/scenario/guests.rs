//! Guests that do not play along: no agent, no driver, still booting, hostile.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use host_api::client::{Mutation, Progress};
use host_api::{CreateNic, Nic, NicState, ProblemCode};
use nic_model::{NicId, PowerState, Target};
use testbeds::bed::{BOOT_DEADLINE, Bed};
use testbeds::guest::{HostileBytes, Where};
use testbeds::hostd::ATTACH_PATIENCE;
use testbeds::requests::{
    PATIENCE, at_once, attach_new, detach, into, nic_into, nic_on_blue, refusal, retire, settled,
};
use testbeds::scenario::Scenario;
use testbeds::scenarios;
use testbeds::site::BRIDGE;
use testbeds::vm::{AgentStart, VmOptions};

use super::usable::{has_left, is_bare, is_usable};

pub(crate) fn scenarios() -> Vec<Scenario> {
    scenarios![
        a_guest_whose_driver_is_gone_blocks_the_detach_visibly,
        a_blocked_detach_outlives_hostd,
        a_detach_without_an_agent,
        an_attach_waits_for_the_agent,
        a_guest_that_is_still_booting,
        a_pid_of_an_earlier_boot_is_another_process,
        a_vm_that_is_off_is_refused,
        a_hostile_agent_harms_nobody_else,
    ]
}

/// Waits until the NIC is in a state.
pub(crate) async fn until_state(bed: &Bed, nic: &NicId, state: NicState) -> Result<Nic> {
    let client = bed.client();
    bed.until(&format!("{nic} is {state}"), PATIENCE, || async {
        let nic = client.nic(nic).await?;
        Ok((nic.state == state).then_some(nic))
    })
    .await
}

/// Waits until the NIC is settled, in whatever state, for longer than hostd has patience.
pub(crate) async fn ended(bed: &Bed, nic: &NicId) -> Result<Nic> {
    let client = bed.client();
    let patience = ATTACH_PATIENCE + PATIENCE;
    bed.until(&format!("{nic} is settled"), patience, || async {
        let nic = client.nic(nic).await?;
        Ok(nic.state.is_settled().then_some(nic))
    })
    .await
}

/// Waits until the NIC says that the guest keeps the device.
pub(crate) async fn until_kept(bed: &Bed, nic: &NicId) -> Result<()> {
    let client = bed.client();
    let what = format!("{nic} is blocked by the guest, which has not let go");
    bed.until(&what, PATIENCE, || async {
        let blocked = client.nic(nic).await?.blocked;
        Ok(blocked.and_then(|blocked| blocked.reason.contains("let go").then_some(())))
    })
    .await
}

/// Waits until the NIC says what blocks it, and gives the reason.
pub(crate) async fn until_blocked(bed: &Bed, nic: &NicId) -> Result<String> {
    let client = bed.client();
    bed.until(&format!("{nic} is blocked"), PATIENCE, || async {
        Ok(client.nic(nic).await?.blocked.map(|blocked| blocked.reason))
    })
    .await
}

async fn a_guest_whose_driver_is_gone_blocks_the_detach_visibly(bed: &Bed) -> Result<()> {
    let vm = bed.vm("vm1").await?;
    let client = bed.client();
    let container = vm.guest.make_container().await?;
    let nic = attach_new(&client, &vm, container.target()).await?;
    vm.guest.ignore_hotplug(vm.options.hotplug).await?;

    let short = Mutation {
        token: None,
        wait: Some("3s".parse()?),
    };
    let answer = client.detach_nic(&nic.id, &short).await?;

    ensure!(answer.progress == Progress::UnderWay, "{:?}", answer.nic);
    ensure!(answer.nic.state == NicState::Detaching, "{:?}", answer.nic);
    until_kept(bed, &nic.id).await?;
    let port = bed.host().state().await?.links.remove(&nic.id.tap_name());
    ensure!(
        port != Some(Some(BRIDGE.to_owned())),
        "the port still passes frames"
    );
    let same_mac = CreateNic {
        mac: Some(nic.mac),
        ..nic_on_blue()
    };
    let taken = refusal(client.create_nic(&same_mac, &at_once()).await)?;
    ensure!(taken.field.as_deref() == Some("mac"), "{taken:?}");
    let again = into(&vm, container.target());
    let early = refusal(client.attach_nic(&nic.id, &again, &at_once()).await)?;
    ensure!(early.code == ProblemCode::Conflict, "{early:?}");
    ensure!(
        bed.world().qemu(&vm.id).await?.has(&nic.id),
        "QEMU has let go of {} though the guest has not",
        nic.id
    );
    vm.guest.heed_hotplug(vm.options.hotplug).await?;
    until_state(bed, &nic.id, NicState::Available).await?;
    retire(&client, &nic.id).await?;
    vm.guest.kill_container(&container).await
}

/// Nobody in the guest answers, neither agent nor driver, and hostd has forgotten that it asked.
async fn a_blocked_detach_outlives_hostd(bed: &Bed) -> Result<()> {
    let vm = bed.vm("vm1").await?;
    let client = bed.client();
    let container = vm.guest.make_container().await?;
    let nic = attach_new(&client, &vm, container.target()).await?;
    vm.guest.agent().stop().await?;
    vm.guest.ignore_hotplug(vm.options.hotplug).await?;
    client.detach_nic(&nic.id, &at_once()).await?;
    until_kept(bed, &nic.id).await?;

    bed.hostd().kill().await?;
    bed.hostd().start(None).await?;

    // The guest counts as keeping it from the second request on: the new hostd has asked by itself.
    until_kept(bed, &nic.id).await?;
    let blocked = client.nic(&nic.id).await?;
    ensure!(blocked.state == NicState::Detaching, "{blocked:?}");
    ensure!(
        bed.world().qemu(&vm.id).await?.has(&nic.id),
        "QEMU has let go of {} though the guest has not",
        nic.id
    );
    vm.guest.heed_hotplug(vm.options.hotplug).await?;
    let detached = until_state(bed, &nic.id, NicState::Available).await?;
    ensure!(detached.placement.is_none(), "{detached:?}");
    vm.guest.agent().start().await?;
    retire(&client, &nic.id).await?;
    vm.guest.kill_container(&container).await
}

async fn a_detach_without_an_agent(bed: &Bed) -> Result<()> {
    let vm = bed.vm("vm1").await?;
    let client = bed.client();
    let container = vm.guest.make_container().await?;
    let nic = attach_new(&client, &vm, container.target()).await?;
    vm.guest.agent().stop().await?;

    let detached = detach(&client, &nic.id).await;

    vm.guest.agent().start().await?;
    has_left(bed, &vm, &container, &detached?).await?;
    retire(&client, &nic.id).await?;
    vm.guest.kill_container(&container).await
}

async fn an_attach_waits_for_the_agent(bed: &Bed) -> Result<()> {
    let vm = bed.vm("vm1").await?;
    let client = bed.client();
    let container = vm.guest.make_container().await?;
    vm.guest.agent().stop().await?;
    let request = nic_into(&vm, container.target());

    let nic = client.create_nic(&request, &at_once()).await?.nic;
    let blocked = until_blocked(bed, &nic.id).await;

    vm.guest.agent().start().await?;
    let nic = until_state(bed, &nic.id, NicState::InUse).await?;
    is_usable(&vm, &container, &nic).await?;
    ensure!(blocked?.contains("agent"), "{nic:?}");
    retire(&client, &nic.id).await?;
    vm.guest.kill_container(&container).await
}

async fn a_guest_that_is_still_booting(bed: &Bed) -> Result<()> {
    let client = bed.client();
    let options = VmOptions {
        boot_delay: Duration::from_secs(2),
        agent: AgentStart::Never,
        ..VmOptions::named("vm3")?
    };
    let vm = bed.start_vm(options).await?;
    bed.until("hostd sees the VM run", PATIENCE, || async {
        Ok(client
            .vm(&vm.id)
            .await?
            .power
            .filter(|power| *power == PowerState::Running))
    })
    .await?;
    let request = nic_into(&vm, "netns:late".parse()?);

    let nic = client.create_nic(&request, &at_once()).await?.nic;
    let reason = until_blocked(bed, &nic.id).await?;
    vm.guest.ready(BOOT_DEADLINE).await?;
    let container = vm.guest.make_named_container("late").await?;
    vm.guest.agent().start().await?;

    let nic = until_state(bed, &nic.id, NicState::InUse).await?;
    is_usable(&vm, &container, &nic).await?;
    ensure!(
        reason.contains("agent") || reason.contains("link"),
        "blocked by: {reason}"
    );
    retire(&client, &nic.id).await?;
    bed.kill_vm(&vm.id).await
}

/// After a reboot the device is still there, and the record says `in_use`: whoever has the
/// container's pid by then must not get its NIC.
async fn a_pid_of_an_earlier_boot_is_another_process(bed: &Bed) -> Result<()> {
    let client = bed.client();
    let options = VmOptions {
        agent: AgentStart::Never,
        ..VmOptions::named("vm3")?
    };
    let vm = bed.boot(options).await?;
    vm.guest.agent().start().await?;
    bed.agent_is_ready(&vm.id).await?;
    let container = vm.guest.make_container().await?;
    let pid: Target = format!("pid:{}", container.pid).parse()?;
    let nic = attach_new(&client, &vm, pid).await?;

    let reset = async {
        let nothing = serde_json::json!({});
        let reset = bed.world().monitor(&vm.id, "system_reset", nothing);
        reset.await.map(drop)
    };
    let reset = Box::pin(reset);
    vm.guest.over_reset(reset, BOOT_DEADLINE).await?;
    let impostor = vm.guest.make_container_with_pid(container.pid).await?;
    vm.guest.agent().start().await?;

    let degraded = bed
        .until("the NIC is reported as returned", PATIENCE, || async {
            let nic = client.nic(&nic.id).await?;
            Ok(nic.degraded.filter(|why| why.reason.contains("died")))
        })
        .await?;
    is_bare(&vm, &impostor).await?;
    let own = vm.guest.links(&Where::Guest).await?;
    ensure!(own.is_empty(), "{degraded:?}, but in the guest: {own:?}");
    retire(&client, &nic.id).await?;
    bed.kill_vm(&vm.id).await
}

async fn a_vm_that_is_off_is_refused(bed: &Bed) -> Result<()> {
    let vm = bed.boot(VmOptions::named("vm4")?).await?;
    let client = bed.client();
    bed.agent_is_ready(&vm.id).await?;
    bed.kill_vm(&vm.id).await?;
    bed.until("hostd sees the VM off", PATIENCE, || async {
        let seen = client.vm(&vm.id).await?.power;
        Ok((seen == Some(PowerState::Off)).then_some(()))
    })
    .await?;
    let request = nic_into(&vm, "netns:any".parse()?);

    let problem = refusal(client.create_nic(&request, &settled()).await)?;

    ensure!(problem.code == ProblemCode::Conflict, "{problem:?}");
    ensure!(
        problem.message.contains("vm4") && problem.message.contains("not running"),
        "{problem:?}"
    );
    ensure!(client.nics().await?.nics.is_empty(), "a NIC was made");
    Ok(())
}

/// Random bytes, half frames and announcements of gigabytes instead of the protocol.
async fn a_hostile_agent_harms_nobody_else(bed: &Bed) -> Result<()> {
    let (hostile, honest) = bed.two_vms().await?;
    let client = bed.client();
    let container = honest.guest.make_container().await?;
    hostile.guest.agent().stop().await?;

    let attack = async {
        for bytes in HostileBytes::ALL {
            hostile.guest.agent().send(bytes).await?;
        }
        anyhow::Ok(())
    };
    let (attacked, attached) =
        tokio::join!(attack, attach_new(&client, &honest, container.target()));

    hostile.guest.agent().start().await?;
    attacked.context("attacking")?;
    let nic = attached.context("attaching to the honest VM meanwhile")?;
    is_usable(&honest, &container, &nic).await?;
    bed.agent_is_ready(&hostile.id)
        .await
        .context("the honest agent after the attack")?;
    retire(&client, &nic.id).await?;
    honest.guest.kill_container(&container).await
}
