//! Commands that change something.
//!
//! ```text
//!   subscribe ─► send (token, wait) ─┬─ step events ─► a line each
//!                   ▲                └─ answer ─► the steps no event told ─► verdict
//!                   └─ once more with the same token when the connection breaks
//! ```
//!
//! The id of a NIC that is only being made is not known before the first answer, so a create is
//! sent without a wait first and then again with it: the token makes both one request.

use std::cell::OnceCell;
use std::future::Future;

use host_api::client::{Answer, ClientError, EventStream, Mutation, Progress};
use host_api::{AttachNic, Client, CreateNic, EventQuery, MoveNic, Nic, NicState, Wait};
use nic_model::{ClientToken, NicId, Target, VmId};
use tokio::signal::unix::{SignalKind, signal};

use crate::failure::Failure;
use crate::output::Output;
use crate::progress::Steps;
use crate::resume;
use crate::view;

/// One change to one NIC.
#[derive(Debug)]
pub(crate) enum Change {
    Create(CreateNic),
    Attach(NicId, AttachNic),
    Move(NicId, MoveNic),
    Detach(NicId),
    Delete(NicId),
}

/// How a change is sent and how long it may take.
#[derive(Debug)]
pub(crate) struct Patience {
    pub(crate) token: ClientToken,
    pub(crate) wait: Wait,
}

/// Makes `change` and shows how it goes. Whoever loses patience is told that hostd goes on.
pub(crate) async fn run(
    client: &Client,
    change: &Change,
    patience: &Patience,
    output: &Output,
) -> Result<(), Failure> {
    let mut steps = Steps::new(output);
    let known = OnceCell::new();
    if let Some(nic) = change.nic() {
        drop(known.set(nic.clone()));
    }
    let answer = tokio::select! {
        biased;
        () = interrupted() => return Err(Failure::Interrupted(way_on(known.get(), patience))),
        answer = answered(client, change, patience, &known, &mut steps) => answer,
    };
    let answer = answer.map_err(|failure| unheard(failure, known.get(), patience))?;
    steps.finish(&answer.nic)?;
    output.body(&answer.nic, |nic| change.outcome(nic, answer.progress))?;
    change.verdict(answer, patience.wait)
}

fn unheard(failure: Failure, nic: Option<&NicId>, patience: &Patience) -> Failure {
    if let Failure::Client(cause) = failure {
        return if cause.may_have_happened() {
            let way_on = way_on(nic, patience);
            Failure::Unheard { cause, way_on }
        } else {
            Failure::Client(cause)
        };
    }
    failure
}

/// How to learn what became of a change that nobody has told the end of.
fn way_on(nic: Option<&NicId>, patience: &Patience) -> String {
    match nic {
        Some(nic) => format!("`nicctl nic watch {nic}` shows how it goes on"),
        None => format!("the same command with --token {} finds it", patience.token),
    }
}

/// Ends when somebody wants nicctl to end.
async fn interrupted() {
    let (Ok(mut interrupt), Ok(mut terminate)) = (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
    ) else {
        return std::future::pending().await;
    };
    tokio::select! {
        biased;
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

/// The answer to `change`. `known` gets the id of the NIC as soon as there is one.
async fn answered(
    client: &Client,
    change: &Change,
    patience: &Patience,
    known: &OnceCell<NicId>,
    steps: &mut Steps<'_>,
) -> Result<Answer, Failure> {
    if patience.wait == Wait::NONE {
        return Ok(change.send(client, patience, Wait::NONE).await?);
    }
    let query = EventQuery {
        nic: change.nic().cloned(),
        vm: None,
    };
    let mut events = subscribe(client, &query).await?;
    let nic = match change.nic() {
        Some(nic) => nic.clone(),
        None => {
            let admitted = change.send(client, patience, Wait::NONE).await?;
            if admitted.progress == Progress::Settled {
                return Ok(admitted);
            }
            known.get_or_init(|| admitted.nic.id).clone()
        }
    };
    let answer = change.send(client, patience, patience.wait);
    show_steps_until(answer, &nic, &mut events, steps).await
}

/// A stream of events is a comfort: when hostd has a reason to refuse it, the change goes ahead.
async fn subscribe(client: &Client, query: &EventQuery) -> Result<Option<EventStream>, Failure> {
    match client.events(query, None).await {
        Ok(events) => Ok(Some(events)),
        Err(ClientError::Problem { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

async fn show_steps_until(
    answer: impl Future<Output = Result<Answer, ClientError>>,
    nic: &NicId,
    events: &mut Option<EventStream>,
    steps: &mut Steps<'_>,
) -> Result<Answer, Failure> {
    let mut answer = std::pin::pin!(answer);
    loop {
        let Some(stream) = events else {
            return Ok(answer.await?);
        };
        tokio::select! {
            biased;
            answer = &mut answer => return Ok(answer?),
            event = stream.next() => match event {
                Some(Ok(event)) if event.nic.as_ref() == Some(nic) => {
                    steps.happened(&event)?;
                }
                Some(Ok(_)) => {}
                // Whatever it would have told is in the answer too.
                Some(Err(_)) | None => *events = None,
            },
        }
    }
}

impl Change {
    fn nic(&self) -> Option<&NicId> {
        match self {
            Self::Create(_) => None,
            Self::Attach(nic, _) | Self::Move(nic, _) | Self::Detach(nic) | Self::Delete(nic) => {
                Some(nic)
            }
        }
    }

    /// Sends the change, and once more when the connection breaks, as soon as somebody listens
    /// again: the token makes both one.
    async fn send(
        &self,
        client: &Client,
        patience: &Patience,
        wait: Wait,
    ) -> Result<Answer, ClientError> {
        let mutation = Mutation {
            token: Some(patience.token.clone()),
            wait: Some(wait),
        };
        match self.send_once(client, &mutation).await {
            Err(ClientError::Interrupted(_)) => {}
            verdict => return verdict,
        }
        for pause in resume::pauses() {
            match self.send_once(client, &mutation).await {
                Err(ClientError::NotReachable { .. }) => tokio::time::sleep(pause).await,
                verdict => return verdict,
            }
        }
        self.send_once(client, &mutation).await
    }

    async fn send_once(&self, client: &Client, mutation: &Mutation) -> Result<Answer, ClientError> {
        match self {
            Self::Create(request) => client.create_nic(request, mutation).await,
            Self::Attach(nic, request) => client.attach_nic(nic, request, mutation).await,
            Self::Move(nic, request) => client.move_nic(nic, request, mutation).await,
            Self::Detach(nic) => client.detach_nic(nic, mutation).await,
            Self::Delete(nic) => client.delete_nic(nic, mutation).await,
        }
    }

    fn outcome(&self, nic: &Nic, progress: Progress) -> String {
        match (self, progress) {
            (Self::Delete(id), Progress::Settled) => format!("{id} is deleted"),
            _ => view::outcome(nic),
        }
    }

    /// Whether the NIC is where it was to be. A settled NIC may be somewhere else: an attach that
    /// failed leaves it available, a move that failed leaves it at its old place.
    fn verdict(&self, answer: Answer, wait: Wait) -> Result<(), Failure> {
        let nic = Box::new(answer.nic);
        match answer.progress {
            Progress::UnderWay if wait == Wait::NONE => Ok(()),
            Progress::UnderWay => Err(Failure::NotSettled { nic, wait }),
            Progress::Settled if self.is_reached(&nic) => Ok(()),
            Progress::Settled => Err(Failure::Missed { nic }),
        }
    }

    fn is_reached(&self, nic: &Nic) -> bool {
        match self {
            Self::Create(request) => match &request.attach {
                Some(attach) => is_at(nic, &attach.vm, &attach.target),
                None => nic.state == NicState::Available,
            },
            Self::Attach(_, request) => is_at(nic, &request.vm, &request.target),
            Self::Move(_, request) => is_at(nic, &request.vm, &request.target),
            Self::Detach(_) => nic.state == NicState::Available,
            Self::Delete(_) => true,
        }
    }
}

fn is_at(nic: &Nic, vm: &VmId, target: &Target) -> bool {
    let placed = nic
        .placement
        .as_ref()
        .is_some_and(|place| place.vm == *vm && place.target == *target);
    nic.state == NicState::InUse && placed
}
