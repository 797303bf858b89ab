//! Transitions that wait to be told, clocks that stand still, guests that fall over a device: what
//! is ordered of simulated VMs means the same in each world that has them.

use anyhow::{Result, ensure};
use host_api::NicState;
use misbehaviour::{ClockOrder, CueOrder, Effect, Pace, PaceRule, Transition};
use nic_model::NicId;
use serde_json::json;
use testbeds::bed::{BOOT_DEADLINE, Bed, Vm};
use testbeds::requests::{PATIENCE, at_once, nic_into, retire};
use testbeds::scenario::Scenario;
use testbeds::scenarios;
use testbeds::vm::VmOptions;

use super::fault::{a_nic_comes_and_goes, rule, to_order, under};
use super::guests::ended;
use super::usable::is_usable;

pub(crate) fn scenarios() -> Vec<Scenario> {
    to_order(scenarios![
        a_pace_of_a_vm_that_is_none_is_refused,
        a_link_comes_when_somebody_says_so,
        a_clock_that_stands_still_moves_by_steps,
        a_guest_that_resets_itself_over_a_device_loses_the_attach_alone,
        a_guest_that_resets_itself_while_it_boots_boots_again,
    ])
}

async fn set_plug(bed: &Bed, vm: &Vm, pace: Pace) -> Result<()> {
    let rule = PaceRule {
        transition: Transition::Plug,
        vm: Some(vm.id.clone()),
        pace,
    };
    bed.misbehaving()?.set_pace(&rule).await
}

async fn a_pace_of_a_vm_that_is_none_is_refused(bed: &Bed) -> Result<()> {
    let rule = PaceRule {
        transition: Transition::Plug,
        vm: Some("vm9".parse()?),
        pace: Pace::Manual,
    };

    let set = bed.misbehaving()?.set_pace(&rule).await;

    ensure!(set.is_err(), "it is set");
    Ok(())
}

/// Gives an order again and again until the NIC is in use: only what has begun follows it.
async fn until_in_use(bed: &Bed, vm: &Vm, nic: &NicId, order: CueOrder) -> Result<()> {
    let client = bed.client();
    bed.until("the NIC is in use", PATIENCE, || async {
        bed.misbehaving()?.give(&vm.id, order).await?;
        let state = client.nic(nic).await?.state;
        Ok((state == NicState::InUse).then_some(()))
    })
    .await
}

/// Attaches a NIC whose link waits, and shows that it does until `order` is given: what begins
/// later in another VM, at `elsewhere`, comes and goes meanwhile.
async fn waits_for(bed: &Bed, vm: &Vm, elsewhere: Pace, order: CueOrder) -> Result<()> {
    let client = bed.client();
    let other = bed.vm("vm2").await?;
    let container = vm.guest.make_container().await?;
    let request = nic_into(vm, container.target());
    let nic = client.create_nic(&request, &at_once()).await?.nic;
    bed.until("QEMU has the device", PATIENCE, || async {
        Ok(bed.world().qemu(&vm.id).await?.has(&nic.id).then_some(()))
    })
    .await?;
    set_plug(bed, &other, elsewhere).await?;
    a_nic_comes_and_goes(bed, &other).await?;
    set_plug(bed, &other, Pace::Instant).await?;
    let waiting = client.nic(&nic.id).await?;
    ensure!(waiting.state == NicState::Attaching, "{waiting:?}");

    until_in_use(bed, vm, &nic.id, order).await?;

    // All that follows takes the guest's time.
    let run = CueOrder::Clock(ClockOrder::Run);
    bed.misbehaving()?.give(&vm.id, run).await?;
    set_plug(bed, vm, Pace::Instant).await?;
    is_usable(vm, &container, &client.nic(&nic.id).await?).await?;
    retire(&client, &nic.id).await?;
    vm.guest.kill_container(&container).await
}

async fn a_link_comes_when_somebody_says_so(bed: &Bed) -> Result<()> {
    let vm = bed.vm("vm1").await?;
    set_plug(bed, &vm, Pace::Manual).await?;
    waits_for(bed, &vm, Pace::Instant, CueOrder::Step).await
}

async fn a_clock_that_stands_still_moves_by_steps(bed: &Bed) -> Result<()> {
    let vm = bed.vm("vm1").await?;
    let freeze = CueOrder::Clock(ClockOrder::Freeze);
    bed.misbehaving()?.give(&vm.id, freeze).await?;
    // By a clock that goes, the link would be there before that of the other VM.
    let soon = Pace::After("50ms".parse()?);
    set_plug(bed, &vm, soon).await?;
    let step = CueOrder::Clock(ClockOrder::Step("50ms".parse()?));
    waits_for(bed, &vm, soon, step).await
}

/// The container has gone with the reset, and with it what the NIC was for.
async fn a_guest_that_resets_itself_over_a_device_loses_the_attach_alone(bed: &Bed) -> Result<()> {
    let vm = bed.boot(VmOptions::named("vm3")?).await?;
    let client = bed.client();
    bed.agent_is_ready(&vm.id).await?;
    let container = vm.guest.make_container().await?;
    let request = nic_into(&vm, container.target());
    let resets = rule(&vm, "guest.plug", Effect::Reset, 1)?;

    let nic = under(bed, resets, async {
        let nic = client.create_nic(&request, &at_once()).await?.nic;
        ended(bed, &nic.id).await
    })
    .await?;

    ensure!(nic.state == NicState::Available, "{nic:?}");
    bed.agent_is_ready(&vm.id).await?;
    retire(&client, &nic.id).await?;
    a_nic_comes_and_goes(bed, &vm).await?;
    bed.kill_vm(&vm.id).await
}

async fn a_guest_that_resets_itself_while_it_boots_boots_again(bed: &Bed) -> Result<()> {
    let vm = bed.boot(VmOptions::named("vm3")?).await?;
    bed.agent_is_ready(&vm.id).await?;
    let resets = rule(&vm, "guest.boot", Effect::Reset, 2)?;

    under(bed, resets, async {
        let reset = async {
            let reset = bed.world().monitor(&vm.id, "system_reset", json!({}));
            reset.await.map(drop)
        };
        vm.guest.over_reset(Box::pin(reset), BOOT_DEADLINE).await
    })
    .await?;

    bed.agent_is_ready(&vm.id).await?;
    a_nic_comes_and_goes(bed, &vm).await?;
    bed.kill_vm(&vm.id).await
}
