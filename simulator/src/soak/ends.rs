//! How a step may end: one end for each order in which what was done at once may have come about,
//! and for each course that it may have taken.

use host_api::ProblemCode;
use oracle::model::{Happening, Model, NicKey, Operation, Outcome, Request, Spot, Standing, VmKey};

use super::customer::Told;
use super::step::{Act, Step};
use super::{container_keys, vm_keys};

/// Ends of one step that are followed: more beliefs than that come of nothing that is drawn.
const ENDS_MAX: usize = 64;

/// One way in which a step may end.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct End {
    pub(crate) model: Model,
    /// What clients are told, by operation.
    pub(crate) outcomes: Vec<Option<Outcome>>,
}

/// What a step may come upon that its operations, one after the other, do not tell of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Course {
    /// Nothing: agents and guests do what they are asked for in time.
    Plain,
    /// A guest begins to keep devices when those that move away have left, and finds them back.
    KeptOnReturn,
    /// Something keeps agents from what they are asked for.
    LateAgents,
    /// A guest has refused to let go of this NIC, and is reset before it is asked again: a reset
    /// completes what it was asked for, and nothing else.
    RefusedBeforeReset(NicKey),
}

/// All of them.
pub(crate) fn ends_of(beliefs: &[Model], step: &Step, courses: &[Course]) -> Vec<End> {
    let mut ends: Vec<End> = Vec::new();
    for belief in beliefs {
        for order in orders(step.act.operations().len()) {
            for course in courses {
                let end = end_of(belief.clone(), step, &order, *course);
                if !ends.contains(&end) && ends.len() < ENDS_MAX {
                    ends.push(end);
                }
            }
        }
    }
    ends
}

/// The one that this order leads to.
pub(crate) fn end_of(mut model: Model, step: &Step, order: &[usize], course: Course) -> End {
    let operations = step.act.operations();
    let mut outcomes = vec![None; operations.len()];
    let before = model.clone();
    for index in order {
        let operation = &operations[*index];
        outcomes[*index] = match course {
            Course::Plain => model.perform(operation),
            Course::KeptOnReturn => perform_after_leaving(&mut model, &before, operation),
            Course::LateAgents => perform_without_agent(&mut model, operation),
            Course::RefusedBeforeReset(nic) => perform_without_request(&mut model, nic, operation),
        };
    }
    if step.loses_power() {
        for vm in vm_keys() {
            model.perform(&Operation::Happen(Happening::PowerOff(vm)));
        }
    }
    End { model, outcomes }
}

/// The VM within which an operation moves a NIC that has an agent's help.
fn stays_in(model: &Model, operation: &Operation) -> Option<VmKey> {
    let Operation::Ask(Request::Move(nic, to)) = operation else {
        return None;
    };
    let is_there = matches!(model.standing(*nic), Standing::In { vm, .. } if vm == to.vm);
    (is_there && model.has_agent(to.vm)).then_some(to.vm)
}

/// What moves away has left when its guest, which kept nothing before the step, begins to keep it.
fn perform_after_leaving(
    model: &mut Model,
    before: &Model,
    operation: &Operation,
) -> Option<Outcome> {
    match operation {
        Operation::Ask(Request::Move(nic, to)) if has_left_in_time(model, before, *nic) => {
            Some(model.move_of_one_that_has_left(*nic, *to))
        }
        Operation::Ask(_) | Operation::Happen(_) => model.perform(operation),
    }
}

fn has_left_in_time(model: &Model, before: &Model, nic: NicKey) -> bool {
    match model.standing(nic) {
        Standing::In { vm, .. } => model.keeps_devices(vm) && !before.keeps_devices(vm),
        Standing::Absent | Standing::Nowhere | Standing::Stuck { .. } => false,
    }
}

/// A reset of a guest that is not asked for one of its NICs ends what runs in it, and has it let go
/// of the others.
fn perform_without_request(
    model: &mut Model,
    kept: NicKey,
    operation: &Operation,
) -> Option<Outcome> {
    let Operation::Happen(Happening::Reset(vm)) = operation else {
        return model.perform(operation);
    };
    let is_stuck = |nic: &NicKey| model.standing(*nic) == Standing::Stuck { vm: *vm };
    let stuck: Vec<NicKey> = model.nics().filter(is_stuck).collect();
    for container in container_keys() {
        let spot = Spot { vm: *vm, container };
        model.perform(&Operation::Happen(Happening::KillContainer(spot)));
    }
    model.perform(&Operation::Happen(Happening::StartAgent(*vm)));
    for nic in stuck.into_iter().filter(|nic| *nic != kept) {
        model.perform(&Operation::Happen(Happening::Eject(nic)));
    }
    None
}

/// An agent that does not take a link out in time is no help: the device has to leave.
fn perform_without_agent(model: &mut Model, operation: &Operation) -> Option<Outcome> {
    let Some(vm) = stays_in(model, operation) else {
        return model.perform(operation);
    };
    let before = model.clone();
    model.perform(&Operation::Happen(Happening::StopAgent(vm)));
    let outcome = model.perform(operation);
    if outcome != Some(Outcome::UnderWay) {
        *model = before;
        return model.perform(operation);
    }
    model.perform(&Operation::Happen(Happening::StartAgent(vm)));
    outcome
}

/// Every order of so many things.
fn orders(count: usize) -> Vec<Vec<usize>> {
    let Some(last) = count.checked_sub(1) else {
        return vec![Vec::new()];
    };
    let shorter = orders(last);
    let with_last = shorter.iter().flat_map(|order| {
        (0..=order.len()).rev().map(move |at| {
            let mut order = order.clone();
            order.insert(at, last);
            order
        })
    });
    with_last.collect()
}

/// Whether what clients were told is what they are told in this end. What happens amid a request
/// may have it fail in words of its own, and a client of a host without power may be told either
/// what was done before or why it cannot be done after.
pub(crate) fn fits(step: &Step, end: &End, told: &[Option<Told>]) -> bool {
    if is_amid(step) {
        return true;
    }
    let told = told
        .iter()
        .map(|told| told.as_ref().map(|told| plain(told.outcome)));
    told.eq(end.outcomes.iter().copied())
}

/// Whether something happens amid the requests of a step.
pub(crate) fn is_amid(step: &Step) -> bool {
    let happens = |one: &Operation| matches!(one, Operation::Happen(_));
    let amid = match &step.act {
        Act::One(_) => false,
        Act::Together(operations) => operations.iter().any(happens),
    };
    amid || step.loses_power()
}

/// A container that has died is gone, however that was found out.
fn plain(outcome: Outcome) -> Outcome {
    match outcome {
        Outcome::Problem(ProblemCode::ContainerDied | ProblemCode::TargetChanged) => {
            Outcome::Problem(ProblemCode::TargetGone)
        }
        Outcome::InUse
        | Outcome::Available
        | Outcome::Deleted
        | Outcome::UnderWay
        | Outcome::Problem(_) => outcome,
    }
}
