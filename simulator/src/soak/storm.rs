//! What befalls hostd in one step, in order: deaths, each followed by a new life, and the loss of
//! the host's power.
//!
//! ```text
//!   kills: [effect 7 before, answer, effect 2 after]
//!            │ armed on the life that runs
//!            ▼
//!          death ── downtime ──► boot ── the next kill is armed on the new life
//! ```

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::sleep;

use super::report::{Breach, Caught};
use super::step::{Blackout, Kill, Moment, Step, Trouble};
use crate::sim::{Host, Life};

/// How long a hostd that died of something else stays dead: its service manager's pause.
const RESTART: Duration = Duration::from_millis(100);
/// How often it is looked whether it lives.
const LOOK: Duration = Duration::from_millis(20);
/// How long after a step has begun the power fails at the earliest: by then what is done in it has
/// begun as well, and a VM that it switches on goes off again.
const SOONEST: Duration = Duration::from_millis(1);

/// See the module.
#[derive(Debug)]
pub(crate) struct Storm {
    host: Host,
    kills: RefCell<VecDeque<Kill>>,
    blackout: Cell<Option<Blackout>>,
    /// How long the next death lasts.
    downtime: Cell<Duration>,
    /// Lives of hostd that have begun.
    pub(crate) lives: Cell<u64>,
}

impl Storm {
    pub(crate) fn new(host: &Host, step: &Step) -> Self {
        let mut kills = VecDeque::new();
        let mut blackout = None;
        for trouble in &step.troubles {
            match trouble {
                Trouble::Kill(kill) => kills.push_back(*kill),
                Trouble::PowerLoss(when) => blackout = Some(*when),
                Trouble::Mischief(_)
                | Trouble::Twice { .. }
                | Trouble::Impatience
                | Trouble::AgentDies { .. }
                | Trouble::ClockJump { .. } => {}
            }
        }
        let storm = Self {
            host: host.clone(),
            kills: RefCell::new(kills),
            blackout: Cell::new(blackout),
            downtime: Cell::new(RESTART),
            lives: Cell::new(0),
        };
        if let Some(life) = host.life() {
            storm.arm(&life);
        }
        storm
    }

    /// Has the next kill come at its effect.
    fn arm(&self, life: &Life) {
        let next = self.kills.borrow().front().copied();
        if let Some(kill) = next
            && let Some(death) = kill.moment.after(life.effects())
        {
            life.die_at(Some(death));
            self.downtime.set(kill.downtime);
            self.kills.borrow_mut().pop_front();
        }
    }

    /// A client has its answer.
    pub(crate) fn answered(&self) {
        let next = self.kills.borrow().front().copied();
        if let Some(kill) = next.filter(|kill| kill.moment == Moment::Answer) {
            self.kills.borrow_mut().pop_front();
            self.downtime.set(kill.downtime);
            self.host.kill();
        }
        if self.blackout.get() == Some(Blackout::Answer) {
            self.lose_power();
        }
    }

    fn lose_power(&self) {
        self.blackout.set(None);
        self.host.lose_power();
    }

    /// Whether the power has yet to fail.
    pub(crate) fn is_to_come(&self) -> bool {
        self.blackout.get().is_some()
    }

    /// Sees to it that a hostd runs, without end.
    pub(crate) async fn tend(&self) -> Breach {
        loop {
            if self.host.life().is_none() {
                sleep(self.downtime.replace(RESTART)).await;
                match self.host.boot() {
                    Ok(life) => {
                        self.lives.set(self.lives.get() + 1);
                        self.arm(&life);
                    }
                    Err(error) => {
                        return Breach {
                            caught: Caught::Start,
                            sentences: vec![format!("{error:?}")],
                        };
                    }
                }
            }
            sleep(LOOK).await;
        }
    }

    /// Has the power fail when its time has come; without end.
    pub(crate) async fn darken(&self) -> Breach {
        if let Some(Blackout::After(time)) = self.blackout.get() {
            sleep(time.max(SOONEST)).await;
            self.lose_power();
        }
        std::future::pending().await
    }

    /// Nothing more befalls hostd.
    pub(crate) fn calm(&self) {
        self.kills.borrow_mut().clear();
        if let Some(life) = self.host.life() {
            life.die_at(None);
        }
    }
}
