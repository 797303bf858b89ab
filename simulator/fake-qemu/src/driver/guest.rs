//! Guests for machines that have none: one that is not there, and one that lets go.

use std::time::Duration;

use super::Surroundings;
use crate::machine::{BackendChange, GuestAct, GuestSignal, Host, TapError};

/// No guest: requests to unplug stay open.
#[derive(Debug, Clone, Copy, Default)]
pub struct Alone;

impl<D> Host<D> for Alone {
    fn check_tap(&mut self, _descriptor: &D) -> Result<(), TapError> {
        Ok(())
    }

    fn open_tap(&mut self, _name: &str) -> Result<(), TapError> {
        Ok(())
    }
}

impl<D> Surroundings<D> for Alone {
    fn signal(&mut self, _signal: GuestSignal) -> Vec<(Duration, GuestAct)> {
        Vec::new()
    }

    fn backend(&mut self, _change: BackendChange<D>) {}
}

/// A guest that is up and lets go of whatever it is asked for, after a time; over a host of
/// one's choice.
#[derive(Debug, Clone, Copy)]
pub struct LettingGo<H> {
    /// How long it takes.
    pub after: Duration,
    /// What taps are checked by.
    pub host: H,
}

impl<D, H: Host<D>> Host<D> for LettingGo<H> {
    fn check_tap(&mut self, descriptor: &D) -> Result<(), TapError> {
        self.host.check_tap(descriptor)
    }

    fn open_tap(&mut self, name: &str) -> Result<(), TapError> {
        self.host.open_tap(name)
    }
}

impl<D, H: Host<D> + Send> Surroundings<D> for LettingGo<H> {
    fn signal(&mut self, signal: GuestSignal) -> Vec<(Duration, GuestAct)> {
        match signal {
            GuestSignal::UnplugRequested { path } => {
                vec![(self.after, GuestAct::Ejected { path })]
            }
            // A native driver gives a slot power as soon as something is in it.
            GuestSignal::Plugged(device) => {
                let port = device.path.slots().first().copied();
                let on = port.map(|port| (Duration::ZERO, GuestAct::SlotOn { port }));
                on.into_iter().collect()
            }
            GuestSignal::Removed { .. }
            | GuestSignal::CarrierUp { .. }
            | GuestSignal::CarrierDown { .. }
            | GuestSignal::Announce { .. }
            | GuestSignal::Stopped
            | GuestSignal::Resumed
            | GuestSignal::PowerButton
            | GuestSignal::Reset
            | GuestSignal::Gone => Vec::new(),
        }
    }

    fn backend(&mut self, _change: BackendChange<D>) {}
}
