//! Hot-plug by PCI Express itself, without ACPI: the guest's driver waits five seconds for the
//! operator to think again and one more after power-off, and a slot whose power indicator blinks
//! takes no request at all.

use std::rc::Rc;

use anyhow::{Context, Result, ensure};
use host_api::client::{Mutation, Progress};
use host_api::{CreateNic, Nic, NicState};
use nic_model::HotplugMode;
use serde_json::json;
use testbeds::bed::{Bed, Vm};
use testbeds::requests::{
    PATIENCE, at_once, attach_new, detach, in_state, into, nic_into, nic_on_blue, retire, settled,
    static_addresses,
};
use testbeds::scenario::{Scenario, not_in};
use testbeds::scenarios;
use testbeds::vm::VmOptions;
use testbeds::world::WorldKind;

use super::usable::{is_bare, is_usable};

pub(crate) fn scenarios() -> Vec<Scenario> {
    let registers = not_in(
        scenarios![native_detach_waits_for_a_busy_slot],
        WorldKind::Sim,
        "a slot has no registers that somebody in the guest could write",
    );
    let mut all = scenarios![
        native_hotplug_attaches_and_detaches,
        native_detach_right_after_the_plug,
    ];
    all.extend(registers);
    not_in(
        all,
        WorldKind::Netns,
        "a kernel that finds its NICs as links alone has no slots to press buttons of",
    )
}

async fn native_vm(bed: &Bed) -> Result<Rc<Vm>> {
    let options = VmOptions {
        hotplug: HotplugMode::Native,
        ..VmOptions::named("vm3")?
    };
    let vm = bed.boot(options).await?;
    bed.agent_is_ready(&vm.id).await?;
    let mode = vm.guest.hotplug_mode().await?;
    ensure!(
        mode == HotplugMode::Native,
        "the guest hot-plugs by {mode:?}"
    );
    Ok(vm)
}

async fn native_hotplug_attaches_and_detaches(bed: &Bed) -> Result<()> {
    let vm = native_vm(bed).await?;
    let client = bed.client();
    let container = vm.guest.make_container().await?;
    let request = CreateNic {
        addressing: Some(static_addresses(&["10.77.0.30/24", "fd77::30/64"])?),
        attach: Some(into(&vm, container.target())),
        ..nic_on_blue()
    };

    let answer = client.create_nic(&request, &settled()).await?;
    let nic = in_state(answer, NicState::InUse)?;

    is_usable(&vm, &container, &nic).await?;
    let detached = detach(&client, &nic.id).await?;
    ensure!(detached.placement.is_none(), "{detached:?}");
    ensure!(
        !bed.world().qemu(&vm.id).await?.has(&nic.id),
        "QEMU still has it"
    );
    is_bare(&vm, &container).await?;
    retire(&client, &nic.id).await?;
    bed.kill_vm(&vm.id).await
}

/// The guest is at work on the plug when it is asked to let go: the slot's power is still off, its
/// indicator blinks, or it has just become steady.
async fn native_detach_right_after_the_plug(bed: &Bed) -> Result<()> {
    let vm = native_vm(bed).await?;
    let client = bed.client();
    let container = vm.guest.make_container().await?;
    let request = nic_into(&vm, container.target());
    let nic = client.create_nic(&request, &at_once()).await?.nic;
    bed.until("QEMU has the device", PATIENCE, || async {
        let qemu = bed.world().qemu(&vm.id).await?;
        Ok(qemu.devices.contains(&nic.id.device_id()).then_some(()))
    })
    .await?;

    let detached = detach(&client, &nic.id).await?;

    ensure!(detached.placement.is_none(), "{detached:?}");
    is_bare(&vm, &container).await?;
    let attach = into(&vm, container.target());
    let again = client.attach_nic(&nic.id, &attach, &settled()).await?;
    let again = in_state(again, NicState::InUse).context("attaching it again")?;
    is_usable(&vm, &container, &again).await?;
    retire(&client, &nic.id).await?;
    bed.kill_vm(&vm.id).await
}

/// QEMU answers "guest is busy (power indicator blinking)" for as long as the indicator blinks.
async fn native_detach_waits_for_a_busy_slot(bed: &Bed) -> Result<()> {
    let vm = native_vm(bed).await?;
    let client = bed.client();
    let container = vm.guest.make_container().await?;
    let nic = attach_new(&client, &vm, container.target()).await?;
    indicate(&vm, &nic, PowerIndicator::Blinking).await?;
    let short = Mutation {
        token: None,
        wait: Some("2s".parse()?),
    };

    let answer = client.detach_nic(&nic.id, &short).await?;
    // Had hostd's request been taken, QEMU would say that an unplug is under way.
    let delete = json!({ "id": nic.id.device_id() });
    let refused = bed.world().monitor(&vm.id, "device_del", delete).await;
    indicate(&vm, &nic, PowerIndicator::On).await?;

    ensure!(answer.progress == Progress::UnderWay, "{:?}", answer.nic);
    ensure!(answer.nic.state == NicState::Detaching, "{:?}", answer.nic);
    let refused = refused
        .err()
        .context("QEMU took a request for a busy slot")?;
    let refused = format!("{refused:#}");
    ensure!(refused.contains("guest is busy"), "QEMU says: {refused}");
    let detached = bed
        .until("the NIC is detached", PATIENCE, || async {
            let nic = client.nic(&nic.id).await?;
            Ok((nic.state == NicState::Available).then_some(nic))
        })
        .await?;
    ensure!(detached.placement.is_none(), "{detached:?}");
    retire(&client, &nic.id).await?;
    bed.kill_vm(&vm.id).await
}

/// Power Indicator Control of the Slot Control register (PCI Express Base Specification, 7.5.3.10),
/// as the register's upper byte with the slot's power left on.
#[derive(Debug, Clone, Copy)]
enum PowerIndicator {
    On = 0b01,
    Blinking = 0b10,
}

/// Sets the power indicator of the slot in which a NIC is, as the guest's driver does while it is
/// at work on the slot.
async fn indicate(vm: &Vm, nic: &Nic, indicator: PowerIndicator) -> Result<()> {
    let place = nic.placement.as_ref().context("the NIC is nowhere")?;
    let path = place.pci_path.to_string();
    let port = path.split('/').next().unwrap_or_default();
    let value = indicator as u8;
    // The list of capabilities begins at 0x34; PCI Express has id 0x10, Slot Control is its byte
    // 0x18.
    let script = format!(
        "config=/sys/bus/pci/devices/0000:00:{port}/config; \
         byte() {{ \
             dd if=$config bs=1 skip=$(($1)) count=1 2>/dev/null | hexdump -v -e '\"%d\"'; \
         }}; \
         at=$(byte 0x34); \
         while [ $(byte $at) != 16 ]; do at=$(byte $at+1); [ $at != 0 ] || exit 3; done; \
         printf '\\{value:03o}' | dd of=$config bs=1 seek=$((at+0x19)) conv=notrunc 2>/dev/null; \
         [ $(($(byte $at+0x19) & 3)) = {value} ]"
    );
    vm.guest.shell()?.succeed(&script).await.map(drop)
}
