//! Performs steps in a world, and holds each against the model.
//!
//! ```text
//!   still right? ─► troubles on ─► operations ─► what were clients told? ─► at rest? ─► pause
//!                        │              │
//!                        └ hostd dies and comes back; the oracle judges at random moments
//! ```
//!
//! Several operations at once may end in more than one way: every order of them is performed by a
//! model of its own, and those that do not fit what is seen are dropped. When none is left, hostd
//! did what no order explains.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use futures::future::join_all;
use host_api::{AttachNic, CreateNic, MoveNic, ProblemCode};
use misbehaviour::Chance;
use nic_model::LinkName;
use oracle::model::{Model, NicKey, Operation, Outcome, Request, VmKey};
use oracle::{Moment as When, SystemView};
use tokio::time::{Instant, sleep};

use super::bounds::Bounds;
use super::cast::Cast;
use super::customer::{Customer, Manner, Told, Wish};
use super::ends::{Course, End, ends_of, fits, is_amid};
use super::judge::{Scene, breach_of};
use super::report::{Breach, Caught};
use super::step::{Act, Step, Trouble};
use super::storm::Storm;
use super::{NICS, first_model, vm_keys};
use crate::sim::{Host, NETWORK, Plan, Sim};

/// How long a client waits for something that the model says to be done in the end.
const WAIT: Duration = Duration::from_secs(250);
/// The same for what a guest holds up.
const SHORT_WAIT: Duration = Duration::from_secs(6);
/// By how much operations of one step begin later than the first at most.
const STAGGER: Duration = Duration::from_millis(400);
/// Longest time between two judgements under way, in milliseconds.
const JUDGEMENT_MS: u64 = 400;
/// How often a world that is to come to rest is looked at: at first, and later.
const LOOK: [Duration; 2] = [Duration::from_millis(20), Duration::from_millis(500)];
/// How long what has overrun its bound is waited for, to be able to tell the late from the lost.
const OVERTIME: Duration = Duration::from_secs(300);

/// See the module.
#[derive(Debug)]
pub struct Rig {
    sim: Sim,
    cast: RefCell<Cast>,
    beliefs: Vec<Model>,
    bounds: Bounds,
    /// Until when something of earlier steps may still be felt.
    disturbed_until: Instant,
    /// Until when a guest that has refused to let go may not be asked again.
    refused_until: Instant,
    chance: Chance,
    lives: u64,
    /// Tells the tokens of clients apart.
    tokens: Cell<u64>,
}

/// One operation of a step, as it is to be asked for.
struct Errand<'a> {
    operation: &'a Operation,
    delay: Duration,
    wait: Duration,
    bound: Duration,
    token: u64,
}

/// What is expected of a step.
struct Expected {
    ends: Vec<End>,
    /// Until everything is at rest.
    bound: Duration,
    /// Until the client of each operation has its answer.
    bounds: Vec<Duration>,
}

impl Rig {
    /// A world as `plan` says, in which nothing has happened yet.
    #[must_use]
    pub fn new(sim: Sim, plan: &Plan) -> Self {
        let cast = Cast::new(&sim.hosts[0], plan.kernel.unplug);
        Self {
            sim,
            cast: RefCell::new(cast),
            beliefs: vec![first_model()],
            bounds: Bounds::of(plan),
            disturbed_until: Instant::now(),
            refused_until: Instant::now(),
            chance: Chance::new(plan.seed).fork("rig"),
            lives: 1,
            tokens: Cell::new(0),
        }
    }

    /// The world.
    #[must_use]
    pub fn sim(&self) -> &Sim {
        &self.sim
    }

    /// What is believed of it; of several beliefs that fit all that was seen, the first.
    #[must_use]
    pub fn belief(&self) -> &Model {
        &self.beliefs[0]
    }

    /// How many lives its hostd has had.
    #[must_use]
    pub fn lives(&self) -> u64 {
        self.lives
    }

    fn host(&self) -> &Host {
        &self.sim.hosts[0]
    }

    /// Does a step, to its very end.
    ///
    /// # Errors
    /// What is wrong.
    pub async fn perform(&mut self, step: &Step) -> Result<(), Breach> {
        self.be_still_right().await?;
        let expected = self.expect(step);
        let end = expected.ends[0].model.clone();
        let storm = Storm::new(self.host(), step);
        self.let_loose(step);
        let mut chance = self.chance.clone();
        let performed = tokio::select! {
            biased;
            breach = storm.tend() => Err(breach),
            breach = storm.darken() => Err(breach),
            breach = self.watch(&mut chance) => Err(breach),
            breach = self.kill_agents(step, &end) => Err(breach),
            settled = self.act_and_rest(step, &storm, &expected) => settled,
        };
        storm.calm();
        self.sim.stage.rules().clear();
        self.lives += storm.lives.get();
        self.chance = chance;
        self.beliefs = performed?;
        let felt_until = Instant::now() + Bounds::aftermath(step);
        self.disturbed_until = self.disturbed_until.max(felt_until);
        let refused_until = Instant::now() + Bounds::without_request(step);
        self.refused_until = self.refused_until.max(refused_until);
        self.sim.pass(step.pause).await;
        Ok(())
    }

    fn expect(&self, step: &Step) -> Expected {
        let disturbance = self.disturbance();
        let ends = ends_of(&self.beliefs, step, &self.courses(step));
        let afterwards = ends.iter().map(|end| &end.model);
        let models: Vec<&Model> = afterwards.chain(&self.beliefs).collect();
        let bounds = self.bounds.of_requests(step, &models);
        let bounds: Vec<Duration> = bounds.into_iter().map(|it| it + disturbance).collect();
        let longest = bounds.iter().max().copied().unwrap_or_default();
        Expected {
            ends,
            bound: longest + STAGGER,
            bounds,
        }
    }

    fn courses(&self, step: &Step) -> Vec<Course> {
        let mut courses = vec![Course::Plain, Course::KeptOnReturn];
        if !step.troubles.is_empty() || !self.disturbance().is_zero() {
            courses.push(Course::LateAgents);
        }
        let is_refused = !Bounds::without_request(step).is_zero();
        if is_refused || Instant::now() < self.refused_until {
            courses.extend((0..NICS).map(NicKey).map(Course::RefusedBeforeReset));
        }
        courses
    }

    /// How long what went wrong in earlier steps may still be felt.
    fn disturbance(&self) -> Duration {
        self.disturbed_until.duration_since(Instant::now())
    }

    /// Whether all is as it was left, or is again once nothing is felt any more of what went wrong.
    ///
    /// # Errors
    /// What is wrong.
    pub async fn be_still_right(&mut self) -> Result<(), Breach> {
        breach_of(Caught::Invariant, self.sim.violations(When::Any))?;
        let disturbance = self.disturbance();
        self.beliefs = match disturbance.is_zero() {
            true => self.judge(&self.beliefs)?,
            false => {
                let now = Instant::now();
                self.rest(&self.beliefs, now, disturbance + LOOK[0]).await?
            }
        };
        Ok(())
    }

    fn let_loose(&self, step: &Step) {
        for (number, trouble) in step.troubles.iter().enumerate() {
            match trouble {
                Trouble::Mischief(mischief) => {
                    let added = self.sim.stage.rules().add(mischief.rule(number));
                    added.expect("rules of a step bear different names and can be followed");
                }
                Trouble::ClockJump { seconds } => self.sim.stage.jump_clock(*seconds),
                Trouble::Kill(_)
                | Trouble::PowerLoss(_)
                | Trouble::Twice { .. }
                | Trouble::Impatience
                | Trouble::AgentDies { .. } => {}
            }
        }
    }

    /// Judges at random moments, until something is wrong.
    async fn watch(&self, chance: &mut Chance) -> Breach {
        loop {
            let after = Duration::from_millis(1 + chance.below(JUDGEMENT_MS));
            sleep(after).await;
            let found = self.sim.violations(When::Any);
            if let Err(breach) = breach_of(Caught::Invariant, found) {
                return breach;
            }
        }
    }

    /// Kills agents when their time has come; without end. One that has been stopped for good is
    /// not killed: that would start it again.
    async fn kill_agents(&self, step: &Step, end: &Model) -> Breach {
        let deaths = step.troubles.iter().filter_map(|trouble| match trouble {
            Trouble::AgentDies { vm, after } => Some((*vm, *after)),
            Trouble::Kill(_)
            | Trouble::PowerLoss(_)
            | Trouble::Mischief(_)
            | Trouble::Twice { .. }
            | Trouble::Impatience
            | Trouble::ClockJump { .. } => None,
        });
        join_all(deaths.map(async |(vm, after)| {
            sleep(after).await;
            if self.belief().has_agent(vm) && end.has_agent(vm) {
                self.crash_agent(vm);
            }
        }))
        .await;
        std::future::pending().await
    }

    fn crash_agent(&self, vm: VmKey) {
        let guest = self.cast.borrow().vm(vm).guest_handle();
        // While its guest boots there is none.
        let up = guest.filter(|guest| guest.view().phase == fake_guest::kernel::Phase::Up);
        if let Some(guest) = up {
            guest.crash_agent();
        }
    }

    async fn act_and_rest(
        &self,
        step: &Step,
        storm: &Storm,
        expected: &Expected,
    ) -> Result<Vec<Model>, Breach> {
        let began = Instant::now();
        let ends = &expected.ends;
        let told = self.act(step, storm, expected).await?;
        while storm.is_to_come() {
            sleep(LOOK[0]).await;
        }
        if step.loses_power() {
            vm_keys().for_each(|vm| self.cast.borrow_mut().forget_containers(vm));
        }
        let fitting: Vec<End> = ends
            .iter()
            .filter(|end| fits(step, end, &told))
            .cloned()
            .collect();
        if fitting.is_empty() {
            let expected: Vec<_> = ends.iter().map(|end| &end.outcomes).collect();
            return Err(Breach {
                caught: Caught::Outcome,
                sentences: vec![format!("told {told:?}, expected {expected:?}")],
            });
        }
        let models: Vec<Model> = fitting.into_iter().map(|end| end.model).collect();
        self.rest(&models, began, expected.bound).await
    }

    async fn act(
        &self,
        step: &Step,
        storm: &Storm,
        expected: &Expected,
    ) -> Result<Vec<Option<Told>>, Breach> {
        let mut chance = self.chance.fork("stagger");
        let operations = step.act.operations().iter().enumerate();
        let errands: Vec<Errand<'_>> = operations
            .map(|(index, operation)| Errand {
                operation,
                // Often in the same instant: while one is being journalled, the next comes.
                delay: match chance.below(200) {
                    percent @ 1..100 if index > 0 => {
                        STAGGER * u32::try_from(percent).unwrap_or_default() / 100
                    }
                    _ => Duration::ZERO,
                },
                wait: wait_for(&expected.ends, index),
                bound: expected.bounds[index],
                token: self.next_token(),
            })
            .collect();
        let done = errands.iter().map(|errand| self.run(errand, step, storm));
        join_all(done).await.into_iter().collect()
    }

    fn next_token(&self) -> u64 {
        let token = self.tokens.get();
        self.tokens.set(token + 1);
        token
    }

    async fn run(
        &self,
        errand: &Errand<'_>,
        step: &Step,
        storm: &Storm,
    ) -> Result<Option<Told>, Breach> {
        sleep(errand.delay).await;
        let text = format!("{:?}", errand.operation);
        self.sim.stage.note("operator", "does", text.as_bytes());
        match errand.operation {
            Operation::Happen(happening) => {
                self.cast.borrow_mut().happen(*happening);
                storm.answered();
                Ok(None)
            }
            Operation::Ask(request) => {
                let began = Instant::now();
                let told = self.ask(*request, errand, step).await?;
                in_time(&told, began, errand.bound)?;
                let text = format!("{:?} {}", told.outcome, told.message);
                self.sim.stage.note("operator", "told", text.as_bytes());
                self.enter(*request, &told);
                if matches!(step.act, Act::One(_)) && !step.loses_power() {
                    self.see_success(*request, &told)?;
                }
                storm.answered();
                Ok(Some(told))
            }
        }
    }

    async fn ask(
        &self,
        request: Request,
        errand: &Errand<'_>,
        step: &Step,
    ) -> Result<Told, Breach> {
        let wish = self.wish(request);
        let impatient = step.troubles.contains(&Trouble::Impatience);
        let customer = Customer {
            client: self.host().client(),
            token: format!("token-{}", errand.token)
                .parse()
                .expect("it is short and plain"),
            wait: errand.wait,
            manner: if impatient {
                Manner::Looks
            } else {
                Manner::Waits
            },
        };
        let later = step.troubles.iter().find_map(|trouble| match trouble {
            Trouble::Twice { later } => Some(*later),
            Trouble::Kill(_)
            | Trouble::PowerLoss(_)
            | Trouble::Mischief(_)
            | Trouble::AgentDies { .. }
            | Trouble::Impatience
            | Trouble::ClockJump { .. } => None,
        });
        let Some(later) = later else {
            return Ok(customer.ask(&wish).await);
        };
        let again = async {
            sleep(later).await;
            customer.ask(&wish).await
        };
        let (first, second) = futures::join!(customer.ask(&wish), again);
        same_answer(step, first, second)
    }

    fn wish(&self, request: Request) -> Wish {
        let cast = self.cast.borrow();
        match request {
            Request::Create(_) => Wish::Create(CreateNic {
                tenant: None,
                network: NETWORK.parse().expect("it is the name of a network"),
                mac: None,
                addressing: None,
                mtu: None,
                routes: None,
                limits: None,
                queues: None,
                attach: None,
            }),
            Request::Attach(nic, spot) => {
                let attach = AttachNic {
                    vm: cast.vm_id(spot.vm).clone(),
                    target: cast.target(spot),
                    link_name: Some(link_name(nic)),
                };
                Wish::Attach(cast.nic_id(nic), attach)
            }
            Request::Move(nic, spot) => {
                let relocation = MoveNic {
                    vm: cast.vm_id(spot.vm).clone(),
                    target: cast.target(spot),
                    link_name: None,
                };
                Wish::Move(cast.nic_id(nic), relocation)
            }
            Request::Detach(nic) => Wish::Detach(cast.nic_id(nic)),
            Request::Delete(nic) => Wish::Delete(cast.nic_id(nic)),
        }
    }

    fn enter(&self, request: Request, told: &Told) {
        let mut cast = self.cast.borrow_mut();
        match (request, &told.nic) {
            (Request::Create(nic), Some(id)) => cast.enter(nic, id.clone()),
            (Request::Delete(nic), _) if told.outcome == Outcome::Deleted => cast.leave(nic),
            _ => {}
        }
    }

    /// A NIC that is said to be in use can be used in that instant.
    fn see_success(&self, request: Request, told: &Told) -> Result<(), Breach> {
        let (Request::Attach(nic, spot) | Request::Move(nic, spot)) = request else {
            return Ok(());
        };
        let Some(view) = self
            .host()
            .view()
            .filter(|_| told.outcome == Outcome::InUse)
        else {
            return Ok(());
        };
        let cast = self.cast.borrow();
        let scene = self.scene(&cast, &view);
        let shown = view.nics.get(&cast.nic_id(nic));
        let missing = shown.and_then(|nic| scene.missing_in(nic, spot));
        breach_of(Caught::UnseenSuccess, missing.into_iter().collect())
    }

    fn scene<'a>(&'a self, cast: &'a Cast, view: &'a SystemView) -> Scene<'a> {
        Scene {
            host: self.host(),
            cast,
            view,
        }
    }

    /// Waits until the world is as one of `models` says and nothing is wrong with it.
    async fn rest(
        &self,
        models: &[Model],
        began: Instant,
        bound: Duration,
    ) -> Result<Vec<Model>, Breach> {
        loop {
            // What happens in a QEMU or a guest is heard of as soon as their tasks have run.
            let early = began.elapsed() < Duration::from_secs(5);
            sleep(if early { LOOK[0] } else { LOOK[1] }).await;
            let late = began.elapsed() > bound;
            match self.judge(models) {
                Ok(_) if late => {
                    let took = began.elapsed();
                    let sentence = format!("it took {took:?}, and should take {bound:?} at most");
                    return breach_of(Caught::Bound, vec![sentence]).map(|()| Vec::new());
                }
                Ok(fitting) => return Ok(fitting),
                Err(breach) if began.elapsed() > bound + OVERTIME => return Err(breach),
                Err(_not_yet) => {}
            }
        }
    }

    /// Those of `models` that tell of the world as it is, in which nothing may be wrong.
    fn judge(&self, models: &[Model]) -> Result<Vec<Model>, Breach> {
        let Some(mut view) = self.host().view() else {
            return Err(Breach {
                caught: Caught::Start,
                sentences: vec!["no hostd runs".to_owned()],
            });
        };
        let cast = self.cast.borrow();
        let scene = self.scene(&cast, &view);
        let fitting = models
            .iter()
            .filter(|model| scene.differences(model).is_empty());
        let fitting: Vec<Model> = fitting.cloned().collect();
        if fitting.is_empty() {
            breach_of(Caught::Standing, scene.differences(&models[0]))?;
        }
        breach_of(Caught::Standing, scene.unknown_vms(&fitting[0]))?;
        // Where no agent runs, nobody can put anything right in the guest.
        let abandoned = vm_keys().filter(|vm| !fitting[0].has_agent(*vm));
        for vm in abandoned {
            view.vms
                .entry(cast.vm_id(vm).clone())
                .and_modify(|vm| vm.guest = None);
        }
        let found = oracle::violations(&view, When::AtRest);
        breach_of(Caught::InvariantAtRest, found)?;
        Ok(fitting)
    }
}

/// Whoever is not held up has an answer in time, whatever holds others up.
fn in_time(told: &Told, began: Instant, bound: Duration) -> Result<(), Breach> {
    let took = began.elapsed();
    let late = told.outcome != Outcome::UnderWay && took > bound;
    let sentence = format!("told {:?} after {took:?}, {bound:?} at most", told.outcome);
    breach_of(
        Caught::Bound,
        late.then_some(sentence).into_iter().collect(),
    )
}

/// A client waits for what will be done, and not for a guest that holds it up.
fn wait_for(ends: &[End], index: usize) -> Duration {
    let held_up = |end: &End| end.outcomes[index] == Some(Outcome::UnderWay);
    if ends.iter().all(held_up) {
        SHORT_WAIT
    } else {
        WAIT
    }
}

/// One token, one answer; but what happens between the two may change it: what is refused is
/// looked at anew, and what has been done may be undone. Of a refusal for want of a place and the
/// answer to whoever asked when another request had made room, the latter tells how it ends.
fn same_answer(step: &Step, first: Told, second: Told) -> Result<Told, Breach> {
    let has_company = matches!(step.act, Act::Together(_));
    match (wants_room(&first), wants_room(&second)) {
        (true, false) if has_company => return Ok(second),
        (false, true) if has_company => return Ok(first),
        _ => {}
    }
    let two = matches!((&first.nic, &second.nic), (Some(one), Some(other)) if one != other);
    let differ = two || (!is_amid(step) && first.outcome != second.outcome);
    let sentence = format!("two clients with one token were told {first:?} and {second:?}");
    breach_of(
        Caught::Outcome,
        differ.then_some(sentence).into_iter().collect(),
    )?;
    Ok(first)
}

fn wants_room(told: &Told) -> bool {
    told.outcome == Outcome::Problem(ProblemCode::LimitExceeded)
}

/// Two NICs in one container need two names.
fn link_name(nic: NicKey) -> LinkName {
    let name = format!("eth{}", nic.0).parse();
    name.expect("it is short and plain")
}
