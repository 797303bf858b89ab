//! hostd's own host going wrong: a disk that is full, slow or broken, ports that cannot be made,
//! power that is lost, a hostd that dies wherever it can.

use anyhow::{Context, Result, ensure};
use futures::future::join_all;
use host_api::client::Mutation;
use host_api::{NicState, ProblemCode};
use misbehaviour::{Effect, Side};
use simulator::sim::Death;
use testbeds::bed::Bed;
use testbeds::requests::{
    PATIENCE, at_once, attach_new, detach, in_state, into, nic_into, nic_on_blue, refusal, retire,
    settled,
};
use testbeds::scenario::Scenario;
use testbeds::scenarios;
use testbeds::vm::VmOptions;

use super::crashes::has_no_port;
use super::fault::{a_nic_comes_and_goes, full_disk, in_memory, rule_of_the_host, to_order, under};
use super::guests::until_state;
use super::usable::{has_left, is_usable};

pub(crate) fn scenarios() -> Vec<Scenario> {
    let memory = in_memory(scenarios![
        a_disk_that_cannot_be_synced_ends_hostd,
        a_slow_disk_slows_and_breaks_nothing,
        what_was_acknowledged_survives_a_power_loss,
        a_port_that_cannot_be_made_fails_the_attach,
        a_port_that_cannot_be_isolated_at_first_is_isolated_later,
        a_port_that_cannot_be_removed_at_first_is_removed_later,
        a_slow_port_is_waited_for,
        hostd_killed_at_every_effect_of_an_attach,
        hostd_killed_at_every_effect_of_a_detach,
        hostd_that_dies_again_and_again_gets_there,
        a_wall_clock_that_jumps_changes_nothing,
    ]);
    let full = to_order(scenarios![
        a_full_disk_refuses_new_work_before_anything_is_done,
        a_full_disk_lets_a_detach_finish,
    ]);
    [
        full,
        memory,
        scenarios![one_token_sent_by_many_at_once_has_one_effect],
    ]
    .concat()
}

fn error(text: &str) -> Effect {
    Effect::Error {
        class: "GenericError".to_owned(),
        text: text.to_owned(),
    }
}

async fn a_full_disk_refuses_new_work_before_anything_is_done(bed: &Bed) -> Result<()> {
    let vm = bed.vm("vm1").await?;
    let client = bed.client();
    let container = vm.guest.make_container().await?;
    let before = bed.host().state().await?;
    let request = nic_into(&vm, container.target());
    let full = full_disk()?;

    let refused = under(bed, full, async {
        refusal(client.create_nic(&request, &settled()).await)
    });
    let refused = refused.await?;

    ensure!(refused.code == ProblemCode::JournalFull, "{refused:?}");
    ensure!(bed.host().state().await? == before, "the host was touched");
    ensure!(client.nics().await?.nics.is_empty(), "a NIC was made");
    a_nic_comes_and_goes(bed, &vm).await?;
    vm.guest.kill_container(&container).await
}

/// Room is kept for what gives something up.
async fn a_full_disk_lets_a_detach_finish(bed: &Bed) -> Result<()> {
    let vm = bed.vm("vm1").await?;
    let client = bed.client();
    let container = vm.guest.make_container().await?;
    let nic = attach_new(&client, &vm, container.target()).await?;
    let full = full_disk()?;

    let detached = under(bed, full, detach(&client, &nic.id)).await?;

    has_left(bed, &vm, &container, &detached).await?;
    retire(&client, &nic.id).await?;
    vm.guest.kill_container(&container).await
}

/// What the disk holds then is not known: the process ends, and the next one reads it.
async fn a_disk_that_cannot_be_synced_ends_hostd(bed: &Bed) -> Result<()> {
    let vm = bed.vm("vm1").await?;
    let client = bed.client();
    let container = vm.guest.make_container().await?;
    let broken = rule_of_the_host("journal.commit", Effect::FsyncError, 1)?;
    let request = nic_into(&vm, container.target());
    let mutation = Mutation {
        token: Some("sent-again".parse()?),
        ..settled()
    };

    under(bed, broken, async {
        let answer = client.create_nic(&request, &mutation).await;
        ensure!(answer.is_err(), "{answer:?}");
        bed.hostd().died().await
    })
    .await?;
    bed.hostd().start(None).await?;
    bed.vm_is_seen(&vm.id).await?;
    let answer = client.create_nic(&request, &mutation).await?;

    let nic = in_state(answer, NicState::InUse)?;
    ensure!(client.nics().await?.nics.len() == 1, "one was asked for");
    is_usable(&vm, &container, &nic).await?;
    retire(&client, &nic.id).await?;
    vm.guest.kill_container(&container).await
}

async fn a_slow_disk_slows_and_breaks_nothing(bed: &Bed) -> Result<()> {
    let vm = bed.vm("vm1").await?;
    let slow = rule_of_the_host("journal.commit", Effect::Delay("3s".parse()?), 1000)?;
    under(bed, slow, a_nic_comes_and_goes(bed, &vm)).await
}

/// The VMs are off afterwards, so the NIC is nowhere; but it is, and is what it was.
async fn what_was_acknowledged_survives_a_power_loss(bed: &Bed) -> Result<()> {
    let vm = bed.boot(VmOptions::named("vm3")?).await?;
    let client = bed.client();
    bed.agent_is_ready(&vm.id).await?;
    let container = vm.guest.make_container().await?;
    let nic = attach_new(&client, &vm, container.target()).await?;
    let made = client.create_nic(&nic_on_blue(), &settled()).await?;
    let other = in_state(made, NicState::Available)?;

    bed.simulated()?.simulated_host().lose_power();
    bed.forget_vm(&vm.id).await;
    bed.hostd().start(None).await?;

    let kept = until_state(bed, &nic.id, NicState::Available).await?;
    ensure!(
        (kept.mac, &kept.addresses) == (nic.mac, &nic.addresses),
        "{kept:?} differs from {nic:?}"
    );
    ensure!(
        client.nic(&other.id).await? == other,
        "{other:?} is another"
    );
    for id in [&nic.id, &other.id] {
        retire(&client, id).await?;
    }
    Ok(())
}

/// A tap of that name is somebody else's, there are no numbers for links left, the bridge is gone.
async fn a_port_that_cannot_be_made_fails_the_attach(bed: &Bed) -> Result<()> {
    let vm = bed.vm("vm1").await?;
    let client = bed.client();
    for text in ["EBUSY", "ENOSPC", "no bridge br-blue"] {
        let container = vm.guest.make_container().await?;
        let request = nic_into(&vm, container.target());
        let refuses = rule_of_the_host("port.make", error(text), 2)?;
        let refused = under(bed, refuses, async {
            refusal(client.create_nic(&request, &settled()).await)
        });
        let refused = refused.await?;

        ensure!(refused.message.contains(text), "{refused:?}");
        let nic = refused.nic.context("the refusal names the NIC")?;
        let nic = until_state(bed, &nic, NicState::Available).await?;
        has_left(bed, &vm, &container, &nic).await?;
        let attach = into(&vm, container.target());
        let again = client.attach_nic(&nic.id, &attach, &settled()).await?;
        is_usable(&vm, &container, &in_state(again, NicState::InUse)?).await?;
        retire(&client, &nic.id).await?;
        vm.guest.kill_container(&container).await?;
    }
    Ok(())
}

async fn a_port_that_cannot_be_isolated_at_first_is_isolated_later(bed: &Bed) -> Result<()> {
    let vm = bed.vm("vm1").await?;
    let refuses = rule_of_the_host("port.isolate", error("EBUSY"), 2)?;
    under(bed, refuses, a_nic_comes_and_goes(bed, &vm)).await
}

/// Whoever deletes the NIC meanwhile is told, and hostd goes on by itself.
async fn a_port_that_cannot_be_removed_at_first_is_removed_later(bed: &Bed) -> Result<()> {
    let vm = bed.vm("vm1").await?;
    let client = bed.client();
    let container = vm.guest.make_container().await?;
    let nic = attach_new(&client, &vm, container.target()).await?;
    let refuses = rule_of_the_host("port.remove", error("EBUSY"), 2)?;

    let early = under(bed, refuses, async {
        detach(&client, &nic.id).await?;
        let early = refusal(client.delete_nic(&nic.id, &settled()).await)?;
        has_no_port(bed, &nic.id).await?;
        Ok(early)
    });
    let early = early.await?;

    ensure!(early.message.contains("tried again"), "{early:?}");
    bed.nic_is_gone(&nic.id, PATIENCE).await?;
    vm.guest.kill_container(&container).await
}

async fn a_slow_port_is_waited_for(bed: &Bed) -> Result<()> {
    let vm = bed.vm("vm1").await?;
    for operation in ["port.make", "port.isolate", "port.list"] {
        let slow = rule_of_the_host(operation, Effect::Delay("3s".parse()?), 3)?;
        under(bed, slow, a_nic_comes_and_goes(bed, &vm)).await?;
    }
    Ok(())
}

/// Each commit, change of a port, line to a monitor and frame to an agent, and both sides of it.
fn deaths() -> impl Iterator<Item = Death> {
    let sides = [Side::Before, Side::After];
    (1..).flat_map(move |effect| sides.map(|side| Death { effect, side }))
}

/// Has hostd die at one effect from now on.
fn die_at(bed: &Bed, death: Death) -> Result<()> {
    let host = bed.simulated()?.simulated_host();
    let life = host.life().context("no hostd runs")?;
    let effect = life.effects() + death.effect;
    life.die_at(Some(Death { effect, ..death }));
    Ok(())
}

/// Whether hostd has died there; it is started again then.
async fn has_died(bed: &Bed) -> Result<bool> {
    let host = bed.simulated()?.simulated_host();
    match host.life() {
        Some(life) => {
            life.die_at(None);
            Ok(false)
        }
        None => {
            bed.hostd().died().await?;
            bed.hostd().start(None).await?;
            Ok(true)
        }
    }
}

async fn hostd_killed_at_every_effect_of_an_attach(bed: &Bed) -> Result<()> {
    let vm = bed.vm("vm1").await?;
    let client = bed.client();
    for (number, death) in deaths().enumerate() {
        let container = vm.guest.make_container().await?;
        let request = nic_into(&vm, container.target());
        let mutation = Mutation {
            token: Some(format!("attach-{number}").parse()?),
            ..settled()
        };
        die_at(bed, death)?;
        let first = client.create_nic(&request, &mutation).await;
        let died = has_died(bed).await?;
        ensure!(died || first.is_ok(), "{death:?}: {first:?}");
        bed.vm_is_seen(&vm.id).await?;
        let again = client.create_nic(&request, &mutation).await?;
        let nic = in_state(again, NicState::InUse).with_context(|| format!("{death:?}"))?;
        ensure!(client.nics().await?.nics.len() == 1, "{death:?}");
        is_usable(&vm, &container, &nic).await?;
        retire(&client, &nic.id).await?;
        vm.guest.kill_container(&container).await?;
        if !died {
            ensure!(
                number > 20,
                "an attach has more than {number} sides of effects"
            );
            return Ok(());
        }
    }
    Ok(())
}

async fn hostd_killed_at_every_effect_of_a_detach(bed: &Bed) -> Result<()> {
    let vm = bed.vm("vm1").await?;
    let client = bed.client();
    for (number, death) in deaths().enumerate() {
        let container = vm.guest.make_container().await?;
        let nic = attach_new(&client, &vm, container.target()).await?;
        die_at(bed, death)?;
        drop(client.detach_nic(&nic.id, &settled()).await);
        let died = has_died(bed).await?;
        // Where it died before it had promised anything it is asked again.
        if client.nic(&nic.id).await?.state == NicState::InUse {
            client.detach_nic(&nic.id, &at_once()).await?;
        }
        let detached = until_state(bed, &nic.id, NicState::Available).await;
        let detached = detached.with_context(|| format!("{death:?}"))?;
        has_left(bed, &vm, &container, &detached).await?;
        retire(&client, &nic.id).await?;
        vm.guest.kill_container(&container).await?;
        if !died {
            ensure!(
                number > 20,
                "a detach has more than {number} sides of effects"
            );
            return Ok(());
        }
    }
    Ok(())
}

/// Each life does a little, and what one has begun the next one finds.
async fn hostd_that_dies_again_and_again_gets_there(bed: &Bed) -> Result<()> {
    let vm = bed.vm("vm1").await?;
    let client = bed.client();
    let container = vm.guest.make_container().await?;
    let request = nic_into(&vm, container.target());
    let mutation = Mutation {
        token: Some("again-and-again".parse()?),
        ..settled()
    };
    for effect in [1, 2, 3, 5, 8, 13, 8, 5, 13, 21] {
        let death = Death {
            effect,
            side: Side::After,
        };
        die_at(bed, death)?;
        drop(client.create_nic(&request, &mutation).await);
        has_died(bed).await?;
    }

    let answer = client.create_nic(&request, &mutation).await?;

    let nic = in_state(answer, NicState::InUse)?;
    ensure!(client.nics().await?.nics.len() == 1, "one was asked for");
    is_usable(&vm, &container, &nic).await?;
    retire(&client, &nic.id).await?;
    vm.guest.kill_container(&container).await
}

/// Deadlines go by a clock that does not jump; the wall clock is shown to people alone.
async fn a_wall_clock_that_jumps_changes_nothing(bed: &Bed) -> Result<()> {
    let vm = bed.vm("vm1").await?;
    let stage = bed.simulated()?.stage();
    for seconds in [3600, -7200, 86_400 * 365] {
        stage.jump_clock(seconds);
        let jump = async {
            stage.jump_clock(-seconds);
            anyhow::Ok(())
        };
        tokio::try_join!(a_nic_comes_and_goes(bed, &vm), jump)?;
    }
    Ok(())
}

async fn one_token_sent_by_many_at_once_has_one_effect(bed: &Bed) -> Result<()> {
    let vm = bed.vm("vm1").await?;
    let client = bed.client();
    let container = vm.guest.make_container().await?;
    let request = nic_into(&vm, container.target());
    let mutation = Mutation {
        token: Some("sent-by-many".parse()?),
        ..settled()
    };

    let sent = (0..8).map(|_| client.create_nic(&request, &mutation));
    let answers = join_all(sent).await;

    let mut nics = Vec::new();
    for answer in answers {
        nics.push(in_state(answer?, NicState::InUse)?.id);
    }
    nics.dedup();
    ensure!(nics.len() == 1, "one token made {nics:?}");
    let all = client.nics().await?.nics;
    ensure!(all.len() == 1, "one was asked for: {all:?}");
    is_usable(&vm, &container, &all[0]).await?;
    retire(&client, &all[0].id).await?;
    vm.guest.kill_container(&container).await
}
