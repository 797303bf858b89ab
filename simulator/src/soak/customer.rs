//! A client of hostd's that does as a client should: asks with a token, asks again with the same
//! one when the connection breaks or hostd says that it cannot now, and waits until it is done.

use std::time::Duration;

use host_api::client::{Answer, ClientError, Mutation, Progress};
use host_api::{AttachNic, Client, CreateNic, MoveNic, Nic, NicState, ProblemCode, Wait};
use nic_model::{ClientToken, NicId};
use oracle::model::Outcome;
use tokio::time::{Instant, sleep};

/// How soon a client that was not heard asks again.
const ASK_AGAIN: Duration = Duration::from_millis(250);
/// How often one that does not wait asks how its NIC is.
const LOOK: Duration = Duration::from_millis(100);
/// How long one goes on asking for what cannot be done now.
const PERSISTENCE: Duration = Duration::from_secs(120);
/// How long one goes on asking a hostd that does not answer at all.
const OUTAGE: Duration = Duration::from_secs(600);

/// What is asked for, in hostd's own words.
#[derive(Debug, Clone)]
pub(crate) enum Wish {
    Create(CreateNic),
    Attach(NicId, AttachNic),
    Detach(NicId),
    Move(NicId, MoveNic),
    Delete(NicId),
}

/// Whether a client waits for hostd, or looks for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    Waits,
    Looks,
}

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct Customer {
    pub(crate) client: Client,
    pub(crate) token: ClientToken,
    /// How long it waits before it takes things to be under way.
    pub(crate) wait: Duration,
    pub(crate) manner: Manner,
}

/// What became of a wish.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Told {
    pub(crate) outcome: Outcome,
    /// The NIC it was about, where there was an answer with one.
    pub(crate) nic: Option<NicId>,
    /// For people: the message of a problem.
    pub(crate) message: String,
}

impl Told {
    fn of(wish: &Wish, nic: &Nic, outcome: Outcome) -> Self {
        let outcome = match (wish, outcome) {
            (Wish::Delete(_), Outcome::Available | Outcome::UnderWay) => Outcome::Deleted,
            (_, outcome) => outcome,
        };
        Self {
            outcome,
            nic: Some(nic.id.clone()),
            message: String::new(),
        }
    }

    fn problem(code: ProblemCode, message: String) -> Self {
        Self {
            outcome: Outcome::Problem(code),
            nic: None,
            message,
        }
    }
}

impl Customer {
    /// Asks until there is an answer.
    pub(crate) async fn ask(&self, wish: &Wish) -> Told {
        let began = Instant::now();
        loop {
            let waited = began.elapsed();
            let patience = self.wait.saturating_sub(waited);
            match self.attempt(wish, patience).await {
                Ok(answer) => return self.see_through(wish, answer, began).await,
                Err(ClientError::Problem { problem, .. }) => {
                    if !is_for_now(problem.code) || waited >= PERSISTENCE {
                        return Told::problem(problem.code, problem.message);
                    }
                }
                Err(error) if waited >= OUTAGE => {
                    return Told::problem(ProblemCode::Unavailable, error.to_string());
                }
                Err(_not_heard) => {}
            }
            sleep(ASK_AGAIN).await;
        }
    }

    async fn attempt(&self, wish: &Wish, patience: Duration) -> Result<Answer, ClientError> {
        let wait = match self.manner {
            Manner::Waits => format!("{}ms", patience.as_millis()).parse().ok(),
            Manner::Looks => Some(Wait::NONE),
        };
        let how = Mutation {
            token: Some(self.token.clone()),
            wait,
        };
        match wish {
            Wish::Create(request) => self.client.create_nic(request, &how).await,
            Wish::Attach(nic, request) => self.client.attach_nic(nic, request, &how).await,
            Wish::Detach(nic) => self.client.detach_nic(nic, &how).await,
            Wish::Move(nic, request) => self.client.move_nic(nic, request, &how).await,
            Wish::Delete(nic) => self.client.delete_nic(nic, &how).await,
        }
    }

    /// Follows what is not done yet, for as long as it is not.
    async fn see_through(&self, wish: &Wish, answer: Answer, began: Instant) -> Told {
        if answer.progress == Progress::Settled || matches!(wish, Wish::Delete(_)) {
            let outcome = rested(&answer.nic);
            return Told::of(wish, &answer.nic, outcome);
        }
        let mut nic = answer.nic;
        while began.elapsed() < self.wait {
            sleep(LOOK).await;
            match self.client.nic(&nic.id).await {
                Ok(now) => nic = now,
                Err(_not_heard) => continue,
            }
            if nic.state.is_settled() {
                return match &nic.last_error {
                    Some(problem) => Told {
                        nic: Some(nic.id.clone()),
                        ..Told::problem(problem.code, problem.message.clone())
                    },
                    None => Told::of(wish, &nic, rested(&nic)),
                };
            }
        }
        Told::of(wish, &nic, Outcome::UnderWay)
    }
}

fn rested(nic: &Nic) -> Outcome {
    match nic.state {
        NicState::InUse => Outcome::InUse,
        NicState::Available => Outcome::Available,
        NicState::Deleting => Outcome::Deleted,
        NicState::Attaching | NicState::Detaching => Outcome::UnderWay,
    }
}

/// What a client is to ask for again. A fault of hostd's own is to be seen, not to be got over:
/// what its ledger lets through, its journal may still have refused.
fn is_for_now(code: ProblemCode) -> bool {
    matches!(
        code,
        ProblemCode::Unavailable
            | ProblemCode::HypervisorUnavailable
            | ProblemCode::JournalFull
            | ProblemCode::Overloaded
    )
}
