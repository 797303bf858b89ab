//! libvirt's events as [`HypervisorEvent`]s.
//!
//! They come on libvirt's event thread, which must not wait: a broadcast channel drops the oldest
//! for a receiver that lags, and that receiver is told.

use std::sync::Arc;

use hypervisor::{EventKind, HypervisorEvent};
use nic_model::{NicId, VmId};
use tokio::sync::broadcast;

use crate::ffi::{DomainEvent, Listener};
use crate::link::{Generation, Link, Observer, Outage};

/// Events a receiver may lag behind: a reset of a VM with all its NICs going is some 40.
const CAPACITY: usize = 1024;

/// Where events go out.
pub(crate) struct Events {
    sender: broadcast::Sender<HypervisorEvent>,
    link: Arc<Link>,
}

impl Events {
    pub(crate) fn new(link: Arc<Link>) -> Self {
        Self {
            sender: broadcast::Sender::new(CAPACITY),
            link,
        }
    }

    pub(crate) fn subscribe(&self) -> broadcast::Receiver<HypervisorEvent> {
        self.sender.subscribe()
    }
}

impl Observer for Arc<Events> {
    fn connection_changed(&self) {
        send(&self.sender, None, EventKind::Connection);
    }

    fn listener(&self, generation: Generation) -> Arc<dyn Listener> {
        Arc::new(ConnectionEvents {
            sender: self.sender.clone(),
            link: Arc::clone(&self.link),
            generation,
        })
    }
}

/// Hears one connection.
struct ConnectionEvents {
    sender: broadcast::Sender<HypervisorEvent>,
    link: Arc<Link>,
    generation: Generation,
}

impl Listener for ConnectionEvents {
    fn happened(&self, domain: &str, event: DomainEvent) {
        let Ok(vm) = domain.parse::<VmId>() else {
            return;
        };
        if matches!(event, DomainEvent::Defined | DomainEvent::RunChanged) {
            send(&self.sender, None, EventKind::VmsChanged);
        }
        if let Some(kind) = kind(event) {
            send(&self.sender, Some(vm), kind);
        }
    }

    fn closed(&self, reason: &'static str) {
        self.link
            .went_down(self.generation, Outage(reason.to_owned()));
    }
}

/// What an event means for its VM; nothing when it is about a device of somebody else's.
fn kind(event: DomainEvent) -> Option<EventKind> {
    match event {
        DomainEvent::Defined => None,
        DomainEvent::RunChanged | DomainEvent::Power => Some(EventKind::Power),
        DomainEvent::Reboot => Some(EventKind::Reset),
        DomainEvent::DeviceRemoved(alias) => {
            NicId::from_device_id(&alias).map(EventKind::DeviceGone)
        }
        DomainEvent::DeviceRemovalFailed(alias) => {
            NicId::from_device_id(&alias).map(EventKind::UnplugRefused)
        }
    }
}

fn send(sender: &broadcast::Sender<HypervisorEvent>, vm: Option<VmId>, kind: EventKind) {
    // Nobody listening is fine: whoever begins to listen looks at everything first.
    sender.send(HypervisorEvent { vm, kind }).ok();
}
