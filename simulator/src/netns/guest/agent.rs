//! The guest agent in a simulated guest: the real program, kept running as a service manager would.

use std::process::Command;
use std::time::Duration;

use nic_model::VmId;
use tokio::sync::watch;

use super::protocol::AgentWanted;
use crate::netns::plan::Programs;
use crate::netns::process::{Undertaker, described, log_to};
use crate::netns::site::Site;
use crate::netns::trouble::{Trouble, in_full};

/// As systemd's `RestartSec` has it.
const RESTART_PAUSE: Duration = Duration::from_millis(100);
/// A socket is there within milliseconds of a start.
const START_POLL: Duration = Duration::from_millis(1);
/// A guest is up also without an agent that works.
const START_DEADLINE: Duration = Duration::from_secs(2);

/// The agent of one guest.
#[derive(Debug, Clone)]
pub(super) struct Agent {
    wanted: watch::Sender<Wish>,
    channel: std::path::PathBuf,
}

/// What the agent is to do, and how often it has been told to die.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Wish {
    running: bool,
    deaths: u64,
}

impl Agent {
    /// Starts it, and goes on starting it.
    pub(super) fn start(
        vm: &VmId,
        site: &Site,
        programs: &Programs,
        undertaker: &Undertaker,
    ) -> Self {
        let (wanted, wishes) = watch::channel(Wish {
            running: true,
            deaths: 0,
        });
        let keeper = Keeper {
            program: programs.guest_agent.clone(),
            channel: site.channel(vm),
            log: site.agent_log(vm),
            undertaker: undertaker.clone(),
        };
        let channel = keeper.channel.clone();
        tokio::spawn(keeper.run(wishes));
        Self { wanted, channel }
    }

    /// Waits until it listens, or has had time enough for that.
    pub(super) async fn started(&self) {
        let listens = async {
            while !self.channel.exists() {
                tokio::time::sleep(START_POLL).await;
            }
        };
        if tokio::time::timeout(START_DEADLINE, listens).await.is_err() {
            tracing::warn!("the agent does not listen");
        }
    }

    pub(super) fn set(&self, wanted: AgentWanted) {
        self.wanted.send_modify(|wish| {
            wish.running = wanted != AgentWanted::Stopped;
            wish.deaths += u64::from(wanted != AgentWanted::Running);
        });
    }
}

struct Keeper {
    program: std::path::PathBuf,
    channel: std::path::PathBuf,
    log: std::path::PathBuf,
    undertaker: Undertaker,
}

impl Keeper {
    async fn run(self, mut wishes: watch::Receiver<Wish>) {
        loop {
            let running = wishes.wait_for(|wish| wish.running).await;
            let Ok(deaths) = running.map(|wish| wish.deaths) else {
                return;
            };
            match self.live(&mut wishes, deaths).await {
                Ok(end) => tracing::info!(end, "the agent has ended"),
                Err(error) => tracing::warn!(error = in_full(&error), "no agent"),
            }
            tokio::time::sleep(RESTART_PAUSE).await;
        }
    }

    /// One life of it.
    async fn live(
        &self,
        wishes: &mut watch::Receiver<Wish>,
        deaths: u64,
    ) -> Result<String, Trouble> {
        let mut command = Command::new(&self.program);
        let channel = format!("unix:{}", self.channel.display());
        command.args(["--channel", &channel, "--identify-by", "mac"]);
        log_to(&mut command, &self.log)?;
        let mut process = self.undertaker.spawn(command, None).await?;
        let told = tokio::select! {
            biased;
            status = process.ended() => return Ok(described(status)),
            told = wishes.wait_for(|wish| wish.deaths != deaths) => told.is_ok(),
        };
        process.kill();
        process.ended().await;
        Ok(if told {
            "as it was told"
        } else {
            "with the guest"
        }
        .to_owned())
    }
}
