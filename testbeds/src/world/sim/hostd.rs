//! hostd in a simulated world: its own core, ended and begun again over the same disk.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use ::hostd::failpoint::{self, NoFailpoints, Watch};
use anyhow::{Context, Result, ensure};
use async_trait::async_trait;
use host_api::Client;
use oracle::JournalView;
use simulator::sim::{Host, Stage};
use tokio::time::{Instant, sleep, timeout};

use super::{Sabotaged, TRACE_ENTRIES};
use crate::hostd::{Hostd, Mark};

/// How long it may take to answer after its start, or to come to its failpoint.
const DEADLINE: Duration = Duration::from_secs(60);
/// How often it is asked whether it has got there.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// The daemon of one world.
pub(super) struct SimHostd {
    host: Host,
    stage: Stage,
    sabotaged: Rc<Sabotaged>,
    failpoints: Rc<RefCell<Failpoints>>,
    _watch: Watch,
}

impl std::fmt::Debug for SimHostd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SimHostd").finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct Failpoints {
    /// Where it is to die.
    armed: Option<String>,
    passed: Vec<String>,
}

impl SimHostd {
    /// Watches the failpoints of this thread: no other hostd may run on it.
    pub(super) fn new(
        host: &Host,
        stage: &Stage,
        sabotaged: &Rc<Sabotaged>,
    ) -> Result<Self, NoFailpoints> {
        let failpoints = Rc::new(RefCell::new(Failpoints::default()));
        let (watched, dying) = (Rc::clone(&failpoints), host.clone());
        let watch = failpoint::watch(Rc::new(move |here| {
            let mut failpoints = watched.borrow_mut();
            failpoints.passed.push(here.to_owned());
            if failpoints.armed.as_deref() == Some(here) {
                failpoints.armed = None;
                let life = dying.life();
                life.iter().for_each(|life| life.end(here));
            }
        }))?;
        Ok(Self {
            host: host.clone(),
            stage: stage.clone(),
            sabotaged: Rc::clone(sabotaged),
            failpoints,
            _watch: watch,
        })
    }
}

#[async_trait(?Send)]
impl Hostd for SimHostd {
    fn client(&self) -> Client {
        self.host.client()
    }

    async fn start(&self, failpoint: Option<&str>) -> Result<()> {
        ensure!(self.host.life().is_none(), "hostd runs already");
        self.failpoints.borrow_mut().armed = failpoint.map(str::to_owned);
        self.host.boot()?;
        let client = self.client();
        let answers = async {
            while client.health().await.is_err() {
                sleep(LOOK_AGAIN).await;
            }
        };
        let answers = timeout(DEADLINE, answers).await;
        answers.with_context(|| format!("hostd did not answer within {DEADLINE:?}"))
    }

    async fn kill(&self) -> Result<()> {
        ensure!(self.host.kill(), "hostd does not run");
        Ok(())
    }

    async fn died(&self) -> Result<()> {
        let give_up_at = Instant::now() + DEADLINE;
        while self.host.life().is_some() {
            let patient = Instant::now() < give_up_at;
            ensure!(patient, "hostd still lives after {DEADLINE:?}");
            sleep(LOOK_AGAIN).await;
        }
        let armed = self.failpoints.borrow_mut().armed.take();
        ensure!(armed.is_none(), "hostd has died before {armed:?}");
        // Its tasks are put away by one that is told of its end.
        sleep(LOOK_AGAIN).await;
        Ok(())
    }

    async fn mark(&self) -> Result<Mark> {
        let passed = self.failpoints.borrow().passed.len();
        Ok(Mark(u64::try_from(passed)?))
    }

    async fn passed_since(&self, mark: Mark) -> Result<BTreeSet<String>> {
        let failpoints = self.failpoints.borrow();
        let since = failpoints.passed.iter().skip(usize::try_from(mark.0)?);
        Ok(since.cloned().collect())
    }

    async fn journal(&self) -> Result<JournalView> {
        Ok(self.host.disk().view())
    }

    async fn plant_records(&self, planted: &JournalView) -> Result<()> {
        self.sabotaged.begin();
        self.host.disk().plant(planted);
        Ok(())
    }

    async fn remove_records(&self, planted: &JournalView) -> Result<()> {
        self.host.disk().take_away(planted);
        Ok(())
    }

    fn log_tail(&self, _lines: usize) -> String {
        let trace = self.stage.trace();
        let host = |line: &&String| line.contains(self.host.name());
        let lines: Vec<String> = trace.log().map(ToString::to_string).collect();
        let own: Vec<&String> = lines.iter().filter(host).collect();
        let own = &own[own.len().saturating_sub(TRACE_ENTRIES)..];
        own.iter().map(|line| format!("{line}\n")).collect()
    }
}
