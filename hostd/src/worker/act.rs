//! The effects: one function for each action, each safe to repeat.

use std::sync::Arc;

use agent_protocol::{Binding, Goal, WantedNic};
use hypervisor::{Carrier, PlugRequest, Plugged, Tap, Trouble, Unplugging};
use nic_lifecycle::{Action, NicEvent, NicRecord, NicState, PortSeen, Reason, Step};
use nic_model::NicId;
use port::{AdminState, Holder, Port, PortProvider, PortSpec, PortView, TapAccess};
use tokio::time::Instant;

use super::{VmWorker, flow_of, flow_of_action};
use crate::agent_link::{Outlook, Standing};
use crate::board::TimedStep;
use crate::failpoint::{self, Side};
use crate::sabotage::{self, Sabotage};

/// How old a listing of ports may be that a look at all NICs of a VM begins with, as a part of the
/// time between two such looks: of a thousand VMs each would list the ports of all otherwise.
const LISTING_AGE: u32 = 2;

/// What came of an action.
enum Outcome {
    Done,
    /// It will not work, whatever is tried.
    Impossible(String),
    /// It may work later, or may have worked: look, then try again.
    Unclear(String),
}

impl VmWorker {
    /// Does one thing, with its failpoints around it and its time on the board.
    pub(super) async fn act_and_time(&mut self, record: &NicRecord, action: Action) {
        let flow = match flow_of_action(action) {
            "declare" => flow_of(record.state),
            flow => flow,
        };
        failpoint::hit(flow, action.name(), Side::Before);
        self.tools.board.try_step(&record.id, Step::Act(action));
        let began = Instant::now();
        let outcome = self.act(record, action).await;
        match outcome {
            Outcome::Done => {
                failpoint::hit(flow, action.name(), Side::After);
                if let Some(progress) = self.nics.get_mut(&record.id) {
                    progress.let_go_on();
                }
                let step = TimedStep::Host(Step::Act(action));
                self.tools
                    .board
                    .step_done(&record.id, Some(&self.vm), step, began.elapsed());
            }
            Outcome::Impossible(message) if record.state == NicState::Attaching => {
                tracing::warn!(nic = %record.id, action = action.name(), message, "attach failed");
                let reason = Reason::ActionFailed { action, message };
                self.settle(record, NicEvent::AttachFailed, Some(reason))
                    .await;
            }
            Outcome::Impossible(message) | Outcome::Unclear(message) => {
                let action = action.name();
                tracing::warn!(nic = %record.id, action, message, "will be tried again");
                self.stale = true;
                if let Some(progress) = self.nics.get_mut(&record.id) {
                    progress.hold_back(message);
                }
            }
        }
    }

    async fn act(&mut self, record: &NicRecord, action: Action) -> Outcome {
        let _turn = sabotage::turn().await;
        match action {
            Action::MakePort => self.make_port(record).await,
            Action::Declare => self.declare(record).await,
            Action::Plug => self.plug(record).await,
            Action::Quiesce => self.quiesce(record).await,
            Action::Unplug => self.unplug(record).await,
            Action::Forget => {
                self.agent.forget(record.id.clone()).await;
                if let Some(progress) = self.nics.get_mut(&record.id) {
                    progress.told = None;
                }
                Outcome::Done
            }
        }
    }

    fn ports_of(&self, record: &NicRecord) -> Option<Arc<dyn PortProvider>> {
        self.tools.ports.of(&record.network).cloned()
    }

    async fn make_port(&mut self, record: &NicRecord) -> Outcome {
        let Some(ports) = self.ports_of(record) else {
            return Outcome::Impossible(format!("network {} is not configured", record.network));
        };
        let limits = self.tools.store.read(|ledger| {
            ledger
                .site()
                .class(&self.vm)
                .map(|class| class.effective_rates(record.limits))
        });
        let spec = PortSpec {
            nic: record.id.clone(),
            mac: record.mac,
            mtu: record.mtu,
            queue_count: record.queue_count,
            limits: limits.unwrap_or(record.limits),
            access: self.tap_access,
        };
        // Descriptors from before would be a holder beside which no others are opened.
        if let Some(progress) = self.nics.get_mut(&record.id) {
            progress.unplugged_port = None;
        }
        if let Err(error) = self.tools.ports.until_settled(&record.id).await {
            return Outcome::Unclear(chain(&error));
        }
        match ports.make(&spec).await {
            Ok(port) => {
                if let Some(progress) = self.nics.get_mut(&record.id) {
                    progress.port = PortSeen::Ready;
                    progress.unplugged_port = Some(Box::new(port));
                }
                Outcome::Done
            }
            Err(error) => Outcome::Impossible(chain(&error)),
        }
    }

    /// Keeps what the agent is told in step with the record while nobody answers, so that a guest
    /// that comes up late never acts on an old wish.
    pub(super) async fn declare_early(&mut self, record: &NicRecord, outlook: &Outlook) {
        let told = self.nics.get(&record.id).and_then(|progress| progress.told);
        if outlook.standing != Standing::Ready && told != Some(record.generation) {
            self.declare(record).await;
        }
    }

    async fn declare(&mut self, record: &NicRecord) -> Outcome {
        let Some(wanted) = wanted(record) else {
            return Outcome::Done;
        };
        self.agent.want(wanted).await;
        if let Some(progress) = self.nics.get_mut(&record.id) {
            progress.told = Some(record.generation);
            if record.state == NicState::Detaching {
                progress.released_from = Some(Instant::now());
            }
        }
        Outcome::Done
    }

    async fn plug(&mut self, record: &NicRecord) -> Outcome {
        let Some(placement) = &record.placement else {
            return Outcome::Done;
        };
        let port = self
            .nics
            .get_mut(&record.id)
            .and_then(|progress| progress.unplugged_port.take());
        // Without a port that was just made there is a backend already, which stays as it is.
        let port = port.unwrap_or_else(|| {
            Box::new(Port {
                tap: record.id.tap_name(),
                access: self.tap_access,
                queues: Vec::new(),
            })
        });
        let request = PlugRequest {
            nic: record.id.clone(),
            mac: record.mac,
            slot: placement.slot.clone(),
            tap: Tap {
                name: port.tap,
                access: port.access,
                queues: port.queues,
                queue_count: record.queue_count,
            },
        };
        let plugged = self.hypervisor.plug(&self.vm, request).await;
        self.stale |= !matches!(plugged, Ok(Plugged::Now { .. }));
        if plugged.is_err() || self.tap_access == TapAccess::Name {
            self.make_port_again(&record.id);
        }
        match plugged {
            Ok(Plugged::Before) => Outcome::Done,
            Ok(Plugged::Now { device_asked_at }) => {
                self.put_in(record, &placement.slot);
                if let Some(progress) = self.nics.get_mut(&record.id) {
                    progress.plugged_at = Some(device_asked_at);
                }
                Outcome::Done
            }
            Err(error) => judge(&error.trouble, chain(&error)),
        }
    }

    /// After a plug that failed the descriptors are gone. And libvirt replaces the root qdisc of a
    /// tap it attaches by noqueue (9.0.0, measured): the port has to be made once more before the
    /// guest has had time to send anything.
    fn make_port_again(&mut self, nic: &NicId) {
        if let Some(progress) = self.nics.get_mut(nic) {
            progress.port = PortSeen::Amiss;
        }
    }

    /// The port is what counts: it stops frames whatever the guest or the hypervisor does. The
    /// carrier tells the guest, and failing to tell it changes nothing.
    async fn quiesce(&mut self, record: &NicRecord) -> Outcome {
        if let Some(ports) = self.ports_of(record)
            && !sabotage::is(Sabotage::LeavePortOpen)
            && let Err(error) = ports.isolate(&record.id).await
        {
            return Outcome::Unclear(chain(&error));
        }
        if let Some(progress) = self.nics.get_mut(&record.id) {
            progress.port = PortSeen::Isolated;
        }
        if self.has_device(&record.id) {
            let down = self
                .hypervisor
                .set_link(&self.vm, &record.id, Carrier::Down)
                .await;
            if let Err(error) = down {
                tracing::debug!(nic = %record.id, error = chain(&error), "carrier stays");
            }
        }
        Outcome::Done
    }

    fn has_device(&self, nic: &NicId) -> bool {
        let plugged = self
            .hardware
            .as_ref()
            .and_then(|hardware| hardware.nic(nic));
        plugged.is_some_and(|plugged| plugged.slot.is_some())
    }

    async fn unplug(&mut self, record: &NicRecord) -> Outcome {
        let mode = self.hardware.as_ref().map(|hardware| hardware.hotplug);
        let mut unplugging = self.hypervisor.unplug(&self.vm, &record.id).await;
        if sabotage::is(Sabotage::ReuseSlotEarly) && unplugging.is_ok() {
            unplugging = Ok(Unplugging::Gone);
        }
        match unplugging {
            Ok(Unplugging::Gone) => {
                self.take_out(&record.id);
                Outcome::Done
            }
            Ok(Unplugging::Asked | Unplugging::Pending) => {
                sabotage::wait_for_guest().await;
                if let (Some(progress), Some(mode)) = (self.nics.get_mut(&record.id), mode) {
                    progress.note_asked(mode);
                }
                Outcome::Done
            }
            Err(error) => Outcome::Unclear(chain(&error)),
        }
    }

    /// Puts on the board how long the guest took to let go, once it has.
    pub(super) fn note_guest_unplug(&mut self, record: &NicRecord) {
        let gone = self.hardware.is_some() && !self.has_device(&record.id);
        let Some(progress) = self.nics.get_mut(&record.id) else {
            return;
        };
        if gone && let Some(asked) = progress.take_asked() {
            let flow = flow_of(record.state);
            failpoint::hit(flow, Step::GuestUnplug.name(), Side::After);
            let step = TimedStep::Host(Step::GuestUnplug);
            self.tools
                .board
                .step_done(&record.id, Some(&self.vm), step, asked.elapsed());
        }
    }

    /// What is there of a NIC's port, as the kernel shows it.
    pub(super) async fn look_at_port(&self, record: &NicRecord) -> PortSeen {
        match self.tools.ports.find(&record.id).await {
            Ok(found) => self.port_seen(found.as_ref(), record),
            // Not known to be absent: making it again finds what is there, and so does cutting it
            // off.
            Err(error) => {
                tracing::warn!(nic = %record.id, error = chain(&error), "ports not listed");
                PortSeen::Amiss
            }
        }
    }

    /// Looks at the host end of every NIC in use: nobody tells when somebody takes it away. All
    /// workers of a host share a listing; whatever is not right in it is looked at anew, since it
    /// may have been put right since.
    pub(super) async fn look_at_ports(&mut self, records: &[Arc<NicRecord>]) {
        let listed = self
            .tools
            .ports
            .recently(self.full_look() / LISTING_AGE)
            .await;
        let found = match listed {
            Ok(found) => found,
            Err(error) => {
                return tracing::warn!(vm = %self.vm, error = chain(&error), "ports not listed");
            }
        };
        let in_use = records
            .iter()
            .filter(|record| record.state == NicState::InUse);
        for record in in_use {
            let mut seen = self.port_seen(found.get(&record.id), record);
            if seen != PortSeen::Ready {
                seen = self.look_at_port(record).await;
            }
            // A VM that has just ended has let go of its tap too: that is to be seen first.
            self.stale |= seen == PortSeen::Absent;
            self.nics.entry(record.id.clone()).or_default().port = seen;
        }
    }

    /// What is there of a NIC's port that was `found`. A tap without a holder has yet to be
    /// plugged, for which it is made again: that opens the queues to be passed. One of a NIC in use
    /// is not what its device is connected to: the device's own was removed.
    fn port_seen(&self, found: Option<&PortView>, record: &NicRecord) -> PortSeen {
        let Some(port) = found else {
            return PortSeen::Absent;
        };
        let connected = port.tap.is_some() && port.holder == Holder::Somebody;
        if record.state == NicState::InUse && !connected {
            return PortSeen::Absent;
        }
        if port.tap.is_none() || port.admin == AdminState::Down {
            return PortSeen::Isolated;
        }
        let ports = self.ports_of(record);
        let bridge = ports.as_ref().and_then(|ports| ports.bridge());
        let in_place = bridge.is_none_or(|bridge| port.bridge.as_deref() == Some(bridge.as_str()));
        let unplugged = record.state == NicState::Attaching && port.holder == Holder::Nobody;
        if in_place && !unplugged {
            PortSeen::Ready
        } else {
            PortSeen::Amiss
        }
    }

    pub(super) fn hold_back(&mut self, nic: &NicId, error: &dyn std::error::Error) {
        if let Some(progress) = self.nics.get_mut(nic) {
            progress.hold_back(chain(error));
        }
    }
}

fn judge(trouble: &Trouble, message: String) -> Outcome {
    match trouble {
        Trouble::Refused { .. } | Trouble::NoSuchVm => Outcome::Impossible(message),
        Trouble::NotRunning
        | Trouble::Migrating
        | Trouble::TimedOut { .. }
        | Trouble::Connection(_)
        | Trouble::Protocol { .. } => Outcome::Unclear(message),
    }
}

/// What the agent is to be told of a record.
fn wanted(record: &NicRecord) -> Option<WantedNic> {
    let placement = record.placement.as_ref()?;
    let goal = match record.state {
        NicState::Attaching | NicState::InUse => Goal::Bound {
            binding: Box::new(Binding {
                target: placement.target.clone(),
                link_name: placement.link_name.clone(),
                mtu: record.mtu,
                addressing: record.addressing.clone(),
                routes: record.routes.clone(),
            }),
        },
        NicState::Detaching | NicState::Available | NicState::Deleting => Goal::Released,
    };
    Some(WantedNic {
        nic: record.id.clone(),
        generation: record.generation,
        path: placement.path.clone(),
        mac: record.mac,
        goal,
        known_target: placement.known_target,
    })
}

/// An error and its causes as one sentence.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}
