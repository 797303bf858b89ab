//! One open connection to libvirtd, closed when dropped.
//!
//! Each VM's thread has one of its own, and the supervisor one for events: libvirtd serves at most
//! 5 requests of one connection at a time (`max_client_requests` in libvirtd.conf), so on a shared
//! one five VMs that hang would stop all others.

use std::time::Duration;

use virt::connect::Connect;
use virt::error::Error;

/// How to reach libvirtd.
#[derive(Debug, Clone)]
pub(crate) struct Endpoint {
    /// libvirt's connection URI.
    pub(crate) uri: String,
    /// How often a silent libvirtd is asked whether it lives.
    pub(crate) keepalive_interval: Duration,
    /// How many times without an answer until the connection counts as broken.
    pub(crate) keepalive_count: u32,
}

/// An open connection.
pub(crate) struct Session {
    connect: Connect,
}

impl Session {
    /// Connects; blocks for as long as libvirtd takes, for ever when it hangs.
    pub(crate) fn open(endpoint: &Endpoint) -> Result<Self, Error> {
        let session = Self {
            connect: Connect::open(Some(&endpoint.uri))?,
        };
        let seconds = i32::try_from(endpoint.keepalive_interval.as_secs()).unwrap_or(i32::MAX);
        session
            .connect
            .set_keep_alive(seconds.max(1), endpoint.keepalive_count)?;
        Ok(session)
    }

    pub(crate) fn connect(&self) -> &Connect {
        &self.connect
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Err(error) = self.connect.close() {
            tracing::debug!(%error, "closing a connection to libvirtd failed");
        }
    }
}
