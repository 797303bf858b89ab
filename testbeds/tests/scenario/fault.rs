//! Having something go wrong to order, and making sure that it did.

use anyhow::{Context, Result, ensure};
use misbehaviour::{Effect, Rule, When};
use testbeds::bed::{Bed, Vm};
use testbeds::requests::{attach_new, detach, retire};
use testbeds::scenario::{Scenario, not_in};
use testbeds::world::WorldKind;

use super::usable::{has_left, is_usable};

/// Of real hypervisors nothing can be ordered.
const REAL: &str = "a real QEMU does as it should, nothing in it goes wrong to order";

/// Scenarios for worlds in which QEMU and guest can be told to misbehave.
pub(crate) fn to_order(scenarios: Vec<Scenario>) -> Vec<Scenario> {
    let scenarios = not_in(scenarios, WorldKind::Qemu, REAL);
    not_in(scenarios, WorldKind::Libvirt, REAL)
}

/// The same where what goes wrong is hostd's own host, the agent or what is between them.
pub(crate) fn in_memory(scenarios: Vec<Scenario>) -> Vec<Scenario> {
    not_in(
        to_order(scenarios),
        WorldKind::Netns,
        "ports, channel, agent and the syncing of files are the kernel's and real programs' \
         there, which do as they should: nothing lies between that could be told otherwise",
    )
}

/// A rule about one VM, named after what happens.
pub(crate) fn rule(vm: &Vm, operation: &str, effect: Effect, times: u64) -> Result<Rule> {
    Ok(Rule {
        name: format!("{operation} {}", effect.kind().name()),
        operation: operation.parse()?,
        vm: Some(vm.id.clone()),
        nic: None,
        when: When::Always,
        times: Some(times),
        effect,
    })
}

/// A rule about what belongs to no VM: the disk, the ports.
pub(crate) fn rule_of_the_host(operation: &str, effect: Effect, times: u64) -> Result<Rule> {
    Ok(Rule {
        name: format!("{operation} {}", effect.kind().name()),
        operation: operation.parse()?,
        vm: None,
        nic: None,
        when: When::Always,
        times: Some(times),
        effect,
    })
}

/// The host's disk is full for as long as this rule is in force.
pub(crate) fn full_disk() -> Result<Rule> {
    Ok(Rule {
        times: None,
        ..rule_of_the_host("journal.commit", Effect::DiskFull, 1)?
    })
}

/// Does `work` while a rule is in force, which has to have been followed by the end.
pub(crate) async fn under<T>(
    bed: &Bed,
    rule: Rule,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    let name = rule.name.clone();
    bed.misbehaving()?.misbehave(rule).await?;
    let outcome = work.await;
    let done = bed.misbehaving()?.behave(&name).await?;
    let outcome = outcome.with_context(|| format!("while {name} was in force"))?;
    ensure!(done > 0, "nothing has come of {name}");
    Ok(outcome)
}

/// A NIC comes, is usable, goes, and leaves nothing.
pub(crate) async fn a_nic_comes_and_goes(bed: &Bed, vm: &Vm) -> Result<()> {
    let client = bed.client();
    let container = vm.guest.make_container().await?;
    let nic = attach_new(&client, vm, container.target()).await?;
    is_usable(vm, &container, &nic).await?;
    let detached = detach(&client, &nic.id).await?;
    has_left(bed, vm, &container, &detached).await?;
    retire(&client, &nic.id).await?;
    vm.guest.kill_container(&container).await
}
