//! What an operator does: asks hostd, and follows its event stream while hostd works.
//!
//! ```text
//!   nicctl's line ─► subscribe ─► send, waiting ─┬─ step events: a line each, as they come
//!                                                └─ answer: the steps no event told
//! ```

use std::future::Future;

use anyhow::{Context, Result, ensure};
use host_api::client::{Answer, ClientError, Progress};
use host_api::{AttachNic, Client, CreateNic, EventQuery, MoveNic, Nic, NicState, StepTiming};
use nic_model::{BitRate, NicId, RateLimits};
use testbeds::requests::settled;

use crate::screen::Screen;

/// Somebody with access to hostd's socket.
pub(crate) struct Operator<'a> {
    client: Client,
    screen: &'a Screen,
}

impl<'a> Operator<'a> {
    pub(crate) fn new(client: Client, screen: &'a Screen) -> Self {
        Self { client, screen }
    }

    pub(crate) async fn create(&self, request: &CreateNic) -> Result<Nic> {
        self.screen.command(&create_line(request));
        let wait = settled();
        let answer = self.client.create_nic(request, &wait);
        self.follow(answer, NicState::InUse).await
    }

    pub(crate) async fn relocate(&self, nic: &NicId, request: &MoveNic) -> Result<Nic> {
        let MoveNic { vm, target, .. } = request;
        let line = format!("nicctl nic move {nic} --vm {vm} --target {target}");
        self.screen.command(&line);
        let wait = settled();
        let answer = self.client.move_nic(nic, request, &wait);
        self.follow(answer, NicState::InUse).await
    }

    pub(crate) async fn detach(&self, nic: &NicId) -> Result<Nic> {
        self.screen.command(&format!("nicctl nic detach {nic}"));
        let wait = settled();
        let answer = self.client.detach_nic(nic, &wait);
        self.follow(answer, NicState::Available).await
    }

    pub(crate) async fn delete(&self, nic: &NicId) -> Result<()> {
        self.screen.command(&format!("nicctl nic delete {nic}"));
        let answer = self.client.delete_nic(nic, &settled()).await?;
        ensure!(
            answer.progress == Progress::Settled,
            "{nic} is not deleted yet: {:?}",
            answer.nic
        );
        Ok(())
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
                    let event = event.context("hostd closed its event stream")??;
                    self.show(event.step.as_slice(), &mut shown);
                }
            }
        };
        let nic = answer.nic;
        self.show(&nic.timings, &mut shown);
        if let (true, Some(problem)) = (nic.state != goal, &nic.last_error) {
            anyhow::bail!("{} is {}: {}", nic.id, nic.state, problem.message);
        }
        let reached = answer.progress == Progress::Settled && nic.state == goal;
        ensure!(reached, "{} is to be {goal}, but: {nic:?}", nic.id);
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
