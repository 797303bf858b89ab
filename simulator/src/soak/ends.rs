//! How a step may end: one end for each order in which what was done at once may have come about.

use host_api::ProblemCode;
use oracle::model::{Happening, Model, Operation, Outcome, Request, Standing, VmKey};

use super::customer::Told;
use super::step::{Act, Step};
use super::vm_keys;

/// Ends of one step that are followed: more beliefs than that come of nothing that is drawn.
const ENDS_MAX: usize = 64;

/// One way in which a step may end.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct End {
    pub(crate) model: Model,
    /// What clients are told, by operation.
    pub(crate) outcomes: Vec<Option<Outcome>>,
}

/// Whether agents do what they are asked for in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Agents {
    Prompt,
    /// Something keeps them from it, maybe.
    Late,
}

/// All of them.
pub(crate) fn ends_of(beliefs: &[Model], step: &Step, agents: Agents) -> Vec<End> {
    let paces: &[Agents] = match agents {
        Agents::Prompt => &[Agents::Prompt],
        Agents::Late => &[Agents::Prompt, Agents::Late],
    };
    let mut ends: Vec<End> = Vec::new();
    for belief in beliefs {
        for order in orders(step.act.operations().len()) {
            for agents in paces {
                let end = end_of(belief.clone(), step, &order, *agents);
                if !ends.contains(&end) && ends.len() < ENDS_MAX {
                    ends.push(end);
                }
            }
        }
    }
    ends
}

/// The one that this order leads to.
pub(crate) fn end_of(mut model: Model, step: &Step, order: &[usize], agents: Agents) -> End {
    let operations = step.act.operations();
    let mut outcomes = vec![None; operations.len()];
    for index in order {
        let operation = &operations[*index];
        outcomes[*index] = match stays_in(&model, operation) {
            Some(vm) if agents == Agents::Late => perform_without_agent(&mut model, vm, operation),
            Some(_) | None => model.perform(operation),
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

/// An agent that does not take a link out in time is no help: the device has to leave.
fn perform_without_agent(model: &mut Model, vm: VmKey, operation: &Operation) -> Option<Outcome> {
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
