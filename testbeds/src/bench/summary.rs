//! What came of a measurement: percentiles, goals met or not, as JSON for programs and as a table
//! for people.

use std::fmt::{self, Write};

use anyhow::{Context, Result};
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use super::by_hand::POLL;
use super::percentiles::to_microseconds;
use super::probe::PERIOD;
use super::{HandTimes, HostdTimes, Machine, Percentiles};

/// Milliseconds that an attach may add to its floor, at the median and at the 99th percentile.
const OVERHEAD_GOALS: (f64, f64) = (10.0, 25.0);
/// Milliseconds that a detach may add to its floor, at the median.
const DETACH_OVERHEAD_GOAL: f64 = 10.0;
/// How many times slower than hostd the same by hand is to be, median by median.
const BY_HAND_GOAL: f64 = 3.0;

/// What was measured.
#[derive(Debug, Clone, Serialize)]
pub struct Setting {
    /// hostd's way to QEMU.
    pub world: String,
    /// What runs the guests' code.
    pub accel: String,
    /// How guests are asked to let go of a device.
    pub hotplug: String,
    /// Pairs that were not counted, before those that were.
    pub warm_up: usize,
}

/// Everything that came of it.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// Pairs of attach and detach that count.
    pub n: usize,
    /// Pairs of either side that failed.
    pub errors: usize,
    /// What was measured.
    #[serde(flatten)]
    pub setting: Setting,
    /// `device_add` sent → link seen by the agent.
    pub floor_ms: Percentiles,
    /// Request sent → first echo reply.
    pub total_ms: Percentiles,
    /// Their difference within each operation.
    pub overhead_ms: Percentiles,
    /// Request sent → hostd's answer that the NIC is in use.
    pub answered_ms: Percentiles,
    /// The same by hand, until the first echo reply.
    pub by_hand_ms: Percentiles,
    /// How many times slower by hand is, median by median.
    pub by_hand_ratio: f64,
    /// `device_del` sent → the device is gone.
    pub detach_floor_ms: Percentiles,
    /// Request sent → hostd's answer that nothing is left.
    pub detach_total_ms: Percentiles,
    /// Their difference within each operation.
    pub detach_overhead_ms: Percentiles,
    /// `virsh detach-device` → no interface left.
    pub by_hand_detach_ms: Percentiles,
    /// Each step of hostd's, in milliseconds; `guest-…` by the guest's clock.
    #[serde(serialize_with = "as_map")]
    pub steps: Vec<(String, Percentiles)>,
    /// What was to be reached.
    pub goals: Vec<Goal>,
    /// What it was measured on.
    pub machine: Machine,
    /// What a reader has to know.
    pub notes: Vec<String>,
}

/// One thing that was to be reached.
#[derive(Debug, Clone, Serialize)]
pub struct Goal {
    /// Of which value.
    pub of: &'static str,
    /// What it was to be, such as `≤ 10`.
    pub goal: String,
    /// What it was.
    pub value: f64,
    /// Whether that is as good or better.
    pub met: bool,
}

impl Goal {
    /// `value` may be `most`.
    pub(super) fn at_most(of: &'static str, most: f64, value: f64) -> Self {
        let (goal, met) = (format!("≤ {most}"), value <= most);
        Self {
            of,
            goal,
            value,
            met,
        }
    }

    /// `value` is to be `least`.
    pub(super) fn at_least(of: &'static str, least: f64, value: f64) -> Self {
        let (goal, met) = (format!("≥ {least}"), value >= least);
        Self {
            of,
            goal,
            value,
            met,
        }
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let met = if self.met { "met" } else { "missed" };
        write!(f, "{} {}: {:.3}, {met}", self.of, self.goal, self.value)
    }
}

/// In the order of the list, which is that of their happening.
fn as_map<S: Serializer>(
    steps: &[(String, Percentiles)],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(Some(steps.len()))?;
    for (name, percentiles) in steps {
        map.serialize_entry(name, percentiles)?;
    }
    map.end()
}

impl Summary {
    /// Of all pairs that succeeded.
    ///
    /// # Errors
    /// When there is none.
    pub fn of(
        setting: Setting,
        machine: Machine,
        hostd: &[HostdTimes],
        by_hand: &[HandTimes],
        errors: usize,
    ) -> Result<Self> {
        let of = |value: &dyn Fn(&HostdTimes) -> f64| percentiles(hostd.iter().map(value));
        let hand = |value: &dyn Fn(&HandTimes) -> f64| percentiles(by_hand.iter().map(value));
        let (overhead_ms, total_ms) = (of(&|one| one.total - one.floor)?, of(&|one| one.total)?);
        let detach_overhead_ms = of(&|one| one.detach_total - one.detach_floor)?;
        let by_hand_ms = hand(&|one| one.attach)?;
        let by_hand_ratio = to_microseconds(by_hand_ms.p50 / total_ms.p50);
        Ok(Self {
            n: hostd.len(),
            errors,
            floor_ms: of(&|one| one.floor)?,
            total_ms,
            overhead_ms,
            answered_ms: of(&|one| one.answered)?,
            by_hand_ms,
            by_hand_ratio,
            detach_floor_ms: of(&|one| one.detach_floor)?,
            detach_total_ms: of(&|one| one.detach_total)?,
            detach_overhead_ms,
            by_hand_detach_ms: hand(&|one| one.detach)?,
            steps: steps(hostd),
            goals: goals(overhead_ms, by_hand_ratio, detach_overhead_ms),
            notes: notes(&setting),
            setting,
            machine,
        })
    }

    /// As Markdown.
    #[must_use]
    pub fn table(&self) -> String {
        let rows = [
            (
                "attach: floor, `device_add` → link seen by the agent",
                self.floor_ms,
            ),
            ("attach: total, request → first echo reply", self.total_ms),
            ("attach: overhead, total − floor", self.overhead_ms),
            (
                "attach: request → answered \"in use\", read back",
                self.answered_ms,
            ),
            (
                "attach by hand, `virsh attach-device` → first echo reply",
                self.by_hand_ms,
            ),
            ("detach: floor, `device_del` → gone", self.detach_floor_ms),
            ("detach: total, request → answered", self.detach_total_ms),
            ("detach: overhead, total − floor", self.detach_overhead_ms),
            (
                "detach by hand, `virsh detach-device` → gone",
                self.by_hand_detach_ms,
            ),
        ];
        let mut table = "| milliseconds | p50 | p90 | p99 |\n|---|---:|---:|---:|\n".to_owned();
        let rows = rows
            .into_iter()
            .map(|(name, values)| (name.to_owned(), values));
        let steps = self.steps.iter().cloned();
        for (name, values) in
            rows.chain(steps.map(|(name, values)| (format!("step {name}"), values)))
        {
            row(&mut table, &name, values);
        }
        for goal in &self.goals {
            // Writing to a String cannot fail.
            let _ = write!(table, "\n{goal}");
        }
        let (setting, machine) = (&self.setting, &self.machine);
        let _ = write!(
            table,
            "\n\n{} pairs, {} errors, world {}, {}, hot-plug {}, {}, {}",
            self.n,
            self.errors,
            setting.world,
            setting.accel,
            setting.hotplug,
            machine.qemu,
            machine.computer
        );
        table
    }
}

fn row(table: &mut String, name: &str, values: Percentiles) {
    let Percentiles { p50, p90, p99 } = values;
    // Writing to a String cannot fail.
    let _ = writeln!(table, "| {name} | {p50:.1} | {p90:.1} | {p99:.1} |");
}

fn percentiles(values: impl Iterator<Item = f64>) -> Result<Percentiles> {
    Percentiles::of(&values.collect::<Vec<_>>()).context("no pair has succeeded")
}

/// Each step that any operation had, in the order in which they were first seen.
fn steps(hostd: &[HostdTimes]) -> Vec<(String, Percentiles)> {
    let mut names: Vec<&str> = Vec::new();
    for step in hostd.iter().flat_map(|one| &one.steps) {
        if !names.contains(&step.name.as_str()) {
            names.push(&step.name);
        }
    }
    let of = |name: &str| {
        let all = hostd.iter().flat_map(|one| &one.steps);
        let durations = all
            .filter(|step| step.name == name)
            .map(|step| step.duration);
        percentiles(durations)
            .ok()
            .map(|values| (name.to_owned(), values))
    };
    names.into_iter().filter_map(of).collect()
}

fn goals(overhead: Percentiles, by_hand_ratio: f64, detach_overhead: Percentiles) -> Vec<Goal> {
    let (median, high) = OVERHEAD_GOALS;
    vec![
        Goal::at_most("overhead_ms.p50", median, overhead.p50),
        Goal::at_most("overhead_ms.p99", high, overhead.p99),
        Goal::at_least("by_hand_ratio", BY_HAND_GOAL, by_hand_ratio),
        Goal::at_most(
            "detach_overhead_ms.p50",
            DETACH_OVERHEAD_GOAL,
            detach_overhead.p50,
        ),
    ]
}

fn notes(setting: &Setting) -> Vec<String> {
    let peer = match setting.world.as_str() {
        "libvirt" => "in a second libvirt",
        _ => "in a libvirt, since the recipe is virsh's",
    };
    vec![
        format!(
            "total_ms begins when the request leaves the client and ends with the first reply to \
             an echo request; the host sends one every {} ms, once the link has arrived, from \
             outside the subnet: link, address and default route have to be there",
            PERIOD.as_millis()
        ),
        "floor_ms is hostd's step arrive: device_add sent to the arrival of the agent's report; \
         detach_floor_ms is its step guest-unplug"
            .to_owned(),
        format!(
            "by_hand_ms is measured in the same run, pair by pair in turns, on a VM of its own \
             {peer}, without our agent; the tap is made before the clock runs; what is waited for \
             is asked for every {} ms",
            POLL.as_millis()
        ),
        "each step is told as hostd tells it: arrive, bind, release and guest-unplug are waits for \
         the guest, steps called guest-… lie within them and are measured by the guest's clock"
            .to_owned(),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::{Computer, StepTime};
    use super::*;

    fn machine() -> Machine {
        let text = || "x".to_owned();
        Machine {
            computer: Computer {
                cpus: 2,
                kernel: text(),
                commit: text(),
                load_before: text(),
                load_after: text(),
            },
            guest_kernel: text(),
            qemu: text(),
            libvirt: text(),
        }
    }

    fn times(floor: f64, total: f64) -> HostdTimes {
        let step = |name: &str| StepTime {
            name: name.to_owned(),
            duration: floor,
        };
        HostdTimes {
            floor,
            total,
            answered: total,
            detach_floor: floor,
            detach_total: total,
            steps: vec![step("attach plug"), step("attach arrive")],
        }
    }

    fn summary(hostd: &[HostdTimes], by_hand: f64) -> Summary {
        let setting = Setting {
            world: "qemu".to_owned(),
            accel: "tcg".to_owned(),
            hotplug: "acpi".to_owned(),
            warm_up: 0,
        };
        let hand = HandTimes {
            attach: by_hand,
            detach: by_hand,
        };
        Summary::of(setting, machine(), hostd, &[hand], 0).unwrap()
    }

    #[test]
    fn overhead_is_the_difference_within_each_operation() {
        // A difference of percentiles would be 10.
        let summary = summary(
            &[times(90.0, 91.0), times(80.0, 100.0), times(70.0, 90.0)],
            1.0,
        );

        assert_eq!(summary.overhead_ms.p50, 20.0);
        assert_eq!(summary.detach_overhead_ms.p50, 20.0);
    }

    #[test]
    fn a_goal_is_met_at_its_bound_and_missed_beyond() {
        let met = summary(&[times(100.0, 110.0)], 330.0);
        let missed = summary(&[times(100.0, 126.0)], 377.0);

        assert!(met.goals.iter().all(|goal| goal.met), "{:?}", met.goals);
        assert!(
            missed.goals.iter().all(|goal| !goal.met),
            "{:?}",
            missed.goals
        );
    }

    #[test]
    fn the_json_has_what_readers_look_for() {
        let json = serde_json::to_value(summary(&[times(100.0, 110.0)], 330.0)).unwrap();

        for name in [
            "floor_ms",
            "total_ms",
            "overhead_ms",
            "by_hand_ms",
            "detach_overhead_ms",
        ] {
            for percentile in ["p50", "p90", "p99"] {
                assert!(json[name][percentile].is_number(), "{name} {percentile}");
            }
        }
        assert_eq!(
            (&json["n"], &json["world"], &json["accel"]),
            (&1.into(), &"qemu".into(), &"tcg".into())
        );
        assert_eq!(json["by_hand_ratio"], 3.0);
    }

    #[test]
    fn steps_keep_the_order_of_their_happening() {
        let summary = summary(&[times(1.0, 2.0)], 3.0);

        let text = serde_json::to_string(&summary).unwrap();

        assert!(
            text.find("attach plug") < text.find("attach arrive"),
            "{text}"
        );
        assert!(
            summary
                .table()
                .contains("| step attach plug | 1.0 | 1.0 | 1.0 |")
        );
    }

    #[test]
    fn without_a_pair_that_succeeded_there_is_nothing_to_tell() {
        let setting = summary(&[times(1.0, 2.0)], 3.0).setting;

        assert!(Summary::of(setting, machine(), &[], &[], 3).is_err());
    }
}
