//! Monitors that do not behave: replies that are late or lost, connections that end in the middle
//! of a command, events that do not come or come twice, refusals that pass.
//!
//! Whatever it is, a NIC becomes usable, is detached, and leaves nothing; and at no moment is there
//! anything that may not be, which is watched all along.

use anyhow::{Result, ensure};
use host_api::NicState;
use misbehaviour::{Effect, Side};
use nic_model::NicId;
use testbeds::bed::Bed;
use testbeds::requests::{at_once, nic_into, retire};
use testbeds::scenario::Scenario;
use testbeds::scenarios;

use super::fault::{a_nic_comes_and_goes, rule, to_order, under};
use super::guests::{until_blocked, until_state};
use super::usable::is_usable;

/// The commands that a NIC's life is made of.
const COMMANDS: [&str; 5] = [
    "getfd",
    "netdev_add",
    "device_add",
    "device_del",
    "netdev_del",
];

/// Longer than hostd waits for any command.
const LATE: &str = "9s";

pub(crate) fn scenarios() -> Vec<Scenario> {
    let mut all = Vec::new();
    for command in COMMANDS {
        let effects = [
            ("reply_lost", Effect::Lose),
            ("reply_late", delay(LATE)),
            ("connection_cut_before", Effect::Cut(Side::Before)),
            ("connection_cut_after", Effect::Cut(Side::After)),
        ];
        for (fault, effect) in effects {
            let name = format!("{fault}::{command}");
            all.push(life_under(name, format!("qmp.{command}"), effect));
        }
    }
    let events = [
        ("lost", Effect::Lose),
        ("twice", Effect::Duplicate),
        ("out_of_turn", Effect::Reorder),
        ("late", delay("3s")),
        ("cut_off", Effect::Cut(Side::Before)),
    ];
    all.extend(events.map(|(how, effect)| {
        let name = format!("device_deleted::{how}");
        life_under(name, "event.DEVICE_DELETED".to_owned(), effect)
    }));
    let refusals = [
        (
            "device_del_while_an_unplug_is_pending",
            "qmp.device_del",
            "Device is already in the process of unplug",
        ),
        (
            "device_del_while_the_slot_is_busy",
            "qmp.device_del",
            "Hot-unplug failed: guest is busy (power indicator blinking)",
        ),
    ];
    all.extend(refusals.map(|(name, operation, text)| {
        life_under(name.to_owned(), operation.to_owned(), refused(text))
    }));
    all.extend(scenarios![
        a_stalled_monitor_delays_no_other_vm,
        a_vm_that_migrates_takes_no_nic_and_keeps_those_it_has,
    ]);
    to_order(all)
}

fn delay(span: &str) -> Effect {
    Effect::Delay(span.parse().expect("a length of time"))
}

fn refused(text: &str) -> Effect {
    Effect::Error {
        class: "GenericError".to_owned(),
        text: text.to_owned(),
    }
}

/// A NIC's whole life while this happens once or, where it is a refusal, three times.
fn life_under(name: String, operation: String, effect: Effect) -> Scenario {
    Scenario::new(name, move |bed| {
        let (operation, effect) = (operation.clone(), effect.clone());
        Box::pin(async move {
            let vm = bed.vm("vm1").await?;
            let times = if matches!(effect, Effect::Error { .. }) {
                3
            } else {
                1
            };
            let rule = rule(&vm, &operation, effect, times)?;
            under(bed, rule, a_nic_comes_and_goes(bed, &vm)).await
        })
    })
}

/// What QEMU says to `device_add` and `device_del` then (its softmmu/qdev-monitor.c). A migration
/// that hostd knows of is refused beforehand; this one has begun just now.
async fn a_vm_that_migrates_takes_no_nic_and_keeps_those_it_has(bed: &Bed) -> Result<()> {
    let vm = bed.vm("vm1").await?;
    let client = bed.client();
    let container = vm.guest.make_container().await?;
    let request = nic_into(&vm, container.target());
    let no = |command: &str| refused(&format!("{command} not allowed while migrating"));
    let adds = rule(&vm, "qmp.device_add", no("device_add"), 1000)?;
    let deletes = rule(&vm, "qmp.device_del", no("device_del"), 1000)?;

    let nic = under(bed, adds, async {
        let nic = client.create_nic(&request, &at_once()).await?.nic;
        is_held_up_by_the_migration(bed, &nic.id).await?;
        Ok(nic)
    });
    let nic = nic.await?;
    let nic = until_state(bed, &nic.id, NicState::InUse).await?;
    is_usable(&vm, &container, &nic).await?;
    under(bed, deletes, async {
        client.detach_nic(&nic.id, &at_once()).await?;
        is_held_up_by_the_migration(bed, &nic.id).await
    })
    .await?;

    until_state(bed, &nic.id, NicState::Available).await?;
    retire(&client, &nic.id).await?;
    vm.guest.kill_container(&container).await
}

async fn is_held_up_by_the_migration(bed: &Bed, nic: &NicId) -> Result<()> {
    let reason = until_blocked(bed, nic).await?;
    ensure!(reason.contains("migrating"), "blocked by: {reason}");
    Ok(())
}

/// One that answers nothing any more keeps nobody but its own VM waiting.
async fn a_stalled_monitor_delays_no_other_vm(bed: &Bed) -> Result<()> {
    let (stalled, other) = tokio::try_join!(bed.vm("vm3"), bed.vm("vm2"))?;
    let stall = rule(&stalled, "qmp.device_add", Effect::Stall, 1)?;
    let client = bed.client();
    let container = stalled.guest.make_container().await?;
    let request = nic_into(&stalled, container.target());

    let nic = under(bed, stall, async {
        let nic = client.create_nic(&request, &at_once()).await?.nic;
        let (reason, life) = tokio::join!(
            until_blocked(bed, &nic.id),
            a_nic_comes_and_goes(bed, &other)
        );
        life?;
        let reason = reason?;
        ensure!(reason.contains("hypervisor"), "blocked by: {reason}");
        Ok(nic)
    })
    .await?;

    bed.kill_vm(&stalled.id).await?;
    until_state(bed, &nic.id, NicState::Available).await?;
    retire(&client, &nic.id).await
}
