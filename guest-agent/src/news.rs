//! What the agent's loop hears of things that go on by themselves.

use nic_binding::LeaseSight;
use nic_model::NicId;
use tokio::sync::mpsc;

/// News that wait for the loop: one or two per NIC; senders wait when it is full.
const QUEUE: usize = 64;

/// One piece of news. Small, since a queue makes room for thirty-two at once.
#[derive(Debug)]
pub(crate) enum News {
    /// The process that was the target of this NIC has ended.
    TargetEnded(NicId),
    /// A DHCP client has something to say.
    Lease(Box<LeaseNews>),
}

/// News from a DHCP client. `client` tells it from those of an earlier client of the same NIC.
#[derive(Debug)]
pub(crate) struct LeaseNews {
    pub(crate) nic: NicId,
    pub(crate) client: u64,
    pub(crate) lease: LeaseSight,
}

pub(crate) fn queue() -> (mpsc::Sender<News>, mpsc::Receiver<News>) {
    mpsc::channel(QUEUE)
}
