//! Guests for machines that have none: one that is not there, and one that lets go when asked.

use std::time::Duration;

use super::Surroundings;
use crate::machine::{BackendChange, GuestAct, GuestSignal, Host, TapError};

/// A host on which everything is a tap: for descriptors that are none of an operating system's.
#[derive(Debug, Clone, Copy, Default)]
pub struct AnyTap;

impl<D> Host<D> for AnyTap {
    fn check_tap(&mut self, _descriptor: &D) -> Result<(), TapError> {
        Ok(())
    }

    fn open_tap(&mut self, _name: &str) -> Result<(), TapError> {
        Ok(())
    }
}

/// What a guest does that is asked to let go of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LetsGo {
    /// There is no guest: requests stay open, slots have no power.
    Never,
    /// It lets go after this time.
    After(Duration),
}

/// A guest that does nothing else, over a host of one's choice.
#[derive(Debug, Clone, Copy)]
pub struct PlainGuest<H> {
    /// What it does when it is asked.
    pub lets_go: LetsGo,
    /// What taps are checked by.
    pub host: H,
}

impl<D, H: Host<D>> Host<D> for PlainGuest<H> {
    fn check_tap(&mut self, descriptor: &D) -> Result<(), TapError> {
        self.host.check_tap(descriptor)
    }

    fn open_tap(&mut self, name: &str) -> Result<(), TapError> {
        self.host.open_tap(name)
    }
}

impl<D, H: Host<D> + Send> Surroundings<D> for PlainGuest<H> {
    fn signal(&mut self, signal: GuestSignal) -> Vec<(Duration, GuestAct)> {
        match (self.lets_go, signal) {
            (LetsGo::After(time), GuestSignal::UnplugRequested { path }) => {
                vec![(time, GuestAct::Ejected { path })]
            }
            // A native driver gives a slot power as soon as something is in it.
            (LetsGo::After(_), GuestSignal::Plugged(device)) => {
                let port = device.path.slots().first().copied();
                let on = port.map(|port| (Duration::ZERO, GuestAct::SlotOn { port }));
                on.into_iter().collect()
            }
            (LetsGo::After(_) | LetsGo::Never, _) => Vec::new(),
        }
    }

    fn backend(&mut self, _change: BackendChange<D>) {}
}
