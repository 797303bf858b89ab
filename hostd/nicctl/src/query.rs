//! Commands that only look.

use host_api::client::{ClientError, EventStream};
use host_api::{Client, Event, EventKind, EventQuery, HealthStatus};
use nic_model::{NicId, VmId};

use crate::failure::Failure;
use crate::output::{Format, Output};
use crate::resume;
use crate::view;

pub(crate) async fn list_vms(client: &Client, output: &Output) -> Result<(), Failure> {
    let vms = client.vms().await?;
    Ok(output.body(&vms, |list| view::vms(&list.vms))?)
}

pub(crate) async fn show_vm(client: &Client, vm: &VmId, output: &Output) -> Result<(), Failure> {
    let vm = client.vm(vm).await?;
    Ok(output.body(&vm, view::vm)?)
}

pub(crate) async fn list_nics(
    client: &Client,
    vm: Option<&VmId>,
    output: &Output,
) -> Result<(), Failure> {
    let mut list = client.nics().await?;
    if let Some(vm) = vm {
        list.nics
            .retain(|nic| nic.placement.as_ref().is_some_and(|place| place.vm == *vm));
    }
    Ok(output.body(&list, |list| view::nics(&list.nics))?)
}

pub(crate) async fn show_nic(client: &Client, nic: &NicId, output: &Output) -> Result<(), Failure> {
    let nic = client.nic(nic).await?;
    Ok(output.body(&nic, view::nic)?)
}

pub(crate) async fn show_limits(client: &Client, output: &Output) -> Result<(), Failure> {
    let limits = client.limits().await?;
    Ok(output.body(&limits, |limits| view::limits(&limits.limits))?)
}

/// A hostd that cannot do all of its work is a failure here, so that a script can ask.
pub(crate) async fn show_health(client: &Client, output: &Output) -> Result<(), Failure> {
    let health = client.health().await?;
    output.body(&health, view::health)?;
    match health.status {
        HealthStatus::Ok => Ok(()),
        HealthStatus::Degraded => Err(Failure::Degraded),
    }
}

/// Shows the NIC, then its events. The subscription comes first, so that nothing falls between.
pub(crate) async fn watch_nic(client: &Client, nic: NicId, output: &Output) -> Result<(), Failure> {
    let query = EventQuery {
        nic: Some(nic.clone()),
        vm: None,
    };
    let events = client.events(&query, None).await?;
    let now = client.nic(&nic).await?;
    if output.format() == Format::People {
        output.people(&view::nic(&now))?;
    }
    follow(client, &query, events, None, output, |event| {
        event.kind == EventKind::NicDeleted
    })
    .await
}

/// Shows events until somebody ends the program.
pub(crate) async fn follow_events(
    client: &Client,
    query: &EventQuery,
    after: Option<u64>,
    output: &Output,
) -> Result<(), Failure> {
    let events = client.events(query, after).await?;
    follow(client, query, events, after, output, |_| false).await
}

async fn follow(
    client: &Client,
    query: &EventQuery,
    mut events: EventStream,
    mut seen: Option<u64>,
    output: &Output,
    is_last: impl Fn(&Event) -> bool,
) -> Result<(), Failure> {
    let mut reader_gone = std::pin::pin!(output.reader_gone());
    loop {
        let next = tokio::select! {
            biased;
            () = &mut reader_gone => return Ok(()),
            next = events.next() => next,
        };
        match next {
            Some(Ok(event)) => {
                seen = Some(event.id);
                output.body(&event, view::event)?;
                if is_last(&event) {
                    return Ok(());
                }
            }
            Some(Err(error @ ClientError::Protocol { .. })) => return Err(error.into()),
            Some(Err(_)) | None => events = resume(client, query, seen).await?,
        }
    }
}

async fn resume(
    client: &Client,
    query: &EventQuery,
    seen: Option<u64>,
) -> Result<EventStream, ClientError> {
    for pause in resume::pauses() {
        tokio::time::sleep(pause).await;
        match client.events(query, seen).await {
            Err(ClientError::NotReachable { .. } | ClientError::Interrupted(_)) => {}
            verdict => return verdict,
        }
    }
    client.events(query, seen).await
}
