//! One task owns one VM: nobody else plugs, unplugs or settles its NICs.
//!
//! ```text
//!            nudge (a record changed, an event came, a timer rang, the agent reported)
//!              │
//!              ▼
//!   look: hardware (if it may have changed), agent's reports, own ports
//!              │
//!              ▼   for each NIC placed here
//!   nic_lifecycle::step ──► Do ──► act ──► look again
//!                      ──► Settle ──► journal, tell
//!                      ──► Wait ──► board, next timer
//! ```
//!
//! A call to the hypervisor has its own deadline, so a stuck VM delays its own NICs alone. What is
//! kept here between rounds is only what cannot be seen: when the guest was asked, how long an
//! attempt has lasted, descriptors of a tap that has not been handed over yet.

mod act;
mod look;
mod nudge;
mod progress;
mod report;
mod stray;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::agent_link::{AgentHandle, AgentState, Outlook, Standing};
use crate::board::{BlockedSince, Board, Happening, TimedStep};
use crate::config::PatienceConfig;
use crate::failpoint::{self, Side};
use crate::pace::Pace;
use crate::ports::HostPorts;
use crate::sabotage::{self, Sabotage};
use crate::store::{SettleError, Store};
use crate::surroundings::Surroundings;
use hypervisor::Hypervisor;
use nic_lifecycle::{
    Action, AgentSeen, Blocked, Next, NicEvent, NicRecord, NicState, Patience, PortSeen, Reason,
    Seen, Step, step,
};
use nic_model::{NicId, PowerState, VmHardware, VmId};
use port::TapAccess;
use tokio::time::Instant;

pub(crate) use act::chain;
pub use nudge::Nudge;
use nudge::{News, World};
use progress::{NextRequest, Progress};
use stray::Strays;

/// Steps of one NIC in one round: an attach has seven. Beyond it something goes in circles.
const STEPS_PER_ROUND: usize = 32;

/// What a worker works with.
#[derive(Clone)]
pub struct Tools {
    /// Records.
    pub store: Arc<Store>,
    /// What people see.
    pub board: Arc<Board>,
    /// The host ends.
    pub ports: Arc<HostPorts>,
    /// How long things may take.
    pub patience: PatienceConfig,
    /// Clock, randomness, and the way to the agents.
    pub surroundings: Surroundings,
}

/// The owner of one VM.
pub struct VmWorker {
    vm: VmId,
    hypervisor: Arc<dyn Hypervisor>,
    tap_access: TapAccess,
    tools: Tools,
    agent: AgentHandle,
    nudge: Arc<Nudge>,
    pace: Pace,
    /// Whether nothing was to be done or waited for when everything was last gone through.
    rest: Rest,
    wake_others: Arc<dyn Fn(&VmId) + Send + Sync>,
    /// Shared with the ledger.
    hardware: Option<Arc<VmHardware>>,
    /// Whether the hardware may look otherwise by now.
    stale: bool,
    looked_at: Option<Instant>,
    looked_at_ports: Option<Instant>,
    inspect_again_at: Option<Instant>,
    /// Why the hardware is not known, for people.
    out_of_sight: Option<String>,
    /// How often in a row the VM looked off and was not believed to be.
    doubts: u32,
    nics: BTreeMap<NicId, Progress>,
    strays: Strays,
    last_power: Option<PowerState>,
    last_agent: AgentState,
    /// What falls due after this has not been dealt with yet.
    round_began: Instant,
}

/// Whether anything is to be done or waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rest {
    Yes,
    No,
}

/// What a worker is started with.
pub struct WorkerStart {
    /// Which VM.
    pub vm: VmId,
    /// Where it runs.
    pub hypervisor: Arc<dyn Hypervisor>,
    /// How that comes to the VM's taps.
    pub tap_access: TapAccess,
    /// What it works with.
    pub tools: Tools,
    /// Its line to the guest.
    pub agent: AgentHandle,
    /// Rings when something may have changed.
    pub nudge: Arc<Nudge>,
    /// How often it looks after a VM at rest.
    pub pace: Pace,
    /// Nudges the worker of another VM.
    pub wake_others: Arc<dyn Fn(&VmId) + Send + Sync>,
}

impl VmWorker {
    /// A worker that has not looked at anything yet.
    #[must_use]
    pub fn new(start: WorkerStart) -> Self {
        Self {
            vm: start.vm,
            hypervisor: start.hypervisor,
            tap_access: start.tap_access,
            strays: Strays::new(start.tools.patience.quarantine),
            tools: start.tools,
            agent: start.agent,
            nudge: start.nudge,
            pace: start.pace,
            rest: Rest::No,
            wake_others: start.wake_others,
            hardware: None,
            stale: true,
            looked_at: None,
            looked_at_ports: None,
            inspect_again_at: None,
            out_of_sight: None,
            doubts: 0,
            nics: BTreeMap::new(),
            last_power: None,
            last_agent: AgentState::default(),
            round_began: Instant::now(),
        }
    }

    /// Works until the task is aborted. By reference: a future that takes its value has room for it
    /// twice (rust-lang/rust#62958).
    pub async fn run(&mut self) {
        loop {
            // On the heap, so that a worker that waits holds no room for a round.
            Box::pin(self.round()).await;
            let wake_at = self.next_wake();
            tokio::select! {
                biased;
                news = self.nudge.wait() => self.hear(news),
                () = self.agent.changed() => {}
                () = tokio::time::sleep_until(wake_at) => self.stale |= self.full_look_is_due(),
            }
        }
    }

    /// A device that the guest was asked for and that is said to be gone is asked for once more:
    /// that it is not found is the proof, and costs less than a look at everything.
    fn hear(&mut self, news: News) {
        self.stale |= news.world == World::MayHaveChanged;
        let hotplug = self.hardware.as_ref().map(|hardware| hardware.hotplug);
        for nic in news.gone {
            let progress = self.nics.get_mut(&nic);
            let next = progress.map(|progress| progress.make_request_due(hotplug));
            self.stale |= next != Some(NextRequest::Due);
        }
    }

    async fn round(&mut self) {
        self.round_began = Instant::now();
        let records = self.tools.store.durable_nics_at(&self.vm);
        if self.is_due(self.looked_at_ports) {
            self.look_at_ports(&records).await;
            self.looked_at_ports = Some(Instant::now());
        }
        self.admit_new(&records).await;
        self.rest = Rest::Yes;
        for record in &records {
            if self.drive(&record.id).await == Rest::No || record.state != NicState::InUse {
                self.rest = Rest::No;
            }
        }
        self.drop_departed(&records).await;
        self.tell_agent_state();
        self.deal_with_strays().await;
    }

    async fn admit_new(&mut self, records: &[Arc<NicRecord>]) {
        self.look_if_due().await;
        for record in records {
            let known = self.nics.get(&record.id);
            if known.is_none_or(|known| known.generation != record.generation) {
                // For a NIC in use a port that nobody holds is as good as none; what is to be put
                // away is another matter.
                let port = match known.map(|known| known.port) {
                    Some(port) if port != PortSeen::Absent => port,
                    Some(_) | None => self.look_at_port(record).await,
                };
                let patience = self.patience_for(record.state);
                let progress = self.nics.entry(record.id.clone()).or_default();
                progress.begin(record, port, patience);
            }
        }
    }

    fn patience_for(&self, state: NicState) -> Duration {
        match state {
            NicState::Detaching => self.tools.patience.release,
            NicState::Attaching | NicState::Available | NicState::InUse | NicState::Deleting => {
                self.tools.patience.attach
            }
        }
    }

    /// Steps one NIC until there is nothing to do.
    async fn drive(&mut self, id: &NicId) -> Rest {
        for _ in 0..STEPS_PER_ROUND {
            self.look_if_due().await;
            let Some(record) = self.record_here(id) else {
                return Rest::No;
            };
            if self
                .nics
                .get(id)
                .is_none_or(|known| known.generation != record.generation)
            {
                self.admit_new(std::slice::from_ref(&record)).await;
            }
            let outlook = self.agent.outlook(id);
            self.declare_early(&record, &outlook).await;
            self.note_report(&record, &outlook);
            self.note_guest_unplug(&record);
            if self.is_held_back(id) {
                return self.wait(&record, Blocked::Retrying);
            }
            match step(&record, &self.seen(&record, &outlook)) {
                Next::Rest => {
                    self.tools.board.at_step(id, None);
                    if let Some(progress) = self.nics.get_mut(id) {
                        progress.wait_no_more(self.round_began);
                    }
                    return Rest::Yes;
                }
                Next::Wait(blocked) => return self.wait(&record, blocked),
                Next::Do(action) => self.act_and_time(&record, action).await,
                Next::Settle(event, reason) => {
                    if !self.settle(&record, event, reason).await {
                        return Rest::No;
                    }
                }
            }
        }
        tracing::error!(vm = %self.vm, nic = %id, "the steps of a NIC go in circles");
        Rest::No
    }

    fn record_here(&self, id: &NicId) -> Option<Arc<NicRecord>> {
        let record = self.tools.store.durable_nic(id)?;
        let here = record
            .placement
            .as_ref()
            .is_some_and(|placement| placement.vm == self.vm);
        here.then_some(record)
    }

    fn is_held_back(&self, id: &NicId) -> bool {
        self.nics
            .get(id)
            .is_some_and(|progress| progress.is_held_back(Instant::now()))
    }

    fn seen(&self, record: &NicRecord, outlook: &Outlook) -> Seen {
        let now = Instant::now();
        let progress = &self.nics[&record.id];
        Seen {
            power: self.hardware.as_ref().map(|hardware| hardware.power),
            device: self
                .hardware
                .as_ref()
                .and_then(|hardware| hardware.nic(&record.id))
                .cloned(),
            port: progress.port,
            agent: self.agent_seen(record, progress, outlook),
            unplug: progress.unplug_seen(now),
            patience: if now >= progress.patience_until {
                Patience::Spent
            } else {
                Patience::Left
            },
        }
    }

    /// The line to the agent tells late that there is a channel, so the hardware is asked.
    fn agent_seen(&self, record: &NicRecord, progress: &Progress, outlook: &Outlook) -> AgentSeen {
        let hardware = self.hardware.as_ref();
        let has_channel = hardware.is_some_and(|hardware| hardware.channel.is_some());
        match outlook.standing {
            Standing::Absent | Standing::Connecting if has_channel => AgentSeen::Unreachable,
            Standing::Absent | Standing::Connecting | Standing::Unusable => AgentSeen::Absent,
            Standing::Ready if progress.told != Some(record.generation) => AgentSeen::Untold,
            Standing::Ready => {
                let current = outlook.report.as_ref().filter(|seen| {
                    seen.report.generation == record.generation
                        || sabotage::is(Sabotage::TrustOldReports)
                });
                AgentSeen::Told(current.map(|seen| seen.report.phase.clone()))
            }
        }
    }

    fn wait(&mut self, record: &NicRecord, blocked: Blocked) -> Rest {
        let Some(progress) = self.nics.get_mut(&record.id) else {
            return Rest::No;
        };
        if let Some(step) = step_of(blocked, progress) {
            self.tools.board.at_step(&record.id, Some(step));
            return Rest::No;
        }
        let blocked = BlockedSince {
            reason: blocked,
            detail: if blocked == Blocked::HypervisorUnreachable {
                self.out_of_sight.clone()
            } else {
                progress.trouble.clone()
            },
            since_ms: self.tools.surroundings.unix_ms(),
            next_retry_ms: progress.next_retry().map(|at| self.unix_ms_of(at)),
        };
        self.tools.board.blocked(&record.id, &self.vm, &blocked);
        Rest::No
    }

    /// Journals what has happened. `false` when that did not work and has to be tried again.
    async fn settle(
        &mut self,
        record: &NicRecord,
        event: NicEvent,
        reason: Option<Reason>,
    ) -> bool {
        let flow = flow_of(record.state);
        failpoint::hit(flow, "record", Side::Before);
        let bound_in = self.nics.get(&record.id).and_then(|nic| nic.bound_in);
        let began = Instant::now();
        let now_ms = self.tools.surroundings.unix_ms();
        let settled = self
            .tools
            .store
            .settle(&record.id, |current| {
                if current.generation != record.generation || current.state != record.state {
                    return Ok(());
                }
                if let Some(reason) = &reason {
                    current.fail(reason.code(), &reason.to_string(), now_ms);
                }
                current.apply(event, now_ms)?;
                if event == NicEvent::AttachFailed && sabotage::is(Sabotage::SkipUndo) {
                    current.apply(NicEvent::Detached, now_ms)?;
                }
                if let (NicEvent::Bound, Some(target)) = (event, bound_in) {
                    current.note_bound_in(target);
                }
                Ok(())
            })
            .await;
        match settled {
            Ok(after) => {
                failpoint::hit(flow, "record", Side::After);
                self.after_settling(record, &after, began.elapsed()).await;
                true
            }
            Err(SettleError::NoSuchNic(_)) => false,
            Err(error) => {
                self.hold_back(&record.id, &error);
                false
            }
        }
    }

    async fn after_settling(&mut self, before: &NicRecord, after: &NicRecord, took: Duration) {
        let (from, to) = (before.state, after.state);
        tracing::info!(nic = %after.id, vm = %self.vm, ?from, ?to, "settled");
        let step = TimedStep::Host(Step::Record);
        self.tools
            .board
            .step_done(&after.id, Some(&self.vm), step, took);
        self.tools.board.at_step(&after.id, None);
        let next_vm = after.placement.as_ref().map(|placement| &placement.vm);
        if next_vm == Some(&self.vm) {
            return;
        }
        // A VM that is not listed any more loses its worker once nothing is placed in it: whatever
        // others wait for comes before the first await.
        self.nics.remove(&after.id);
        match next_vm {
            None => self.tools.ports.leave(after.id.clone()),
            Some(vm) => (self.wake_others)(vm),
        }
        self.agent.forget(after.id.clone()).await;
    }

    /// A change that is not durable yet takes no NIC away: it may come to nothing.
    /// Those of `here`, as the round has found them in the order of their ids, have not left.
    async fn drop_departed(&mut self, here: &[Arc<NicRecord>]) {
        let is_found = |id: &NicId| here.binary_search_by_key(&id, |record| &record.id).is_ok();
        let others: Vec<&NicId> = self.nics.keys().filter(|id| !is_found(id)).collect();
        if others.is_empty() {
            return;
        }
        let departed: Vec<NicId> = self.tools.store.read(|ledger| {
            let is_here = |id: &NicId| {
                let record = ledger.nic(id);
                let place = record.and_then(|record| record.placement.as_ref());
                place.is_some_and(|placement| placement.vm == self.vm)
            };
            let departed = others.into_iter().filter(|id| !is_here(id));
            departed.cloned().collect()
        });
        for id in departed {
            self.nics.remove(&id);
            self.agent.forget(id).await;
        }
    }

    fn tell_agent_state(&mut self) {
        if let Some(state) = self.agent.state_unless(&self.last_agent) {
            let what = Happening::AgentChanged(agent_word(&state).to_owned());
            self.tools.board.vm_event(&self.vm, what);
            self.last_agent = state;
        }
    }

    fn unix_ms_of(&self, instant: Instant) -> u64 {
        let from_now = instant.saturating_duration_since(Instant::now());
        self.tools.surroundings.unix_ms() + u64::try_from(from_now.as_millis()).unwrap_or(0)
    }

    fn next_wake(&self) -> Instant {
        let now = Instant::now();
        let full_look = self.looked_at.unwrap_or(now) + self.full_look();
        let nics = self
            .nics
            .values()
            .filter_map(|progress| progress.next_wake(self.round_began));
        nics.chain(self.inspect_again_at)
            .chain(self.strays.next_wake())
            .min()
            .map_or(full_look, |earliest| earliest.min(full_look))
    }
}

/// A name for people and the API.
#[must_use]
pub fn agent_word(state: &AgentState) -> &'static str {
    match state {
        AgentState::Absent => "absent",
        AgentState::Connecting => "connecting",
        AgentState::Ready { .. } => "ready",
        AgentState::Incompatible { .. } => "incompatible",
        AgentState::Misbehaving { .. } => "misbehaving",
    }
}

fn flow_of(state: NicState) -> &'static str {
    match state {
        NicState::Detaching => "detach",
        NicState::Attaching | NicState::Available | NicState::InUse | NicState::Deleting => {
            "attach"
        }
    }
}

/// What a NIC is at while it waits for the guest to do its part; `None` for what stands in its way.
fn step_of(blocked: Blocked, progress: &Progress) -> Option<Step> {
    match blocked {
        Blocked::GuestKeepsDevice if progress.asked_once() => Some(Step::GuestUnplug),
        Blocked::LinkNotSeen => Some(Step::Arrive),
        Blocked::Binding => Some(Step::Bind),
        Blocked::Releasing => Some(Step::Release),
        Blocked::HypervisorUnreachable
        | Blocked::VmNotExecuting
        | Blocked::AgentUnreachable
        | Blocked::GuestKeepsDevice
        | Blocked::Retrying => None,
    }
}

/// Whether an action belongs to the host's part of an attach or of a detach.
fn flow_of_action(action: Action) -> &'static str {
    match action {
        Action::MakePort | Action::Plug => "attach",
        Action::Quiesce | Action::Unplug | Action::Forget => "detach",
        Action::Declare => "declare",
    }
}
