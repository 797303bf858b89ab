//! What hostd remembers of a NIC: the intent and where it stands, written before anything is done.

use agent_protocol::KnownTarget;
use nic_model::{
    Addressing, LinkName, MacAddr, Mtu, NetworkName, NicId, PciPath, RateLimits, Route, SlotId,
    Target, TargetIdentity, TenantId, VmId,
};
use serde::{Deserialize, Serialize};

use crate::state::{InvalidTransition, NicEvent, NicState};

/// One NIC, as journalled. Everything that can be observed (steps, blocks, timings) is left out:
/// after a restart it is observed again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NicRecord {
    /// Which.
    pub id: NicId,
    /// Whose.
    pub tenant: TenantId,
    /// The network its port is on.
    pub network: NetworkName,
    /// Its address on the wire, for life.
    pub mac: MacAddr,
    /// Its addresses, allocated or asked for, for life.
    pub addressing: Addressing,
    /// Largest packet.
    pub mtu: Mtu,
    /// Its routes.
    pub routes: Vec<Route>,
    /// Its rates as asked for; the VM's class may cap them further.
    pub limits: RateLimits,
    /// Queues of the device.
    pub queue_count: u16,
    /// Where it stands.
    pub state: NicState,
    /// Counts changes of what is wanted of it; the agent's reports carry it back.
    pub generation: u64,
    /// Where it is, or is going, or is leaving.
    pub placement: Option<Placement>,
    /// The rest of a move. On the heap, as few NICs move at a time.
    pub transit: Option<Box<Transit>>,
    /// Why the last attempt came to nothing. On the heap, as few do.
    pub last_failure: Option<Box<Failure>>,
    /// Milliseconds since the Unix epoch, for people.
    pub created_at_ms: u64,
    /// Milliseconds since the Unix epoch, for people.
    pub updated_at_ms: u64,
}

/// A place in a VM, with everything reserved there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// Which VM.
    pub vm: VmId,
    /// The slot reserved in it.
    pub slot: SlotId,
    /// Where the guest sees that slot.
    pub path: PciPath,
    /// Where in the guest.
    pub target: Target,
    /// Under which name.
    pub link_name: LinkName,
    /// What is known of a target that is a pid: the number alone would be another process's after a
    /// reboot of the guest, also for a NIC that comes back here from a move that failed.
    #[serde(default)]
    pub known_target: Option<KnownTarget>,
}

/// The rest of a move: both places are reserved until it is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "leg", rename_all = "snake_case")]
pub enum Transit {
    /// Leaving the old place; `to` comes next.
    Leaving {
        /// The new place.
        to: Placement,
    },
    /// Arriving at the new place; should that fail, the NIC goes back.
    Arriving {
        /// The old place.
        from: Placement,
    },
    /// The new place failed; leaving it again for the old one.
    GoingBack {
        /// The old place.
        to: Placement,
    },
}

/// Why an attempt came to nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// A stable word for programs.
    pub code: String,
    /// A sentence for people.
    pub message: String,
    /// Milliseconds since the Unix epoch.
    pub at_ms: u64,
}

impl NicRecord {
    /// Takes the record to its next state and keeps placement and transit in step with it.
    ///
    /// # Errors
    /// When the event means nothing in the record's state; the record is left as it was.
    pub fn apply(&mut self, event: NicEvent, now_ms: u64) -> Result<(), InvalidTransition> {
        self.state = self.state.on(event)?;
        self.updated_at_ms = now_ms;
        match event {
            NicEvent::Bound => self.transit = None,
            NicEvent::AttachFailed => self.turn_back(),
            NicEvent::DetachAdmitted | NicEvent::Lost => self.transit = None,
            NicEvent::Detached => self.placement = None,
            NicEvent::Relocated => self.take_next_leg(),
            NicEvent::AttachAdmitted | NicEvent::MoveAdmitted | NicEvent::DeleteAdmitted => {}
        }
        if changes_the_goal(event) {
            self.generation += 1;
        }
        Ok(())
    }

    /// Notes in what the NIC was bound, where that says more than its target's name.
    pub fn note_bound_in(&mut self, target: TargetIdentity) {
        if let Some(here) = &mut self.placement
            && matches!(here.target, Target::Pid { .. })
        {
            here.known_target = Some(KnownTarget::BoundIn { target });
        }
    }

    /// Notes why the present attempt came to nothing.
    pub fn fail(&mut self, code: &str, message: &str, now_ms: u64) {
        self.last_failure = Some(Box::new(Failure {
            code: code.to_owned(),
            message: message.to_owned(),
            at_ms: now_ms,
        }));
    }

    /// A move that failed at its new place goes back to the old one; a plain attach just unwinds.
    fn turn_back(&mut self) {
        self.transit = match self.transit.take().map(|transit| *transit) {
            Some(Transit::Arriving { from }) => Some(Box::new(Transit::GoingBack { to: from })),
            _ => None,
        };
    }

    fn take_next_leg(&mut self) {
        match self.transit.take().map(|transit| *transit) {
            Some(Transit::Leaving { to }) => {
                let from = self.placement.replace(to);
                self.transit = from.map(|from| Box::new(Transit::Arriving { from }));
            }
            Some(Transit::GoingBack { to }) => self.placement = Some(to),
            other => self.transit = other.map(Box::new),
        }
    }

    /// Where the NIC goes once it has left its present place, if anywhere.
    #[must_use]
    pub fn next_placement(&self) -> Option<&Placement> {
        match self.transit.as_deref() {
            Some(Transit::Leaving { to } | Transit::GoingBack { to }) => Some(to),
            Some(Transit::Arriving { .. }) | None => None,
        }
    }

    /// Every place reserved for this NIC: its own, and during a move the other one.
    pub fn reserved(&self) -> impl Iterator<Item = &Placement> {
        let other = self.transit.as_deref().map(|transit| match transit {
            Transit::Leaving { to } | Transit::GoingBack { to } => to,
            Transit::Arriving { from } => from,
        });
        self.placement.iter().chain(other)
    }

    /// Whether leaving the present place needs no unplug: the next one is the same slot.
    #[must_use]
    pub fn keeps_its_slot(&self) -> bool {
        match (&self.placement, self.next_placement()) {
            (Some(here), Some(next)) => here.vm == next.vm && here.slot == next.slot,
            _ => false,
        }
    }
}

/// Whether the agent has to be told something new after `event`.
fn changes_the_goal(event: NicEvent) -> bool {
    match event {
        NicEvent::AttachAdmitted
        | NicEvent::AttachFailed
        | NicEvent::DetachAdmitted
        | NicEvent::MoveAdmitted
        | NicEvent::Lost
        | NicEvent::Relocated => true,
        NicEvent::Bound | NicEvent::Detached | NicEvent::DeleteAdmitted => false,
    }
}
