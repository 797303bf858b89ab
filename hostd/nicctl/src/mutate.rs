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

use std::future::Future;

use host_api::client::{Answer, ClientError, EventStream, Mutation, Progress};
use host_api::{AttachNic, Client, CreateNic, EventQuery, MoveNic, Nic, NicState, Wait};
use nic_model::{ClientToken, NicId, Target, VmId};

use crate::failure::Failure;
use crate::output::Output;
use crate::progress::Steps;
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

/// Makes `change` and shows how it goes.
pub(crate) async fn run(
    client: &Client,
    change: &Change,
    patience: &Patience,
    output: &Output,
) -> Result<(), Failure> {
    let mut steps = Steps::new(output);
    let answer = if patience.wait == Wait::NONE {
        change.send(client, patience, Wait::NONE).await?
    } else {
        follow(client, change, patience, &mut steps).await?
    };
    steps.finish(&answer.nic)?;
    output.body(&answer.nic, |nic| change.outcome(nic, answer.progress))?;
    change.verdict(answer, patience.wait)
}

async fn follow(
    client: &Client,
    change: &Change,
    patience: &Patience,
    steps: &mut Steps<'_>,
) -> Result<Answer, Failure> {
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
            admitted.nic.id
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

    /// Sends the change, and once more when the connection breaks: the token makes both one.
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
            Err(ClientError::Interrupted(_)) => self.send_once(client, &mutation).await,
            verdict => verdict,
        }
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
