//! Limits: refused before the host is touched, by name.

use anyhow::{Context, Result, ensure};
use futures::future::{join_all, try_join_all};
use host_api::{AttachNic, CreateNic, NicState, ProblemCode};
use testbeds::bed::{Bed, Vm};
use testbeds::guest::Container;
use testbeds::requests::{in_state, into, nic_on_blue, refusal, retire, settled};
use testbeds::scenario::Scenario;
use testbeds::scenarios;
use testbeds::vm::VmOptions;

pub(crate) fn scenarios() -> Vec<Scenario> {
    scenarios![
        slots_used_up,
        a_thousand_attaches_against_a_limit_of_eight,
        a_mac_that_is_taken,
    ]
}

fn numbered(vm: &Vm, container: &Container, number: usize) -> Result<CreateNic> {
    Ok(CreateNic {
        attach: Some(AttachNic {
            link_name: Some(format!("n{number}").parse()?),
            ..into(vm, container.target())
        }),
        ..nic_on_blue()
    })
}

async fn slots_used_up(bed: &Bed) -> Result<()> {
    let client = bed.client();
    let options = VmOptions {
        root_ports: 4,
        ..VmOptions::named("vm3")?
    };
    let vm = bed.boot(options).await?;
    bed.agent_is_ready(&vm.id).await?;
    let container = vm.guest.make_container().await?;
    // libvirt puts devices of its own into root ports: the free ones are what counts.
    let free = usize::try_from(client.vm(&vm.id).await?.slots.free)?;
    let mut nics = Vec::new();
    for number in 0..free {
        let request = numbered(&vm, &container, number)?;
        nics.push(in_state(
            client.create_nic(&request, &settled()).await?,
            NicState::InUse,
        )?);
    }
    let before = bed.host().state().await?;

    let one_more = numbered(&vm, &container, free)?;
    let problem = refusal(client.create_nic(&one_more, &settled()).await)?;

    ensure!(problem.code == ProblemCode::LimitExceeded, "{problem:?}");
    let limit = problem.limit.context("the refusal names the limit")?;
    ensure!(
        limit.name.contains("slot") && limit.usage >= limit.value,
        "{limit:?}"
    );
    ensure!(limit.frees.contains(vm.id.as_str()), "{limit:?}");
    ensure!(bed.host().state().await? == before, "the host was touched");
    try_join_all(nics.iter().map(|nic| retire(&client, &nic.id))).await?;
    bed.kill_vm(&vm.id).await
}

async fn a_thousand_attaches_against_a_limit_of_eight(bed: &Bed) -> Result<()> {
    const ATTEMPTS: usize = 1000;
    let vm = bed.vm("vm1").await?;
    let client = bed.client();
    let container = vm.guest.make_container().await?;
    let requests = (0..ATTEMPTS).map(|number| numbered(&vm, &container, number));
    let requests = requests.collect::<Result<Vec<_>>>()?;

    let wait = settled();
    let attempts = requests
        .iter()
        .map(|request| client.create_nic(request, &wait));
    let (done, refused): (Vec<_>, Vec<_>) = join_all(attempts)
        .await
        .into_iter()
        .partition(Result::is_ok);

    ensure!(
        done.len() == 8,
        "{} were done, not 8: {:?}",
        done.len(),
        refused.first()
    );
    for result in refused {
        let problem = refusal(result)?;
        ensure!(problem.code == ProblemCode::LimitExceeded, "{problem:?}");
        let limit = problem
            .limit
            .with_context(|| format!("no limit in {:?}", problem.message))?;
        let as_expected = (limit.name.as_str(), limit.value, limit.usage) == ("max_nics", 8, 8);
        ensure!(as_expected, "{limit:?}");
        ensure!(limit.frees.contains(vm.id.as_str()), "{limit:?}");
    }
    let mut nics = Vec::new();
    for answer in done {
        nics.push(in_state(answer?, NicState::InUse)?);
    }
    ensure!(
        client.nics().await?.nics.len() == 8,
        "refused NICs have records"
    );
    try_join_all(nics.iter().map(|nic| retire(&client, &nic.id))).await?;
    vm.guest.kill_container(&container).await
}

async fn a_mac_that_is_taken(bed: &Bed) -> Result<()> {
    let client = bed.client();
    let first = client.create_nic(&nic_on_blue(), &settled()).await?.nic;

    let again = CreateNic {
        mac: Some(first.mac),
        ..nic_on_blue()
    };
    let problem = refusal(client.create_nic(&again, &settled()).await)?;

    ensure!(problem.code == ProblemCode::Conflict, "{problem:?}");
    ensure!(problem.field.as_deref() == Some("mac"), "{problem:?}");
    retire(&client, &first.id).await
}
