//! How long a step may take, in virtual time, until everything is where it belongs.
//!
//! ```text
//!   bound = what the operation takes by itself + what each trouble may cost
//! ```
//!
//! Without bounds a hostd that misses every event would still pass: it looks at everything each 30
//! seconds. So what nothing disturbs has to be quick, and a trouble excuses what it costs alone. A
//! guest that does not answer excuses what is done with it, and nothing that is done elsewhere.

use std::time::Duration;

use misbehaviour::Effect;
use oracle::model::{Happening, Model, NicKey, Operation, Request, Standing, VmKey};

use super::NICS;
use super::menu::Mischief;
use super::step::{Blackout, Step, Trouble};
use crate::sim::Plan;

/// What hostd, QEMU and an agent need together when all of them answer.
const QUICK: Duration = Duration::from_secs(2);
/// Until a line to an agent or a QEMU that is there again is in use: backoff and the session's
/// beginning.
const RECONNECT: Duration = Duration::from_secs(8);
/// Until pings that nobody answers are noticed.
const UNANSWERED: Duration = Duration::from_secs(10);
/// Until a call of QMP that nobody answers is given up and made again: it may have been made, by a
/// look at the VM, when the step that took its answer was all but over.
const LOST_CALL: Duration = Duration::from_secs(8);
/// Until something is noticed that nobody tells of: a full look, and the deadline of a call.
const UNTOLD: Duration = Duration::from_secs(45);
/// Until a guest is asked again to let go: the longest pause between two requests.
const ASKED_AGAIN: Duration = Duration::from_secs(30);
/// Whatever waits for a guest that does not answer: the patience of an attach on the way there, on
/// the way back, and the schedule of requests to let go. Longer than any client waits.
const PATIENCE: Duration = Duration::from_secs(260);

/// See the module.
#[derive(Debug, Clone)]
pub struct Bounds {
    boot: Duration,
}

impl Bounds {
    /// Those of a world.
    #[must_use]
    pub fn of(plan: &Plan) -> Self {
        let boot = plan.kernel.boot;
        Self {
            boot: boot.firmware + boot.hotplug + boot.agent,
        }
    }

    /// How long each operation of `step` may take, in a world that may be as any of `models` says
    /// before it or after it: one that waits for its guest excuses no other.
    #[must_use]
    pub fn of_requests(&self, step: &Step, models: &[&Model]) -> Vec<Duration> {
        let troubles: Duration = step.troubles.iter().map(cost).sum();
        let operations = step.act.operations().iter();
        let of_one = |operation: &Operation| {
            let alone = match operation {
                Operation::Ask(request) => self.of_request(*request, models),
                Operation::Happen(happening) => {
                    let all = models
                        .iter()
                        .map(|model| self.of_happening(*happening, model));
                    all.max().unwrap_or_default()
                }
            };
            alone + troubles
        };
        operations.map(of_one).collect()
    }

    /// Where the NIC may be by any model, an agent may be missing by any other: one may end
    /// amid the request.
    fn of_request(&self, request: Request, models: &[&Model]) -> Duration {
        let (nic, to) = match request {
            Request::Attach(nic, spot) | Request::Move(nic, spot) => (nic, Some(spot.vm)),
            Request::Create(nic) | Request::Detach(nic) | Request::Delete(nic) => (nic, None),
        };
        let at = models.iter().filter_map(|model| vm_of(model, nic));
        let answers = |vm: VmKey| {
            let mut models = models.iter();
            models.all(|model| !model.runs(vm) || answers(model, vm))
        };
        match at.chain(to).all(answers) {
            // The VM may have been switched on a moment ago.
            true => QUICK + self.boot,
            false => PATIENCE,
        }
    }

    /// How long a guest that has refused to let go may not be asked again.
    #[must_use]
    pub fn without_request(step: &Step) -> Duration {
        match step.troubles.iter().any(is_refusal) {
            true => ASKED_AGAIN,
            false => Duration::ZERO,
        }
    }

    /// How long what went wrong in a step may still be felt once all has come to rest: nobody is
    /// told of a line that has fallen silent, and what was late may come when nobody waits for it.
    #[must_use]
    pub fn aftermath(step: &Step) -> Duration {
        step.troubles.iter().map(aftermath).sum()
    }

    fn of_happening(&self, happening: Happening, model: &Model) -> Duration {
        let waits_in = |vm: VmKey| {
            let mut nics = (0..NICS).map(NicKey);
            nics.any(|nic| model.standing(nic) == Standing::Stuck { vm })
        };
        match happening {
            Happening::StartContainer(_)
            | Happening::KillContainer(_)
            | Happening::KeepDevices(_) => QUICK,
            Happening::StopAgent(_) => UNANSWERED,
            // Whatever has waited for it goes on, wherever that leads.
            Happening::LetGo(vm)
            | Happening::StartAgent(vm)
            | Happening::Reset(vm)
            | Happening::PowerOff(vm)
                if waits_in(vm) =>
            {
                PATIENCE
            }
            Happening::Eject(nic) if matches!(model.standing(nic), Standing::Stuck { .. }) => {
                PATIENCE
            }
            Happening::StartAgent(_) => RECONNECT,
            Happening::LetGo(_) | Happening::Eject(_) => QUICK,
            Happening::Reset(_) | Happening::PowerOn(_) => RECONNECT + self.boot,
            Happening::PowerOff(_) => QUICK,
        }
    }
}

fn vm_of(model: &Model, nic: NicKey) -> Option<VmKey> {
    match model.standing(nic) {
        Standing::In { vm, .. } | Standing::Stuck { vm } => Some(vm),
        Standing::Absent | Standing::Nowhere => None,
    }
}

fn answers(model: &Model, vm: VmKey) -> bool {
    model.has_agent(vm) && !model.keeps_devices(vm)
}

fn is_refusal(trouble: &Trouble) -> bool {
    matches!(trouble, Trouble::Mischief(mischief) if mischief.effect == Effect::Refuse)
}

fn is_call(mischief: &Mischief) -> bool {
    mischief.operation.starts_with("qmp.")
}

fn aftermath(trouble: &Trouble) -> Duration {
    match trouble {
        Trouble::AgentDies { after, .. } => *after + UNANSWERED + RECONNECT,
        Trouble::Mischief(mischief) => match &mischief.effect {
            Effect::Delay(span) => span.0 + QUICK,
            Effect::Stall | Effect::Lose if is_call(mischief) => LOST_CALL,
            // A monitor that is closed is noticed at once.
            Effect::Corrupt | Effect::Cut(_) | Effect::Crash(_) if is_call(mischief) => {
                Duration::ZERO
            }
            Effect::Stall | Effect::Lose | Effect::Corrupt | Effect::Cut(_) | Effect::Crash(_) => {
                UNANSWERED + RECONNECT
            }
            Effect::Duplicate
            | Effect::Reorder
            | Effect::Error { .. }
            | Effect::Refuse
            | Effect::Ignore
            | Effect::Eject(_)
            | Effect::Reset
            | Effect::DiskFull
            | Effect::FsyncError => Duration::ZERO,
        },
        Trouble::Kill(_)
        | Trouble::PowerLoss(_)
        | Trouble::Twice { .. }
        | Trouble::Impatience
        | Trouble::ClockJump { .. } => Duration::ZERO,
    }
}

fn cost(trouble: &Trouble) -> Duration {
    match trouble {
        Trouble::Kill(kill) => kill.downtime + RECONNECT,
        Trouble::PowerLoss(Blackout::After(time)) => *time + RECONNECT,
        Trouble::PowerLoss(Blackout::Answer) => RECONNECT,
        Trouble::Mischief(mischief) => match &mischief.effect {
            Effect::Delay(span) => 2 * span.0 + UNTOLD,
            Effect::Cut(_) | Effect::Crash(_) | Effect::FsyncError | Effect::DiskFull => RECONNECT,
            Effect::Duplicate => QUICK,
            // What waits for the next to overtake it may wait for ever.
            Effect::Reorder
            | Effect::Error { .. }
            | Effect::Lose
            | Effect::Corrupt
            | Effect::Stall
            | Effect::Refuse
            | Effect::Ignore
            | Effect::Eject(_)
            | Effect::Reset => UNTOLD,
        },
        Trouble::Twice { later } => *later,
        Trouble::Impatience => QUICK,
        Trouble::AgentDies { after, .. } => *after + RECONNECT,
        Trouble::ClockJump { .. } => Duration::ZERO,
    }
}

#[cfg(test)]
mod tests {
    use misbehaviour::Side;

    use super::*;

    fn felt_after(effect: Effect) -> Duration {
        aftermath(&Trouble::Mischief(Mischief {
            operation: "qmp.*",
            nth: 1,
            effect,
        }))
    }

    #[test]
    fn only_a_call_of_qmp_that_nobody_answers_is_felt_later() {
        for unanswered in [Effect::Lose, Effect::Stall] {
            assert_eq!(felt_after(unanswered), LOST_CALL);
        }
        for noticed in [Effect::Cut(Side::Before), Effect::Cut(Side::After)] {
            assert_eq!(felt_after(noticed), Duration::ZERO);
        }
    }
}
