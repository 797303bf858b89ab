//! The board: what a person sees of NICs and VMs beside the records, and what has happened lately.
//!
//! Workers write, the HTTP layer reads. Nothing here decides anything, and nothing here survives a
//! restart: it is all observed again.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use agent_protocol::{BindStep, Phase};
use nic_lifecycle::{Blocked, NicRecord, NicState, Step};
use nic_model::{IpNet, NicId, VmId};
use tokio::sync::broadcast;
use tokio::time::Instant;

use crate::surroundings::{SystemClock, WallClock};
use crate::watched::{Follower, Watched};

/// Events kept for a client that comes back with the id of the last one it saw.
const KEPT_EVENTS: usize = 4096;
/// Steps kept of one operation: several times what an attach has, its guest's steps included. Only
/// a guest that has to be asked to let go over and over has more.
const KEPT_STEPS: usize = 64;
/// Events a slow client may lag behind before it is told that it has missed some.
const LAG: usize = 1024;

/// What is observed of one NIC.
#[derive(Debug, Clone, Default)]
pub struct LiveNic {
    /// What is being done or waited for.
    pub step: Option<Step>,
    /// What stands in its way, if anything. On the heap, as little stands in the way of most.
    pub blocked: Option<Box<BlockedSince>>,
    /// What is wrong with it although it is in use.
    pub degraded: Option<String>,
    /// Addresses the guest reports, leased ones included.
    pub addresses: Vec<IpNet>,
    /// Steps of the running or last operation, the newest 64 of them.
    pub timings: VecDeque<StepTiming>,
    /// When that operation began.
    pub began: Option<Instant>,
}

/// Why nothing happens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockedSince {
    /// What is waited for.
    pub reason: Blocked,
    /// More about it, where there is more.
    pub detail: Option<String>,
    /// Milliseconds since the Unix epoch.
    pub since_ms: u64,
    /// Milliseconds since the Unix epoch.
    pub next_retry_ms: Option<u64>,
}

/// One step that is over.
#[derive(Debug, Clone, PartialEq)]
pub struct StepTiming {
    /// What.
    pub step: TimedStep,
    /// When it was over, since the operation began.
    pub at: Duration,
    /// How long it took.
    pub duration: Duration,
}

/// A step of hostd's or of the agent's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimedStep {
    /// On the host, hostd's clock.
    Host(Step),
    /// In the guest, the agent's clock.
    Guest(BindStep),
}

/// Something that happened.
#[derive(Debug, Clone)]
pub struct BoardEvent {
    /// Counts from 1 since hostd's start.
    pub id: u64,
    /// Milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// Which NIC.
    pub nic: Option<NicId>,
    /// Which VM.
    pub vm: Option<VmId>,
    /// What.
    pub what: Happening,
}

/// Whether something was not known before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// It is new.
    Yes,
    /// It is not.
    No,
}

/// What a [`BoardEvent`] tells.
#[derive(Debug, Clone)]
pub enum Happening {
    /// A record is new or in a new state.
    NicChanged(Arc<NicRecord>),
    /// A record is gone.
    NicDeleted,
    /// A step is over.
    StepDone(StepTiming),
    /// Nothing can be done until something changes.
    NicBlocked(BlockedSince),
    /// Something is wrong with a NIC in use.
    NicDegraded(String),
    /// A NIC in use is right again.
    NicRecovered,
    /// The agent of a VM came, went or misbehaved.
    AgentChanged(String),
    /// A VM appeared, started or stopped.
    VmChanged(String),
    /// A VM is not listed any more, and nothing of it is left.
    VmGone,
}

/// The board itself.
#[derive(Debug)]
pub struct Board {
    clock: Arc<dyn WallClock>,
    nics: Mutex<BTreeMap<NicId, Watched<LiveNic>>>,
    history: Mutex<History>,
    events: broadcast::Sender<BoardEvent>,
}

#[derive(Debug, Default)]
struct History {
    last_id: u64,
    events: VecDeque<BoardEvent>,
}

/// Everything from an event id on.
#[derive(Debug)]
pub struct Subscription {
    /// What is kept of the past, oldest first.
    pub past: Vec<BoardEvent>,
    /// What comes.
    pub future: broadcast::Receiver<BoardEvent>,
}

impl Default for Board {
    /// One by the system's clock.
    fn default() -> Self {
        Self::new(Arc::new(SystemClock))
    }
}

impl Board {
    /// An empty board.
    #[must_use]
    pub fn new(clock: Arc<dyn WallClock>) -> Self {
        Self {
            clock,
            nics: Mutex::default(),
            history: Mutex::default(),
            events: broadcast::channel(LAG).0,
        }
    }

    /// What is observed of a NIC now.
    #[must_use]
    pub fn nic(&self, id: &NicId) -> LiveNic {
        lock(&self.nics)
            .get(id)
            .map(|live| live.look(LiveNic::clone))
            .unwrap_or_default()
    }

    fn look<T>(&self, id: &NicId, look: impl FnOnce(&LiveNic) -> T) -> Option<T> {
        lock(&self.nics).get(id).map(|live| live.look(look))
    }

    /// Follows a NIC. Of one that has no record nothing will ever be told, which its follower
    /// learns at once.
    #[must_use]
    pub fn follow(&self, id: &NicId) -> Follower<LiveNic> {
        match lock(&self.nics).get(id) {
            Some(live) => live.follow(),
            None => Watched::default().follow(),
        }
    }

    /// Changes what is observed of a NIC and wakes its followers, unless its record is gone.
    pub fn update(&self, id: &NicId, change: impl FnOnce(&mut LiveNic)) {
        if let Some(live) = lock(&self.nics).get(id) {
            live.modify(change);
        }
    }

    /// There is a record of a NIC, which is nothing to tell of.
    pub fn nic_known(&self, id: &NicId) {
        lock(&self.nics).entry(id.clone()).or_default();
    }

    /// Tells everybody that a record is new or changed.
    pub fn nic_changed(&self, record: &Arc<NicRecord>) {
        self.nic_known(&record.id);
        let vm = record
            .placement
            .as_ref()
            .map(|placement| placement.vm.clone());
        self.publish(
            Some(record.id.clone()),
            vm,
            Happening::NicChanged(Arc::clone(record)),
        );
        self.update(&record.id, |live| {
            if !matches!(record.state, NicState::Attaching | NicState::InUse) {
                live.addresses.clear();
                live.degraded = None;
            }
        });
    }

    /// Tells everybody that a record is gone.
    pub fn nic_deleted(&self, id: &NicId) {
        self.publish(Some(id.clone()), None, Happening::NicDeleted);
        self.update(id, |_| ());
        lock(&self.nics).remove(id);
    }

    /// A new operation of a NIC begins: its steps are counted from now.
    pub fn begin(&self, id: &NicId, began: Instant) {
        self.update(id, |live| {
            live.timings.clear();
            live.began = Some(began);
            live.blocked = None;
        });
    }

    /// A step of a NIC is over now.
    pub fn step_done(&self, id: &NicId, vm: Option<&VmId>, step: TimedStep, duration: Duration) {
        let mut timing = StepTiming {
            step,
            at: Duration::ZERO,
            duration,
        };
        self.update(id, |live| {
            timing.at = live.began.map(|began| began.elapsed()).unwrap_or_default();
            if live.timings.len() == KEPT_STEPS {
                live.timings.pop_front();
            }
            live.timings.push_back(timing.clone());
        });
        self.publish(Some(id.clone()), vm.cloned(), Happening::StepDone(timing));
    }

    /// A NIC waits for something; told once, however often it is found waiting. While the reason
    /// is the same it has been waiting since it was first found so, whatever was tried in between.
    pub fn blocked(&self, id: &NicId, vm: &VmId, blocked: &BlockedSince) {
        let mut blocked = blocked.clone();
        let before = self.look(id, |live| live.blocked.clone()).flatten();
        if let Some(before) = before.filter(|before| before.reason == blocked.reason) {
            if before.next_retry_ms == blocked.next_retry_ms {
                return;
            }
            blocked.since_ms = before.since_ms;
        }
        self.update(id, |live| live.blocked = Some(Box::new(blocked.clone())));
        self.publish(
            Some(id.clone()),
            Some(vm.clone()),
            Happening::NicBlocked(blocked),
        );
    }

    /// Notes what a NIC is at; whether that ends what stood in its way is not known yet.
    pub fn try_step(&self, id: &NicId, step: Step) {
        if self.look(id, |live| live.step) != Some(Some(step)) {
            self.update(id, |live| live.step = Some(step));
        }
    }

    /// Nothing stands in a NIC's way; `step` is what it is at.
    pub fn at_step(&self, id: &NicId, step: Option<Step>) {
        let is_known = |live: &LiveNic| live.blocked.is_none() && live.step == step;
        if self.look(id, is_known) == Some(false) {
            self.update(id, |live| {
                live.blocked = None;
                live.step = step;
            });
        }
    }

    /// What the guest last reported of a NIC in use or on its way there; tells whether it is news.
    pub fn guest_reported(&self, record: &NicRecord, vm: &VmId, phase: &Phase) -> News {
        let id = &record.id;
        let (addresses, degraded) = match phase {
            Phase::Bound { addresses, .. } => (addresses.clone(), None),
            Phase::Returned => (
                Vec::new(),
                Some("its container died; the link waits in the guest".to_owned()),
            ),
            Phase::Failed { error } => (Vec::new(), Some(format!("binding failed: {error}"))),
            // The container has lost what it had: a lease that ended, an agent that began anew.
            Phase::Awaited | Phase::Binding if record.state == NicState::InUse => {
                (Vec::new(), Some("the guest is binding it again".to_owned()))
            }
            Phase::Awaited | Phase::Binding | Phase::Released | Phase::Absent => return News::No,
        };
        let is_known = |live: &LiveNic| live.addresses == addresses && live.degraded == degraded;
        if self.look(id, is_known).unwrap_or(true) {
            return News::No;
        }
        let before = self.look(id, |live| live.degraded.clone()).flatten();
        self.update(id, |live| {
            live.addresses = addresses;
            live.degraded.clone_from(&degraded);
        });
        match (before, degraded) {
            (_, Some(reason)) => {
                self.publish(
                    Some(id.clone()),
                    Some(vm.clone()),
                    Happening::NicDegraded(reason),
                );
            }
            (Some(_), None) => {
                self.publish(Some(id.clone()), Some(vm.clone()), Happening::NicRecovered);
            }
            (None, None) => {}
        }
        News::Yes
    }

    /// Tells everybody about a VM.
    pub fn vm_event(&self, vm: &VmId, what: Happening) {
        self.publish(None, Some(vm.clone()), what);
    }

    /// Every event after `last_seen` that is kept, and every one to come.
    #[must_use]
    pub fn subscribe(&self, last_seen: Option<u64>) -> Subscription {
        let history = lock(&self.history);
        let future = self.events.subscribe();
        let newer = |event: &&BoardEvent| last_seen.is_some_and(|seen| event.id > seen);
        Subscription {
            past: history.events.iter().filter(newer).cloned().collect(),
            future,
        }
    }

    fn publish(&self, nic: Option<NicId>, vm: Option<VmId>, what: Happening) {
        let mut history = lock(&self.history);
        history.last_id += 1;
        let event = BoardEvent {
            id: history.last_id,
            at_ms: self.clock.unix_ms(),
            nic,
            vm,
            what,
        };
        if history.events.len() == KEPT_EVENTS {
            history.events.pop_front();
        }
        history.events.push_back(event.clone());
        let _nobody_listens = self.events.send(event);
    }
}

/// A panic while the lock was held has already been reported; the data is plain values.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;
    use crate::watched::Abandoned;

    fn nic() -> NicId {
        "nic-abc0123xyz".parse().unwrap()
    }

    #[test]
    fn a_client_that_comes_back_gets_what_it_missed() {
        let board = Board::default();
        for number in 0..5 {
            board.vm_event(
                &"vm1".parse().unwrap(),
                Happening::VmChanged(number.to_string()),
            );
        }

        let missed = board.subscribe(Some(3)).past;

        assert_eq!(
            missed.iter().map(|event| event.id).collect::<Vec<_>>(),
            [4, 5]
        );
        assert!(board.subscribe(None).past.is_empty());
    }

    fn waiting(reason: Blocked, since_ms: u64, next_retry_ms: Option<u64>) -> BlockedSince {
        BlockedSince {
            reason,
            detail: None,
            since_ms,
            next_retry_ms,
        }
    }

    /// A board of one NIC.
    fn board() -> Board {
        let board = Board::default();
        board.nic_known(&nic());
        board
    }

    #[test]
    fn a_nic_is_blocked_since_it_was_first_found_so_however_often_it_is_retried() {
        let board = board();
        let vm = "vm1".parse().unwrap();
        let mut events = board.subscribe(None).future;

        board.blocked(&nic(), &vm, &waiting(Blocked::Retrying, 1000, Some(1100)));
        board.try_step(&nic(), Step::Release);
        board.blocked(&nic(), &vm, &waiting(Blocked::Retrying, 1100, Some(1300)));
        let still = board.nic(&nic()).blocked.unwrap();
        board.blocked(&nic(), &vm, &waiting(Blocked::LinkNotSeen, 1300, None));
        let newly = board.nic(&nic()).blocked.unwrap();

        assert_eq!((still.since_ms, still.next_retry_ms), (1000, Some(1300)));
        assert_eq!((newly.since_ms, newly.next_retry_ms), (1300, None));
        let mut told = Vec::new();
        while let Ok(event) = events.try_recv() {
            if let Happening::NicBlocked(blocked) = event.what {
                told.push(blocked.since_ms);
            }
        }
        assert_eq!(told, [1000, 1000, 1300]);
    }

    #[test]
    fn of_a_guest_asked_over_and_over_the_newest_steps_are_kept() {
        let board = board();
        let step = TimedStep::Host(Step::Release);

        for number in 0..1000 {
            board.step_done(&nic(), None, step, Duration::from_millis(number));
        }

        let timings = board.nic(&nic()).timings;
        assert_eq!(timings.len(), KEPT_STEPS);
        let newest = timings.back().map(|timing| timing.duration);
        assert_eq!(newest, Some(Duration::from_millis(999)));
    }

    #[test]
    fn nothing_is_kept_of_a_nic_that_is_gone_whoever_still_follows_it() {
        let board = board();
        let mut before = board.follow(&nic());

        board.nic_deleted(&nic());
        let mut after = board.follow(&nic());
        board.at_step(&nic(), Some(Step::Release));

        assert!(lock(&board.nics).is_empty());
        // The last thing that is heard of it is that it is gone.
        assert_eq!(before.changed().now_or_never(), Some(Ok(())));
        for follower in [&mut before, &mut after] {
            assert_eq!(follower.changed().now_or_never(), Some(Err(Abandoned)));
        }
        assert!(after.look(|live| live.step.is_none()));
    }

    #[test]
    fn waiting_is_told_once_until_its_reason_changes() {
        let board = board();
        let vm = "vm1".parse().unwrap();
        let waiting = |reason| waiting(reason, 1, None);
        let mut events = board.subscribe(None).future;

        board.blocked(&nic(), &vm, &waiting(Blocked::AgentUnreachable));
        board.blocked(&nic(), &vm, &waiting(Blocked::AgentUnreachable));
        board.blocked(&nic(), &vm, &waiting(Blocked::LinkNotSeen));

        assert!(matches!(
            events.try_recv().unwrap().what,
            Happening::NicBlocked(_)
        ));
        assert!(matches!(
            events.try_recv().unwrap().what,
            Happening::NicBlocked(_)
        ));
        assert!(events.try_recv().is_err());
    }
}
