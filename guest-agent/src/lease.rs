//! What the agent has to do with DHCP clients: on which link one runs, and the news from it.

use std::time::Duration;

use linux_network::LinkIndex;
use nic_binding::LeaseSight;
use nic_model::{LinkName, MacAddr, NicId};
use tokio::sync::mpsc;

use crate::news::{LeaseNews, News};

/// How long the first lease may take. mozim repeats its question after about 4 and 12 seconds.
pub const FIRST_LEASE_DEADLINE: Duration = Duration::from_secs(15);

/// On which link a client runs.
#[derive(Debug, Clone)]
pub struct LeaseLink {
    /// Its name in the namespace.
    pub name: LinkName,
    /// Its number there.
    pub index: LinkIndex,
    /// Its address, by which the server knows the client.
    pub mac: MacAddr,
}

/// Where the news go.
#[derive(Debug, Clone)]
pub struct LeaseReporter {
    pub(crate) nic: NicId,
    pub(crate) client: u64,
    pub(crate) news: mpsc::Sender<News>,
}

impl LeaseReporter {
    /// Whose link it is.
    #[must_use]
    pub fn nic(&self) -> &NicId {
        &self.nic
    }

    /// Tells how the client stands. Waits while the agent has more news than it can take.
    pub async fn tell(&self, lease: LeaseSight) {
        let news = News::Lease(Box::new(LeaseNews {
            nic: self.nic.clone(),
            client: self.client,
            lease,
        }));
        // Without a receiver the agent is ending.
        self.news.send(news).await.unwrap_or_default();
    }
}

/// A client at work, and its number.
#[derive(Debug)]
pub(crate) struct RunningClient<C> {
    pub(crate) number: u64,
    pub(crate) client: C,
}
