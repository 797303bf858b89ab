//! What has to happen next, from what is wanted and what is seen.
//!
//! Attaching goes down the list, detaching up; each action's undo is the one that faces it:
//!
//! ```text
//!   MakePort   ◄──►  Quiesce           the host end: frames pass, or none
//!   Declare    ◄──►  Forget            what the agent is told
//!   Plug       ◄──►  Unplug            the device
//!   (the agent binds)  ◄──►  (the agent releases), then Quiesce already
//! ```
//!
//! What is left of the host end after that passes no frames. The next place of a move takes it
//! over; without one it is removed, which is no step here: nobody has to wait for it.
//!
//! [`step`] never looks at what was done before, only at what is there now, so a hostd that was
//! killed between any two actions continues as if nothing had happened.

use agent_protocol::{BindError, Phase};
use nic_model::{PluggedNic, PowerState};

use crate::record::NicRecord;
use crate::state::{NicEvent, NicState};

/// Everything that a decision about one NIC may depend on.
#[derive(Debug, Clone)]
pub struct Seen {
    /// The VM's power; `None` while the hypervisor cannot be asked.
    pub power: Option<PowerState>,
    /// What is plugged of this NIC.
    pub device: Option<PluggedNic>,
    /// The host end.
    pub port: PortSeen,
    /// The guest's agent.
    pub agent: AgentSeen,
    /// The guest's reaction to being asked to let go.
    pub unplug: UnplugSeen,
    /// Whether the guest may still take its time.
    pub patience: Patience,
}

/// The host end of a NIC as seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortSeen {
    /// No object of it.
    Absent,
    /// There, but passing no frames.
    Isolated,
    /// There, and not known to be whole nor to be cut off.
    Amiss,
    /// There and passing frames.
    Ready,
}

/// The guest's agent as seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AgentSeen {
    /// Nobody to wait for: the VM has no channel, or its agent cannot be talked to.
    Absent,
    /// No session, but there may be one any moment.
    Unreachable,
    /// It has a session but has not been told of the record's present generation.
    Untold,
    /// It has been told, and this is its latest report on that generation.
    Told(Option<Phase>),
}

/// How an unplug goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnplugSeen {
    /// The guest has not been asked.
    NotAsked,
    /// It has been asked, and asking again would be too early.
    Asked,
    /// It has been asked, and it is time to ask again.
    AskAgain,
}

/// Whether waiting for the guest is still worth it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// It is.
    Left,
    /// Its deadline has passed.
    Spent,
}

/// What to do about one NIC now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Do this, then look again.
    Do(Action),
    /// Nothing can be done until something changes.
    Wait(Blocked),
    /// This has happened: take the record to its next state.
    Settle(NicEvent, Option<Reason>),
    /// All is as it should be.
    Rest,
}

/// Something to be done, each with its undo.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// Bring the host end up, filters first.
    MakePort,
    /// Tell the agent what is wanted of this NIC.
    Declare,
    /// Make backend and device.
    Plug,
    /// Stop frames at the port and take the carrier away.
    Quiesce,
    /// Ask the guest to let go, and clean up behind it when it has.
    Unplug,
    /// Tell the agent that this NIC is none of its business any more.
    Forget,
}

impl Action {
    /// What takes back the action, for those that make something.
    #[must_use]
    pub fn undo(self) -> Option<Self> {
        match self {
            Self::MakePort => Some(Self::Quiesce),
            Self::Declare => Some(Self::Forget),
            Self::Plug => Some(Self::Unplug),
            Self::Quiesce | Self::Unplug | Self::Forget => None,
        }
    }

    /// Its name in logs, events and failpoints.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::MakePort => "make-port",
            Self::Declare => "declare",
            Self::Plug => "plug",
            Self::Quiesce => "quiesce",
            Self::Unplug => "unplug",
            Self::Forget => "forget",
        }
    }
}

/// What a NIC waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Blocked {
    /// QEMU or libvirtd does not answer.
    HypervisorUnreachable,
    /// The VM is paused or migrating: no guest code runs, or QEMU takes no hot-plug.
    VmNotExecuting,
    /// No agent has answered: the guest is booting, has none, or it is stopped.
    AgentUnreachable,
    /// The guest kernel has not shown the link yet.
    LinkNotSeen,
    /// The agent is at work.
    Binding,
    /// The agent has not taken the link out of its target yet.
    Releasing,
    /// The guest has not let go of the device.
    GuestKeepsDevice,
    /// Something failed and will be tried again.
    Retrying,
}

impl Blocked {
    /// A sentence for people.
    #[must_use]
    pub fn describe(self) -> &'static str {
        match self {
            Self::HypervisorUnreachable => "the hypervisor does not answer",
            Self::VmNotExecuting => "the VM is paused or migrating",
            Self::AgentUnreachable => "the agent in the guest does not answer",
            Self::LinkNotSeen => "the guest kernel has not shown the link yet",
            Self::Binding => "the agent is binding the link",
            Self::Releasing => "the agent is taking the link out of its target",
            Self::GuestKeepsDevice => "the guest has not let go of the device",
            Self::Retrying => "something failed and will be tried again",
        }
    }
}

/// Why an attach cannot succeed, or why a NIC that was in use is not any more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// The VM stopped.
    #[error("the VM is not running any more")]
    VmStopped,
    /// The agent could not bind the link.
    #[error("binding failed in the guest: {0}")]
    BindFailed(BindError),
    /// The container died before binding was over.
    #[error("the container died while the link was being bound")]
    ContainerDied,
    /// Too long.
    #[error("gave up waiting: {}", .0.describe())]
    TimedOut(Blocked),
    /// Somebody or something removed the device.
    #[error("the device was removed without nicferry")]
    DeviceRemoved,
    /// Somebody or something removed the host end.
    #[error("the tap was removed without nicferry")]
    PortRemoved,
    /// A device of this NIC is there, but not as asked.
    #[error("the device is not the one that was asked for")]
    DeviceDiffers,
    /// The host or its hypervisor will not do what is needed.
    #[error("{} failed: {message}", .action.name())]
    ActionFailed {
        /// What was tried.
        action: Action,
        /// The chain of causes.
        message: String,
    },
}

impl Reason {
    /// A stable word for programs.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::VmStopped => "vm_stopped",
            Self::BindFailed(error) => bind_error_code(error),
            Self::ContainerDied => "container_died",
            Self::TimedOut(_) => "timed_out",
            Self::DeviceRemoved => "device_removed",
            Self::PortRemoved => "port_removed",
            Self::DeviceDiffers => "device_differs",
            Self::ActionFailed {
                action: Action::MakePort,
                ..
            } => "port_failed",
            Self::ActionFailed { .. } => "hypervisor_refused",
        }
    }
}

fn bind_error_code(error: &BindError) -> &'static str {
    match error {
        BindError::TargetGone { .. } => "target_gone",
        BindError::TargetChanged { .. } => "target_changed",
        BindError::TargetIsGuest { .. } => "target_is_guest",
        BindError::NameTaken { .. } => "name_taken",
        BindError::LinkVanished { .. } => "link_vanished",
        BindError::MacMismatch { .. } => "mac_mismatch",
        BindError::NoLease { .. } => "no_lease",
        BindError::Kernel { .. } => "guest_kernel_refused",
    }
}

/// The stages that a person follows; the names of timings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// Checked, reserved, journalled.
    Admit,
    /// An action of hostd's.
    Act(Action),
    /// From the device's plugging to the agent's sight of the link.
    Arrive,
    /// From the agent's sight of the link to its report that all is bound.
    Bind,
    /// Out of the container's use.
    Release,
    /// From the request to let go to the device's disappearance.
    GuestUnplug,
    /// Journalled as settled.
    Record,
}

impl Step {
    /// Its name in events and tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Admit => "admit",
            Self::Act(action) => action.name(),
            Self::Arrive => "arrive",
            Self::Bind => "bind",
            Self::Release => "release",
            Self::GuestUnplug => "guest-unplug",
            Self::Record => "record",
        }
    }
}

/// What to do about a NIC now.
#[must_use]
pub fn step(record: &NicRecord, seen: &Seen) -> Next {
    match record.state {
        NicState::Available | NicState::Deleting => Next::Rest,
        NicState::Attaching => attach(record, seen),
        NicState::InUse => keep(record, seen),
        NicState::Detaching => detach(record, seen),
    }
}

/// Nothing is waited for or tried once patience is spent; what has come to an end by then counts.
fn attach(record: &NicRecord, seen: &Seen) -> Next {
    match (attach_step(record, seen), seen.patience) {
        (Next::Wait(blocked), Patience::Spent) => fail(Reason::TimedOut(blocked)),
        (Next::Do(_), Patience::Spent) => fail(Reason::TimedOut(Blocked::Retrying)),
        (next, _) => next,
    }
}

fn attach_step(record: &NicRecord, seen: &Seen) -> Next {
    if let Some(refusal) = power_refusal(seen) {
        return refusal;
    }
    if !device_fits(record, seen) {
        return fail(Reason::DeviceDiffers);
    }
    if seen.port != PortSeen::Ready {
        return Next::Do(Action::MakePort);
    }
    let plugged = has_device(seen);
    match &seen.agent {
        AgentSeen::Absent | AgentSeen::Unreachable => Next::Wait(Blocked::AgentUnreachable),
        AgentSeen::Untold => Next::Do(Action::Declare),
        AgentSeen::Told(_) if !plugged => Next::Do(Action::Plug),
        AgentSeen::Told(phase) => await_binding(phase.as_ref()),
    }
}

fn power_refusal(seen: &Seen) -> Option<Next> {
    match seen.power {
        Some(PowerState::Running) => None,
        Some(PowerState::Off) => Some(fail(Reason::VmStopped)),
        Some(PowerState::Paused | PowerState::Migrating) => {
            Some(Next::Wait(Blocked::VmNotExecuting))
        }
        None => Some(Next::Wait(Blocked::HypervisorUnreachable)),
    }
}

fn device_fits(record: &NicRecord, seen: &Seen) -> bool {
    let Some(device) = &seen.device else {
        return true;
    };
    let reserved = record.placement.as_ref().map(|placement| &placement.slot);
    let slot_fits = device.slot.is_none() || device.slot.as_ref() == reserved;
    slot_fits && device.mac.is_none_or(|mac| mac == record.mac)
}

fn await_binding(phase: Option<&Phase>) -> Next {
    match phase {
        None | Some(Phase::Awaited | Phase::Absent | Phase::Released) => {
            Next::Wait(Blocked::LinkNotSeen)
        }
        Some(Phase::Binding) => Next::Wait(Blocked::Binding),
        Some(Phase::Bound { .. }) => Next::Settle(NicEvent::Bound, None),
        Some(Phase::Returned) => fail(Reason::ContainerDied),
        Some(Phase::Failed { error }) => fail(Reason::BindFailed(error.clone())),
    }
}

/// In use: only what somebody else did can need anything.
fn keep(record: &NicRecord, seen: &Seen) -> Next {
    match seen.power {
        None | Some(PowerState::Migrating) => Next::Rest,
        Some(PowerState::Off) => Next::Settle(NicEvent::Lost, Some(Reason::VmStopped)),
        Some(_) if !has_device(seen) => Next::Settle(NicEvent::Lost, Some(Reason::DeviceRemoved)),
        Some(_) if !device_fits(record, seen) => {
            Next::Settle(NicEvent::Lost, Some(Reason::DeviceDiffers))
        }
        Some(_) => keep_connected(seen),
    }
}

/// A tap that was switched off or taken out of its bridge is put right. One that was removed took
/// the device's connection with it, and a new one would not be what the device is connected to.
fn keep_connected(seen: &Seen) -> Next {
    match seen.port {
        PortSeen::Absent => Next::Settle(NicEvent::Lost, Some(Reason::PortRemoved)),
        PortSeen::Isolated | PortSeen::Amiss => Next::Do(Action::MakePort),
        PortSeen::Ready if seen.agent == AgentSeen::Untold => Next::Do(Action::Declare),
        PortSeen::Ready => Next::Rest,
    }
}

fn detach(record: &NicRecord, seen: &Seen) -> Next {
    let off = seen.power == Some(PowerState::Off);
    if !off && has_device(seen) {
        if let Some(next) = release(seen) {
            return next;
        }
        // Behind a port that is cut off the guest may have been asked for the device already, and
        // lets go of it whenever it likes: such a device is not put to use again.
        if record.keeps_its_slot() && released(seen) && seen.port == PortSeen::Ready {
            return Next::Settle(NicEvent::Relocated, None);
        }
    }
    if matches!(seen.port, PortSeen::Ready | PortSeen::Amiss) {
        return Next::Do(Action::Quiesce);
    }
    match seen.power {
        None => Next::Wait(Blocked::HypervisorUnreachable),
        Some(PowerState::Off) => clean_up(record, seen),
        Some(_) if seen.device.is_none() => clean_up(record, seen),
        Some(_) if !has_device(seen) => Next::Do(Action::Unplug),
        Some(PowerState::Migrating) => Next::Wait(Blocked::VmNotExecuting),
        Some(_) => match seen.unplug {
            UnplugSeen::NotAsked | UnplugSeen::AskAgain => Next::Do(Action::Unplug),
            UnplugSeen::Asked => Next::Wait(Blocked::GuestKeepsDevice),
        },
    }
}

/// The guest goes first: the agent takes the link out while the device still works. A guest that
/// does not answer in time is not waited for; after hostd's own start its agent has yet to answer.
fn release(seen: &Seen) -> Option<Next> {
    if seen.unplug != UnplugSeen::NotAsked {
        return None;
    }
    match &seen.agent {
        AgentSeen::Absent => None,
        AgentSeen::Unreachable if seen.patience == Patience::Spent => None,
        AgentSeen::Unreachable => Some(Next::Wait(Blocked::AgentUnreachable)),
        AgentSeen::Untold => Some(Next::Do(Action::Declare)),
        AgentSeen::Told(_) if released(seen) || seen.patience == Patience::Spent => None,
        AgentSeen::Told(_) => Some(Next::Wait(Blocked::Releasing)),
    }
}

fn released(seen: &Seen) -> bool {
    matches!(
        seen.agent,
        AgentSeen::Told(Some(Phase::Released | Phase::Absent))
    )
}

/// The device is gone and the port passes no frames: what else there is needs no undoing here.
fn clean_up(record: &NicRecord, seen: &Seen) -> Next {
    if matches!(seen.agent, AgentSeen::Told(_)) {
        return Next::Do(Action::Forget);
    }
    let event = match record.next_placement() {
        Some(_) => NicEvent::Relocated,
        None => NicEvent::Detached,
    };
    Next::Settle(event, None)
}

fn has_device(seen: &Seen) -> bool {
    seen.device
        .as_ref()
        .is_some_and(|device| device.slot.is_some())
}

fn fail(reason: Reason) -> Next {
    Next::Settle(NicEvent::AttachFailed, Some(reason))
}
