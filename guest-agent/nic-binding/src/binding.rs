//! One NIC's way from where it is to where it should be.
//!
//! ```text
//!                       new generation
//!   ┌──────────┬───────────┬────────────┬──────────────┐
//!   ▼          │           │            │              │
//! Working ──► Bound ──► Returned     Failed ◄── any step failed, target not usable,
//!   ▲  all     │  target gone, link    ▲         device vanished
//!   │  steps   │  back in the guest    │
//!   │          └───────────────────────┤
//! Clearing ── another binding wished   │
//!   (link to leave its target before it begins anew)
//! ```
//!
//! Between two looks the state is what the last look saw, changed by what was done since; the last
//! step reads everything back, so that a wrong belief ends as a failure, never as a false success.
//! Every step is skipped when its result is there already: after a restart of the agent the same
//! function carries on from wherever the link was left.

mod lease;
mod release;

pub use release::STAY;

use std::time::Duration;

use agent_protocol::{
    BindError, BindStep, Binding, Goal, KnownTarget, NicReport, Phase, StepTiming, WantedNic,
};
use nic_model::{IpNet, TargetIdentity};

use crate::action::{Action, StepFailure, kernel_error};
use crate::belief::place_after;
use crate::compare::{missing, missing_routes, obstacle};
use crate::sight::{Admin, Lease, LeaseSight, LinkPlace, LinkSeen, Sight, TargetSight};

/// Steps remembered for the report: a lease that changes hourly must not fill a frame.
const STEPS_KEPT: usize = 64;
/// Addresses named in a report: a container may put any number on its link.
const ADDRESSES_REPORTED: usize = 64;

/// The state of one declared NIC.
#[derive(Debug, Clone)]
pub struct NicBinding {
    wanted: WantedNic,
    sight: Option<Sight>,
    lease: LeaseSight,
    /// The lease whose address is on the link.
    applied_lease: Option<Lease>,
    progress: Progress,
    announced: Announced,
    holding_refused: Option<BindError>,
    last_step: Option<BindStep>,
    steps: Vec<StepTiming>,
    reported: Option<Phase>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Progress {
    Clearing,
    Working,
    Bound {
        target: TargetIdentity,
        addresses: Vec<IpNet>,
    },
    Returned,
    Failed(BindError),
    /// To be released, and switched off where it is.
    Disarmed,
    /// The same, and to be moved away from there.
    Overstayed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Announced {
    Yes,
    NotYet,
}

impl NicBinding {
    /// A NIC of which nothing has been seen yet.
    #[must_use]
    pub fn new(wanted: WantedNic) -> Self {
        Self {
            wanted,
            sight: None,
            lease: LeaseSight::Idle,
            applied_lease: None,
            progress: Progress::Working,
            announced: Announced::NotYet,
            holding_refused: None,
            last_step: None,
            steps: Vec::new(),
            reported: None,
        }
    }

    /// What the host wants.
    #[must_use]
    pub fn wanted(&self) -> &WantedNic {
        &self.wanted
    }

    /// How the host wants it bound; `None` while it is to be released.
    #[must_use]
    pub fn binding(&self) -> Option<&Binding> {
        match &self.wanted.goal {
            Goal::Bound { binding } => Some(binding),
            Goal::Released => None,
        }
    }

    /// Whether the target has to be looked up: not while the NIC is to stay out of it.
    #[must_use]
    pub fn needs_target(&self) -> bool {
        let given_up = matches!(self.progress, Progress::Returned | Progress::Failed(_));
        self.binding().is_some() && !given_up
    }

    /// Whether the NIC was read back in its target and nothing has been seen amiss since.
    #[must_use]
    pub fn is_bound(&self) -> bool {
        matches!(self.progress, Progress::Bound { .. })
    }

    /// Whether the link may be in a target although this agent has not put it there: the NIC is to
    /// be taken out, or was bound by an earlier life of the agent.
    #[must_use]
    pub fn may_be_in_a_target(&self) -> bool {
        self.binding().is_none() || self.was_bound()
    }

    /// Where the link was when last seen, with what was done to it since.
    #[must_use]
    pub fn place(&self) -> Option<&LinkPlace> {
        self.sight.as_ref().map(|sight| &sight.place)
    }

    /// Takes a new wish. A wish that repeats the running one changes nothing; one that differs in
    /// nothing but its generation retries what failed, and reads back again what is bound.
    pub fn declare(&mut self, wanted: WantedNic) {
        self.wanted.known_target = wanted.known_target;
        if wanted == self.wanted {
            return;
        }
        let same_goal = wanted.goal == self.wanted.goal && wanted.path == self.wanted.path;
        self.wanted = wanted;
        self.steps.clear();
        self.last_step = None;
        self.reported = None;
        self.holding_refused = None;
        self.progress = match std::mem::replace(&mut self.progress, Progress::Working) {
            Progress::Bound { .. } | Progress::Working if same_goal => Progress::Working,
            Progress::Clearing
            | Progress::Bound { .. }
            | Progress::Working
            | Progress::Disarmed
            | Progress::Overstayed => Progress::Clearing,
            Progress::Returned | Progress::Failed(_) => Progress::Working,
        };
        self.sight = None;
    }

    /// The host does not know anything yet: everything is reported again.
    pub fn forget_reports(&mut self) {
        self.reported = None;
    }

    /// Takes what was seen.
    pub fn see(&mut self, sight: Sight) {
        self.holding_refused = None;
        self.progress = self.progress_after(&sight);
        self.sight = Some(sight);
    }

    /// What to do now. Follow it by [`Self::complete`] or [`Self::verified`], unless it is to wait
    /// or to look.
    #[must_use]
    pub fn next(&self) -> Action {
        let Some(sight) = &self.sight else {
            return Action::Look;
        };
        match &self.wanted.goal {
            Goal::Released => self.next_released(&sight.place),
            Goal::Bound { binding } => self.next_bound(binding, sight),
        }
    }

    /// Takes how `action` went.
    pub fn complete(&mut self, action: &Action, result: Result<(), StepFailure>, took: Duration) {
        if let Action::Report(report) = action {
            self.reported = Some(report.phase.clone());
            return;
        }
        let Some(step) = action.step() else { return };
        self.remember(step, took);
        if self.stops_client(action) {
            self.lease = LeaseSight::Idle;
        }
        match result {
            Ok(()) => self.believe(action),
            // One that cannot be disarmed where it is may still be moved.
            Err(_) if *action == Action::Disarm => {
                self.progress = Progress::Overstayed;
                self.sight = None;
            }
            Err(failure) => {
                let error = failure.explain(step, self.binding());
                if matches!(action, Action::Hold | Action::Release) {
                    self.holding_refused = Some(error);
                } else {
                    self.fail(error);
                }
            }
        }
    }

    /// Takes what reading the link back found; `None` when it is not in the target.
    pub fn verified(&mut self, found: Option<LinkSeen>, took: Duration) {
        self.remember(BindStep::Verify, took);
        let (Some(sight), Some(found)) = (&self.sight, found) else {
            return self.fail(BindError::LinkVanished {
                step: BindStep::Verify,
            });
        };
        let TargetSight::Present { identity, .. } = sight.target else {
            return self.fail(kernel_error(BindStep::Verify, "the target is gone"));
        };
        match self.deviation(&found) {
            Some(deviation) => self.fail(kernel_error(BindStep::Verify, &deviation)),
            None => {
                let addresses = found.addresses.iter().take(ADDRESSES_REPORTED).copied();
                self.applied_lease = self.granted().cloned();
                self.progress = Progress::Bound {
                    target: identity,
                    addresses: addresses.collect(),
                };
            }
        }
    }

    /// The state of things in the host's terms.
    #[must_use]
    pub fn phase(&self) -> Phase {
        let place = self.sight.as_ref().map(|sight| &sight.place);
        match (&self.wanted.goal, &self.progress) {
            (Goal::Released, _) => self.phase_of_release(place),
            (Goal::Bound { .. }, Progress::Bound { target, addresses }) => Phase::Bound {
                target: *target,
                addresses: addresses.clone(),
            },
            (Goal::Bound { .. }, Progress::Returned) => Phase::Returned,
            (Goal::Bound { .. }, Progress::Failed(error)) => Phase::Failed {
                error: error.clone(),
            },
            (
                Goal::Bound { .. },
                Progress::Clearing | Progress::Working | Progress::Disarmed | Progress::Overstayed,
            ) => match place.and_then(LinkPlace::link) {
                Some(_) => Phase::Binding,
                None => Phase::Awaited,
            },
        }
    }

    fn progress_after(&self, sight: &Sight) -> Progress {
        let Some(binding) = self.binding() else {
            return self.released_after(sight);
        };
        match &self.progress {
            bound @ Progress::Bound { .. } => bound_after(bound, sight),
            Progress::Working | Progress::Clearing => self.work_after(binding, sight),
            done @ (Progress::Returned | Progress::Failed(_)) => done.clone(),
            Progress::Disarmed | Progress::Overstayed => Progress::Clearing,
        }
    }

    fn work_after(&self, binding: &Binding, sight: &Sight) -> Progress {
        match (&sight.place, self.last_step) {
            (LinkPlace::Nowhere, Some(step)) => Progress::Failed(BindError::LinkVanished { step }),
            (LinkPlace::Nowhere, None) => Progress::Working,
            (LinkPlace::Hidden, _) => self.progress.clone(),
            (LinkPlace::Guest(link), _) if self.is_another(link) => self.mac_mismatch(link),
            _ if self.has_lost_its_target(sight) => Progress::Returned,
            (place, _) => match obstacle(binding, sight) {
                Some(error) => Progress::Failed(error),
                // Moving to another namespace leaves nothing of addresses and routes.
                None if matches!(place, LinkPlace::Guest(_) | LinkPlace::Holding(_)) => {
                    Progress::Working
                }
                None => self.progress.clone(),
            },
        }
    }

    /// Whether the NIC was bound for this wish already, by an earlier life of the agent, and what
    /// it was bound in is not there any more.
    fn has_lost_its_target(&self, sight: &Sight) -> bool {
        let lost = matches!(
            sight.target,
            TargetSight::Gone | TargetSight::Changed { .. }
        );
        lost && self.was_bound()
    }

    fn was_bound(&self) -> bool {
        match self.wanted.known_target {
            Some(KnownTarget::BoundIn { .. }) => true,
            Some(KnownTarget::AskedIn { .. }) | None => false,
        }
    }

    /// Whether a link at the declared place is a device of somebody else's. Only a link that has
    /// not been in a target can be told so: a container may have changed the address since.
    fn is_another(&self, link: &LinkSeen) -> bool {
        link.mac.is_some_and(|mac| mac != self.wanted.mac)
    }

    fn mac_mismatch(&self, link: &LinkSeen) -> Progress {
        Progress::Failed(BindError::MacMismatch {
            path: self.wanted.path.clone(),
            expected: self.wanted.mac,
            found: link.mac.unwrap_or(self.wanted.mac),
        })
    }

    fn next_bound(&self, binding: &Binding, sight: &Sight) -> Action {
        match &self.progress {
            Progress::Failed(BindError::MacMismatch { .. }) | Progress::Bound { .. } => self.rest(),
            Progress::Failed(_) | Progress::Returned => match &sight.place {
                LinkPlace::Hidden => Action::Wait,
                LinkPlace::Nowhere => self.rest(),
                LinkPlace::Holding(link) if link.admin == Admin::Down => self.rest(),
                LinkPlace::Holding(_)
                | LinkPlace::Guest(_)
                | LinkPlace::Target(_)
                | LinkPlace::Elsewhere(_) => self.held_by(Action::Hold),
            },
            Progress::Clearing | Progress::Working | Progress::Disarmed | Progress::Overstayed => {
                match &sight.place {
                    LinkPlace::Nowhere | LinkPlace::Hidden => self.rest(),
                    LinkPlace::Guest(link)
                    | LinkPlace::Holding(link)
                    | LinkPlace::Target(link)
                    | LinkPlace::Elsewhere(link) => self.next_step(binding, sight, link),
                }
            }
        }
    }

    /// The link is there and to be bound.
    fn next_step(&self, binding: &Binding, sight: &Sight, link: &LinkSeen) -> Action {
        if self.reported != Some(Phase::Binding) {
            return self.report(Phase::Binding);
        }
        match &sight.place {
            LinkPlace::Target(_) if self.progress == Progress::Clearing => {
                self.held_by(Action::Hold)
            }
            LinkPlace::Target(_) => self.next_in_target(binding, link),
            // The move itself leaves nothing of what the link was.
            LinkPlace::Guest(_)
            | LinkPlace::Holding(_)
            | LinkPlace::Elsewhere(_)
            | LinkPlace::Nowhere
            | LinkPlace::Hidden => self.enter(binding, link),
        }
    }

    fn enter(&self, binding: &Binding, link: &LinkSeen) -> Action {
        Action::Enter {
            target: binding.target.clone(),
            name: binding.link_name.clone(),
            mtu: binding.mtu,
            mac: self.is_another(link).then_some(self.wanted.mac),
        }
    }

    fn next_in_target(&self, binding: &Binding, link: &LinkSeen) -> Action {
        if link.name != binding.link_name.as_str() {
            return self.enter(binding, link);
        }
        if link.mtu != u32::from(binding.mtu) {
            return Action::SetMtu(binding.mtu);
        }
        if let Some(lease) = &self.applied_lease
            && self.lease != LeaseSight::Granted(lease.clone())
        {
            return Action::DropLease(lease.address);
        }
        if let Some(left_over) = self.left_over_lease(binding, link) {
            return Action::DropLease(left_over);
        }
        let missing = missing(&self.wanted_addresses(binding), &link.addresses);
        if !missing.is_empty() {
            return Action::SetAddresses(missing);
        }
        if link.admin == Admin::Down {
            return Action::SetUp;
        }
        let missing = missing_routes(&self.wanted_routes(binding), &link.routes);
        if !missing.is_empty() {
            return Action::SetRoutes(missing);
        }
        self.next_once_configured(binding)
    }

    fn next_once_configured(&self, binding: &Binding) -> Action {
        if self.uses_lease() {
            match self.lease {
                // One that has given up did so for an earlier wish: this one's would have failed.
                LeaseSight::Idle | LeaseSight::Refused { .. } => return Action::StartLease,
                LeaseSight::Pending => return Action::Wait,
                LeaseSight::Granted(_) => {}
            }
        }
        let addresses = self.wanted_addresses(binding);
        if self.announced == Announced::NotYet && !addresses.is_empty() {
            return Action::Announce(addresses);
        }
        Action::Verify
    }

    /// Nothing is to be done: the host should know how things stand.
    fn rest(&self) -> Action {
        let phase = self.phase();
        if self.reported.as_ref() == Some(&phase) {
            Action::Wait
        } else {
            self.report(phase)
        }
    }

    /// Moves the link away once; when that was refused, the next look tries again.
    fn held_by(&self, action: Action) -> Action {
        if self.holding_refused.is_some() {
            self.rest()
        } else {
            action
        }
    }

    fn report(&self, phase: Phase) -> Action {
        Action::Report(Box::new(NicReport {
            nic: self.wanted.nic.clone(),
            generation: self.wanted.generation,
            phase,
            steps: self.steps.clone(),
        }))
    }

    fn believe(&mut self, action: &Action) {
        let moves = !matches!(self.place(), Some(LinkPlace::Target(_)));
        if let Some(sight) = &mut self.sight {
            sight.place = place_after(&sight.place, action);
        }
        match action {
            Action::Hold | Action::Release => self.begin_anew(),
            Action::Enter { .. } if moves => self.begin_anew(),
            Action::Disarm => {
                self.begin_anew();
                self.progress = Progress::Disarmed;
            }
            Action::StartLease => self.lease = LeaseSight::Pending,
            Action::DropLease(_) => {
                self.applied_lease = None;
                self.announced = Announced::NotYet;
            }
            Action::SetAddresses(_) => self.applied_lease = self.granted().cloned(),
            Action::Announce(_) => self.announced = Announced::Yes,
            Action::Enter { .. }
            | Action::SetMtu(_)
            | Action::SetUp
            | Action::SetRoutes(_)
            | Action::Wait
            | Action::Look
            | Action::Report(_)
            | Action::Verify => {}
        }
    }

    /// Nothing is left of what was done to the link.
    fn begin_anew(&mut self) {
        self.lease = LeaseSight::Idle;
        self.applied_lease = None;
        self.announced = Announced::NotYet;
        if matches!(self.progress, Progress::Clearing | Progress::Overstayed) {
            self.progress = Progress::Working;
        }
    }

    fn fail(&mut self, error: BindError) {
        self.progress = Progress::Failed(error);
        self.sight = None;
    }

    fn remember(&mut self, step: BindStep, took: Duration) {
        self.last_step = Some(step);
        if self.steps.len() < STEPS_KEPT {
            self.steps.push(StepTiming {
                step,
                duration_us: u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
            });
        }
    }

    /// What of the wish the link does not show.
    fn deviation(&self, found: &LinkSeen) -> Option<String> {
        let binding = self.binding()?;
        if found.name != binding.link_name.as_str() {
            return Some(format!("the link is named {}", found.name));
        }
        if found.mtu != u32::from(binding.mtu) {
            return Some(format!("the MTU is {}", found.mtu));
        }
        if found.admin == Admin::Down {
            return Some("the link is down".into());
        }
        let addresses = missing(&self.wanted_addresses(binding), &found.addresses);
        if let Some(address) = addresses.first() {
            return Some(format!("address {address} is missing"));
        }
        let routes = missing_routes(&self.wanted_routes(binding), &found.routes);
        let route = routes.first()?;
        Some(format!("the route to {} is missing", route.destination))
    }
}

/// What becomes of a bound NIC when this is seen.
fn bound_after(bound: &Progress, sight: &Sight) -> Progress {
    let alive = matches!(sight.target, TargetSight::Present { .. });
    match &sight.place {
        LinkPlace::Nowhere => Progress::Failed(BindError::LinkVanished {
            step: BindStep::Verify,
        }),
        LinkPlace::Target(_) | LinkPlace::Hidden if alive => bound.clone(),
        LinkPlace::Target(_)
        | LinkPlace::Hidden
        | LinkPlace::Guest(_)
        | LinkPlace::Holding(_)
        | LinkPlace::Elsewhere(_) => Progress::Returned,
    }
}

#[cfg(test)]
#[path = "binding_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "convergence_tests.rs"]
mod convergence_tests;
