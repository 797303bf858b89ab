//! What chance alone seldom brings together: requests that want the same thing in the same instant,
//! and troubles that hit what just these requests hang on.
//!
//! ```text
//!   attach, attach, attach ──► places of one VM ◄── decided upon while the others are journalled
//!   move within a VM ──► report that the link is out ──► heard when the device has left as well
//! ```

use std::time::Duration;

use misbehaviour::{Chance, Effect, Span};
use oracle::model::{Model, NicKey, Operation, Request, Spot, Standing, VmKey};

use super::menu::Mischief;
use super::step::{Act, Trouble};
use super::{NICS, container_keys, vm_keys};

/// Most requests at once that want the same.
const RIVALS_MAX: usize = 3;
/// How long a commit takes while which others are to be decided upon: what the disk needs for it
/// is over before most of them come.
const COMMIT_MS: std::ops::Range<u64> = 1..600;
/// How late an agent is heard: later than hostd waits for it to release a link, so that the device
/// is asked for without it.
const LATE_MS: std::ops::Range<u64> = 2000..6000;

/// Requests at once for the places of one VM, or for addresses of one network; none when there are
/// no two NICs for it.
pub(super) fn rivals(chance: &mut Chance, model: &Model) -> Option<Act> {
    let of = |standing| {
        (0..NICS)
            .map(NicKey)
            .filter(move |nic| model.standing(*nic) == standing)
    };
    let free: Vec<NicKey> = of(Standing::Nowhere).take(RIVALS_MAX).collect();
    let absent: Vec<NicKey> = of(Standing::Absent).take(RIVALS_MAX).collect();
    let vms: Vec<VmKey> = vm_keys().filter(|vm| is_inviting(model, *vm)).collect();
    if let (Some(vm), 2..) = (chance.pick(&vms), free.len()) {
        let attach = |nic| Operation::Ask(Request::Attach(nic, somewhere_in(chance, model, *vm)));
        return Some(Act::Together(free.into_iter().map(attach).collect()));
    }
    let create = |nic| Operation::Ask(Request::Create(nic));
    (absent.len() > 1).then(|| Act::Together(absent.into_iter().map(create).collect()))
}

/// Whether whatever finds a place in a VM can be attached there.
fn is_inviting(model: &Model, vm: VmKey) -> bool {
    let lives = |container| model.has_container(Spot { vm, container });
    model.has_agent(vm) && container_keys().any(lives)
}

/// A container of a VM in which one lives.
fn somewhere_in(chance: &mut Chance, model: &Model, vm: VmKey) -> Spot {
    let spots = container_keys().map(|container| Spot { vm, container });
    let living: Vec<Spot> = spots.filter(|spot| model.has_container(*spot)).collect();
    *chance.pick(&living).expect("it has been looked for one")
}

/// A commit that takes so long that whatever else is asked for comes amid it.
pub(super) fn slow_commit(chance: &mut Chance) -> Trouble {
    slow("journal.commit", 1, COMMIT_MS, chance)
}

/// Troubles of an agent that is to let go of what is moved within its VM.
pub(super) fn late_agent(chance: &mut Chance, model: &Model, act: &Act) -> Vec<Trouble> {
    let Some(vm) = moved_within(model, act) else {
        return Vec::new();
    };
    let operation = match chance.happens(0.6) {
        true => "channel.to-host",
        false => "agent.release",
    };
    let nth = 1 + chance.below(2);
    let mut troubles = vec![slow(operation, nth, LATE_MS, chance)];
    if chance.happens(0.3) {
        let after = Duration::from_millis(chance.below(600));
        troubles.push(Trouble::AgentDies { vm, after });
    }
    troubles
}

fn moved_within(model: &Model, act: &Act) -> Option<VmKey> {
    let mut operations = act.operations().iter();
    operations.find_map(|operation| match operation {
        Operation::Ask(Request::Move(nic, to)) => match model.standing(*nic) {
            Standing::In { vm, .. } if vm == to.vm => Some(vm),
            Standing::In { .. } | Standing::Absent | Standing::Nowhere | Standing::Stuck { .. } => {
                None
            }
        },
        Operation::Ask(_) | Operation::Happen(_) => None,
    })
}

fn slow(
    operation: &'static str,
    nth: u64,
    milliseconds: std::ops::Range<u64>,
    chance: &mut Chance,
) -> Trouble {
    let width = milliseconds.end - milliseconds.start;
    let time = Duration::from_millis(milliseconds.start + chance.below(width));
    Trouble::Mischief(Mischief {
        operation,
        nth,
        effect: Effect::Delay(Span(time)),
    })
}

#[cfg(test)]
mod tests {
    use oracle::model::{ContainerKey, Happening};

    use super::*;
    use crate::soak::{Step, first_model};

    const HERE: Spot = Spot {
        vm: VmKey(0),
        container: ContainerKey(0),
    };

    fn after(operations: &[Operation]) -> Model {
        let mut model = first_model();
        for operation in operations {
            model.perform(operation);
        }
        model
    }

    fn create(nic: u8) -> Operation {
        Operation::Ask(Request::Create(NicKey(nic)))
    }

    fn start() -> Operation {
        Operation::Happen(Happening::StartContainer(HERE))
    }

    #[test]
    fn rivals_want_the_places_of_one_vm_or_addresses_and_can_be_done_at_once() {
        let free = after(&[start(), create(0), create(1), create(2)]);
        let cases = [
            (&free, Operation::Ask(Request::Attach(NicKey(2), HERE))),
            (&first_model(), create(2)),
        ];
        for (model, last) in cases {
            let act = rivals(&mut Chance::new(1), model).expect("there are NICs for it");

            assert_eq!(act.operations().len(), RIVALS_MAX);
            assert_eq!(act.operations().last(), Some(&last));
            let step = Step {
                act,
                troubles: Vec::new(),
                pause: Duration::ZERO,
            };
            assert!(step.is_possible(model), "{step:?}");
        }
    }

    #[test]
    fn only_an_agent_that_is_to_let_go_of_a_link_is_late() {
        let attach = Operation::Ask(Request::Attach(NicKey(0), HERE));
        let model = after(&[start(), create(0), attach]);
        let to = |vm| Operation::Ask(Request::Move(NicKey(0), Spot { vm, ..HERE }));
        let troubles = |operation| {
            let act = Act::One(operation);
            late_agent(&mut Chance::new(1), &model, &act)
        };

        assert!(!troubles(to(HERE.vm)).is_empty());
        assert_eq!(troubles(to(VmKey(1))), []);
        assert_eq!(troubles(create(1)), []);
    }
}
