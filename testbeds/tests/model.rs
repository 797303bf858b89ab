//! Random sequences of operations and troubles in world `sim`, held against the reference model.
//!
//! ```text
//!   proptest ── operations, troubles ──► Rig ── performs, compares ──► world `sim`
//!       ▲                                  │
//!       └──── fewer and simpler ones ◄─────┘ something is wrong
//! ```
//!
//! `cargo xtask soak` draws whole runs from numbers and goes far; here sequences are shortened
//! until nothing can be left out, and what was found stays in `model.proptest-regressions`.
//! `PROPTEST_CASES` has more of them drawn. Seeds of the soak that have found something stay too,
//! by what they found.

#![expect(clippy::unwrap_used, reason = "set-up that fails is a failed test")]

use std::fmt;
use std::time::Duration;

use misbehaviour::{Effect, Side, Span};
use oracle::model::{
    ContainerKey, Happening, Model, NicKey, Operation, Request, Spot, Standing, VmKey,
};
use proptest::prelude::*;
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest, prop_state_machine};
use simulator::sim::Sim;
use simulator::soak::{
    Act, Blackout, CONTAINERS, Kill, Mischief, Moment, NICS, Rig, Run, Step, Trouble, VMS,
    first_model, plan_of,
};
use tokio::runtime::Runtime;

/// Sequences unless `PROPTEST_CASES` says otherwise: some seconds.
const CASES: u32 = 12;
/// Seeds of the soak that every test run goes through.
const SEEDS: std::ops::RangeInclusive<u64> = 1..=12;

/// What should be.
#[derive(Debug, Clone)]
struct Reference {
    /// Of the world: how fast its guests are, and which QEMU runs them.
    seed: u64,
    model: Model,
}

impl ReferenceStateMachine for Reference {
    type State = Self;
    type Transition = Step;

    fn init_state() -> BoxedStrategy<Self> {
        let world = |seed| Self {
            seed,
            model: first_model(),
        };
        (0_u64..1000).prop_map(world).boxed()
    }

    fn transitions(state: &Self) -> BoxedStrategy<Step> {
        let troubles = prop::collection::vec(trouble(), 0..3);
        let pause = prop_oneof![4 => 0_u64..100, 1 => 0_u64..40_000];
        let step = |(operation, troubles, pause)| Step {
            act: Act::One(operation),
            troubles,
            pause: Duration::from_millis(pause),
        };
        let likely = likely_operations(&state.model);
        let operation = prop_oneof![4 => prop::sample::select(likely), 1 => operation()];
        (operation, troubles, pause).prop_map(step).boxed()
    }

    fn preconditions(state: &Self, step: &Step) -> bool {
        step.is_possible(&state.model) && !is_a_matter_of_time(&state.model, &step.act)
    }

    fn apply(mut state: Self, step: &Step) -> Self {
        state.model = step.end(&state.model);
        state
    }
}

/// Whether the end depends on how fast an agent is: it has to take a link out before a device is
/// asked for that its guest then keeps.
fn is_a_matter_of_time(model: &Model, act: &Act) -> bool {
    act.operations().iter().any(|operation| {
        let Operation::Ask(Request::Move(nic, to)) = operation else {
            return false;
        };
        let stays = matches!(model.standing(*nic), Standing::In { vm, .. } if vm == to.vm);
        stays && model.keeps_devices(to.vm)
    })
}

/// What is.
struct World {
    rig: Rig,
    runtime: Runtime,
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.rig.fmt(f)
    }
}

impl StateMachineTest for World {
    type SystemUnderTest = Self;
    type Reference = Reference;

    fn init_test(reference: &Reference) -> Self {
        let plan = plan_of(reference.seed);
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_time().start_paused(true).build().unwrap();
        let rig = runtime.block_on(async {
            let sim = Sim::make(&plan).unwrap();
            sim.pass(Duration::from_secs(5)).await;
            Rig::new(sim, &plan)
        });
        Self { rig, runtime }
    }

    fn apply(mut world: Self, reference: &Reference, step: Step) -> Self {
        let done = world.runtime.block_on(world.rig.perform(&step));
        if let Err(breach) = done {
            panic!("{breach}\n{}", world.rig.system().join("\n"));
        }
        assert_eq!(*world.rig.belief(), reference.model);
        world
    }
}

/// What leads somewhere: requests that are not refused, and containers for them.
fn likely_operations(model: &Model) -> Vec<Operation> {
    let mut likely = Vec::new();
    for nic in (0..NICS).map(NicKey) {
        let ask = |request| Operation::Ask(request);
        match model.standing(nic) {
            Standing::Absent => likely.push(ask(Request::Create(nic))),
            Standing::Nowhere => {
                let living = spots().filter(|spot| model.has_container(*spot));
                likely.extend(living.map(|to| ask(Request::Attach(nic, to))));
            }
            Standing::In { .. } => {
                let living = spots().filter(|spot| model.has_container(*spot));
                likely.extend(living.map(|to| ask(Request::Move(nic, to))));
                likely.extend([ask(Request::Detach(nic)); 3]);
            }
            Standing::Stuck { vm } => likely.push(Operation::Happen(Happening::LetGo(vm))),
        }
    }
    let missing = spots().filter(|spot| model.runs(spot.vm) && !model.has_container(*spot));
    likely.extend(missing.map(|spot| Operation::Happen(Happening::StartContainer(spot))));
    let off = (0..VMS).map(VmKey).filter(|vm| !model.runs(*vm));
    likely.extend(off.map(|vm| Operation::Happen(Happening::PowerOn(vm))));
    if likely.is_empty() {
        likely.push(Operation::Ask(Request::Delete(NicKey(0))));
    }
    likely
}

fn spots() -> impl Iterator<Item = Spot> {
    let containers = || (0..CONTAINERS).map(ContainerKey);
    (0..VMS)
        .map(VmKey)
        .flat_map(move |vm| containers().map(move |container| Spot { vm, container }))
}

fn operation() -> impl Strategy<Value = Operation> {
    let nic = || (0..NICS).prop_map(NicKey);
    let vm = || (0..VMS).prop_map(VmKey);
    let spot = || {
        let container = (0..CONTAINERS).prop_map(ContainerKey);
        (vm(), container).prop_map(|(vm, container)| Spot { vm, container })
    };
    let happening = prop_oneof![
        8 => spot().prop_map(Happening::StartContainer),
        2 => spot().prop_map(Happening::KillContainer),
        1 => vm().prop_map(Happening::StopAgent),
        3 => vm().prop_map(Happening::StartAgent),
        1 => vm().prop_map(Happening::KeepDevices),
        2 => vm().prop_map(Happening::LetGo),
        2 => nic().prop_map(Happening::Eject),
        1 => vm().prop_map(Happening::Reset),
        1 => vm().prop_map(Happening::PowerOff),
        3 => vm().prop_map(Happening::PowerOn),
    ];
    prop_oneof![
        5 => nic().prop_map(|nic| Operation::Ask(Request::Create(nic))),
        8 => (nic(), spot()).prop_map(|(nic, to)| Operation::Ask(Request::Attach(nic, to))),
        4 => nic().prop_map(|nic| Operation::Ask(Request::Detach(nic))),
        5 => (nic(), spot()).prop_map(|(nic, to)| Operation::Ask(Request::Move(nic, to))),
        1 => nic().prop_map(|nic| Operation::Ask(Request::Delete(nic))),
        10 => happening.prop_map(Operation::Happen),
    ]
}

fn trouble() -> impl Strategy<Value = Trouble> {
    let side = || prop_oneof![Just(Side::Before), Just(Side::After)];
    let milliseconds = |most: u64| (0..most).prop_map(Duration::from_millis);
    let effect = (1_u64..60, side()).prop_map(|(number, side)| Moment::Effect { number, side });
    let moment = prop_oneof![4 => effect, 1 => Just(Moment::Answer)];
    let kill =
        (moment, milliseconds(3000)).prop_map(|(moment, downtime)| Kill { moment, downtime });
    let blackout = prop_oneof![
        Just(Blackout::Answer),
        milliseconds(300).prop_map(Blackout::After),
    ];
    let agent = (0..VMS, milliseconds(600));
    prop_oneof![
        8 => mischief().prop_map(Trouble::Mischief),
        4 => kill.prop_map(Trouble::Kill),
        2 => agent.prop_map(|(vm, after)| Trouble::AgentDies { vm: VmKey(vm), after }),
        2 => milliseconds(200).prop_map(|later| Trouble::Twice { later }),
        1 => Just(Trouble::Impatience),
        1 => blackout.prop_map(Trouble::PowerLoss),
    ]
}

fn mischief() -> impl Strategy<Value = Mischief> {
    let cut = prop_oneof![Just(Side::Before), Just(Side::After)].prop_map(Effect::Cut);
    let delay = (1_u64..6000).prop_map(|ms| Effect::Delay(Span(Duration::from_millis(ms))));
    let at = |operation: &'static str, effect: BoxedStrategy<Effect>| {
        effect.prop_map(move |effect| (operation, effect))
    };
    let always = |effect: Effect| Just(effect).boxed();
    let any = prop_oneof![
        at("qmp.*", always(Effect::Lose)),
        at("qmp.*", cut.clone().boxed()),
        at("event.*", always(Effect::Lose)),
        at("event.*", always(Effect::Duplicate)),
        at("channel.*", always(Effect::Lose)),
        at("channel.*", cut.boxed()),
        at("journal.commit", delay.clone().boxed()),
        at("guest.plug", delay.clone().boxed()),
        at("guest.unplug", delay.boxed()),
    ];
    (any, 1_u64..20).prop_map(|((operation, effect), nth)| Mischief {
        operation,
        nth,
        effect,
    })
}

fn cases() -> ProptestConfig {
    let asked = std::env::var("PROPTEST_CASES").ok();
    ProptestConfig {
        cases: asked.and_then(|cases| cases.parse().ok()).unwrap_or(CASES),
        max_shrink_iters: 2000,
        ..ProptestConfig::default()
    }
}

prop_state_machine! {
    #![proptest_config(cases())]
    #[test]
    fn hostd_ends_where_the_model_does(sequential 1..25 => World);
}

fn assert_clean(seed: u64) -> [u8; 32] {
    let report = Run::of_seed(seed).go().unwrap();
    assert!(report.breach.is_none(), "{report}");
    report.hash
}

#[test]
fn worlds_of_fixed_seeds_end_where_the_model_does() {
    for seed in SEEDS {
        assert_clean(seed);
    }
}

#[test]
fn a_world_of_one_seed_leaves_one_trace() {
    let first = assert_clean(1);

    assert_eq!(first, assert_clean(1));
    assert_ne!(first, assert_clean(2));
}

/// What a seed of the soak has found, down to what is needed for it: each of its steps.
fn assert_fixed(seed: u64, steps: Vec<Step>) {
    let report = Run::of_steps(seed, steps.clone()).go().unwrap();
    assert_eq!(report.steps, steps, "a step meant nothing when it came");
    assert!(report.breach.is_none(), "{report}");
}

fn step(operations: &[Operation], troubles: Vec<Trouble>) -> Step {
    let act = match operations {
        [one] => Act::One(*one),
        several => Act::Together(several.to_vec()),
    };
    Step {
        act,
        troubles,
        pause: Duration::from_millis(50),
    }
}

fn spot(vm: u8, container: u8) -> Spot {
    Spot {
        vm: VmKey(vm),
        container: ContainerKey(container),
    }
}

fn create(nic: u8) -> Operation {
    Operation::Ask(Request::Create(NicKey(nic)))
}

fn attach(nic: u8, to: Spot) -> Operation {
    Operation::Ask(Request::Attach(NicKey(nic), to))
}

fn detach(nic: u8) -> Operation {
    Operation::Ask(Request::Detach(NicKey(nic)))
}

fn relocate(nic: u8, to: Spot) -> Operation {
    Operation::Ask(Request::Move(NicKey(nic), to))
}

fn keep(vm: u8) -> Operation {
    Operation::Happen(Happening::KeepDevices(VmKey(vm)))
}

fn reset(vm: u8) -> Operation {
    Operation::Happen(Happening::Reset(VmKey(vm)))
}

fn start(container: Spot) -> Operation {
    Operation::Happen(Happening::StartContainer(container))
}

fn once(operation: &'static str, nth: u64, effect: Effect) -> Trouble {
    Trouble::Mischief(Mischief {
        operation,
        nth,
        effect,
    })
}

fn delay(milliseconds: u64) -> Effect {
    Effect::Delay(Span(Duration::from_millis(milliseconds)))
}

/// A NIC in the first container of the first VM.
fn attached() -> Vec<Step> {
    let first = [start(spot(0, 0)), create(0), attach(0, spot(0, 0))];
    first.iter().map(|one| step(&[*one], vec![])).collect()
}

/// hostd asked the guest for the device when the agent was late, and put it to use again when the
/// agent was there: without a carrier, until the guest let go of it.
#[test]
fn a_move_whose_link_is_released_late_ends_with_a_carrier() {
    let mut steps = attached();
    let again = Operation::Ask(Request::Move(NicKey(0), spot(0, 0)));
    steps.push(step(&[again], vec![once("agent.release", 1, delay(2091))]));

    assert_fixed(1308, steps);
}

/// A tap that nobody holds counts as none where a NIC is in use, and so was not cut off.
#[test]
fn a_nic_whose_vm_has_ended_is_cut_off_before_it_is_available() {
    let mut steps = attached();
    let kill = Trouble::Kill(Kill {
        moment: Moment::Answer,
        downtime: Duration::from_millis(2425),
    });
    let late = once("port.list", 1, delay(2543));
    let off = Operation::Happen(Happening::PowerOff(VmKey(0)));
    steps.push(step(&[off], vec![kill, late]));

    assert_fixed(1049, steps);
}

/// It was told to be unknown, for as long as it had not been looked at: to a client that asks again
/// in the very instant in which hostd starts.
#[test]
fn a_vm_is_not_denied_while_hostd_starts() {
    for downtime in (200..260).map(Duration::from_millis) {
        let moment = Moment::Effect {
            number: 1,
            side: Side::Before,
        };
        let kill = Trouble::Kill(Kill { moment, downtime });
        let steps = vec![
            step(&[start(spot(1, 0))], vec![]),
            step(&[create(2)], vec![]),
            step(&[attach(2, spot(1, 0))], vec![kill]),
        ];

        assert_fixed(1128, steps);
    }
}

/// hostd waited for the report until it gave up.
#[test]
fn a_lost_report_is_told_again() {
    let steps = vec![
        step(&[create(3)], vec![]),
        step(
            &[attach(3, spot(0, 1))],
            vec![once("channel.to-host", 2, Effect::Lose)],
        ),
    ];

    assert_fixed(342, steps);
}

/// An agent that has never heard of a NIC does not report that its container is gone.
#[test]
fn a_lost_declaration_is_told_again() {
    let mut steps = attached();
    let dies = Operation::Happen(Happening::KillContainer(spot(0, 0)));
    steps.push(step(&[dies], vec![]));
    let kill = Trouble::Kill(Kill {
        moment: Moment::Answer,
        downtime: Duration::from_millis(2248),
    });
    // After a Hello to each of the VMs.
    let lost = once("channel.to-guest", u64::from(VMS) + 1, Effect::Lose);
    steps.push(step(&[start(spot(0, 1))], vec![lost, kill]));

    assert_fixed(473, steps);
}

/// A NIC that could not arrive came back to a guest that had begun to keep devices meanwhile, found
/// its container dead, and was taken for one that had never left: a reset was to have it move on.
#[test]
fn a_guest_that_keeps_devices_keeps_what_comes_back_to_it() {
    let steps = vec![
        step(&[create(1)], vec![]),
        step(&[start(spot(2, 1))], vec![]),
        step(&[attach(1, spot(2, 1))], vec![]),
        step(&[reset(2)], vec![]),
        step(&[start(spot(2, 0))], vec![]),
        step(&[start(spot(0, 0))], vec![]),
        step(&[Operation::Happen(Happening::StopAgent(VmKey(0)))], vec![]),
        step(&[relocate(1, spot(0, 0)), keep(2)], vec![]),
        step(&[reset(2)], vec![]),
    ];

    assert_fixed(3753, steps);
}

/// QEMU takes out at a reset what its guest has been asked for, and a guest that has refused is
/// asked for nothing until the next request.
#[test]
fn a_reset_takes_out_no_device_whose_request_was_refused() {
    let steps = vec![
        step(&[start(spot(0, 0))], vec![]),
        step(&[create(3)], vec![]),
        step(&[attach(3, spot(0, 0))], vec![]),
        step(&[keep(0)], vec![]),
        step(&[detach(3)], vec![once("guest.unplug", 3, Effect::Refuse)]),
        step(&[reset(0)], vec![]),
    ];

    assert_fixed(5483, steps);
}

/// The first of two clients with one token found every place taken, the second one that another
/// request had just left.
#[test]
fn a_refused_request_that_comes_again_finds_the_place_that_was_left_meanwhile() {
    let mut steps = vec![step(&[start(spot(0, 1))], vec![])];
    steps.extend([0, 1, 2].map(|nic| step(&[create(nic)], vec![])));
    steps.push(step(&[attach(1, spot(0, 1))], vec![]));
    let detaches_between = [attach(2, spot(0, 1)), detach(1), attach(0, spot(0, 1))];
    let later = Duration::from_millis(103);
    steps.push(step(&detaches_between, vec![Trouble::Twice { later }]));

    assert_fixed(5732, steps);
}

/// A task of one that dies learnt that another had been ended, and told the client of it: the
/// request had come in the very instant of the death. Of one to make a NIC, which the next hostd
/// made, nobody knew the id then (seed 2306).
#[test]
fn a_hostd_that_dies_tells_nobody_of_it() {
    let mut steps = vec![step(&[create(1)], vec![])];
    let at_the_end = Trouble::Kill(Kill {
        moment: Moment::Effect {
            number: 32,
            side: Side::Before,
        },
        downtime: Duration::from_millis(1742),
    });
    let at_the_start = once("port.list", 3, Effect::Crash(Side::Before));
    let nowhere = attach(1, spot(0, 0));
    steps.push(step(&[nowhere], vec![at_the_end, at_the_start]));

    assert_fixed(2440, steps);
}

/// It was told as a fault of hostd's own, after which no client asks again.
#[test]
fn a_deletion_whose_port_cannot_be_removed_yet_is_to_be_asked_for_again() {
    let class = "GenericError".to_owned();
    let text = "Input/output error".to_owned();
    let refusal = once("port.remove", 1, Effect::Error { class, text });
    let steps = vec![
        step(&[create(0)], vec![]),
        step(&[Operation::Ask(Request::Delete(NicKey(0)))], vec![refusal]),
    ];

    assert_fixed(49, steps);
}

/// The power failed in the instant in which the step began, and what was done in it came after.
#[test]
fn a_vm_that_is_switched_on_as_the_power_fails_is_off() {
    let fails = |after| Trouble::PowerLoss(Blackout::After(after));
    let on = Operation::Happen(Happening::PowerOn(VmKey(1)));
    let steps = vec![
        step(&[create(0)], vec![fails(Duration::from_millis(15))]),
        step(&[on], vec![fails(Duration::ZERO)]),
    ];

    assert_fixed(3030, steps);
}

/// The end of a wish was lost, and its slot given to another NIC: whose link the agent took out of
/// its container at its next look, to release the one that had long gone.
#[test]
fn a_link_in_a_slot_that_was_anothers_stays_in_its_container() {
    let mut steps = vec![step(&[start(spot(1, 0))], vec![])];
    steps.extend([0, 1].map(|nic| step(&[create(nic)], vec![])));
    steps.extend([keep(1), attach(1, spot(1, 0)), detach(1)].map(|one| step(&[one], vec![])));
    let kill = Trouble::Kill(Kill {
        moment: Moment::Answer,
        downtime: Duration::from_millis(2012),
    });
    let eject = Operation::Happen(Happening::Eject(NicKey(1)));
    // One of them is the word of the end.
    for nth in 1..16 {
        let mut steps = steps.clone();
        let lost = once("channel.to-guest", nth, Effect::Lose);
        steps.push(step(&[eject], vec![lost, kill.clone()]));
        steps.push(step(&[attach(0, spot(1, 0))], vec![]));

        assert_fixed(3346, steps);
    }
}

/// The answer to a look was lost when all else was over already, and what was asked next had to
/// wait for the next look.
#[test]
fn what_is_asked_amid_a_look_whose_answer_is_lost_waits_for_the_next_one() {
    let blackout = Trouble::PowerLoss(Blackout::After(Duration::from_millis(165)));
    let kill = Trouble::Kill(Kill {
        moment: Moment::Effect {
            number: 2,
            side: Side::After,
        },
        downtime: Duration::from_millis(2956),
    });
    let on = Operation::Happen(Happening::PowerOn(VmKey(2)));
    // One of them is the answer to the second look of the new hostd.
    for nth in 20..30 {
        let lost = once("qmp.*", nth, Effect::Lose);
        let asked = [attach(3, spot(2, 1)), on, attach(0, spot(1, 0))];
        let steps = vec![
            step(&[create(3)], vec![]),
            step(&[detach(2)], vec![blackout.clone()]),
            step(&asked, vec![lost, kill.clone()]),
            step(&[attach(3, spot(2, 0))], vec![]),
        ];

        assert_fixed(8024, steps);
    }
}
