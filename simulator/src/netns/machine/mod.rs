//! The process of one VM: a QEMU that answers over QMP, and the hardware its guest finds.
//!
//! ```text
//!   hostd ── VM.qmp ──► FakeQemu ──► Around ──► Hardware ──► Wiring: links
//!                          ▲                     │   ▲  └──► GuestProcess
//!                          └──── acts ───────────┘   └── VM.control: rules, paces, clock
//! ```
//!
//! It runs in its host's network namespace, as a QEMU does, and its end is the end of the guest.

mod around;
mod commands;
mod frames;
mod guest_process;
mod hardware;
mod monitor;
mod orders;
mod transitions;
mod wiring;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use fake_qemu::Hardware as MachineParts;
use fake_qemu::driver::{FakeQemu, Settings, SharedRules};
use misbehaviour::{Cue, Paces, Rulebook, Script, Span, World};
use nic_model::VmId;
use tokio::sync::{mpsc, oneshot, watch};

use self::around::Around;
use self::hardware::{Hardware, Ordered, Parts};
use self::orders::Answer;
use self::wiring::Wiring;
use super::cloud::is_of_the_host;
use super::plan::Plan;
use super::ready::say_ready;
use super::site::Site;
use super::topology::Vm;
use super::trouble::{Doing, Trouble};
use super::{lines, runtime};

pub(super) use guest_process::BOOT_MAX;
pub use orders::{GuestState, RuleStatus, Status, TransitionStatus};
pub(crate) use orders::{Order, give};
pub(crate) use wiring::let_go_for;

/// Orders that wait: more than one person or test gives.
const ORDERS_MAX: usize = 64;

/// A VM of another name than those of the plan.
#[derive(Debug, thiserror::Error)]
#[error("the plan has no such VM")]
struct NotPlanned;

/// Is the VM `vm` until it is told to quit, or is killed; `cloud_age` is how long the cloud had
/// been there when this was started.
///
/// # Errors
/// When it cannot be set up.
pub fn run(site: &Site, vm: &VmId, cloud_age: Duration) -> Result<(), Trouble> {
    let plan = Plan::read(site)?;
    let place = plan.topology.vms.iter().position(|known| known.id == *vm);
    let number = place.ok_or(NotPlanned).doing(format_args!("be VM {vm}"))?;
    runtime()?.block_on(serve(site, &plan, number, cloud_age))
}

async fn serve(
    site: &Site,
    plan: &Plan,
    number: usize,
    cloud_age: Duration,
) -> Result<(), Trouble> {
    let vm = &plan.topology.vms[number];
    let (poll_sender, polls) = watch::channel(0);
    let (around, told) = Around::new(polls.clone())?;
    let rules = Rulebook::from_script(World::Netns, &of_vms(&plan.script));
    let rules = rules.doing("take in the rules")?;
    let rules: SharedRules = Arc::new(Mutex::new(rules));
    let qemu = FakeQemu::start(settings(vm, rules.clone())?, around);
    let monitor = lines::listen(&site.monitor(&vm.id))?;
    let spare = lines::listen(&site.spare_monitor(&vm.id))?;
    let control = lines::listen(&site.hardware(&vm.id))?;
    let (order_sender, orders) = mpsc::channel(ORDERS_MAX);
    let parts = Parts {
        vm: vm.id.clone(),
        site: site.clone(),
        programs: plan.programs.clone(),
        qemu: qemu.clone(),
        told,
        orders,
        polls,
        rules,
        paces: Paces::new(&plan.script.paces),
        cues: cues_for(&vm.id, &plan.script, cloud_age),
        wiring: Wiring::new(vm.id.clone(), number).await?,
    };
    let hardware = Hardware::new(parts).await?;
    say_ready().doing("tell the cloud that it is up")?;
    let ending = qemu.clone();
    tokio::select! {
        biased;
        () = ending.run() => Ok(()),
        failed = hardware.run() => failed,
        failed = monitor::serve(&qemu, monitor::MONITOR, &monitor, &poll_sender) => failed,
        failed = monitor::serve(&qemu, monitor::SPARE, &spare, &poll_sender) => failed,
        () = take_orders(control, order_sender) => Ok(()),
    }
}

/// Without the rules about hosts, at which no VM is asked.
fn of_vms(script: &Script) -> Script {
    let rules = script.rules.iter().filter(|rule| !is_of_the_host(rule));
    Script {
        rules: rules.cloned().collect(),
        ..script.clone()
    }
}

/// What is yet to come when the cloud is of this age, each at its time from then on.
fn cues_for(vm: &VmId, script: &Script, cloud_age: Duration) -> VecDeque<Cue> {
    let cues = script.cues().into_iter().filter(|cue| cue.is_for(vm));
    let from_then = |cue: Cue| {
        let at = Span(cue.at.0.checked_sub(cloud_age)?);
        Some(Cue { at, ..cue })
    };
    cues.filter_map(from_then).collect()
}

fn settings(vm: &Vm, rules: SharedRules) -> Result<Settings, Trouble> {
    let doing = format!("build VM {}", vm.id);
    let profile = vm.profile.parse().doing(&doing)?;
    let mut hardware =
        MachineParts::with_root_ports(profile, vm.root_ports.into()).doing(&doing)?;
    hardware.name = Some(vm.id.to_string());
    Ok(Settings {
        hardware: Arc::new(hardware),
        vm: Some(vm.id.clone()),
        rules,
        // A clock before 1970 is none.
        epoch: SystemTime::UNIX_EPOCH.elapsed().unwrap_or(Duration::ZERO),
    })
}

async fn take_orders(listener: tokio::net::UnixListener, orders: mpsc::Sender<Ordered>) {
    lines::serve(listener, orders::LINE_MAX, move |order| {
        let orders = orders.clone();
        async move {
            let (sender, answer) = oneshot::channel();
            let gone = |what: &str| Answer::Failed(format!("the hardware {what}"));
            if orders.send((order, sender)).await.is_err() {
                return gone("takes no orders any more");
            }
            answer.await.unwrap_or_else(|_| gone("gives no answer"))
        }
    })
    .await;
}

#[cfg(test)]
mod tests {
    use misbehaviour::{ClockOrder, ClockRule, CueOrder};

    use super::*;

    #[test]
    fn a_vm_that_is_started_again_has_only_what_is_yet_to_come() {
        let clock = |seconds: u64| ClockRule {
            at: Span(Duration::from_secs(seconds)),
            vm: None,
            order: ClockOrder::Freeze,
        };
        let script = Script {
            clocks: vec![clock(0), clock(4), clock(9)],
            ..Script::default()
        };
        let vm = "vm1".parse().expect("it is a name");
        let times = |age: u64| -> Vec<u64> {
            let cues = cues_for(&vm, &script, Duration::from_secs(age));
            let freezes = cues
                .iter()
                .filter(|cue| cue.order == CueOrder::Clock(ClockOrder::Freeze));
            freezes.map(|cue| cue.at.0.as_secs()).collect()
        };

        assert_eq!(times(0), [0, 4, 9]);
        assert_eq!(times(5), [4]);
        assert_eq!(times(10), Vec::<u64>::new());
    }
}
