//! One step of a world: what is done in it, and what goes wrong meanwhile. Plain data, so that a
//! run can be written down, shortened and run again.

use std::time::Duration;

use misbehaviour::Side;
use oracle::model::{Happening, Model, NicKey, Operation, Request, Standing, VmKey};

use super::ends::Course;
use super::menu::Mischief;
use crate::sim::Death;

/// One step; the next begins when all has come to rest and `pause` is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// What is done.
    pub act: Act,
    /// What goes wrong meanwhile.
    pub troubles: Vec<Trouble>,
    /// How long nothing happens afterwards.
    pub pause: Duration,
}

/// What is done in a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// One operation.
    One(Operation),
    /// Several at once, on different NICs.
    Together(Vec<Operation>),
}

/// Something that goes wrong, and does not change where things end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// hostd dies as by `kill -9`, and is started again.
    Kill(Kill),
    /// The host loses its power, and so do its VMs: they stay off, which the model knows.
    PowerLoss(Blackout),
    /// A rule of the simulated hypervisors, guests, disks and ports.
    Mischief(Mischief),
    /// Every request comes from two clients at once, with one token.
    Twice {
        /// By how much the second is later.
        later: Duration,
    },
    /// The client does not wait for an answer, and asks again and again how its NIC is.
    Impatience,
    /// An agent is killed, and started again by its service manager.
    AgentDies {
        /// Where.
        vm: VmKey,
        /// How long after the step has begun.
        after: Duration,
    },
    /// The wall clock jumps forward, or back.
    ClockJump {
        /// By how much.
        seconds: i64,
    },
}

/// One death of hostd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kill {
    /// When.
    pub moment: Moment,
    /// How long until it is started again.
    pub downtime: Downtime,
}

/// How long no hostd runs.
pub type Downtime = Duration;

/// When the power fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blackout {
    /// So long after the step has begun.
    After(Duration),
    /// In the instant in which the client has its answer.
    Answer,
}

/// When something befalls hostd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// At an effect, counted from the beginning of the step, or of the life.
    Effect {
        /// Which, from 1 on.
        number: u64,
        /// On which side of it.
        side: Side,
    },
    /// In the instant in which a client has its answer.
    Answer,
}

impl Moment {
    /// The same as a [`Death`] of a life that has had `effects` already.
    pub(crate) fn after(self, effects: u64) -> Option<Death> {
        match self {
            Self::Effect { number, side } => Some(Death {
                effect: effects + number,
                side,
            }),
            Self::Answer => None,
        }
    }
}

impl Act {
    /// The operations, in the order in which they are begun.
    #[must_use]
    pub fn operations(&self) -> &[Operation] {
        match self {
            Self::One(operation) => std::slice::from_ref(operation),
            Self::Together(operations) => operations,
        }
    }
}

impl Step {
    /// Whether the step means anything in a world that is as `model` says.
    #[must_use]
    pub fn is_possible(&self, model: &Model) -> bool {
        let operations = self.act.operations();
        let possible = operations.iter().all(|one| is_possible(model, one));
        let apart = match &self.act {
            Act::One(_) => true,
            Act::Together(operations) => are_apart(model, operations) && !self.loses_power(),
        };
        possible && apart
    }

    /// How a world that is as `model` says is afterwards, when what is done at once is done in the
    /// order in which it is written.
    #[must_use]
    pub fn end(&self, model: &Model) -> Model {
        let order: Vec<usize> = (0..self.act.operations().len()).collect();
        super::ends::end_of(model.clone(), self, &order, Course::Plain).model
    }

    /// Whether the host loses its power in it.
    #[must_use]
    pub fn loses_power(&self) -> bool {
        let is_loss = |trouble: &Trouble| matches!(trouble, Trouble::PowerLoss(_));
        self.troubles.iter().any(is_loss)
    }
}

/// Whether an operation means anything: nothing happens in a VM that is off.
pub(super) fn is_possible(model: &Model, operation: &Operation) -> bool {
    let runs = |vm: VmKey| model.runs(vm);
    match operation {
        Operation::Ask(Request::Create(nic)) => model.standing(*nic) == Standing::Absent,
        // A hostd that is started anew while that agent is silent hears of no boot, so it cannot
        // know the container again after the next one.
        Operation::Ask(Request::Move(nic, to)) => {
            model.has_agent(to.vm) || !runs(to.vm) || !is_kept(model, *nic)
        }
        Operation::Ask(_) => true,
        Operation::Happen(happening) => match happening {
            Happening::StartContainer(spot) => runs(spot.vm) && !model.has_container(*spot),
            Happening::KillContainer(spot) => runs(spot.vm) && model.has_container(*spot),
            Happening::StopAgent(vm) => runs(*vm) && model.has_agent(*vm),
            Happening::StartAgent(vm) => runs(*vm) && !model.has_agent(*vm),
            Happening::KeepDevices(vm) => !model.keeps_devices(*vm),
            Happening::LetGo(vm) => model.keeps_devices(*vm),
            Happening::Eject(nic) => {
                let at = model.standing(*nic);
                matches!(at, Standing::In { .. } | Standing::Stuck { .. })
            }
            Happening::Reset(vm) | Happening::PowerOff(vm) => runs(*vm),
            Happening::PowerOn(vm) => !runs(*vm),
        },
    }
}

/// Whether a NIC is where it cannot leave.
fn is_kept(model: &Model, nic: NicKey) -> bool {
    match model.standing(nic) {
        Standing::In { vm, .. } | Standing::Stuck { vm } => model.keeps_devices(vm),
        Standing::Absent | Standing::Nowhere => false,
    }
}

/// Whether operations can be done at once such that any order of them tells how it ends: each on a
/// NIC or VM of its own, and after the last place only such as keep it when they get it, since a
/// place is reserved for a while also by a request that comes to nothing.
fn are_apart(model: &Model, operations: &[Operation]) -> bool {
    let mut nics: Vec<NicKey> = operations.iter().filter_map(nic_of).collect();
    let mut vms: Vec<VmKey> = operations.iter().filter_map(happens_in).collect();
    let count = nics.len() + vms.len();
    nics.sort_unstable();
    nics.dedup();
    vms.sort_unstable();
    vms.dedup();
    let ejects = |one: &Operation| matches!(one, Operation::Happen(Happening::Eject(_)));
    let coming = |vm: VmKey| {
        operations
            .iter()
            .filter(|one| goes_to(one) == Some(vm))
            .count()
    };
    let fits = super::vm_keys().all(|vm| {
        let has_room = coming(vm) <= model.room_in(vm);
        has_room || all_will_stay(model, operations, vm)
    });
    nics.len() + vms.len() == count
        && fits
        && !operations.iter().any(ejects)
        && !vms_to_lose(operations).any(|vm| coming(vm) > 0 && keeps_any(model, operations, vm))
}

/// Whether a guest keeps what is on its way to `vm`: that of the VM, or the one it comes from.
fn keeps_any(model: &Model, operations: &[Operation], vm: VmKey) -> bool {
    let mut coming = operations.iter().filter(|one| goes_to(one) == Some(vm));
    let kept = |one: &Operation| nic_of(one).is_some_and(|nic| is_kept(model, nic));
    model.keeps_devices(vm) || coming.any(kept)
}

/// Whether nothing keeps those on their way to `vm` from being attached but the want of room.
fn all_will_stay(model: &Model, operations: &[Operation], vm: VmKey) -> bool {
    operations.iter().all(|one| match one {
        Operation::Ask(Request::Attach(nic, to)) if to.vm == vm => {
            let is_free = model.standing(*nic) == Standing::Nowhere;
            is_free && model.has_container(*to) && model.has_agent(vm)
        }
        Operation::Ask(_) | Operation::Happen(_) => {
            goes_to(one) != Some(vm) && happens_in(one) != Some(vm)
        }
    })
}

/// VMs whose agent ends. What is on its way there then may have been plugged or not, which counts
/// where the guest keeps devices.
fn vms_to_lose(operations: &[Operation]) -> impl Iterator<Item = VmKey> {
    operations.iter().filter_map(|operation| match operation {
        Operation::Happen(Happening::StopAgent(vm)) => Some(*vm),
        Operation::Ask(_) | Operation::Happen(_) => None,
    })
}

fn nic_of(operation: &Operation) -> Option<NicKey> {
    match operation {
        Operation::Ask(
            Request::Create(nic)
            | Request::Attach(nic, _)
            | Request::Detach(nic)
            | Request::Move(nic, _)
            | Request::Delete(nic),
        )
        | Operation::Happen(Happening::Eject(nic)) => Some(*nic),
        Operation::Happen(_) => None,
    }
}

fn goes_to(operation: &Operation) -> Option<VmKey> {
    match operation {
        Operation::Ask(Request::Attach(_, spot) | Request::Move(_, spot)) => Some(spot.vm),
        Operation::Ask(_) | Operation::Happen(_) => None,
    }
}

fn happens_in(operation: &Operation) -> Option<VmKey> {
    let Operation::Happen(happening) = operation else {
        return None;
    };
    match happening {
        Happening::StartContainer(spot) | Happening::KillContainer(spot) => Some(spot.vm),
        Happening::StopAgent(vm)
        | Happening::StartAgent(vm)
        | Happening::KeepDevices(vm)
        | Happening::LetGo(vm)
        | Happening::Reset(vm)
        | Happening::PowerOff(vm)
        | Happening::PowerOn(vm) => Some(*vm),
        Happening::Eject(_) => None,
    }
}
