//! The agent in a simulated guest: its real loop, ended and begun again at will.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use async_trait::async_trait;
use fake_guest::FakeGuest;
use misbehaviour::{Effect, Rule, Side, When};
use nic_model::NicId;
use simulator::sim::{Entry, SimVm, Stage};
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, sleep, timeout};

use crate::guest::{AgentControl, HostileBytes};

/// How long an agent may take to come to its failpoint.
const DEATH_DEADLINE: Duration = Duration::from_secs(60);
/// How often a rule is asked whether it has been followed.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// How long the host may take to read what it does not understand.
const SEND_DEADLINE: Duration = Duration::from_secs(10);

/// The agent of one guest.
#[derive(Debug)]
pub(super) struct SimAgent {
    vm: SimVm,
    stage: Stage,
    /// Entries of the trace before its present life.
    began: Cell<u64>,
}

impl SimAgent {
    pub(super) fn of(vm: SimVm, stage: &Stage) -> Self {
        Self {
            vm,
            stage: stage.clone(),
            began: Cell::new(0),
        }
    }

    fn guest(&self) -> Result<Arc<FakeGuest>> {
        let guest = self.vm.guest_handle();
        guest.with_context(|| format!("{} is off", self.vm.id()))
    }

    fn begins_anew(&self) {
        self.began.set(self.stage.trace().entries());
    }

    /// What has crossed this VM's channel or monitor since the agent's present life began.
    fn noted<T>(&self, look: impl Fn(&Entry) -> Option<T>) -> Option<T> {
        let trace = self.stage.trace();
        let new = trace.entries() - self.began.get();
        let known = trace.log().count();
        let skipped = known.saturating_sub(usize::try_from(new).unwrap_or(usize::MAX));
        let entries = trace.log().skip(skipped);
        let mut own = entries.filter(|entry| entry.who == self.vm.id().as_str());
        own.find_map(look)
    }

    fn death(&self) -> String {
        format!("the agent of {} dies", self.vm.id())
    }
}

#[async_trait(?Send)]
impl AgentControl for SimAgent {
    async fn stop(&self) -> Result<()> {
        self.guest()?.kill_agent();
        Ok(())
    }

    async fn start(&self) -> Result<()> {
        self.begins_anew();
        self.guest()?.start_agent();
        Ok(())
    }

    async fn kill(&self) -> Result<()> {
        self.begins_anew();
        self.guest()?.crash_agent();
        Ok(())
    }

    async fn heed_failpoints(&self) -> Result<()> {
        Ok(())
    }

    async fn die_at(&self, failpoint: &str) -> Result<()> {
        let (step, side) = failpoint.rsplit_once('.').context("STEP.SIDE")?;
        let side = match side {
            "before" => Side::Before,
            "after" => Side::After,
            other => bail!("{other} is no side"),
        };
        let mut rules = self.stage.rules();
        rules.remove(&self.death());
        rules.add(Rule {
            name: self.death(),
            operation: format!("agent.{step}").parse()?,
            vm: Some(self.vm.id().as_ref().clone()),
            nic: None,
            when: When::Always,
            times: Some(1),
            effect: Effect::Crash(side),
        })?;
        Ok(())
    }

    async fn died(&self) -> Result<()> {
        let give_up_at = Instant::now() + DEATH_DEADLINE;
        loop {
            let name = self.death();
            let done = self
                .stage
                .rules()
                .rules()
                .any(|(rule, done)| rule.name == name && done > 0);
            if done {
                self.stage.rules().remove(&name);
                return Ok(());
            }
            let patient = Instant::now() < give_up_at;
            anyhow::ensure!(patient, "the agent has not come to its failpoint");
            sleep(LOOK_AGAIN).await;
        }
    }

    async fn stall(&self) -> Result<()> {
        self.guest()?.stall_agent();
        Ok(())
    }

    async fn resume(&self) -> Result<()> {
        self.guest()?.resume_agent();
        Ok(())
    }

    async fn has_told_bound(&self, nic: &NicId) -> Result<bool> {
        let told = self.noted(|entry| {
            let is_it = entry.what == "agent<"
                && entry.text.contains(nic.as_str())
                && entry.text.contains("bound");
            is_it.then_some(())
        });
        Ok(told.is_some())
    }

    async fn send(&self, bytes: HostileBytes) -> Result<()> {
        let bytes = bytes.bytes();
        let mut port = self.guest()?.open_agent_port();
        // The host may read no more of it, which is its right.
        let sent = timeout(SEND_DEADLINE, port.write_all(&bytes)).await;
        sent.map(Result::unwrap_or_default).unwrap_or_default();
        Ok(())
    }

    async fn log(&self, _lines: u32) -> Result<String> {
        Ok("what it says is in the world's trace".to_owned())
    }
}
