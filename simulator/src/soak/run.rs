//! One run: a world from a seed, and steps in it until something is wrong or all are done.

use std::time::Duration;

use misbehaviour::Chance;

use super::generate::{next_step, plan_of};
use super::report::{Breach, Report};
use super::rig::Rig;
use super::step::Step;
use crate::sim::{Entry, MakeError, Sim};

/// Steps of a run.
pub type StepCount = usize;

/// After the last step: longer than hostd takes to look at everything and to put strays away.
const AFTERMATH: Duration = Duration::from_secs(70);

/// What is run.
#[derive(Debug, Clone)]
pub struct Run {
    /// What the world, and all chance in it, is drawn from.
    pub seed: u64,
    script: Script,
    telling: Telling,
}

/// Whose traces are told: writing one takes time, and nobody reads those of a whole soak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Telling {
    OfBreaches,
    OfAll,
}

#[derive(Debug, Clone)]
enum Script {
    Drawn(StepCount),
    Given(Vec<Step>),
}

impl Run {
    /// Steps of a run unless said otherwise.
    pub const STEPS: StepCount = 40;

    /// The run of a seed.
    #[must_use]
    pub fn of_seed(seed: u64) -> Self {
        Self {
            seed,
            script: Script::Drawn(Self::STEPS),
            telling: Telling::OfBreaches,
        }
    }

    /// Given steps in the world of a seed; those that mean nothing when they come are left out.
    #[must_use]
    pub fn of_steps(seed: u64, steps: Vec<Step>) -> Self {
        Self {
            seed,
            script: Script::Given(steps),
            telling: Telling::OfBreaches,
        }
    }

    /// The same, with its trace in the report though nothing may be wrong.
    #[must_use]
    pub fn with_trace(mut self) -> Self {
        self.telling = Telling::OfAll;
        self
    }

    /// Runs to the end.
    ///
    /// # Errors
    /// When the world cannot be made.
    ///
    /// # Panics
    /// Within a tokio runtime.
    pub fn go(&self) -> Result<Report, MakeError> {
        let plan = plan_of(self.seed);
        Sim::run(&plan, async |sim| {
            let mut rig = Rig::new(sim, &plan);
            let mut steps = Vec::new();
            let done = self.perform(&mut rig, &mut steps).await;
            self.report(&rig, steps, done.err())
        })
    }

    /// The fewest steps and troubles, as far as leaving out one after the other finds them, that
    /// still end in a breach found in the same way.
    ///
    /// # Errors
    /// When the world cannot be made.
    pub fn shorten(report: Report) -> Result<Report, MakeError> {
        let mut best = report;
        let Some(caught) = best.breach.as_ref().map(|breach| breach.caught) else {
            return Ok(best);
        };
        loop {
            let mut shorter = None;
            for steps in shortened(&best.steps) {
                let tried = Self::of_steps(best.seed, steps).go()?;
                if tried
                    .breach
                    .as_ref()
                    .is_some_and(|breach| breach.caught == caught)
                {
                    shorter = Some(tried);
                    break;
                }
            }
            match shorter {
                Some(shorter) => best = shorter,
                None => return Ok(best),
            }
        }
    }

    async fn perform(&self, rig: &mut Rig, steps: &mut Vec<Step>) -> Result<(), Breach> {
        // Everybody is up before it begins.
        rig.sim().pass(Duration::from_secs(5)).await;
        match &self.script {
            Script::Drawn(count) => {
                let mut chance = Chance::new(self.seed).fork("steps");
                for _ in 0..*count {
                    let step = next_step(&mut chance, rig.belief());
                    steps.push(step.clone());
                    rig.perform(&step).await?;
                }
            }
            Script::Given(given) => {
                for step in given {
                    if step.is_possible(rig.belief()) {
                        steps.push(step.clone());
                        rig.perform(step).await?;
                    }
                }
            }
        }
        rig.sim().pass(AFTERMATH).await;
        rig.be_still_right().await
    }

    fn report(&self, rig: &Rig, steps: Vec<Step>, breach: Option<Breach>) -> Report {
        let is_told = breach.is_some() || self.telling == Telling::OfAll;
        let stage = &rig.sim().stage;
        let trace = stage.trace();
        Report {
            seed: self.seed,
            operations: steps.iter().map(|step| step.act.operations().len()).sum(),
            troubles: steps.iter().map(|step| step.troubles.len()).sum(),
            steps,
            lives: rig.lives(),
            lasted: stage.now(),
            hash: trace.hash(),
            trace: match is_told {
                true => trace.log().filter_map(shown).collect(),
                false => Vec::new(),
            },
            breach,
            system: rig.system(),
        }
    }
}

/// Every list of steps that has one step, or one trouble, less.
fn shortened(steps: &[Step]) -> impl Iterator<Item = Vec<Step>> {
    let without_step = (0..steps.len()).map(|index| {
        let mut fewer = steps.to_vec();
        fewer.remove(index);
        fewer
    });
    let troubles = steps
        .iter()
        .enumerate()
        .flat_map(|(index, step)| (0..step.troubles.len()).map(move |trouble| (index, trouble)));
    let without_trouble = troubles.map(|(index, trouble)| {
        let mut fewer = steps.to_vec();
        fewer[index].troubles.remove(trouble);
        fewer
    });
    without_step.chain(without_trouble)
}

/// An entry for people: heartbeats tell nothing, and the bytes that frame messages are not for
/// their terminals.
fn shown(entry: &Entry) -> Option<String> {
    let beats = [r#"{"type":"ping""#, r#"{"type":"pong""#];
    if beats.iter().any(|beat| entry.text.contains(beat)) {
        return None;
    }
    let plain = |letter: char| {
        if letter.is_ascii_graphic() {
            letter
        } else {
            ' '
        }
    };
    Some(entry.to_string().chars().map(plain).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_in_which_nothing_is_wrong_tells_its_trace_to_whoever_asks() {
        let run = Run::of_steps(7, Vec::new());

        let [plain, asked] = [run.clone(), run.with_trace()].map(|run| run.go());

        let plain = plain.expect("the world can be made");
        let asked = asked.expect("the world can be made");
        assert_eq!((plain.hash, plain.trace.len()), (asked.hash, 0));
        let last = asked.trace.last().expect("something has happened");
        assert!(asked.to_string().contains(last.as_str()), "{asked}");
    }
}
