//! The agent, killed with -9 at every step it takes: its next life finds out from the kernel what
//! is done already, and does the rest.
//!
//! ```text
//!   one undisturbed operation ─► the steps the agent reports ─► before the first, after each:
//!       agent is told to die there ─► the operation ─► it died ─► all as if nothing had happened
//! ```

use anyhow::{Context, Result, ensure};
use host_api::{CreateNic, Nic, NicState, StepSource};
use nic_model::Route;
use testbeds::bed::{Bed, Vm};
use testbeds::guest::{Admin, Container, Where};
use testbeds::requests::{
    PATIENCE, attach_new, detach, in_state, into, nic_on_blue, retire, settled,
};
use testbeds::scenario::Scenario;
use testbeds::scenarios;
use testbeds::site::HOST_V4;

use super::attach::by_dhcp;
use super::usable::{is_bare, is_usable};

/// Not a network of the site's: a route that only the NIC brings.
const BEYOND: &str = "10.99.0.0/16";

pub(crate) fn scenarios() -> Vec<Scenario> {
    scenarios![
        agent_killed_at_every_step_of_a_bind,
        agent_killed_once_it_has_a_lease,
        agent_killed_while_releasing,
        agent_killed_while_taking_back_a_link,
        agent_killed_while_a_nic_is_in_use,
    ]
}

async fn agent_killed_at_every_step_of_a_bind(bed: &Bed) -> Result<()> {
    let route = Route {
        destination: BEYOND.parse()?,
        gateway: Some(HOST_V4.into()),
        metric: None,
    };
    let request = CreateNic {
        routes: Some(vec![route]),
        ..nic_on_blue()
    };
    let steps = steps_of_a_bind(bed, &request).await?;

    // More than these may come to be; without one of these it would be no bind.
    for step in ["enter", "set-addresses", "set-up", "set-routes", "verify"] {
        ensure!(steps.iter().any(|name| name == step), "{step}: {steps:?}");
    }
    for failpoint in around(&steps) {
        let bound = killed_while_binding(bed, &request, &failpoint).await;
        bound.with_context(|| format!("the agent killed at {failpoint}"))?;
    }
    Ok(())
}

async fn agent_killed_once_it_has_a_lease(bed: &Bed) -> Result<()> {
    let _server = bed.host().start_dhcp_server().await?;
    let request = CreateNic {
        addressing: Some(by_dhcp()),
        ..nic_on_blue()
    };
    let steps = steps_of_a_bind(bed, &request).await?;

    // The steps before it are those of any bind, and so are the last ones.
    let mut from_lease_on = steps.iter().skip_while(|step| *step != "lease");
    let lease = from_lease_on.next().context("no lease was asked for")?;
    let next = from_lease_on.next().context("nothing came of the lease")?;
    for step in [lease, next] {
        let failpoint = format!("{step}.after");
        let bound = killed_while_binding(bed, &request, &failpoint).await;
        bound.with_context(|| format!("the agent killed at {failpoint}"))?;
    }
    Ok(())
}

/// Before the first step and after each: nothing but memory lies between the end of one and the
/// beginning of the next.
fn around(steps: &[String]) -> Vec<String> {
    let first = steps.first().map(|step| format!("{step}.before"));
    let each = steps.iter().map(|step| format!("{step}.after"));
    first.into_iter().chain(each).collect()
}

/// Names of the agent's steps of an undisturbed attach, as failpoints name them.
async fn steps_of_a_bind(bed: &Bed, request: &CreateNic) -> Result<Vec<String>> {
    let vm = bed.vm("vm1").await?;
    let container = vm.guest.make_container().await?;
    let nic = bound(bed, &vm, request, &container).await?;
    let mut steps = Vec::new();
    for timing in &nic.timings {
        if timing.source == StepSource::Guest {
            let step = timing.step.0.strip_prefix("guest-");
            let step = step.with_context(|| format!("the guest's step {}", timing.step))?;
            if !steps.iter().any(|known| known == step) {
                steps.push(step.to_owned());
            }
        }
    }
    retire(&bed.client(), &nic.id).await?;
    vm.guest.kill_container(&container).await?;
    Ok(steps)
}

async fn bound(bed: &Bed, vm: &Vm, request: &CreateNic, container: &Container) -> Result<Nic> {
    let request = CreateNic {
        attach: Some(into(vm, container.target())),
        ..request.clone()
    };
    let answer = bed.client().create_nic(&request, &settled()).await?;
    in_state(answer, NicState::InUse)
}

async fn killed_while_binding(bed: &Bed, request: &CreateNic, failpoint: &str) -> Result<()> {
    let vm = bed.vm("vm1").await?;
    let container = vm.guest.make_container().await?;
    let agent = vm.guest.agent();
    agent.heed_failpoints().await?;
    agent.die_at(failpoint).await?;

    let nic = bound(bed, &vm, request, &container).await?;

    agent.died().await?;
    is_bound_once(&vm, &container, &nic).await?;
    detach(&bed.client(), &nic.id).await?;
    is_bare(&vm, &container).await?;
    retire(&bed.client(), &nic.id).await?;
    vm.guest.kill_container(&container).await
}

/// The NIC is usable, and neither the container nor the guest has anything besides.
async fn is_bound_once(vm: &Vm, container: &Container, nic: &Nic) -> Result<()> {
    is_usable(vm, container, nic).await?;
    let links = vm.guest.links(&container.place()).await?;
    ensure!(links.len() == 1, "one link was asked for: {links:?}");
    for place in [Where::Guest, holding()] {
        let links = vm.guest.links(&place).await?;
        ensure!(links.is_empty(), "in {place}: {links:?}");
    }
    for route in &nic.routes {
        let place = container.place();
        let listed = vm.guest.routes(&place, route.destination).await?;
        let gateways: Vec<_> = listed.iter().map(|route| route.gateway).collect();
        ensure!(
            gateways == [route.gateway],
            "one route to {} was asked for: {listed:?}",
            route.destination
        );
    }
    Ok(())
}

fn holding() -> Where {
    Where::Named("nicferry-holding".to_owned())
}

async fn agent_killed_while_releasing(bed: &Bed) -> Result<()> {
    let vm = bed.vm("vm1").await?;
    let client = bed.client();
    vm.guest.agent().heed_failpoints().await?;
    for failpoint in ["release.before", "release.after"] {
        let container = vm.guest.make_container().await?;
        let nic = attach_new(&client, &vm, container.target()).await?;
        vm.guest.agent().die_at(failpoint).await?;

        let detached = detach(&client, &nic.id).await?;

        let died = vm.guest.agent().died().await;
        died.with_context(|| failpoint.to_owned())?;
        ensure!(detached.placement.is_none(), "{failpoint}: {detached:?}");
        is_bare(&vm, &container).await?;
        bed.agent_is_ready(&vm.id).await?;
        retire(&client, &nic.id).await?;
        vm.guest.kill_container(&container).await?;
    }
    Ok(())
}

/// Waits until an agent that has just been started has told that the NIC is bound.
async fn agent_speaks(bed: &Bed, vm: &Vm, nic: &Nic) -> Result<()> {
    bed.until("the agent tells of the NIC", PATIENCE, || async {
        let told = vm.guest.agent().has_told_bound(&nic.id).await?;
        Ok(told.then_some(()))
    })
    .await
}

/// The container is dead and the kernel has given the link back: whatever becomes of the agent
/// then, the link may not stay in the guest's own namespace.
async fn agent_killed_while_taking_back_a_link(bed: &Bed) -> Result<()> {
    let vm = bed.vm("vm1").await?;
    let client = bed.client();
    vm.guest.agent().heed_failpoints().await?;
    for failpoint in ["hold.before", "hold.after"] {
        let container = vm.guest.make_container().await?;
        let nic = attach_new(&client, &vm, container.target()).await?;
        vm.guest.agent().die_at(failpoint).await?;

        vm.guest.kill_container(&container).await?;

        let died = vm.guest.agent().died().await;
        died.with_context(|| failpoint.to_owned())?;
        bed.until("the link is held", PATIENCE, || async {
            let held = vm.guest.links(&holding()).await?;
            let is_it = |admin| move |mac| mac == Some(nic.mac) && admin == Admin::Down;
            let found = held.iter().any(|link| is_it(link.admin)(link.mac));
            Ok(found.then_some(()))
        })
        .await
        .with_context(|| failpoint.to_owned())?;
        let own = vm.guest.links(&Where::Guest).await?;
        ensure!(own.is_empty(), "{failpoint}: in the guest's own: {own:?}");
        bed.until("the NIC is reported as degraded", PATIENCE, || async {
            Ok(client.nic(&nic.id).await?.degraded)
        })
        .await
        .with_context(|| failpoint.to_owned())?;
        retire(&client, &nic.id).await?;
    }
    Ok(())
}

async fn agent_killed_while_a_nic_is_in_use(bed: &Bed) -> Result<()> {
    let vm = bed.vm("vm1").await?;
    let client = bed.client();
    let container = vm.guest.make_container().await?;
    let nic = attach_new(&client, &vm, container.target()).await?;

    vm.guest.agent().kill().await?;
    let still = client.nic(&nic.id).await?;

    ensure!(still.state == NicState::InUse, "{still:?}");
    is_usable(&vm, &container, &nic).await?;
    agent_speaks(bed, &vm, &nic).await?;
    is_bound_once(&vm, &container, &nic).await?;
    retire(&client, &nic.id).await?;
    bed.agent_is_ready(&vm.id).await?;
    vm.guest.kill_container(&container).await
}
