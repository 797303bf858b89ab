//! One shard of a fleet: a world with its share of hosts, from set-up to the last look.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fake_guest::kernel::Unplug;
use misbehaviour::{Chance, Pace, Script, Span};
use nic_model::PowerState;
use oracle::{Moment, Violation};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::operator::{CONTAINERS, Ledger, Operator, Tally};
use super::turns::Place;
use crate::fleet::FleetPlan;
use crate::sim::{Director, Host, Keeping, MakeError, Plan, Sim, SimVm};

/// Root ports of each VM.
const SLOTS: usize = 8;
/// Which share of the guests refuses to let go of a device.
const REFUSING: f64 = 0.05;
/// How often something of the fleet breaks down or is looked at.
const ROUND: Duration = Duration::from_millis(100);
/// How probable it is in a round that a hostd is killed, and that a host is looked at.
const KILLED: f64 = 0.025;
const LOOKED_AT: f64 = 0.125;
/// How much of its time passes in a shard until others have their turns: long enough for what
/// belongs together, short enough for them all to be done at about the same time.
const SLICE: Duration = Duration::from_millis(100);
/// How long a hostd that was killed, and a QEMU that crashed, stay away.
const AWAY: Duration = Duration::from_millis(300);
/// Pause between the starts of two hostds: each looks at all its VMs at once, and the answers to
/// all of that at the same time would be more than anything that follows holds.
const BETWEEN_BOOTS: Duration = Duration::from_millis(20);
/// How long nobody may begin anything before the operators give up, in virtual time: rules and
/// clocks can see to it that nothing under way ever ends.
const STUCK: Duration = Duration::from_secs(120);
/// How long everything may take to come to rest once nothing goes wrong any more, in virtual time.
const DRAIN: Duration = Duration::from_secs(240);

/// What one shard is to be.
#[derive(Debug, Clone)]
pub(super) struct ShardPlan {
    seed: u64,
    first_host: usize,
    hosts: usize,
    vms_per_host: usize,
    operations: u64,
    script: Arc<Script>,
}

/// What came of one shard.
#[derive(Debug, Clone, Default)]
pub(super) struct ShardReport {
    pub(super) hosts: usize,
    pub(super) vms: usize,
    pub(super) tally: Tally,
    /// Operations that nobody could begin for [`STUCK`].
    pub(super) not_begun: u64,
    pub(super) hostd_deaths: u64,
    pub(super) qemu_deaths: u64,
    pub(super) looks: u64,
    /// How often each rule took effect, by its name.
    pub(super) rules: BTreeMap<String, u64>,
    pub(super) violations: BTreeSet<Violation>,
    pub(super) leaks: Vec<String>,
    pub(super) trace_hash: [u8; 32],
    pub(super) trace_entries: u64,
    pub(super) virtual_time: Duration,
    pub(super) set_up: Duration,
    pub(super) operating: Duration,
}

impl ShardPlan {
    pub(super) fn of(plan: &FleetPlan, number: usize, shards: usize) -> Self {
        let (hosts, vms_per_host) = plan.hosts();
        // Divided first: the largest numbers there are can be asked for.
        let before =
            |total: usize, number| total / shards * number + total % shards * number / shards;
        let share = |total| before(total, number + 1) - before(total, number);
        let operations = usize::try_from(plan.operations).unwrap_or(usize::MAX);
        Self {
            seed: Chance::new(plan.seed)
                .fork(&format!("shard/{number}"))
                .next_u64(),
            first_host: before(hosts, number),
            hosts: share(hosts),
            vms_per_host,
            operations: share(operations) as u64,
            script: plan.script.clone(),
        }
    }

    fn world(&self) -> Plan {
        Plan {
            seed: self.seed,
            first_host: self.first_host,
            hosts: self.hosts,
            vms_per_host: self.vms_per_host,
            slots: SLOTS,
            max_nics: SLOTS as u64,
            keeping: Keeping::Hash,
            ..Plan::default()
        }
    }
}

/// A shard at work.
pub(super) struct Shard {
    sim: Sim,
    chance: Chance,
    report: ShardReport,
}

impl Shard {
    /// Runs one from its beginning to its end, on this thread.
    pub(super) fn run(plan: &ShardPlan, place: Place) -> Result<ShardReport, MakeError> {
        place.await_turn();
        let began = Instant::now();
        Sim::run_without_hostd(&plan.world(), async |sim| {
            tokio::spawn(take_turns(place));
            let mut shard = Self {
                chance: sim.stage.chance("fleet"),
                report: ShardReport {
                    hosts: sim.hosts.len(),
                    vms: sim.vms().count(),
                    ..ShardReport::default()
                },
                sim,
            };
            let (ledger, operators) = shard.set_up().await;
            shard.report.set_up = began.elapsed();
            let began = Instant::now();
            ledger.entries().left = plan.operations;
            let director = shard.let_loose(&plan.script);
            shard.operate(&ledger, operators).await;
            director.end();
            shard.drain().await;
            shard.report.operating = began.elapsed();
            shard.close(&ledger).await;
            shard.report
        })
    }

    /// Containers in every guest, NICs for every operator, and guests that refuse.
    async fn set_up(&mut self) -> (Ledger, Vec<Operator>) {
        for host in self.sim.hosts.clone() {
            self.boot(&host);
            sleep(BETWEEN_BOOTS).await;
        }
        sleep(Duration::from_secs(1)).await;
        let ledger = Ledger::default();
        let mut setting_up = JoinSet::new();
        for (number, host) in self.sim.hosts.iter().enumerate() {
            for vm in host.vms().values() {
                make_containers(vm);
                if self.chance.happens(REFUSING) {
                    change_unplug(vm, Unplug::Refuses);
                }
                let mut operator = Operator::new(host, number, vm, &self.sim.stage, &ledger);
                setting_up.spawn(async move {
                    operator.set_up().await;
                    operator
                });
            }
        }
        let mut operators = setting_up.join_all().await;
        // In the order of their names, whoever was done first.
        operators.sort_by(|one, other| one.name().cmp(other.name()));
        (ledger, operators)
    }

    fn let_loose(&self, script: &Script) -> Director {
        let vms = self.sim.vms().map(|(_, vm)| vm.clone());
        let director = Director::begin(script, &self.sim.stage, vms);
        director.expect("its rules have been checked, and each has its own name")
    }

    /// Lets everybody work while things go wrong.
    async fn operate(&mut self, ledger: &Ledger, operators: Vec<Operator>) {
        let mut working = JoinSet::new();
        for mut operator in operators {
            working.spawn(async move { operator.work().await });
        }
        let mut progress = (ledger.entries().left, self.sim.stage.now());
        while !working.is_empty() {
            tokio::select! {
                biased;
                _ended = working.join_next() => {}
                () = sleep(ROUND) => self.round().await,
            }
            let (left, now) = (ledger.entries().left, self.sim.stage.now());
            if left != progress.0 {
                progress = (left, now);
            } else if now - progress.1 > STUCK {
                // What is under way comes to its end once nothing goes wrong any more.
                self.report.not_begun += std::mem::take(&mut ledger.entries().left);
            }
        }
        self.report.tally = ledger.entries().tally;
    }

    /// Something breaks down now and then, and is put right; and somebody looks.
    async fn round(&mut self) {
        self.revive();
        let host = self.chance.pick(&self.sim.hosts).cloned();
        if let Some(host) = host.filter(|_| self.chance.happens(KILLED)) {
            self.report.hostd_deaths += u64::from(host.kill());
            sleep(AWAY).await;
            self.boot(&host);
        }
        let host = self.chance.pick(&self.sim.hosts).cloned();
        if let Some(host) = host.filter(|_| self.chance.happens(LOOKED_AT)) {
            self.report.looks += 1;
            self.judge(&host, Moment::Any);
        }
    }

    fn revive(&mut self) {
        for (_, vm) in self.sim.vms() {
            if vm.power() == PowerState::Off {
                self.report.qemu_deaths += 1;
                vm.power_on();
                make_containers(vm);
            }
        }
        for host in self.sim.hosts.clone() {
            if host.life().is_none() {
                self.boot(&host);
            }
        }
    }

    fn boot(&mut self, host: &Host) {
        if let Err(error) = host.boot() {
            self.complain(vec![format!("{}: does not start: {error}", host.name())]);
        }
    }

    /// Nothing goes wrong any more, and everybody lets go: whatever is under way comes to its end.
    async fn drain(&mut self) {
        let stage = self.sim.stage.clone();
        for (rule, done) in stage.rules().rules() {
            self.report.rules.insert(rule.name.clone(), done);
        }
        stage.rules().clear();
        for (_, vm) in self.sim.vms() {
            let pace = Pace::After(Span(Duration::from_millis(50)));
            change_unplug(vm, Unplug::LetsGo(pace));
        }
        self.revive();
        let found = self.sim.come_to_rest(DRAIN).await;
        self.complain(found);
    }

    /// Every promise is kept, and of what is given back nothing is left.
    async fn close(&mut self, ledger: &Ledger) {
        let promised = ledger.entries().promised.clone();
        for (nic, host) in &promised {
            let host = &self.sim.hosts[*host];
            let known = host.service().is_some_and(|it| it.store.nic(nic).is_some());
            if !known {
                self.complain(vec![format!(
                    "{}: {nic} was promised and is gone",
                    host.name()
                )]);
            }
        }
        for host in self.sim.hosts.clone() {
            give_everything_back(&host).await;
        }
        self.sim.pass(Duration::from_secs(10)).await;
        let leaks: Vec<_> = self.sim.hosts.iter().flat_map(left_on).collect();
        let trace = self.sim.stage.trace();
        self.report.trace_hash = trace.hash();
        self.report.trace_entries = trace.entries();
        drop(trace);
        self.report.leaks = leaks;
        self.report.virtual_time = self.sim.stage.now();
    }

    fn judge(&mut self, host: &Host, moment: Moment) {
        self.complain(host.told(moment));
    }

    /// What stays wrong counts once.
    fn complain(&mut self, found: Vec<Violation>) {
        self.report.violations.extend(found);
    }
}

/// While others have their turns this world stands still, and its clock with it.
async fn take_turns(place: Place) {
    loop {
        sleep(SLICE).await;
        place.pass();
    }
}

fn make_containers(vm: &SimVm) {
    let Some(guest) = vm.guest_handle() else {
        return;
    };
    for name in CONTAINERS {
        let name = name.parse().expect("the constants are valid names");
        let made = guest.add_netns(&name);
        tracing::debug!(vm = %vm.id(), ?made, "container");
    }
}

fn change_unplug(vm: &SimVm, unplug: Unplug) {
    vm.change(|settings| settings.kernel.unplug = unplug);
    if let Some(guest) = vm.guest_handle() {
        guest.with_kernel(|kernel| kernel.settings_mut().unplug = unplug);
    }
}

/// Detaches and deletes every NIC of a host.
async fn give_everything_back(host: &Host) {
    let Some(service) = host.service() else {
        return;
    };
    let ask = super::operator::closing_ask();
    let nics = service.nics(&ask.caller);
    let gone = nics.iter().map(|nic| async {
        if nic.placement.is_some() {
            drop(service.detach(&ask, &nic.id).await);
        }
        drop(service.delete(&ask, &nic.id).await);
    });
    futures::future::join_all(gone).await;
}

/// What is left on a host on which nothing should be.
fn left_on(host: &Host) -> Vec<String> {
    let Some(view) = host.view() else {
        return vec![format!("{}: no hostd runs", host.name())];
    };
    let mut left: BTreeSet<String> = BTreeSet::new();
    left.extend(view.nics.keys().map(|nic| format!("record of {nic}")));
    left.extend(view.host.ports.keys().map(|link| format!("link {link}")));
    let journal = view.journal.iter().flat_map(|journal| &journal.rows);
    let rows = journal.filter(|row| row.kind == "nic");
    left.extend(rows.map(|row| format!("row of {}", row.key)));
    for (vm, state) in &view.vms {
        let of = |what: &str| format!("{what} in {vm}");
        left.extend(state.devices.keys().map(|id| of(&format!("device {id}"))));
        left.extend(state.netdevs.iter().map(|id| of(&format!("backend {id}"))));
        let guest = state.guest.iter().flat_map(|guest| &guest.links);
        left.extend(guest.map(|link| of(&format!("link {}", link.name))));
    }
    let at = |what| format!("{}: {what}", host.name());
    left.into_iter().map(at).collect()
}

#[cfg(test)]
mod tests {
    use oracle::{JournalRow, JournalView};

    use super::*;

    /// A host on which nobody has asked for anything, and a row that nobody has written.
    fn with_stray_row(look: impl Fn(&Host)) {
        let plan = Plan {
            vms_per_host: 1,
            keeping: Keeping::Hash,
            ..Plan::default()
        };
        let story = async |sim: Sim| {
            sim.pass(Duration::from_secs(1)).await;
            let host = &sim.hosts[0];
            assert_eq!(left_on(host), Vec::<String>::new());
            assert_eq!(host.told(Moment::AtRest), Vec::<Violation>::new());
            host.disk().plant(&JournalView {
                rows: vec![JournalRow {
                    kind: "nic".to_owned(),
                    key: "nic-abc0123xyz".to_owned(),
                    body: None,
                }],
                claims: BTreeSet::new(),
            });
            look(host);
        };
        Sim::run(&plan, story).expect("the plan can be carried out");
    }

    #[test]
    fn what_is_left_when_everything_is_given_back_has_leaked() {
        with_stray_row(|host| {
            assert_eq!(left_on(host), ["host0: row of nic-abc0123xyz"]);
        });
    }

    #[test]
    fn a_world_that_is_not_right_is_told_to_be_wrong() {
        with_stray_row(|host| {
            let told = host.told(Moment::AtRest);
            assert!(
                told.iter().any(|wrong| wrong.contains("nic-abc0123xyz")),
                "{told:?}"
            );
        });
    }

    #[test]
    fn shards_share_whatever_can_be_asked_for() {
        for operations in [0, 1, 7, 100_000, u64::MAX] {
            let plan = FleetPlan {
                vms: 30,
                operations,
                seed: 1,
                vms_per_host: 10,
                script: Arc::default(),
            };
            let shards = [0, 1].map(|number| ShardPlan::of(&plan, number, 2));

            let sum: u64 = shards.iter().map(|shard| shard.operations).sum();
            assert_eq!(sum, operations);
            let hosts = shards
                .each_ref()
                .map(|shard| (shard.first_host, shard.hosts));
            assert_eq!(hosts, [(0, 1), (1, 2)]);
        }
    }
}
