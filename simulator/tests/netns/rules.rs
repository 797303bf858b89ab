//! Every rule that a cloud of real processes takes in is followed there, and every other is refused
//! with the reason.
//!
//! ```text
//!   hostd in touch ──► rule added ──► its operation brought about ──► sign of its effect
//!     ▲       └──► NIC in and out, once for each operation                │
//!     └── VM on, guest up ◄─────────────────────── rule removed ◄─────────┘
//! ```
//!
//! All in one cloud, so that what one rule leaves behind shows in the next.

use std::collections::BTreeMap;

use futures::future::join_all;
use host_api::client::{ClientError, Progress};
use host_api::{AgentState, NicState, ProblemCode};
use misbehaviour::{EffectKind, Rule, Side, World, possible_in};
use nic_model::PowerState;
use simulator::netns::{GuestState, Page, Status, VmPage, VmState};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::cells::{impossible_in, rule};
use crate::support::{Bed, Cloud, PATIENCE, User, settled, until};

/// VMs in each of which another rule is walked through at the same time.
const VMS: usize = 6;

/// How an effect shows from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sign {
    /// The VM, which is on, says that it has followed the rule.
    Counted,
    /// The VM is off.
    Off,
    /// The VM is off, and so many events have told of it before.
    ToldOff(usize),
    /// Hostd can promise nothing more.
    JournalFull,
}

fn sign_of(operation: &str, effect: EffectKind) -> Sign {
    use EffectKind::{Crash, Cut, Duplicate, Error, Reorder, Stall};
    match (operation, effect) {
        ("journal.commit", _) => Sign::JournalFull,
        ("event.SHUTDOWN", Duplicate) => Sign::ToldOff(2),
        // Nothing but the answer comes before which it could be told.
        ("event.SHUTDOWN", Cut(Side::After) | Crash(Side::After) | Reorder) => Sign::ToldOff(1),
        ("event.SHUTDOWN", _) => Sign::ToldOff(0),
        ("qmp.quit", Error | Cut(Side::Before) | Stall) => Sign::Counted,
        ("qmp.quit", _) => Sign::Off,
        // Of a guest that crashes, QEMU is still there.
        (operation, Crash(_)) if !operation.starts_with("guest.") => Sign::Off,
        _ => Sign::Counted,
    }
}

/// The rule beside which an operation comes about at all.
fn cause(operation: &str) -> Option<Rule> {
    match operation {
        "event.GUEST_PANICKED" => {
            Some(rule("cause", "guest.plug", EffectKind::Crash(Side::Before)))
        }
        "event.DEVICE_UNPLUG_GUEST_ERROR" => {
            Some(rule("cause", "guest.unplug", EffectKind::Refuse))
        }
        _ => None,
    }
}

const ADD: &str = r#"{"execute": "device_add", "arguments": {"id": "extra", "bus": "rp7",
    "driver": "virtio-net-pci", "mac": "52:54:00:00:00:77"}}"#;
const DELETE: &str = r#"{"execute": "device_del", "arguments": {"id": "extra"}}"#;

fn plain(command: &str) -> String {
    format!(r#"{{"execute": "{command}"}}"#)
}

/// The commands that bring an operation about, once the monitor takes any.
fn ways(operation: &str) -> Vec<String> {
    match operation {
        "qmp.qmp_capabilities" => vec![],
        "event.RESET" | "guest.boot" => vec![plain("system_reset")],
        "event.STOP" => vec![plain("stop")],
        "event.RESUME" => vec![plain("stop"), plain("cont")],
        "event.POWERDOWN" => vec![plain("system_powerdown")],
        "event.SHUTDOWN" => vec![plain("quit")],
        "event.GUEST_PANICKED" | "guest.plug" => vec![ADD.to_owned()],
        "event.DEVICE_DELETED" | "event.DEVICE_UNPLUG_GUEST_ERROR" | "guest.unplug" => {
            vec![ADD.to_owned(), DELETE.to_owned()]
        }
        "journal.commit" => vec![],
        // Carried out or not: that it comes is enough.
        operation => match operation.strip_prefix("qmp.") {
            Some(command) => vec![plain(command)],
            None => panic!("nobody knows how {operation} comes about"),
        },
    }
}

/// Gives commands to a VM over the monitor that hostd leaves to others.
async fn give(monitor: &mut UnixStream, commands: &[String]) {
    let lines = [&[plain("qmp_capabilities")], commands].concat().join("\n");
    // It may be cut by a rule while it is written to.
    drop(monitor.write_all(format!("{lines}\n").as_bytes()).await);
}

/// Whether the guest is another one afterwards, has a device too many, or stands still.
fn is_disturbed(operation: &str, effect: EffectKind) -> bool {
    let harmless = operation.starts_with("qmp.") && effect != EffectKind::Reset;
    match operation {
        "qmp.quit" | "qmp.stop" | "qmp.system_reset" => true,
        "event.POWERDOWN" | "journal.commit" => false,
        _ => !harmless,
    }
}

/// Whoever walks from rule to rule in one VM.
struct Walker<'a> {
    cloud: &'a Cloud,
    vm: &'a VmState,
}

impl Walker<'_> {
    /// The rules by which an effect comes about in this VM.
    fn rules(&self, operation: &str, effect: EffectKind) -> Vec<Rule> {
        let id = &self.vm.id;
        let own = rule(id.as_str(), operation, effect);
        let cause = cause(operation).map(|cause| Rule {
            name: format!("{id}-cause"),
            ..cause
        });
        let about = |rule: Rule| Rule {
            // The disk is no VM's.
            vm: (effect != EffectKind::DiskFull).then(|| id.clone()),
            ..rule
        };
        cause.into_iter().chain([own]).map(about).collect()
    }

    async fn page(&self) -> VmPage {
        let page: Page = self.cloud.started.control().get("/").await.unwrap();
        let mut vms = page.vms.into_iter();
        vms.find(|page| page.id == self.vm.id).unwrap()
    }

    async fn is_off(&self) -> bool {
        self.page().await.pid.is_none()
    }

    /// How often the VM, which is on, has followed the rule.
    async fn counted(&self) -> Option<u64> {
        let VmPage { pid, hardware, .. } = self.page().await;
        let rules = pid.and(hardware)?.rules;
        let own = rules
            .iter()
            .find(|status| status.rule.name == self.vm.id.as_str());
        own.map(|status| status.done)
    }

    /// Waits until an effect shows; what the VM has to say of it comes over `monitor`.
    async fn see(&self, what: &str, sign: Sign, monitor: &mut UnixStream) {
        match sign {
            Sign::Counted => until(what, async || self.counted().await > Some(0)).await,
            Sign::Off => until(what, async || self.is_off().await).await,
            Sign::ToldOff(times) => {
                let mut told = String::new();
                let closed = timeout(PATIENCE, monitor.read_to_string(&mut told)).await;
                // One that breaks instead is closed too.
                drop(closed.expect(what));
                let heard = told.matches("\"SHUTDOWN\"").count();
                assert_eq!(heard, times, "{what}: {told}");
                until(what, async || self.is_off().await).await;
            }
            Sign::JournalFull => {
                let refused = self.cloud.create(self.vm.id.as_str(), "web").await;
                let Err(ClientError::Problem { problem, .. }) = refused else {
                    panic!("{what}: {refused:?}");
                };
                assert_eq!(problem.code, ProblemCode::JournalFull, "{what}");
            }
        }
    }

    /// Switches the VM off, unless it is, and on again. Hostd comes back to a guest that is reset
    /// as well, but the later the more often it goes away.
    async fn restart(&self) {
        let control = self.cloud.started.control();
        let order = |what| format!("/v1/vms/{}/{what}", self.vm.id);
        if !self.is_off().await {
            control.post(&order("kill"), &()).await.unwrap();
        }
        control.post(&order("start"), &()).await.unwrap();
    }

    /// Waits until no rule is left, the guest is up, and hostd in touch with QEMU and the agent.
    async fn is_in_touch(&self, after: &str) {
        until(&format!("hostd is in touch after {after}"), async || {
            let is_up = |it: Status| it.guest == GuestState::Up && it.rules.is_empty();
            let hardware = self.page().await.hardware;
            let seen = self.cloud.hostd().vm(&self.vm.id).await.unwrap();
            let runs = seen.power == Some(PowerState::Running);
            hardware.is_some_and(is_up) && runs && seen.agent.state == AgentState::Ready
        })
        .await;
    }

    /// Has a NIC put into a container and taken out again.
    async fn is_whole(&self, after: &str) {
        let nic = self.cloud.create(self.vm.id.as_str(), "web").await;
        let nic = nic.expect(after).nic;
        assert_eq!(nic.state, NicState::InUse, "{after}: {nic:?}");
        let out = self.cloud.hostd().detach_nic(&nic.id, &settled()).await;
        assert_eq!(out.expect(after).progress, Progress::Settled, "{after}");
        let gone = self.cloud.hostd().delete_nic(&nic.id, &settled()).await;
        assert_eq!(gone.expect(after).progress, Progress::Settled, "{after}");
    }

    /// Has a rule followed, and removes it.
    async fn follow(&self, operation: &str, effect: EffectKind) {
        let what = format!("{operation} {} in {}", effect.name(), self.vm.id);
        let control = self.cloud.started.control();
        let rules = self.rules(operation, effect);
        // Before a rule could have the VM crash over something that hostd does.
        let mut monitor = UnixStream::connect(&self.vm.monitor).await.expect(&what);
        for rule in &rules {
            control.post("/v1/rules", rule).await.expect(&what);
        }
        give(&mut monitor, &ways(operation)).await;
        self.see(&what, sign_of(operation, effect), &mut monitor)
            .await;
        // Not before: QEMU carries nothing more out for a client that has hung up.
        drop(monitor);
        for rule in rules {
            let path = format!("/v1/rules/{}", rule.name);
            control.delete(&path).await.expect(&what);
        }
        if is_disturbed(operation, effect) || self.is_off().await {
            self.restart().await;
        }
        self.is_in_touch(&what).await;
    }

    async fn walk(&self, operations: impl Iterator<Item = (&String, &Vec<EffectKind>)>) {
        for (operation, effects) in operations {
            for effect in effects {
                self.follow(operation, *effect).await;
            }
            self.is_whole(operation).await;
        }
    }
}

#[tokio::test]
async fn every_rule_that_is_taken_in_is_followed_until_it_is_removed() {
    let cloud = Bed::of(User::Own).up(&["--vms", &VMS.to_string()]).await;
    let (mut of_vms, mut of_the_host) = (BTreeMap::new(), BTreeMap::new());
    for (operation, effect) in possible_in(World::Netns) {
        let cells: &mut BTreeMap<String, Vec<EffectKind>> = if effect == EffectKind::DiskFull {
            &mut of_the_host
        } else {
            &mut of_vms
        };
        cells.entry(operation).or_default().push(effect);
    }
    let walker = |vm| Walker { cloud: &cloud, vm };
    let walkers: Vec<Walker<'_>> = cloud.started.state.vms.iter().map(walker).collect();

    // Most of a walk is waiting for hostd to come back to a VM.
    let walks = walkers.iter().enumerate();
    let walks = walks.map(|(first, walker)| walker.walk(of_vms.iter().skip(first).step_by(VMS)));
    join_all(walks).await;
    walkers[0].walk(of_the_host.iter()).await;
}

#[tokio::test]
async fn every_rule_that_could_do_nothing_is_refused_with_the_reason() {
    let cloud = Bed::of(User::Own).up(&["--vms", "1"]).await;
    let control = cloud.started.control();
    for (rule, begins) in impossible_in(World::Netns) {
        let refused = control.post("/v1/rules", &rule).await;

        let refused = refused.expect_err(&begins).cause.to_string();
        assert!(refused.contains(&begins), "{begins}: {refused}");
    }
}
