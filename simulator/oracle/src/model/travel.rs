//! How a NIC leaves one place and comes to the next.
//!
//! ```text
//!   at ──leave──► (kept by the guest: stuck) ──► to ──arrive──► in use
//!                                                └─fails──► back at `from` ──fails──► nowhere
//! ```
//!
//! What fails after the device was plugged has to leave again, and may get stuck in that.

use host_api::ProblemCode;

use super::{Agent, Kernel, Model, NicKey, Outcome, Place, Power, VmKey, Whereabouts};

/// What comes after leaving.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Plan {
    /// Nothing.
    Out,
    /// Another place; should that fail, the old one again.
    Onward { to: Place, from: Option<Place> },
    /// The old place, because the new one has failed with this.
    Back { to: Place, because: ProblemCode },
}

impl Plan {
    /// The place that is reserved for what comes next.
    pub(super) const fn next(self) -> Option<Place> {
        match self {
            Self::Out => None,
            Self::Onward { to, .. } | Self::Back { to, .. } => Some(to),
        }
    }
}

/// Why arriving failed, and what is left of the try.
enum Failed {
    /// Before the device was plugged.
    Unplugged(ProblemCode),
    /// With the device in the VM.
    Plugged(ProblemCode),
}

impl Failed {
    const fn code(&self) -> ProblemCode {
        match self {
            Self::Unplugged(code) | Self::Plugged(code) => *code,
        }
    }
}

impl Model {
    /// Leaves `at`, if it is anywhere, and follows the plan as far as it goes.
    pub(super) fn travel(&mut self, nic: NicKey, at: Option<VmKey>, plan: Plan) -> Outcome {
        if let Some(vm) = at.filter(|vm| self.keeps(*vm, plan)) {
            self.nics.insert(nic, Whereabouts::Stuck { at: vm, plan });
            return Outcome::UnderWay;
        }
        match plan {
            Plan::Out => self.end(nic, Outcome::Available),
            Plan::Onward { to, from } => match self.arrive(to) {
                Ok(()) => self.settle(nic, to, Outcome::InUse),
                Err(failed) => self.turn_back(nic, to, from, &failed),
            },
            Plan::Back { to, because } => match self.arrive(to) {
                Ok(()) => self.settle(nic, to, Outcome::Problem(because)),
                Err(failed) => self.give_up(nic, to, &failed),
            },
        }
    }

    fn end(&mut self, nic: NicKey, outcome: Outcome) -> Outcome {
        self.nics.insert(nic, Whereabouts::Nowhere);
        outcome
    }

    fn settle(&mut self, nic: NicKey, place: Place, outcome: Outcome) -> Outcome {
        self.nics.insert(nic, Whereabouts::In(place));
        outcome
    }

    fn turn_back(
        &mut self,
        nic: NicKey,
        place: Place,
        from: Option<Place>,
        failed: &Failed,
    ) -> Outcome {
        let Some(from) = from else {
            return self.give_up(nic, place, failed);
        };
        let plan = Plan::Back {
            to: from,
            because: failed.code(),
        };
        self.travel(nic, left_in(place, failed), plan)
    }

    fn give_up(&mut self, nic: NicKey, place: Place, failed: &Failed) -> Outcome {
        match self.travel(nic, left_in(place, failed), Plan::Out) {
            Outcome::UnderWay => Outcome::UnderWay,
            Outcome::InUse | Outcome::Available | Outcome::Deleted | Outcome::Problem(_) => {
                Outcome::Problem(failed.code())
            }
        }
    }

    /// Whether the device stays although the NIC is to leave. Within one VM it need not leave at
    /// all when the agent takes the link out of its container.
    fn keeps(&self, vm: VmKey, plan: Plan) -> bool {
        let Some(state) = self.vms.get(&vm) else {
            return false;
        };
        let stays = plan.next().is_some_and(|next| next.spot.vm == vm);
        let by_agent = stays && state.agent == Agent::Runs;
        state.power == Power::On && state.kernel == Kernel::KeepsDevices && !by_agent
    }

    fn arrive(&self, place: Place) -> Result<(), Failed> {
        let vm = self.vms.get(&place.spot.vm);
        let Some(vm) = vm.filter(|vm| vm.power == Power::On) else {
            return Err(Failed::Unplugged(ProblemCode::VmStopped));
        };
        if vm.agent == Agent::Stopped {
            return Err(Failed::Unplugged(ProblemCode::TimedOut));
        }
        if self.lives(place) {
            Ok(())
        } else {
            Err(Failed::Plugged(ProblemCode::TargetGone))
        }
    }

    /// The guest of `vm` has let go of whatever it kept.
    pub(super) fn release_stuck(&mut self, vm: VmKey) {
        let stuck: Vec<(NicKey, Plan)> = self
            .nics
            .iter()
            .filter_map(|(nic, whereabouts)| match whereabouts {
                Whereabouts::Stuck { at, plan } if *at == vm => Some((*nic, *plan)),
                Whereabouts::Stuck { .. } | Whereabouts::Nowhere | Whereabouts::In(_) => None,
            })
            .collect();
        for (nic, plan) in stuck {
            self.travel(nic, None, plan);
        }
    }
}

fn left_in(place: Place, failed: &Failed) -> Option<VmKey> {
    match failed {
        Failed::Unplugged(_) => None,
        Failed::Plugged(_) => Some(place.spot.vm),
    }
}
