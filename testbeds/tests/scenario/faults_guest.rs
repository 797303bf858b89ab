//! Guests that do what guests do: refuse, ignore, dawdle, eject unasked, reset, panic, end.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use host_api::{NicState, ProblemCode};
use misbehaviour::{Effect, Side};
use nic_model::PowerState;
use serde_json::json;
use testbeds::bed::{BOOT_DEADLINE, Bed, Vm};
use testbeds::requests::{
    PATIENCE, at_once, attach_new, in_state, into, nic_into, nic_on_blue, retire, settled,
};
use testbeds::scenario::{Scenario, not_in};
use testbeds::scenarios;
use testbeds::vm::VmOptions;
use testbeds::world::WorldKind;

use super::fault::{a_nic_comes_and_goes, in_memory, rule, to_order, under};
use super::guests::{ended, until_blocked, until_kept, until_state};
use super::usable::{has_left, is_usable};

pub(crate) fn scenarios() -> Vec<Scenario> {
    let all = to_order(scenarios![
        a_guest_that_refuses_an_unplug_is_asked_again,
        a_guest_that_misses_an_unplug_is_asked_again,
        a_guest_that_dawdles_is_waited_for,
        a_guest_that_ejects_a_nic_by_itself,
        an_event_about_another_device_ends_no_detach,
        a_guest_that_panics_gives_its_nic_back_with_its_end,
    ]);
    let memory = in_memory(scenarios![
        a_guest_that_never_sees_the_device_fails_the_attach,
        a_lost_link_event_is_made_up_for,
        a_nic_that_leaves_while_it_is_being_bound,
    ]);
    let everywhere = scenarios![
        a_reset_completes_a_detach,
        a_vm_that_ends_completes_a_detach,
    ];
    let by_path = not_in(
        scenarios![a_device_with_the_same_address_is_left_alone],
        WorldKind::Netns,
        "its agents tell links by their addresses alone, for want of PCI paths",
    );
    [all, memory, everywhere, by_path].concat()
}

async fn a_guest_that_refuses_an_unplug_is_asked_again(bed: &Bed) -> Result<()> {
    let vm = bed.vm("vm1").await?;
    let refuses = rule(&vm, "guest.unplug", Effect::Refuse, 2)?;
    under(bed, refuses, a_nic_comes_and_goes(bed, &vm)).await
}

async fn a_guest_that_misses_an_unplug_is_asked_again(bed: &Bed) -> Result<()> {
    let vm = bed.vm("vm1").await?;
    let misses = rule(&vm, "guest.unplug", Effect::Ignore, 2)?;
    under(bed, misses, a_nic_comes_and_goes(bed, &vm)).await
}

async fn a_guest_that_dawdles_is_waited_for(bed: &Bed) -> Result<()> {
    let vm = bed.vm("vm1").await?;
    for operation in ["guest.plug", "guest.unplug"] {
        let dawdles = rule(&vm, operation, Effect::Delay("4s".parse()?), 1)?;
        under(bed, dawdles, a_nic_comes_and_goes(bed, &vm)).await?;
    }
    Ok(())
}

/// No driver, no slot that works: the device is in QEMU and the kernel never says so. hostd's
/// patience ends, and everything is as before.
async fn a_guest_that_never_sees_the_device_fails_the_attach(bed: &Bed) -> Result<()> {
    let vm = bed.vm("vm1").await?;
    let client = bed.client();
    let container = vm.guest.make_container().await?;
    let request = nic_into(&vm, container.target());
    let blind = rule(&vm, "guest.plug", Effect::Ignore, 1)?;

    let failed = under(bed, blind, async {
        let nic = client.create_nic(&request, &at_once()).await?.nic;
        ended(bed, &nic.id).await
    });
    let nic = failed.await?;

    let code = nic.last_error.as_ref().map(|problem| problem.code);
    ensure!(code == Some(ProblemCode::TimedOut), "{nic:?}");
    has_left(bed, &vm, &container, &nic).await?;
    retire(&client, &nic.id).await?;
    vm.guest.kill_container(&container).await
}

/// As after a device that the guest's own administrator has switched off, or a boot-time race.
async fn a_guest_that_ejects_a_nic_by_itself(bed: &Bed) -> Result<()> {
    let vm = bed.vm("vm1").await?;
    let client = bed.client();
    let container = vm.guest.make_container().await?;
    let ejects = rule(&vm, "guest.plug", Effect::Eject("2s".parse()?), 1)?;

    let nic = under(bed, ejects, attach_new(&client, &vm, container.target())).await?;
    let lost = until_state(bed, &nic.id, NicState::Available).await?;

    let code = lost.last_error.as_ref().map(|problem| problem.code);
    ensure!(code == Some(ProblemCode::DeviceRemoved), "{lost:?}");
    has_left(bed, &vm, &container, &lost).await?;
    let attach = into(&vm, container.target());
    let again = client.attach_nic(&nic.id, &attach, &settled()).await?;
    is_usable(&vm, &container, &in_state(again, NicState::InUse)?).await?;
    retire(&client, &nic.id).await?;
    vm.guest.kill_container(&container).await
}

async fn an_event_about_another_device_ends_no_detach(bed: &Bed) -> Result<()> {
    let vm = bed.vm("vm1").await?;
    let client = bed.client();
    let container = vm.guest.make_container().await?;
    let nic = attach_new(&client, &vm, container.target()).await?;
    let mut keeps = rule(&vm, "guest.unplug", Effect::Ignore, 1000)?;
    keeps.nic = Some(nic.id.clone());

    under(bed, keeps, async {
        client.detach_nic(&nic.id, &at_once()).await?;
        until_kept(bed, &nic.id).await?;
        foreign_device(bed, &vm, FOREIGN_MAC).await?;
        remove_foreign_device(bed, &vm).await?;
        let still = client.nic(&nic.id).await?;
        ensure!(still.state == NicState::Detaching, "{still:?}");
        ensure!(
            bed.world().qemu(&vm.id).await?.has(&nic.id),
            "QEMU has let go"
        );
        Ok(())
    })
    .await?;

    until_state(bed, &nic.id, NicState::Available).await?;
    retire(&client, &nic.id).await?;
    vm.guest.kill_container(&container).await
}

const FOREIGN: &str = "foreign";
const FOREIGN_MAC: &str = "5a:00:00:00:00:77";

/// Plugs in a NIC that is none of hostd's.
async fn foreign_device(bed: &Bed, vm: &Vm, mac: &str) -> Result<()> {
    let world = bed.world();
    let backend = json!({ "type": "user", "id": FOREIGN });
    world.monitor(&vm.id, "netdev_add", backend).await?;
    let bus = super::leaks::last_root_port(bed, vm).await?;
    let device = json!({ "driver": "virtio-net-pci", "id": "foreign-nic", "netdev": FOREIGN,
        "bus": bus, "mac": mac });
    world.monitor(&vm.id, "device_add", device).await?;
    super::leaks::until_own_links(bed, vm, 1).await
}

async fn remove_foreign_device(bed: &Bed, vm: &Vm) -> Result<()> {
    let device = json!({ "id": "foreign-nic" });
    bed.world().monitor(&vm.id, "device_del", device).await?;
    super::leaks::until_own_links(bed, vm, 0).await?;
    bed.until("the backend can be removed", PATIENCE, || async {
        let backend = json!({ "id": FOREIGN });
        let removed = bed.world().monitor(&vm.id, "netdev_del", backend).await;
        Ok(removed.ok())
    })
    .await
    .map(drop)
}

/// A guest is told from another by where its device is, not by an address that anybody can have.
async fn a_device_with_the_same_address_is_left_alone(bed: &Bed) -> Result<()> {
    let vm = bed.vm("vm1").await?;
    let client = bed.client();
    let container = vm.guest.make_container().await?;
    let made = client.create_nic(&nic_on_blue(), &settled()).await?;
    let nic = in_state(made, NicState::Available)?;
    foreign_device(bed, &vm, &nic.mac.to_string()).await?;

    let attach = into(&vm, container.target());
    let attached = client.attach_nic(&nic.id, &attach, &settled()).await?;
    let attached = in_state(attached, NicState::InUse)?;

    is_usable(&vm, &container, &attached).await?;
    super::leaks::until_own_links(bed, &vm, 1)
        .await
        .context("the foreign device is where it was")?;
    retire(&client, &nic.id).await?;
    remove_foreign_device(bed, &vm).await?;
    vm.guest.kill_container(&container).await
}

/// Events of links are lost without a word; the agent looks for itself now and then.
async fn a_lost_link_event_is_made_up_for(bed: &Bed) -> Result<()> {
    let vm = bed.vm("vm1").await?;
    let lost = rule(&vm, "guest.link-event", Effect::Lose, 20)?;
    under(bed, lost, a_nic_comes_and_goes(bed, &vm)).await
}

/// Whatever the agent is at when the device goes, nothing of it stays.
async fn a_nic_that_leaves_while_it_is_being_bound(bed: &Bed) -> Result<()> {
    let vm = bed.vm("vm1").await?;
    let client = bed.client();
    for after_ms in (90..150).step_by(2) {
        let container = vm.guest.make_container().await?;
        let request = nic_into(&vm, container.target());
        let span = Duration::from_millis(after_ms);
        let leaves = rule(
            &vm,
            "guest.plug",
            Effect::Eject(misbehaviour::Span(span)),
            1,
        )?;

        let gone = under(bed, leaves, async {
            let nic = client.create_nic(&request, &at_once()).await?.nic;
            ended(bed, &nic.id).await
        });
        let nic = gone.await.with_context(|| format!("after {after_ms} ms"))?;

        match nic.state {
            // It was plugged in anew, by a hostd that saw it gone before the agent had it.
            NicState::InUse => is_usable(&vm, &container, &nic).await?,
            NicState::Available
            | NicState::Attaching
            | NicState::Detaching
            | NicState::Deleting => has_left(bed, &vm, &container, &nic).await?,
        }
        retire(&client, &nic.id).await?;
        vm.guest.kill_container(&container).await?;
    }
    Ok(())
}

/// Its kernel does nothing any more; what it holds is let go of by the end of its VM.
async fn a_guest_that_panics_gives_its_nic_back_with_its_end(bed: &Bed) -> Result<()> {
    let vm = bed.vm("vm3").await?;
    let client = bed.client();
    let container = vm.guest.make_container().await?;
    let request = nic_into(&vm, container.target());
    let panics = rule(&vm, "guest.plug", Effect::Crash(Side::Before), 1)?;

    let nic = under(bed, panics, async {
        let nic = client.create_nic(&request, &at_once()).await?.nic;
        until_blocked(bed, &nic.id).await?;
        Ok(nic)
    })
    .await?;
    client.detach_nic(&nic.id, &at_once()).await?;
    until_blocked(bed, &nic.id).await?;
    bed.kill_vm(&vm.id).await?;

    until_state(bed, &nic.id, NicState::Available).await?;
    retire(&client, &nic.id).await
}

/// "Guest reset will automatically complete removal for all devices" (QEMU, qapi/qdev.json).
async fn a_reset_completes_a_detach(bed: &Bed) -> Result<()> {
    let vm = bed.boot(VmOptions::named("vm3")?).await?;
    let client = bed.client();
    bed.agent_is_ready(&vm.id).await?;
    let container = vm.guest.make_container().await?;
    let nic = attach_new(&client, &vm, container.target()).await?;
    vm.guest.ignore_hotplug(vm.options.hotplug).await?;
    client.detach_nic(&nic.id, &at_once()).await?;
    until_kept(bed, &nic.id).await?;

    let reset = async {
        let reset = bed.world().monitor(&vm.id, "system_reset", json!({}));
        reset.await.map(drop)
    };
    vm.guest.over_reset(Box::pin(reset), BOOT_DEADLINE).await?;

    let detached = until_state(bed, &nic.id, NicState::Available).await?;
    ensure!(detached.placement.is_none(), "{detached:?}");
    retire(&client, &nic.id).await?;
    bed.kill_vm(&vm.id).await
}

async fn a_vm_that_ends_completes_a_detach(bed: &Bed) -> Result<()> {
    let vm = bed.boot(VmOptions::named("vm3")?).await?;
    let client = bed.client();
    bed.agent_is_ready(&vm.id).await?;
    let container = vm.guest.make_container().await?;
    let nic = attach_new(&client, &vm, container.target()).await?;
    vm.guest.ignore_hotplug(vm.options.hotplug).await?;
    client.detach_nic(&nic.id, &at_once()).await?;
    until_kept(bed, &nic.id).await?;

    bed.kill_vm(&vm.id).await?;

    let detached = until_state(bed, &nic.id, NicState::Available).await?;
    ensure!(detached.placement.is_none(), "{detached:?}");
    bed.until("hostd sees the VM off", PATIENCE, || async {
        let seen = client.vm(&vm.id).await?.power;
        Ok((seen == Some(PowerState::Off)).then_some(()))
    })
    .await?;
    retire(&client, &nic.id).await
}
