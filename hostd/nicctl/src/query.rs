//! Commands that only look.

use std::time::Duration;

use host_api::client::{ClientError, EventStream};
use host_api::{Client, Event, EventKind, EventQuery};
use nic_model::{NicId, VmId};

use crate::failure::Failure;
use crate::output::{Format, Output};
use crate::view;

/// How often a broken stream is taken up again before giving up, and the first pause; each pause
/// is twice the one before: 6 s in all, enough for a restart of hostd.
const RESUME_ATTEMPTS: u32 = 6;
const RESUME_PAUSE: Duration = Duration::from_millis(100);

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
    loop {
        match events.next().await {
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
    let mut pause = RESUME_PAUSE;
    for _ in 0..RESUME_ATTEMPTS {
        tokio::time::sleep(pause).await;
        pause *= 2;
        match client.events(query, seen).await {
            Err(ClientError::NotReachable { .. } | ClientError::Interrupted(_)) => {}
            verdict => return verdict,
        }
    }
    client.events(query, seen).await
}
