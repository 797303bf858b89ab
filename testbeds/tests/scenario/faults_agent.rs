//! The channel to an agent, and the agent's own work, going wrong: bytes that are others, frames
//! that come late, twice or never, steps that the kernel refuses, a DHCP server that is silent.

use anyhow::{Context, Result, ensure};
use host_api::{CreateNic, NicState, ProblemCode};
use misbehaviour::{Effect, Side};
use testbeds::bed::Bed;
use testbeds::requests::{
    at_once, in_state, into, nic_into, nic_on_blue, refusal, retire, settled,
};
use testbeds::scenario::Scenario;
use testbeds::scenarios;

use super::attach::by_dhcp;
use super::fault::{a_nic_comes_and_goes, in_memory, rule, under};
use super::guests::ended;
use super::usable::{has_left, is_usable};

pub(crate) fn scenarios() -> Vec<Scenario> {
    let mut memory = Vec::new();
    for way in ["to-guest", "to-host"] {
        let effects = [
            ("corrupt", Effect::Corrupt),
            ("twice", Effect::Duplicate),
            (
                "late",
                Effect::Delay("3s".parse().expect("a length of time")),
            ),
            ("cut", Effect::Cut(Side::Before)),
        ];
        memory.extend(effects.map(|(how, effect)| channel(way, how, effect)));
        memory.push(lossy_channel(way));
    }
    memory.extend(scenarios![
        a_channel_that_falls_silent_is_connected_anew,
        a_step_that_is_refused_fails_the_attach_and_leaves_nothing,
        a_dhcp_server_that_loses_questions_is_asked_again,
    ]);
    [
        in_memory(memory),
        scenarios![a_silent_dhcp_server_fails_the_attach],
    ]
    .concat()
}

/// A NIC's whole life while this happens to three pieces of what crosses the channel.
fn channel(way: &'static str, how: &'static str, effect: Effect) -> Scenario {
    Scenario::new(format!("channel_{way}::{how}"), move |bed| {
        let effect = effect.clone();
        Box::pin(async move {
            let vm = bed.vm("vm1").await?;
            let rule = rule(&vm, &format!("channel.{way}"), effect, 3)?;
            under(bed, rule, a_nic_comes_and_goes(bed, &vm)).await
        })
    })
}

/// No virtio-serial port loses bytes while both its ends are open, and the protocol builds on that:
/// what is lost all the same costs an attach hostd's patience at most, and leaves nothing.
fn lossy_channel(way: &'static str) -> Scenario {
    Scenario::new(format!("channel_{way}::lost"), move |bed| {
        Box::pin(async move {
            let vm = bed.vm("vm1").await?;
            let client = bed.client();
            let container = vm.guest.make_container().await?;
            let request = nic_into(&vm, container.target());
            let loses = rule(&vm, &format!("channel.{way}"), Effect::Lose, 3)?;
            let nic = under(bed, loses, async {
                let nic = client.create_nic(&request, &at_once()).await?.nic;
                ended(bed, &nic.id).await
            });
            let nic = nic.await?;
            match nic.state {
                NicState::InUse => is_usable(&vm, &container, &nic).await?,
                NicState::Available
                | NicState::Attaching
                | NicState::Detaching
                | NicState::Deleting => has_left(bed, &vm, &container, &nic).await?,
            }
            retire(&client, &nic.id).await?;
            vm.guest.kill_container(&container).await?;
            a_nic_comes_and_goes(bed, &vm).await
        })
    })
}

async fn a_channel_that_falls_silent_is_connected_anew(bed: &Bed) -> Result<()> {
    let vm = bed.vm("vm1").await?;
    for way in ["channel.to-guest", "channel.to-host"] {
        let silent = rule(&vm, way, Effect::Stall, 1)?;
        under(bed, silent, a_nic_comes_and_goes(bed, &vm)).await?;
    }
    Ok(())
}

/// The steps of a bind at which the kernel can say no.
const STEPS: [&str; 4] = ["enter", "set-addresses", "set-up", "verify"];

async fn a_step_that_is_refused_fails_the_attach_and_leaves_nothing(bed: &Bed) -> Result<()> {
    let vm = bed.vm("vm1").await?;
    let client = bed.client();
    for step in STEPS {
        let container = vm.guest.make_container().await?;
        let request = nic_into(&vm, container.target());
        let no = Effect::Error {
            class: "GenericError".to_owned(),
            text: "EIO".to_owned(),
        };
        let refuses = rule(&vm, &format!("agent.{step}"), no, 1)?;

        let refused = under(bed, refuses, async {
            refusal(client.create_nic(&request, &settled()).await)
        });
        let refused = refused.await.with_context(|| step.to_owned())?;

        let expected = ProblemCode::GuestKernelRefused;
        ensure!(refused.code == expected, "{step}: {refused:?}");
        let nic = refused.nic.context("the refusal names the NIC")?;
        let nic = ended(bed, &nic).await?;
        ensure!(nic.state == NicState::Available, "{step}: {nic:?}");
        has_left(bed, &vm, &container, &nic).await?;
        retire(&client, &nic.id).await?;
        vm.guest.kill_container(&container).await?;
    }
    Ok(())
}

async fn a_dhcp_server_that_loses_questions_is_asked_again(bed: &Bed) -> Result<()> {
    let vm = bed.vm("vm1").await?;
    let client = bed.client();
    let _server = bed.host().start_dhcp_server().await?;
    let container = vm.guest.make_container().await?;
    let request = CreateNic {
        addressing: Some(by_dhcp()),
        attach: Some(into(&vm, container.target())),
        ..nic_on_blue()
    };
    let loses = rule(&vm, "dhcp.discover", Effect::Lose, 2)?;

    let attached = under(bed, loses, async {
        Ok(client.create_nic(&request, &settled()).await?)
    });
    let nic = in_state(attached.await?, NicState::InUse)?;

    is_usable(&vm, &container, &nic).await?;
    retire(&client, &nic.id).await?;
    vm.guest.kill_container(&container).await
}

async fn a_silent_dhcp_server_fails_the_attach(bed: &Bed) -> Result<()> {
    let vm = bed.vm("vm1").await?;
    let client = bed.client();
    let container = vm.guest.make_container().await?;
    let request = CreateNic {
        addressing: Some(by_dhcp()),
        attach: Some(into(&vm, container.target())),
        ..nic_on_blue()
    };

    let nic = client.create_nic(&request, &at_once()).await?.nic;
    let nic = ended(bed, &nic.id).await?;

    let code = nic.last_error.as_ref().map(|problem| problem.code);
    ensure!(code == Some(ProblemCode::NoLease), "{nic:?}");
    has_left(bed, &vm, &container, &nic).await?;
    retire(&client, &nic.id).await?;
    vm.guest.kill_container(&container).await
}
