//! Names and addresses that are too long, change meanwhile, or are another's.

use anyhow::{Result, ensure};
use host_api::{AttachNic, CreateNic, NicState, ProblemCode};
use testbeds::bed::{Bed, Vm};
use testbeds::guest::{GuestLink, Where};
use testbeds::requests::{
    PATIENCE, at_once, in_state, into, nic_into, nic_on_blue, refusal, retire, settled,
    static_addresses,
};
use testbeds::scenario::Scenario;
use testbeds::scenarios;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::guests::until_state;
use super::usable::is_usable;

/// As long as a link's name may be (`IFNAMSIZ` less its terminator).
const LONGEST: &str = "a-name-of-15-by";

pub(crate) fn scenarios() -> Vec<Scenario> {
    scenarios![
        a_link_name_of_fifteen_letters_is_used_and_a_longer_one_refused,
        a_link_that_is_renamed_after_it_was_seen_is_still_bound,
        an_address_that_another_nic_has_is_refused,
    ]
}

async fn a_link_name_of_fifteen_letters_is_used_and_a_longer_one_refused(bed: &Bed) -> Result<()> {
    let vm = bed.vm("vm1").await?;
    let client = bed.client();
    let container = vm.guest.make_container().await?;
    let request = CreateNic {
        attach: Some(AttachNic {
            link_name: Some(LONGEST.parse()?),
            ..into(&vm, container.target())
        }),
        ..nic_on_blue()
    };
    // A hostd in memory listens nowhere, and its client can say nothing that long.
    if let Ok(socket) = bed.hostd().socket() {
        let before = bed.host().state().await?;
        let body = serde_json::to_string(&request)?.replace(LONGEST, &format!("{LONGEST}t"));
        let answer = post(socket, &body).await?;
        ensure!(answer.starts_with("HTTP/1.1 4"), "{answer}");
        ensure!(answer.contains("attach.link_name"), "{answer}");
        ensure!(bed.host().state().await? == before, "the host was touched");
    }
    let longer = format!("{LONGEST}t").parse::<nic_model::LinkName>();
    ensure!(longer.is_err(), "{longer:?}");

    let answer = client.create_nic(&request, &settled()).await?;

    let nic = in_state(answer, NicState::InUse)?;
    let links = vm.guest.links(&container.place()).await?;
    ensure!(links.iter().any(|link| link.name == LONGEST), "{links:?}");
    is_usable(&vm, &container, &nic).await?;
    retire(&client, &nic.id).await?;
    vm.guest.kill_container(&container).await
}

/// Asks for a NIC past the client, and gives the answer as it comes.
async fn post(socket: &std::path::Path, body: &str) -> Result<String> {
    let mut stream = UnixStream::connect(socket).await?;
    let head = format!(
        "POST /v1/nics HTTP/1.1\r\nHost: hostd\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    let mut answer = String::new();
    tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer)).await??;
    Ok(answer)
}

/// The agent stands still meanwhile: what it has been told of the link when it goes on is the name
/// of before, and it moves what bears the new one.
async fn a_link_that_is_renamed_after_it_was_seen_is_still_bound(bed: &Bed) -> Result<()> {
    let vm = bed.vm("vm1").await?;
    let client = bed.client();
    let container = vm.guest.make_container().await?;
    vm.guest.agent().stall().await?;
    let request = nic_into(&vm, container.target());
    let begun = client.create_nic(&request, &at_once()).await?.nic;
    let own = || async {
        let links = vm.guest.links(&Where::Guest).await?;
        let mut links = links.into_iter();
        anyhow::Ok(links.find(|link| link.mac == Some(begun.mac)))
    };
    let link = bed.until("the link is there", PATIENCE, own).await?;

    rename(bed, &vm, &link).await?;
    vm.guest.agent().resume().await?;

    let nic = until_state(bed, &begun.id, NicState::InUse).await?;
    is_usable(&vm, &container, &nic).await?;
    retire(&client, &nic.id).await?;
    vm.guest.kill_container(&container).await
}

/// Where there is no shell to do it by, the guest's own udev does.
async fn rename(bed: &Bed, vm: &Vm, link: &GuestLink) -> Result<()> {
    if let Ok(shell) = vm.guest.shell() {
        let script = format!("ip link set dev {} name by-udev", link.name);
        return shell.succeed(&script).await.map(drop);
    }
    bed.until("udev has renamed the link", PATIENCE, || async {
        let links = vm.guest.links(&Where::Guest).await?;
        let mut links = links.iter().filter(|found| found.mac == link.mac);
        Ok(links.any(|found| found.name != "eth0").then_some(()))
    })
    .await
}

async fn an_address_that_another_nic_has_is_refused(bed: &Bed) -> Result<()> {
    let client = bed.client();
    let before = bed.host().state().await?;
    let with = |addresses: &[&str]| -> Result<CreateNic> {
        Ok(CreateNic {
            addressing: Some(static_addresses(addresses)?),
            ..nic_on_blue()
        })
    };
    let first = with(&["10.77.0.30/24", "fd77::30/64"])?;
    let first = client.create_nic(&first, &settled()).await?.nic;

    for addresses in [
        ["10.77.0.30/24", "fd77::31/64"],
        ["10.77.0.31/24", "fd77::30/64"],
    ] {
        let problem = refusal(client.create_nic(&with(&addresses)?, &settled()).await)?;
        ensure!(problem.code == ProblemCode::Conflict, "{problem:?}");
        let field = problem.field.as_deref().unwrap_or_default();
        ensure!(field.starts_with("addressing"), "{problem:?}");
    }

    ensure!(bed.host().state().await? == before, "the host was touched");
    ensure!(client.nics().await?.nics.len() == 1, "one was promised");
    retire(&client, &first.id).await
}
