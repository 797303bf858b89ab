//! What hostd should do, said in the plainest way: where each NIC is after each operation, once
//! everything has come to rest.
//!
//! ```text
//!   Operation ──► Model::perform ──► Outcome    what the client is told
//!                        └─────────► Standing   where each NIC is then
//! ```
//!
//! There are no steps, no time and no crashes here: whatever hostd has to go through, and however
//! often it is killed on the way, this is where it must end. Nothing is shared with hostd, whose
//! decisions look at what there is and never at what was asked before; the model does the opposite.

mod operation;
mod travel;

use std::collections::{BTreeMap, BTreeSet};

use host_api::ProblemCode;

pub use operation::{ContainerKey, Happening, NicKey, Operation, Outcome, Request, Spot, VmKey};
use travel::Plan;

/// A life of a container: what takes its place after its death is another one.
type Life = u32;

/// A container in one of its lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    spot: Spot,
    life: Life,
}

/// Where a NIC is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whereabouts {
    Nowhere,
    In(Place),
    /// The guest keeps its device although it is to leave.
    Stuck {
        at: VmKey,
        plan: Plan,
    },
}

/// Where a NIC is to be found at rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It has no record.
    Absent,
    /// Available.
    Nowhere,
    /// In use in that VM.
    In {
        /// Which.
        vm: VmKey,
        /// Whether its container lives.
        health: Health,
    },
    /// Detaching, visibly blocked by the guest of that VM.
    Stuck {
        /// Which.
        vm: VmKey,
    },
}

/// Whether a NIC in use is all that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// It is.
    Whole,
    /// Its container is gone, and hostd says so.
    Degraded,
    /// Nobody in the guest can tell.
    Unknown,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Vm {
    power: Power,
    agent: Agent,
    kernel: Kernel,
    containers: BTreeMap<ContainerKey, Life>,
    /// Lives of containers that have begun.
    lives: Life,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Power {
    #[default]
    On,
    Off,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Agent {
    #[default]
    Runs,
    Stopped,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Kernel {
    #[default]
    LetsGo,
    KeepsDevices,
}

/// Whether a NIC that moves has still to leave its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leaving {
    Now,
    Done,
}

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Model {
    nics: BTreeMap<NicKey, Whereabouts>,
    vms: BTreeMap<VmKey, Vm>,
    max_nics_per_vm: usize,
}

impl Model {
    /// VMs that run, without any container, and no NIC.
    #[must_use]
    pub fn new(vms: impl IntoIterator<Item = VmKey>, max_nics_per_vm: usize) -> Self {
        Self {
            nics: BTreeMap::new(),
            vms: vms.into_iter().map(|vm| (vm, Vm::default())).collect(),
            max_nics_per_vm,
        }
    }

    /// Does an operation; what the client is told when it is a request.
    pub fn perform(&mut self, operation: &Operation) -> Option<Outcome> {
        match operation {
            Operation::Ask(request) => Some(self.ask(*request)),
            Operation::Happen(happening) => {
                self.happen(*happening);
                None
            }
        }
    }

    /// Does a move whose device had left its place when the guest there began to keep devices: a
    /// guest that cannot keep it from leaving, but once it has had to come back.
    pub fn move_of_one_that_has_left(&mut self, nic: NicKey, spot: Spot) -> Outcome {
        self.relocate(nic, spot, Leaving::Done)
    }

    fn ask(&mut self, request: Request) -> Outcome {
        match request {
            Request::Create(nic) => self.create(nic),
            Request::Attach(nic, spot) => self.attach(nic, spot),
            Request::Detach(nic) => self.detach(nic),
            Request::Move(nic, spot) => self.relocate(nic, spot, Leaving::Now),
            Request::Delete(nic) => self.delete(nic),
        }
    }

    /// Where a NIC is to be found.
    #[must_use]
    pub fn standing(&self, nic: NicKey) -> Standing {
        match self.nics.get(&nic) {
            None => Standing::Absent,
            Some(Whereabouts::Nowhere) => Standing::Nowhere,
            Some(Whereabouts::In(place)) => Standing::In {
                vm: place.spot.vm,
                health: self.health(*place),
            },
            Some(Whereabouts::Stuck { at, .. }) => Standing::Stuck { vm: *at },
        }
    }

    /// The container a NIC is in, as long as that lives.
    #[must_use]
    pub fn container_of(&self, nic: NicKey) -> Option<Spot> {
        match self.nics.get(&nic) {
            Some(Whereabouts::In(place)) => self.lives(*place).then_some(place.spot),
            Some(Whereabouts::Nowhere | Whereabouts::Stuck { .. }) | None => None,
        }
    }

    /// Every NIC that has a record.
    pub fn nics(&self) -> impl Iterator<Item = NicKey> {
        self.nics.keys().copied()
    }

    /// Whether there is a container.
    #[must_use]
    pub fn has_container(&self, spot: Spot) -> bool {
        self.life_at(spot).is_some()
    }

    /// Whether a VM runs.
    #[must_use]
    pub fn runs(&self, vm: VmKey) -> bool {
        self.vms.get(&vm).is_some_and(|vm| vm.power == Power::On)
    }

    /// Whether an agent runs in a VM that does.
    #[must_use]
    pub fn has_agent(&self, vm: VmKey) -> bool {
        self.runs(vm) && self.vms.get(&vm).is_some_and(|vm| vm.agent == Agent::Runs)
    }

    /// Whether the guest of a VM keeps devices that it is asked for.
    #[must_use]
    pub fn keeps_devices(&self, vm: VmKey) -> bool {
        let vm = self.vms.get(&vm);
        vm.is_some_and(|vm| vm.kernel == Kernel::KeepsDevices)
    }

    /// How many more NICs a VM may have.
    #[must_use]
    pub fn room_in(&self, vm: VmKey) -> usize {
        self.max_nics_per_vm.saturating_sub(self.nics_at(vm).len())
    }

    fn create(&mut self, nic: NicKey) -> Outcome {
        self.nics.insert(nic, Whereabouts::Nowhere);
        Outcome::Available
    }

    fn attach(&mut self, nic: NicKey, spot: Spot) -> Outcome {
        match self.nics.get(&nic) {
            None => return Outcome::Problem(ProblemCode::NotFound),
            Some(Whereabouts::Nowhere) => {}
            Some(_) => return Outcome::Problem(ProblemCode::Conflict),
        }
        match self.admit(nic, spot) {
            Err(code) => Outcome::Problem(code),
            Ok(place) => self.travel(
                nic,
                None,
                Plan::Onward {
                    to: place,
                    from: None,
                },
            ),
        }
    }

    fn detach(&mut self, nic: NicKey) -> Outcome {
        match self.nics.get(&nic) {
            None => Outcome::Problem(ProblemCode::NotFound),
            Some(Whereabouts::In(place)) => {
                let place = *place;
                self.travel(nic, Some(place.spot.vm), Plan::Out)
            }
            Some(_) => Outcome::Problem(ProblemCode::Conflict),
        }
    }

    fn relocate(&mut self, nic: NicKey, spot: Spot, leaving: Leaving) -> Outcome {
        let from = match self.nics.get(&nic) {
            None => return Outcome::Problem(ProblemCode::NotFound),
            Some(Whereabouts::In(place)) => *place,
            Some(_) => return Outcome::Problem(ProblemCode::Conflict),
        };
        match self.admit(nic, spot) {
            Err(code) => Outcome::Problem(code),
            Ok(to) => {
                let at = match leaving {
                    Leaving::Now => Some(from.spot.vm),
                    Leaving::Done => None,
                };
                let from = Some(from);
                self.travel(nic, at, Plan::Onward { to, from })
            }
        }
    }

    fn delete(&mut self, nic: NicKey) -> Outcome {
        match self.nics.get(&nic) {
            None => Outcome::Problem(ProblemCode::NotFound),
            Some(Whereabouts::Nowhere) => {
                self.nics.remove(&nic);
                Outcome::Deleted
            }
            Some(_) => Outcome::Problem(ProblemCode::Conflict),
        }
    }

    /// The place a request means. A container that does not exist is found out in the guest only.
    fn admit(&self, nic: NicKey, spot: Spot) -> Result<Place, ProblemCode> {
        let vm = self.vms.get(&spot.vm).ok_or(ProblemCode::NotFound)?;
        if vm.power == Power::Off {
            return Err(ProblemCode::Conflict);
        }
        let others = self.nics_at(spot.vm);
        if !others.contains(&nic) && others.len() >= self.max_nics_per_vm {
            return Err(ProblemCode::LimitExceeded);
        }
        // A life that never was belongs to nobody.
        let life = self.life_at(spot).unwrap_or(Life::MAX);
        Ok(Place { spot, life })
    }

    /// NICs that hold a place in a VM, or have one reserved there.
    fn nics_at(&self, vm: VmKey) -> BTreeSet<NicKey> {
        let holds = |whereabouts: &Whereabouts| match whereabouts {
            Whereabouts::Nowhere => false,
            Whereabouts::In(place) => place.spot.vm == vm,
            Whereabouts::Stuck { at, plan } => {
                *at == vm || plan.next().is_some_and(|next| next.spot.vm == vm)
            }
        };
        let held = self.nics.iter().filter(|(_, at)| holds(at));
        held.map(|(nic, _)| *nic).collect()
    }

    fn life_at(&self, spot: Spot) -> Option<Life> {
        let vm = self.vms.get(&spot.vm)?;
        vm.containers.get(&spot.container).copied()
    }

    fn lives(&self, place: Place) -> bool {
        self.life_at(place.spot) == Some(place.life)
    }

    fn health(&self, place: Place) -> Health {
        let agent = self.vms.get(&place.spot.vm).map(|vm| vm.agent);
        match (agent, self.lives(place)) {
            (Some(Agent::Runs), true) => Health::Whole,
            (Some(Agent::Runs), false) => Health::Degraded,
            (Some(Agent::Stopped) | None, _) => Health::Unknown,
        }
    }

    /// What happens without any client's asking.
    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::StartContainer(spot) => self.start_container(spot),
            Happening::KillContainer(spot) => self.change(spot.vm, |vm| {
                vm.containers.remove(&spot.container);
            }),
            Happening::StopAgent(vm) => self.change(vm, |vm| vm.agent = Agent::Stopped),
            Happening::StartAgent(vm) => self.change(vm, |vm| vm.agent = Agent::Runs),
            Happening::KeepDevices(vm) => self.change(vm, |vm| vm.kernel = Kernel::KeepsDevices),
            Happening::LetGo(vm) => {
                self.change(vm, |vm| vm.kernel = Kernel::LetsGo);
                self.release_stuck(vm);
            }
            Happening::Eject(nic) => self.lose(nic),
            Happening::Reset(vm) => {
                self.change(vm, Vm::boot);
                self.release_stuck(vm);
            }
            Happening::PowerOff(vm) => self.power_off(vm),
            Happening::PowerOn(vm) => self.change(vm, |vm| {
                vm.power = Power::On;
                vm.boot();
            }),
        }
    }

    fn change(&mut self, vm: VmKey, change: impl FnOnce(&mut Vm)) {
        self.vms.entry(vm).and_modify(change);
    }

    fn start_container(&mut self, spot: Spot) {
        self.change(spot.vm, |vm| {
            vm.lives += 1;
            vm.containers.entry(spot.container).or_insert(vm.lives);
        });
    }

    fn power_off(&mut self, vm: VmKey) {
        self.change(vm, |vm| {
            vm.power = Power::Off;
            vm.boot();
        });
        for nic in self.nics_at(vm) {
            if matches!(self.nics.get(&nic), Some(Whereabouts::In(place)) if place.spot.vm == vm) {
                self.nics.insert(nic, Whereabouts::Nowhere);
            }
        }
        self.release_stuck(vm);
    }

    fn lose(&mut self, nic: NicKey) {
        match self.nics.get(&nic) {
            Some(Whereabouts::In(_)) => {
                self.nics.insert(nic, Whereabouts::Nowhere);
            }
            Some(Whereabouts::Stuck { plan, .. }) => {
                let plan = *plan;
                self.travel(nic, None, plan);
            }
            Some(Whereabouts::Nowhere) | None => {}
        }
    }
}

impl Vm {
    /// Nothing that ran before the boot runs after it, except what is started with the guest.
    fn boot(&mut self) {
        self.containers.clear();
        self.agent = Agent::Runs;
    }
}
