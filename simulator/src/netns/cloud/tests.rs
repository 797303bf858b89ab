//! Orders to several VMs of which one does not do as it is told: what the others have been given is
//! taken back.

use std::collections::BTreeSet;

use misbehaviour::{Effect, Pace, PaceRule, Rule, Script, Transition, When};
use serde_json::json;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use super::*;
use crate::netns::lines;

/// How a VM takes what changes something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Temper {
    Willing,
    Refuses,
    HangsUp,
}

/// What a VM has been told and keeps to.
#[derive(Debug, Default)]
struct Kept {
    rules: BTreeSet<String>,
    paces: Vec<PaceRule>,
}

/// In the place of a VM's hardware: takes orders on its line.
#[derive(Debug, Clone)]
struct StandIn {
    kept: Arc<Mutex<Kept>>,
    temper: Arc<Mutex<Temper>>,
}

impl StandIn {
    fn at(site: &Site, vm: &VmId) -> Self {
        let listener = lines::listen(&site.hardware(vm)).unwrap();
        let stand_in = Self {
            kept: Arc::default(),
            temper: Arc::new(Mutex::new(Temper::Willing)),
        };
        let serving = stand_in.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _address) = listener.accept().await.unwrap();
                serving.serve(stream).await;
            }
        });
        stand_in
    }

    async fn serve(&self, stream: UnixStream) {
        let (reader, mut writer) = stream.into_split();
        let mut lines = BufReader::new(reader).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            let temper = *self.temper.lock().unwrap();
            let answer = match temper {
                Temper::HangsUp => return,
                Temper::Refuses => json!({ "failed": "not today" }),
                Temper::Willing => {
                    self.take(serde_json::from_str(&line).unwrap());
                    json!("done")
                }
            };
            let line = format!("{answer}\n");
            writer.write_all(line.as_bytes()).await.unwrap();
        }
    }

    fn take(&self, order: Order) {
        let mut kept = self.kept.lock().unwrap();
        match order {
            Order::AddRule(rule) => drop(kept.rules.insert(rule.name)),
            Order::RemoveRule(name) => drop(kept.rules.remove(&name)),
            Order::ClearRules => kept.rules.clear(),
            Order::SetPace(pace) => kept.paces.push(pace),
            Order::ClearPaces => kept.paces.clear(),
            Order::Status | Order::Clock(_) | Order::Step | Order::Reset => {}
        }
    }

    fn keeps(&self) -> (Vec<String>, Vec<PaceRule>) {
        let kept = self.kept.lock().unwrap();
        (kept.rules.iter().cloned().collect(), kept.paces.clone())
    }
}

/// Three VMs, which follow the rule `old`, and the pace of [`manual`].
struct Bed {
    cloud: Cloud,
    vms: Vec<StandIn>,
    site: Site,
    _directory: TempDir,
}

impl Bed {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let site = Site::at(directory.path().to_owned());
        let vm = |number: usize| {
            json!({ "id": format!("vm{number}"), "host": "host1", "class": "standard",
                "profile": "qemu-7.2", "root_ports": 8, "containers": [] })
        };
        let plan = json!({
            "topology": { "hosts": ["host1"], "networks": [], "classes": [], "quota": {},
                "timeouts": {}, "vms": [vm(1), vm(2), vm(3)] },
            "frames": "tap", "script": {},
            "programs": { "simulator": "/none", "hostd": "/none", "guest_agent": "/none" },
        });
        let plan: Plan = serde_json::from_value(plan).unwrap();
        let on = plan.topology.vms.iter().map(|vm| vm.id.clone());
        let running = Running {
            vms: on.map(|vm| (vm, rustix::process::getpid())).collect(),
            plan,
            began: Instant::now(),
            hosts: BTreeMap::new(),
            watchers: BTreeMap::new(),
        };
        let vms = running.vms.keys();
        let vms = vms.map(|vm| StandIn::at(&site, vm)).collect();
        let cloud = Cloud {
            inner: Arc::new(Inner {
                site: site.clone(),
                undertaker: Undertaker::default(),
                events: EventLog::default(),
                turns: Turns::default(),
                running: Mutex::new(running),
            }),
        };
        let bed = Self {
            cloud,
            vms,
            site,
            _directory: directory,
        };
        bed.follow(script("old")).await.unwrap();
        bed
    }

    async fn follow(&self, script: Script) -> Result<(), OrderError> {
        let turn = self.cloud.turn("follow a script").await?;
        self.cloud.follow(&turn, script).await
    }

    fn has_second_vm(&self, temper: Temper) {
        *self.vms[1].temper.lock().unwrap() = temper;
    }

    /// That every VM, and the plan, is as before.
    fn assert_as_before(&self, after: &str) {
        let before = (vec!["old".to_owned()], vec![manual()]);
        for vm in &self.vms {
            assert_eq!(vm.keeps(), before, "{after}");
        }
        assert_eq!(self.cloud.plan().script, script("old"), "{after}");
    }
}

fn rule(name: &str) -> Rule {
    Rule {
        name: name.to_owned(),
        operation: "guest.plug".parse().unwrap(),
        vm: None,
        nic: None,
        when: When::Always,
        times: None,
        effect: Effect::Ignore,
    }
}

fn manual() -> PaceRule {
    PaceRule {
        transition: Transition::Plug,
        vm: None,
        pace: Pace::Manual,
    }
}

fn pace_of_unplug() -> PaceRule {
    PaceRule {
        transition: Transition::Unplug,
        ..manual()
    }
}

fn script(name: &str) -> Script {
    Script {
        rules: vec![rule(name)],
        paces: vec![manual()],
        ..Script::default()
    }
}

#[tokio::test]
async fn what_one_vm_does_not_take_is_taken_back_from_the_others() {
    for temper in [Temper::Refuses, Temper::HangsUp] {
        let bed = Bed::new().await;
        let cloud = &bed.cloud;
        bed.has_second_vm(temper);

        let added = cloud.add_rule(rule("new")).await;
        bed.assert_as_before("a rule was added");
        let paced = cloud.set_pace(pace_of_unplug()).await;
        bed.assert_as_before("a pace was set");
        let removed = cloud.remove_rules(Some("old")).await;
        bed.assert_as_before("a rule was removed");
        let cleared = cloud.remove_rules(None).await;
        bed.assert_as_before("all rules were removed");
        let followed = bed.follow(Script::default()).await;
        bed.assert_as_before("a script was to be followed");

        assert!(added.is_err() && paced.is_err() && followed.is_err());
        assert!(removed.is_err() && cleared.is_err());
    }
}

#[tokio::test]
async fn a_vm_that_ends_over_an_order_keeps_nobody_from_it() {
    let bed = Bed::new().await;
    let second: VmId = "vm2".parse().unwrap();
    bed.has_second_vm(Temper::HangsUp);
    let ends = async { bed.cloud.lock().vms.remove(&second) };

    // It is on when the order is given.
    let (added, ended) = tokio::join!(bed.cloud.add_rule(rule("new")), ends);

    added.unwrap();
    assert!(ended.is_some());
    assert_eq!(bed.cloud.plan().script.rules.len(), 2);
    for vm in [&bed.vms[0], &bed.vms[2]] {
        assert_eq!(vm.keeps().0, ["new", "old"]);
    }
}

#[tokio::test]
async fn a_script_that_cannot_be_kept_is_followed_by_nobody() {
    let bed = Bed::new().await;
    std::fs::remove_file(bed.site.plan()).unwrap();
    std::fs::create_dir(bed.site.plan()).unwrap();

    let followed = bed.follow(Script::default()).await;

    followed.unwrap_err();
    bed.assert_as_before("the plan could not be written");
}

#[tokio::test]
async fn a_script_is_all_there_is_to_follow() {
    let bed = Bed::new().await;
    let script = Script {
        paces: vec![pace_of_unplug()],
        ..Script::default()
    };

    bed.follow(script).await.unwrap();

    for vm in &bed.vms {
        assert_eq!(vm.keeps(), (Vec::new(), vec![pace_of_unplug()]));
    }
}

#[tokio::test]
async fn what_a_vm_that_does_not_start_had_to_say_is_told() {
    let bed = Bed::new().await;
    let vm: VmId = "vm1".parse().unwrap();
    {
        let mut running = bed.cloud.lock();
        running.vms.remove(&vm);
        // It knows none of the options it is given, and says so.
        running.plan.programs.simulator = "ls".into();
    }

    let refused = bed.cloud.start_vm(&vm).await.unwrap_err();

    let said = in_full(&refused);
    assert!(said.contains("vm1.log ends with:\n"), "{said}");
    assert!(said.contains("--cloud-age-ms"), "{said}");
}

#[tokio::test(start_paused = true)]
async fn what_a_vm_that_hangs_had_to_say_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("vm1.log");
    std::fs::write(&log, "no kernel\n").unwrap();
    let (said, _output) = std::io::pipe().unwrap();

    let not_ready = said_ready(said, &log).await.unwrap_err();

    let expected = "it does not become ready within 16 s; vm1.log ends with:\n  no kernel";
    assert_eq!(not_ready.to_string(), expected);
}
