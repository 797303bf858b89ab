//! One NIC's turn: decide, do, tell the decisions how it went, until there is nothing left to do.

use std::time::Duration;

use nic_binding::Action;
use nic_model::NicId;
use tokio::time::Instant;

use super::Agent;
use crate::act::{perform, read_back};
use crate::kernel::{DhcpClient, GuestKernel, StepSide};
use crate::lease::{LeaseLink, LeaseReporter, RunningClient};
use crate::nic::{Effort, Nic};

/// Actions done for one NIC before others get their turn. A whole bind takes about ten; more means
/// that two parties undo each other's work.
const ACTIONS_IN_ONE_GO: usize = 40;

impl<K: GuestKernel> Agent<K> {
    /// Does what is to be done for one NIC until there is nothing left.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "all other actions are steps on the link"
    )]
    pub(super) async fn settle(&mut self, id: &NicId) {
        let Some(mut nic) = self.nics.remove(id) else {
            return;
        };
        for _ in 0..ACTIONS_IN_ONE_GO {
            let action = nic.binding.next();
            match &action {
                Action::Wait => break,
                Action::Look => {
                    let news = &self.news.0;
                    if let Err(error) = nic.look(&self.guest, news, Effort::Thorough).await {
                        tracing::warn!(%error, "will be looked for again");
                        break;
                    }
                }
                Action::Report(report) => {
                    tracing::info!(nic = %id, phase = ?report.phase, "report");
                    if let Err(error) = self.session.report((**report).clone()) {
                        tracing::error!(nic = %id, %error, "a report could not be sent");
                    }
                    self.transmit();
                    nic.binding.complete(&action, Ok(()), Duration::ZERO);
                }
                _ => {
                    self.pass(id, &action, StepSide::Before).await;
                    self.step(&action, &mut nic).await;
                    self.pass(id, &action, StepSide::After).await;
                }
            }
        }
        nic.let_go();
        self.nics.insert(id.clone(), nic);
    }

    async fn pass(&self, nic: &NicId, action: &Action, side: StepSide) {
        if let Some(step) = action.step() {
            self.guest.kernel.pass(nic, step, side).await;
        }
    }

    /// Does one step and tells the decisions how it went.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "three steps concern more than the link"
    )]
    async fn step(&mut self, action: &Action, nic: &mut Nic<K>) {
        let begun = Instant::now();
        let result = match action {
            Action::Verify => match read_back(nic).await {
                Ok(found) => return nic.binding.verified(found, begun.elapsed()),
                Err(failure) => Err(failure),
            },
            Action::StartLease => {
                self.start_lease(nic);
                Ok(())
            }
            Action::Hold | Action::Disarm | Action::Release | Action::Enter { .. } => {
                // One that only gets another name where it is keeps its client.
                let stays = matches!(action, Action::Enter { .. }) && nic.is_in_target();
                if let Some(running) = nic.lease.take_if(|_| !stays) {
                    running.client.stop().await;
                }
                perform(action, nic, &self.guest).await
            }
            _ => perform(action, nic, &self.guest).await,
        };
        if let Err(failure) = &result {
            let nic = &nic.binding.wanted().nic;
            tracing::warn!(%nic, step = ?action.step(), %failure, "a step failed");
        }
        let took = begun.elapsed();
        tracing::debug!(nic = %nic.binding.wanted().nic, step = ?action.step(), ?took, "step done");
        nic.binding.complete(action, result, took);
    }

    fn start_lease(&mut self, nic: &mut Nic<K>) {
        let (Some(at), Some(binding)) = (&nic.at, nic.binding.binding()) else {
            return;
        };
        self.clients_started += 1;
        let wanted = nic.binding.wanted();
        let link = LeaseLink {
            name: binding.link_name.clone(),
            index: at.index,
            mac: wanted.mac,
        };
        let reporter = LeaseReporter {
            nic: wanted.nic.clone(),
            client: self.clients_started,
            news: self.news.0.clone(),
        };
        let client = self
            .guest
            .kernel
            .start_dhcp(&at.space.netns, link, reporter);
        nic.lease = Some(RunningClient {
            number: self.clients_started,
            client,
        });
    }
}
