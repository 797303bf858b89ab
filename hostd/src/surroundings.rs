//! What hostd takes from the machine it runs on besides hypervisors, ports and a disk: the time
//! that people read, randomness, and the way to the agents.
//!
//! Deadlines are counted by tokio's clock, which never jumps. Everything here has the system's own
//! as its default; whoever brings others decides by them alone what hostd draws and shows, so that
//! a run can be repeated.

use std::fmt::Debug;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;

/// See the module. Clones are of the same.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// The time that people read.
    pub clock: Arc<dyn WallClock>,
    /// Randomness for ids, addresses and nonces.
    pub entropy: Arc<dyn Entropy>,
    /// The way to the agents.
    pub channels: Arc<dyn ChannelDialer>,
}

impl Default for Surroundings {
    /// The system's clock and randomness, agents over unix sockets.
    fn default() -> Self {
        Self {
            clock: Arc::new(SystemClock),
            entropy: Arc::new(SystemEntropy),
            channels: Arc::new(UnixChannels),
        }
    }
}

impl Surroundings {
    /// Milliseconds since the Unix epoch. For people only: it may jump.
    #[must_use]
    pub fn unix_ms(&self) -> u64 {
        self.clock.unix_ms()
    }

    /// That many random bytes.
    #[must_use]
    pub fn random<const BYTES: usize>(&self) -> [u8; BYTES] {
        let mut bytes = [0; BYTES];
        self.entropy.fill(&mut bytes);
        bytes
    }
}

/// Tells the time of day.
pub trait WallClock: Debug + Send + Sync + 'static {
    /// Milliseconds since the Unix epoch.
    fn unix_ms(&self) -> u64;
}

/// The system's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl WallClock for SystemClock {
    fn unix_ms(&self) -> u64 {
        let since_epoch = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)
    }
}

/// A source of random bytes.
pub trait Entropy: Debug + Send + Sync + 'static {
    /// Fills all of `bytes`.
    fn fill(&self, bytes: &mut [u8]);
}

/// The system's randomness, by way of a generator that nobody can predict.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn fill(&self, bytes: &mut [u8]) {
        rand::fill(bytes);
    }
}

/// Reaches the host ends of agents' channels. The caller sets the deadline.
#[async_trait]
pub trait ChannelDialer: Debug + Send + Sync + 'static {
    /// A new stream to the channel at `address`.
    ///
    /// # Errors
    /// When nobody serves it.
    async fn dial(&self, address: &Path) -> io::Result<Box<dyn ChannelStream>>;
}

/// Bytes to and from one guest.
pub trait ChannelStream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static> ChannelStream for Stream {}

/// Over unix sockets, as QEMU serves a virtio-serial port's host end.
#[derive(Debug, Clone, Copy, Default)]
pub struct UnixChannels;

#[async_trait]
impl ChannelDialer for UnixChannels {
    async fn dial(&self, address: &Path) -> io::Result<Box<dyn ChannelStream>> {
        Ok(Box::new(UnixStream::connect(address).await?))
    }
}
