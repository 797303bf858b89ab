//! What a person does: nicctl, the program itself, against a running hostd.

use anyhow::{Context, Result, ensure};
use host_api::{Nic, NicState};
use testbeds::bed::Bed;
use testbeds::command::{self, Finished, words};
use testbeds::requests::PATIENCE;
use testbeds::scenario::{Scenario, not_in};
use testbeds::scenarios;
use testbeds::world::WorldKind;

use super::usable::{has_left, is_bare, is_usable};

/// nicctl's exit codes (README, "When things go wrong").
const REFUSED: i32 = 3;
const NOT_FOUND: i32 = 4;

pub(crate) fn scenarios() -> Vec<Scenario> {
    not_in(
        scenarios![a_person_does_it_all_with_nicctl],
        WorldKind::Sim,
        "nicctl is a program, and finds no socket of a hostd in memory",
    )
}

async fn nicctl(bed: &Bed, line: &str) -> Result<Finished> {
    let programs = bed.host().site()?.foundation.programs().await?;
    let mut nicctl = words(&format!("{} {line}", programs.nicctl.display()));
    nicctl.env("NICFERRY_SOCKET", bed.hostd().socket()?);
    command::run(&mut nicctl, PATIENCE).await
}

/// What a change answered, and that its steps were shown as they happened.
async fn changed(bed: &Bed, line: &str, shown: &str) -> Result<Nic> {
    let done = nicctl(bed, &format!("--json {line}")).await?;
    ensure!(done.status.success(), "{line}: {done:?}");
    ensure!(
        done.stderr.contains(shown),
        "{line} shows no step {shown}: {done:?}"
    );
    serde_json::from_str(&done.stdout).with_context(|| format!("{line} printed {}", done.stdout))
}

async fn fails(bed: &Bed, line: &str, code: i32, says: &str) -> Result<()> {
    let done = nicctl(bed, line).await?;
    ensure!(done.status.code() == Some(code), "{line}: {done:?}");
    ensure!(
        done.stderr.contains(says),
        "{line} does not say {says:?}: {done:?}"
    );
    Ok(())
}

async fn a_person_does_it_all_with_nicctl(bed: &Bed) -> Result<()> {
    let (first, second) = bed.two_vms().await?;
    let from = first.guest.make_container().await?;
    let to = second.guest.make_container().await?;
    let into = |vm: &str, target| format!("--attach {vm} --target {target}");

    let create = format!("nic create --network blue {}", into("vm1", from.target()));
    let nic = changed(bed, &create, "plug").await?;
    is_usable(&first, &from, &nic).await?;
    let id = &nic.id;
    fails(bed, &format!("nic delete {id}"), REFUSED, "in_use").await?;
    fails(bed, "nic show nic-0000000000", NOT_FOUND, "nic-0000000000").await?;
    let moving = format!("nic move {id} --vm vm2 --target {}", to.target());
    let moved = changed(bed, &moving, "guest-unplug").await?;
    is_usable(&second, &to, &moved).await?;
    has_left(bed, &first, &from, &moved).await?;
    let table = nicctl(bed, "vm list").await?;
    ensure!(
        table.stdout.contains("vm1") && table.stdout.contains("vm2"),
        "{table:?}"
    );
    let detached = changed(bed, &format!("nic detach {id}"), "guest-unplug").await?;
    ensure!(detached.state == NicState::Available, "{detached:?}");
    is_bare(&second, &to).await?;
    let deleted = nicctl(bed, &format!("nic delete {id}")).await?;
    ensure!(deleted.status.success(), "{deleted:?}");
    fails(bed, &format!("nic show {id}"), NOT_FOUND, id.as_str()).await?;

    first.guest.kill_container(&from).await?;
    second.guest.kill_container(&to).await
}
