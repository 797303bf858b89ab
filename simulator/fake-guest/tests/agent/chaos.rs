//! Anything in any order, from a seed: in the end the agent does what the host wants, and the same
//! seed gives the same reports at the same times.

use std::time::Duration;

use agent_protocol::{Goal, Phase};
use fake_guest::kernel::{KernelSettings, Unplug};
use misbehaviour::Chance;
use nic_model::Addressing;

use crate::bed::{Bed, static_binding};
use crate::fake::{Fake, path};

/// Seeds tried, and what happens in each before it is to be quiet.
const SEEDS: u64 = 150;
const HAPPENINGS: usize = 30;

/// Faults of which each happening has one in force, or none.
const RULES: [&str; 6] = [
    "operation = \"agent.*\"\nwhen = { probability = 0.2 }\neffect = { crash = \"before\" }",
    "operation = \"agent.*\"\nwhen = { probability = 0.2 }\neffect = { crash = \"after\" }",
    "operation = \"agent.*\"\nwhen = { probability = 0.3 }\neffect = { delay = \"700ms\" }",
    "operation = \"agent.*\"\nwhen = { every = 3 }\neffect = { error = { text = \"EBUSY\" } }",
    "operation = \"guest.link-event\"\nwhen = { probability = 0.5 }\neffect = \"lose\"",
    "operation = \"guest.plug\"\neffect = { delay = \"2s\" }",
];

struct Storm {
    bed: Fake,
    chance: Chance,
    generation: u64,
    containers: Vec<u32>,
    trace: String,
}

impl Storm {
    async fn happen(&mut self) {
        match self.chance.below(16) {
            0..=2 => self.want().await,
            3 => self.want_released().await,
            4 | 5 => self.bed.plug(),
            6 => self.bed.guest.request_unplug(&path()),
            7 => self.bed.guest.eject(&path()).unwrap_or_default(),
            8 => self.bed.guest.crash_agent(),
            9 => {
                let container = self.bed.guest.start_container().unwrap();
                self.containers.push(container.pid);
            }
            10 => {
                if let Some(pid) = self.containers.pop() {
                    self.bed.guest.kill(pid).unwrap_or_default();
                }
            }
            11 => self.toggle_netns("box"),
            12 => self.toggle_netns("other"),
            13 => {
                let rule = self.chance.pick(&RULES);
                self.bed.rule(rule.unwrap());
            }
            14 => self.bed.no_rule(),
            _ => self.reset_sometimes(),
        }
        let pause = self.chance.below(1500);
        let reports = self.bed.listen(Duration::from_millis(pause)).await;
        self.trace += &reports;
    }

    async fn want(&mut self) {
        self.generation += 1;
        let target = match (self.chance.below(3), self.containers.last()) {
            (0, Some(pid)) => format!("pid:{pid}"),
            (1, _) => self.bed.target("other"),
            _ => self.bed.target("box"),
        };
        let mut binding = static_binding(&target);
        if self.chance.below(4) == 0 {
            binding.addressing = Addressing::Dhcp { addresses: vec![] };
            binding.routes.clear();
        }
        self.bed.want_bound(self.generation, binding).await;
    }

    async fn want_released(&mut self) {
        self.generation += 1;
        self.bed.want(self.generation, Goal::Released).await;
    }

    fn toggle_netns(&self, which: &str) {
        let name = which.parse().unwrap();
        if self.bed.guest.remove_netns(&name).is_err() {
            self.bed.guest.add_netns(&name).unwrap();
        }
    }

    fn reset_sometimes(&mut self) {
        if self.chance.below(3) == 0 {
            self.bed.guest.reset();
            self.containers.clear();
            self.bed.furnish();
        }
    }

    /// Everything is as it should be again: the NIC has to be where it is wanted.
    async fn settle(&mut self) {
        self.bed.no_rule();
        self.bed.serve_dhcp();
        if self.bed.guest.add_netns(&"calm".parse().unwrap()).is_err() {
            unreachable!("nobody else makes it");
        }
        if !self.bed.has_device() {
            self.bed.plug();
        }
        // Long enough for a device that was to be let go of, and for whatever rules have delayed.
        self.trace += &self.bed.listen(Duration::from_secs(20)).await;
        if !self.bed.has_device() {
            self.bed.plug();
        }
        self.generation += 1;
        let target = self.bed.target("calm");
        self.bed
            .want_bound(self.generation, static_binding(&target))
            .await;
        let generation = self.generation;
        let report = self.bed.latest(generation).await;
        assert!(matches!(report.phase, Phase::Bound { .. }), "{report:?}");
        assert!(self.bed.answers("calm", "192.0.2.10").await);
        self.trace += &format!("{:?}\n", self.bed.guest.view());
    }
}

async fn run(seed: u64) -> String {
    let kernel = KernelSettings {
        seed,
        unplug: if seed.is_multiple_of(3) {
            Unplug::Native
        } else {
            KernelSettings::default().unplug
        },
        ..KernelSettings::default()
    };
    let mut bed = Fake::with(kernel);
    bed.connect().await;
    let mut storm = Storm {
        bed,
        chance: Chance::new(seed),
        generation: 0,
        containers: Vec::new(),
        trace: String::new(),
    };
    for _ in 0..HAPPENINGS {
        storm.happen().await;
    }
    storm.settle().await;
    storm.trace
}

fn run_alone(seed: u64) -> String {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build();
    runtime.unwrap().block_on(run(seed))
}

#[test]
fn after_any_storm_a_nic_is_where_it_is_wanted_and_a_seed_tells_the_whole_story() {
    for seed in 0..SEEDS {
        let first = std::panic::catch_unwind(|| run_alone(seed));
        let trace = first.unwrap_or_else(|_said| panic!("seed {seed}"));

        assert_eq!(run_alone(seed), trace, "seed {seed}");
    }
}
