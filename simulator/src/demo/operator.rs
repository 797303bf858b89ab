//! What an operator does: asks hostd, and follows its event stream while hostd works.
//!
//! ```text
//!   nicctl's line ─► subscribe ─► send, waiting ─┬─ step events: a line each, as they come
//!                                                └─ answer: the steps no event told
//! ```

use std::future::Future;

use host_api::client::{Answer, ClientError, Mutation, Progress};
use host_api::{AttachNic, Client, CreateNic, EventQuery, MoveNic, Nic, NicState, StepTiming};
use nic_model::{BitRate, NicId, RateLimits};

use super::Screen;

/// How long one thing may take before the answer comes without it.
const PATIENCE: &str = "60s";

/// What an operator asked for, and hostd did not do.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    /// hostd refused, or did not answer.
    #[error("hostd did not do it")]
    Client(#[from] ClientError),
    /// Its event stream ended.
    #[error("hostd closed its event stream")]
    StreamEnded,
    /// The NIC is not where it was to be.
    #[error("{nic} is {state} and not {goal}: {message}")]
    NotReached {
        /// Which.
        nic: NicId,
        /// What it is.
        state: NicState,
        /// What it was to be.
        goal: NicState,
        /// Why, where hostd says it.
        message: String,
    },
    /// The NIC is still there.
    #[error("{0} is not deleted yet")]
    NotDeleted(NicId),
}

type Result<T, E = OperatorError> = std::result::Result<T, E>;

/// Somebody with access to hostd's socket.
#[derive(Debug)]
pub struct Operator<'a> {
    client: Client,
    screen: &'a Screen,
}

impl<'a> Operator<'a> {
    /// One who is watched on `screen`.
    #[must_use]
    pub fn new(client: Client, screen: &'a Screen) -> Self {
        Self { client, screen }
    }

    /// Makes a NIC, and has it where it is to be.
    ///
    /// # Errors
    /// When it does not get there.
    pub async fn create(&self, request: &CreateNic) -> Result<Nic> {
        self.screen.command(&create_line(request));
        let wait = settled();
        let answer = self.client.create_nic(request, &wait);
        self.follow(answer, NicState::InUse).await
    }

    /// Moves a NIC.
    ///
    /// # Errors
    /// When it does not get there.
    pub async fn relocate(&self, nic: &NicId, request: &MoveNic) -> Result<Nic> {
        let MoveNic { vm, target, .. } = request;
        let line = format!("nicctl nic move {nic} --vm {vm} --target {target}");
        self.screen.command(&line);
        let wait = settled();
        let answer = self.client.move_nic(nic, request, &wait);
        self.follow(answer, NicState::InUse).await
    }

    /// Takes a NIC out of its VM.
    ///
    /// # Errors
    /// When it stays.
    pub async fn detach(&self, nic: &NicId) -> Result<Nic> {
        self.screen.command(&format!("nicctl nic detach {nic}"));
        let wait = settled();
        let answer = self.client.detach_nic(nic, &wait);
        self.follow(answer, NicState::Available).await
    }

    /// Deletes a NIC.
    ///
    /// # Errors
    /// When it stays.
    pub async fn delete(&self, nic: &NicId) -> Result<()> {
        self.screen.command(&format!("nicctl nic delete {nic}"));
        let answer = self.client.delete_nic(nic, &settled()).await?;
        match answer.progress {
            Progress::Settled => Ok(()),
            Progress::UnderWay => Err(OperatorError::NotDeleted(nic.clone())),
        }
    }

    /// Shows steps until the answer is there, which must find the NIC in `goal`.
    async fn follow(
        &self,
        answer: impl Future<Output = Result<Answer, ClientError>>,
        goal: NicState,
    ) -> Result<Nic> {
        // The request is sent when it is first polled: after the subscription.
        let mut events = self.client.events(&EventQuery::default(), None).await?;
        let mut shown = Vec::new();
        let mut answer = std::pin::pin!(answer);
        let answer = loop {
            tokio::select! {
                biased;
                answer = &mut answer => break answer?,
                event = events.next() => {
                    let event = event.ok_or(OperatorError::StreamEnded)??;
                    self.show(event.step.as_slice(), &mut shown);
                }
            }
        };
        let nic = answer.nic;
        self.show(&nic.timings, &mut shown);
        if answer.progress == Progress::UnderWay || nic.state != goal {
            let message = nic.last_error.map(|problem| problem.message);
            return Err(OperatorError::NotReached {
                nic: nic.id,
                state: nic.state,
                goal,
                message: message.unwrap_or_else(|| "hostd is still at it".to_owned()),
            });
        }
        self.screen.good(&outcome(&nic));
        Ok(nic)
    }

    fn show(&self, steps: &[StepTiming], shown: &mut Vec<StepTiming>) {
        for step in steps {
            if !shown.contains(step) {
                self.screen.step(step);
                shown.push(step.clone());
            }
        }
    }
}

fn settled() -> Mutation {
    Mutation {
        token: None,
        wait: Some(PATIENCE.parse().expect("a minute can be waited for")),
    }
}

/// The line that makes nicctl send `request`.
fn create_line(request: &CreateNic) -> String {
    let mut line = format!("nicctl nic create --network {}", request.network);
    if let Some(RateLimits { inbound, outbound }) = &request.limits {
        let rates = [("in", inbound.bandwidth), ("out", outbound.bandwidth)];
        for (direction, rate) in rates {
            let Some(rate) = rate else { continue };
            line += &format!(" --bandwidth-{direction} {}", short(rate));
        }
    }
    if let Some(AttachNic {
        vm,
        target,
        link_name,
    }) = &request.attach
    {
        line += &format!(" --attach {vm} --target {target}");
        if let Some(name) = link_name {
            line += &format!(" --name {name}");
        }
    }
    line
}

/// A rate as nicctl takes it.
fn short(rate: BitRate) -> String {
    match rate.bits_per_second() {
        bits if bits % 1_000_000 == 0 => format!("{}M", bits / 1_000_000),
        bits => bits.to_string(),
    }
}

/// A NIC at rest, in one line.
fn outcome(nic: &Nic) -> String {
    let ends = nic.timings.iter().filter_map(StepTiming::end_ms);
    let total = ends.fold(0.0, f64::max);
    let place = nic.placement.as_ref();
    let place = place.map(|place| format!(" in {}, {}", place.vm, place.target));
    format!(
        "{} is {}{} after {total:.1} ms",
        nic.id,
        nic.state,
        place.unwrap_or_default()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_shown_asks_for_what_is_sent() {
        let request: CreateNic = serde_json::from_value(serde_json::json!({
            "network": "blue",
            "limits": { "in": { "bandwidth": 100_000_000 } },
            "attach": {
                "vm": "vm1", "target": { "kind": "netns", "name": "red" }, "link_name": "eth0",
            },
        }))
        .unwrap();

        assert_eq!(
            create_line(&request),
            "nicctl nic create --network blue --bandwidth-in 100M --attach vm1 \
             --target netns:red --name eth0"
        );
    }
}
