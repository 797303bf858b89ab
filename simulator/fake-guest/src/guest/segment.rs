//! A segment that NICs are plugged into, as far as a guest hears of it: its DHCP server.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nic_model::MacAddr;
use tokio::time::Instant;

use crate::dhcp::{DhcpAnswer, DhcpQuestion, DhcpServer};

/// A segment, shared by all guests that have a NIC on it.
#[derive(Debug, Clone)]
pub struct Segment {
    origin: Instant,
    server: Arc<Mutex<DhcpServer>>,
}

impl Segment {
    /// A segment with this server, whose time begins now.
    #[must_use]
    pub fn new(server: DhcpServer) -> Self {
        Self {
            origin: Instant::now(),
            server: Arc::new(Mutex::new(server)),
        }
    }

    /// Does something with the server, which is told what time it is.
    pub fn with<T>(&self, work: impl FnOnce(&mut DhcpServer, Duration) -> T) -> T {
        let mut server = self.server.lock().unwrap_or_else(PoisonError::into_inner);
        work(&mut server, self.origin.elapsed())
    }

    pub(super) fn answer(&self, mac: MacAddr, question: DhcpQuestion) -> DhcpAnswer {
        self.with(|server, now| server.answer(mac, question, now))
    }
}
