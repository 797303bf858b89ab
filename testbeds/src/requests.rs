//! What scenarios ask of hostd again and again, with waits that suit emulated guests.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use host_api::client::{Answer, ClientError, Mutation, Progress};
use host_api::{
    AddressingMode, AddressingRequest, AttachNic, Client, CreateNic, MoveNic, Nic, NicState,
    Problem, Wait,
};
use nic_model::{NicId, Target};

use crate::bed::Vm;
use crate::site::NETWORK;

/// How long hostd may take for one thing: under emulation an attach takes 0.3 s on a machine of
/// its own, and seconds on one that builds and boots beside it.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A mutation that waits until the NIC is settled.
///
/// # Panics
/// Never: a minute is shorter than the longest wait.
#[must_use]
pub fn settled() -> Mutation {
    let wait: Wait = "60s".parse().expect("a minute is a valid wait");
    Mutation {
        token: None,
        wait: Some(wait),
    }
}

/// A mutation that is answered at once.
#[must_use]
pub fn at_once() -> Mutation {
    Mutation::default()
}

/// A NIC on the network `blue` with addresses from hostd's allocator, nowhere.
///
/// # Panics
/// Never: the network's name is valid.
#[must_use]
pub fn nic_on_blue() -> CreateNic {
    CreateNic {
        tenant: None,
        network: NETWORK.parse().expect("a valid network name"),
        mac: None,
        addressing: None,
        mtu: None,
        routes: None,
        limits: None,
        queues: None,
        attach: None,
    }
}

/// An attachment to a target in `vm`, under the default link name.
#[must_use]
pub fn into(vm: &Vm, target: Target) -> AttachNic {
    AttachNic {
        vm: vm.id.clone(),
        target,
        link_name: None,
    }
}

/// A NIC as [`nic_on_blue`] has it, to be attached to a target in `vm` at once.
///
/// # Panics
/// Never: see [`nic_on_blue`].
#[must_use]
pub fn nic_into(vm: &Vm, target: Target) -> CreateNic {
    CreateNic {
        attach: Some(into(vm, target)),
        ..nic_on_blue()
    }
}

/// A move to a target in `vm`, under the link name of before.
#[must_use]
pub fn over_to(vm: &Vm, target: Target) -> MoveNic {
    MoveNic {
        vm: vm.id.clone(),
        target,
        link_name: None,
    }
}

/// Addressing with exactly these static addresses.
///
/// # Errors
/// When a text is not an address with its prefix length.
pub fn static_addresses(addresses: &[&str]) -> Result<AddressingRequest> {
    let addresses = addresses
        .iter()
        .map(|text| text.parse())
        .collect::<Result<_, _>>()?;
    Ok(AddressingRequest {
        mode: AddressingMode::Static,
        addresses,
    })
}

/// Makes a NIC in one request and waits until it is in use in `target`.
///
/// # Errors
/// When hostd refuses, or it is not in use when hostd answers.
pub async fn attach_new(client: &Client, vm: &Vm, target: Target) -> Result<Nic> {
    let request = nic_into(vm, target);
    let answer = client.create_nic(&request, &settled()).await?;
    in_state(answer, NicState::InUse)
}

/// Detaches a NIC and waits until it is nowhere.
///
/// # Errors
/// When hostd refuses, or it is still somewhere when hostd answers.
pub async fn detach(client: &Client, nic: &NicId) -> Result<Nic> {
    let answer = client.detach_nic(nic, &settled()).await?;
    in_state(answer, NicState::Available)
}

/// Takes a NIC out of wherever it is and deletes it, waiting until its record is gone.
///
/// # Errors
/// When hostd refuses or does not get there.
pub async fn retire(client: &Client, nic: &NicId) -> Result<()> {
    if client.nic(nic).await?.state != NicState::Available {
        detach(client, nic).await?;
    }
    let answer = client.delete_nic(nic, &settled()).await?;
    anyhow::ensure!(
        answer.progress == Progress::Settled,
        "{nic} is not deleted: {:?}",
        answer.nic
    );
    Ok(())
}

/// The NIC of an answer, which must be settled in `state`.
///
/// # Errors
/// When it is not; with all there is to know of it.
pub fn in_state(answer: Answer, state: NicState) -> Result<Nic> {
    let nic = answer.nic;
    let as_wanted = answer.progress == Progress::Settled && nic.state == state;
    as_wanted
        .then(|| nic.clone())
        .with_context(|| format!("{} is to be {state}, but: {nic:?}", nic.id))
}

/// Why hostd refused.
///
/// # Errors
/// When it did not, or could not be asked.
pub fn refusal<T>(result: Result<T, ClientError>) -> Result<Problem> {
    match result {
        Err(ClientError::Problem { problem, .. }) => Ok(*problem),
        Err(other) => Err(other.into()),
        Ok(_) => bail!("a refusal was expected"),
    }
}
