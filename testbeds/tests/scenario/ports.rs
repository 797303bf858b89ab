//! Ports that cannot be made or restored, since something of the host is another's or is gone.

use anyhow::{Context, Result, ensure};
use host_api::{CreateNic, Nic, NicState};
use misbehaviour::Effect;
use nic_model::{BitRate, RateLimit, RateLimits};
use testbeds::bed::{Bed, Vm};
use testbeds::guest::Container;
use testbeds::host::Planted;
use testbeds::requests::{
    PATIENCE, in_state, into, nic_into, nic_on_blue, refusal, retire, settled,
};
use testbeds::scenario::{Scenario, not_in};
use testbeds::scenarios;
use testbeds::site::BRIDGE;
use testbeds::world::WorldKind;

use super::fault::{in_memory, rule_of_the_host, under};
use super::guests::until_state;
use super::usable::{has_left, is_usable};

pub(crate) fn scenarios() -> Vec<Scenario> {
    let real = not_in(
        scenarios![
            a_link_with_the_name_of_a_port_is_left_alone,
            a_network_without_its_bridge_takes_no_nic,
            a_port_whose_rates_cannot_be_restored_stays_closed_until_they_can,
        ],
        WorldKind::Sim,
        "its links are taps and nothing else, and its bridge is always there",
    );
    let memory = in_memory(scenarios![
        a_port_that_cannot_be_restored_at_first_is_restored_later
    ]);
    [real, memory].concat()
}

/// The NIC is there and nowhere after an attach that was refused, and can be attached then.
async fn attaches_after_all(bed: &Bed, vm: &Vm, container: &Container, nic: &Nic) -> Result<()> {
    let client = bed.client();
    let nic = until_state(bed, &nic.id, NicState::Available).await?;
    has_left(bed, vm, container, &nic).await?;
    let attach = into(vm, container.target());
    let again = client.attach_nic(&nic.id, &attach, &settled()).await?;
    is_usable(vm, container, &in_state(again, NicState::InUse)?).await?;
    retire(&client, &nic.id).await
}

async fn a_link_with_the_name_of_a_port_is_left_alone(bed: &Bed) -> Result<()> {
    let vm = bed.vm("vm1").await?;
    let client = bed.client();
    let container = vm.guest.make_container().await?;
    let nic = client.create_nic(&nic_on_blue(), &settled()).await?.nic;
    let name = nic.id.tap_name();
    bed.host().plant(&name, Planted::Bridge).await?;

    let attach = into(&vm, container.target());
    let refused = refusal(client.attach_nic(&nic.id, &attach, &settled()).await);
    let left = bed.host().state().await?.links.contains_key(&name);
    bed.host().remove_planted(&name).await?;

    let refused = refused?;
    ensure!(refused.message.contains(&name), "{refused:?}");
    ensure!(left, "{name} is gone, though it is another's");
    attaches_after_all(bed, &vm, &container, &nic).await?;
    vm.guest.kill_container(&container).await
}

async fn a_network_without_its_bridge_takes_no_nic(bed: &Bed) -> Result<()> {
    const HIDDEN: &str = "br-hidden";
    let vm = bed.vm("vm1").await?;
    let client = bed.client();
    let container = vm.guest.make_container().await?;
    let netns = &bed.host().site()?.netns;
    let rename = |from: &str, to: &str| format!("link set {from} name {to}");
    netns.ip(&rename(BRIDGE, HIDDEN)).await?;

    let request = nic_into(&vm, container.target());
    let refused = refusal(client.create_nic(&request, &settled()).await);
    netns.ip(&rename(HIDDEN, BRIDGE)).await?;

    let refused = refused?;
    ensure!(refused.message.contains(BRIDGE), "{refused:?}");
    let nic = refused.nic.context("the refusal names the NIC")?;
    let nic = client.nic(&nic).await?;
    attaches_after_all(bed, &vm, &container, &nic).await?;
    vm.guest.kill_container(&container).await
}

/// A NIC in use whose sending is limited.
async fn limited(bed: &Bed, vm: &Vm, container: &Container) -> Result<Nic> {
    let outbound = RateLimit {
        bandwidth: Some(BitRate::from_megabits_per_second(100)),
        packets: None,
    };
    let request = CreateNic {
        limits: Some(RateLimits {
            outbound,
            ..RateLimits::default()
        }),
        ..nic_into(vm, container.target())
    };
    let answer = bed.client().create_nic(&request, &settled()).await?;
    in_state(answer, NicState::InUse)
}

/// What limits it has been taken away, and its place is another's: no frame may pass unlimited, and
/// so none does until hostd can limit them.
async fn a_port_whose_rates_cannot_be_restored_stays_closed_until_they_can(
    bed: &Bed,
) -> Result<()> {
    let vm = bed.vm("vm1").await?;
    let client = bed.client();
    let container = vm.guest.make_container().await?;
    let nic = limited(bed, &vm, &container).await?;
    let (tap, limiter) = (nic.id.tap_name(), nic.id.ifb_name());
    let in_network = || async {
        let master = bed.host().state().await?.links.remove(&tap);
        anyhow::Ok(master.flatten().as_deref() == Some(BRIDGE))
    };
    bed.host().remove_planted(&limiter).await?;
    bed.host().plant(&limiter, Planted::Bridge).await?;
    bed.host().take_out_of_bridge(&tap).await?;

    let told = bed.until("hostd says what is wrong", PATIENCE, || async {
        let nic = client.nic(&nic.id).await?;
        let said = format!("{:?} {:?}", nic.degraded, nic.blocked);
        Ok(said.contains(&limiter).then_some(nic))
    });
    let told = told.await;
    let open = in_network().await;
    bed.host().remove_planted(&limiter).await?;

    told?;
    ensure!(!open?, "frames pass that nothing limits");
    bed.until("the port is in its network", PATIENCE, || async {
        Ok(in_network().await?.then_some(()))
    })
    .await?;
    is_usable(&vm, &container, &nic).await?;
    retire(&client, &nic.id).await?;
    vm.guest.kill_container(&container).await
}

async fn a_port_that_cannot_be_restored_at_first_is_restored_later(bed: &Bed) -> Result<()> {
    let vm = bed.vm("vm1").await?;
    let client = bed.client();
    let container = vm.guest.make_container().await?;
    let nic = limited(bed, &vm, &container).await?;
    let tap = nic.id.tap_name();
    let text = "ENOBUFS at its rates".to_owned();
    let class = "GenericError".to_owned();
    let fails = rule_of_the_host("port.make", Effect::Error { class, text }, 2)?;

    under(bed, fails, async {
        bed.host().take_out_of_bridge(&tap).await?;
        bed.until("the port is in its network", PATIENCE, || async {
            let master = bed.host().state().await?.links.remove(&tap);
            Ok((master.flatten().as_deref() == Some(BRIDGE)).then_some(()))
        })
        .await
    })
    .await?;

    is_usable(&vm, &container, &nic).await?;
    retire(&client, &nic.id).await?;
    vm.guest.kill_container(&container).await
}
