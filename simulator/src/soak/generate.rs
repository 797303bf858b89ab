//! What a seed makes of a world: its plan, and step after step what is done in it and to it.

use std::time::Duration;

use fake_guest::kernel::{BootTimes, KernelSettings, RenameWhileUp, Unplug};
use fake_qemu::Profile;
use misbehaviour::{Chance, Pace, Side, Span};
use oracle::model::{Happening, Model, NicKey, Operation, Request, Spot, Standing, VmKey};

use super::aim;
use super::menu::Mischief;
use super::step::{Act, Blackout, Kill, Moment, Step, Trouble, is_possible};
use super::{NICS, NICS_PER_VM, VMS, container_keys, vm_keys};
use crate::sim::{Keeping, Plan};

/// Slots beyond what the limit lets NICs take: a device that is to go may still sit in one.
const SPARE_SLOTS: u8 = 2;
/// How long hostd waits, in seconds: attach, release, quarantine.
pub(crate) const PATIENCE: [u64; 3] = [60, 2, 30];
/// Effects of which one may be the last of a hostd's life: an attach has some forty.
const EFFECTS: u64 = 60;

/// The world of a seed.
#[must_use]
pub fn plan_of(seed: u64) -> Plan {
    let mut chance = Chance::new(seed).fork("plan");
    // The others never let go of a device that a guest has been asked for in vain.
    let profiles = [Profile::Qemu7_2, Profile::Qemu8_1];
    let profile = chance.pick(&profiles).copied();
    Plan {
        seed,
        first_host: 0,
        hosts: 1,
        vms_per_host: VMS.into(),
        slots: (NICS_PER_VM + SPARE_SLOTS).into(),
        max_nics: NICS_PER_VM.into(),
        profile: profile.unwrap_or(Profile::Qemu7_2),
        kernel: kernel(&mut chance),
        patience: PATIENCE,
        more_configuration: String::new(),
        keeping: Keeping::Log,
    }
}

fn kernel(chance: &mut Chance) -> KernelSettings {
    let milliseconds = |chance: &mut Chance, most| Duration::from_millis(chance.below(most));
    let pace = |chance: &mut Chance| Pace::After(Span(milliseconds(chance, 300)));
    let boot = BootTimes {
        firmware: milliseconds(chance, 1000),
        hotplug: milliseconds(chance, 1000),
        agent: milliseconds(chance, 1000),
    };
    KernelSettings {
        boot: if chance.happens(0.5) {
            boot
        } else {
            BootTimes::NONE
        },
        probe: pace(chance),
        unplug: Unplug::LetsGo(pace(chance)),
        rename_after: chance.happens(0.7).then(|| milliseconds(chance, 150)),
        rename_while_up: match chance.happens(0.5) {
            true => RenameWhileUp::Allowed,
            false => RenameWhileUp::Refused,
        },
        ..KernelSettings::default()
    }
}

/// What comes next in a world that is as `model` says.
#[must_use]
pub fn next_step(chance: &mut Chance, model: &Model) -> Step {
    let step = draw_step(chance, model);
    if step.is_possible(model) {
        return step;
    }
    // What does not go together goes alone.
    let first = step.act.operations()[0];
    let act = Act::One(first);
    Step { act, ..step }
}

fn draw_step(chance: &mut Chance, model: &Model) -> Step {
    let act = draw_act(chance, model);
    let together = matches!(act, Act::Together(_));
    let count = chance.below(7).saturating_sub(3);
    let mut troubles: Vec<Trouble> = (0..count).map(|_| draw_trouble(chance)).collect();
    if !together && chance.happens(0.03) {
        troubles.push(Trouble::PowerLoss(draw_blackout(chance)));
    }
    if together && chance.happens(0.3) {
        troubles.push(aim::slow_commit(chance));
    }
    if chance.happens(0.5) {
        troubles.extend(aim::late_agent(chance, model, &act));
    }
    let pause = match chance.below(10) {
        0 => 40_000,
        1..4 => chance.below(5000),
        _ => chance.below(100),
    };
    let pause = Duration::from_millis(pause);
    Step {
        act,
        troubles,
        pause,
    }
}

fn draw_act(chance: &mut Chance, model: &Model) -> Act {
    if chance.happens(0.12)
        && let Some(rivals) = aim::rivals(chance, model)
    {
        return rivals;
    }
    let first = draw_operation(chance, model);
    if !chance.happens(0.2) {
        return Act::One(first);
    }
    let more = 1 + chance.below(2);
    let more = (0..more).map(|_| draw_operation(chance, model));
    Act::Together(std::iter::once(first).chain(more).collect())
}

fn draw_trouble(chance: &mut Chance) -> Trouble {
    let after = |chance: &mut Chance, most| Duration::from_millis(chance.below(most));
    match chance.below(12) {
        0..3 => Trouble::Kill(Kill {
            moment: draw_moment(chance),
            downtime: after(chance, 3000),
        }),
        3 => Trouble::Twice {
            later: after(chance, 200),
        },
        4 => Trouble::Impatience,
        5 => Trouble::AgentDies {
            vm: VmKey(u8::try_from(chance.below(VMS.into())).unwrap_or_default()),
            after: after(chance, 600),
        },
        6 if chance.happens(0.5) => Trouble::ClockJump {
            seconds: [-3600, -1, 1, 3600][usize::try_from(chance.below(4)).unwrap_or_default()],
        },
        _ => Trouble::Mischief(Mischief::draw(chance)),
    }
}

fn draw_moment(chance: &mut Chance) -> Moment {
    if chance.happens(0.2) {
        return Moment::Answer;
    }
    let side = match chance.happens(0.5) {
        true => Side::Before,
        false => Side::After,
    };
    let number = 1 + chance.below(EFFECTS);
    // The first effects are those that everything else relies on.
    let number = if chance.happens(0.3) {
        1 + number % 4
    } else {
        number
    };
    Moment::Effect { number, side }
}

fn draw_blackout(chance: &mut Chance) -> Blackout {
    match chance.happens(0.5) {
        true => Blackout::Answer,
        false => Blackout::After(Duration::from_millis(chance.below(300))),
    }
}

fn draw_operation(chance: &mut Chance, model: &Model) -> Operation {
    let candidates = candidates(chance, model);
    let total: u64 = candidates.iter().map(|(weight, _)| weight).sum();
    let mut drawn = chance.below(total);
    for (weight, operation) in &candidates {
        match drawn.checked_sub(*weight) {
            Some(rest) => drawn = rest,
            None => return *operation,
        }
    }
    candidates[0].1
}

type Candidates = Vec<(u64, Operation)>;

fn candidates(chance: &mut Chance, model: &Model) -> Candidates {
    let nics = (0..NICS).map(NicKey);
    let requests = nics.flat_map(|nic| requests(chance, model, nic));
    let mut all: Candidates = requests.collect();
    all.extend(vm_keys().flat_map(|vm| in_vm(model, vm)));
    all.retain(|(_, operation)| is_possible(model, operation));
    all
}

fn requests(chance: &mut Chance, model: &Model, nic: NicKey) -> Candidates {
    let ask = |weight, request| (weight, Operation::Ask(request));
    let spot = draw_spot(chance, model);
    let standing = model.standing(nic);
    let is = |wanted: bool, often, seldom| if wanted { often } else { seldom };
    let nowhere = standing == Standing::Nowhere;
    let inside = matches!(standing, Standing::In { .. });
    let stuck = matches!(standing, Standing::Stuck { .. });
    let absent = standing == Standing::Absent;
    let create = absent.then_some(ask(40, Request::Create(nic)));
    let eject = (inside || stuck).then_some((6, Operation::Happen(Happening::Eject(nic))));
    let others = [
        ask(is(nowhere, 60, 2), Request::Attach(nic, spot)),
        ask(is(inside, 40, 2), Request::Move(nic, spot)),
        ask(is(inside, 40, 2), Request::Detach(nic)),
        ask(is(nowhere, 12, 2), Request::Delete(nic)),
    ];
    create.into_iter().chain(others).chain(eject).collect()
}

/// Mostly a container that lives.
fn draw_spot(chance: &mut Chance, model: &Model) -> Spot {
    let spots: Vec<Spot> = vm_keys()
        .flat_map(|vm| container_keys().map(move |container| Spot { vm, container }))
        .collect();
    let living = spots.iter().filter(|spot| model.has_container(**spot));
    let living: Vec<Spot> = living.copied().collect();
    let alive = chance.happens(0.85);
    let drawn = chance.pick(if alive && !living.is_empty() {
        &living
    } else {
        &spots
    });
    drawn.copied().unwrap_or(spots[0])
}

fn in_vm(model: &Model, vm: VmKey) -> Candidates {
    let happen = |weight, happening| (weight, Operation::Happen(happening));
    if !model.runs(vm) {
        return vec![happen(40, Happening::PowerOn(vm))];
    }
    let containers = container_keys().map(|container| {
        let spot = Spot { vm, container };
        match model.has_container(spot) {
            true => happen(6, Happening::KillContainer(spot)),
            false => happen(30, Happening::StartContainer(spot)),
        }
    });
    let agent = match model.has_agent(vm) {
        true => happen(4, Happening::StopAgent(vm)),
        false => happen(25, Happening::StartAgent(vm)),
    };
    let kernel = match model.keeps_devices(vm) {
        true => happen(20, Happening::LetGo(vm)),
        false => happen(5, Happening::KeepDevices(vm)),
    };
    let power = [
        happen(4, Happening::Reset(vm)),
        happen(4, Happening::PowerOff(vm)),
    ];
    containers.chain([agent, kernel]).chain(power).collect()
}
