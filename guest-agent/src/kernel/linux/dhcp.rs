//! DHCPv4 for one link, on a thread inside its target.
//!
//! mozim makes packet and UDP sockets wherever its thread is, at the start and again at every
//! renewal, so the client lives on a thread that entered the target once and ends there. The thread
//! keeps the namespace alive; the agent stops it when the target ends.
//!
//! ```text
//!   Pending ──lease──► Granted ──renewed, changed──► Granted
//!      │                  └──expired──► Pending (without a deadline)
//!      └──15 s──► Refused
//!   stop: DHCPRELEASE if there is a lease, then the thread ends
//! ```

use std::net::Ipv4Addr;
use std::time::Duration;

use linux_network::Netns;
use mozim::{DhcpError, DhcpV4Client, DhcpV4Config, DhcpV4Lease, DhcpV4State};
use nic_binding::{Lease, LeaseSight};
use nic_model::{IpNet, Ipv4Net, Route};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::kernel::DhcpClient;
use crate::lease::{FIRST_LEASE_DEADLINE, LeaseLink, LeaseReporter};

/// How long giving a lease back may take: one packet and, at worst, one ARP exchange.
const RELEASE_DEADLINE: Duration = Duration::from_millis(300);
/// How long the thread may take to end.
const STOP_DEADLINE: Duration = Duration::from_millis(800);
/// Pause after a failure of the client, which would otherwise repeat it at once.
const RETRY_PAUSE: Duration = Duration::from_secs(2);
/// Routes taken from a lease: option 121 of one packet holds some fifty.
const MAX_ROUTES: usize = 64;

/// A running client.
#[derive(Debug)]
pub struct LinuxDhcpClient {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl LinuxDhcpClient {
    /// Starts a client on `link` in `netns`.
    pub(super) fn start(netns: &Netns, link: LeaseLink, reporter: LeaseReporter) -> Self {
        let (stop, stopped) = oneshot::channel();
        let netns = netns.clone();
        let thread = tokio::spawn(async move {
            let body = {
                let reporter = reporter.clone();
                move || run_here(&link, &reporter, stopped)
            };
            let failure = match netns.run("dhcp-client", body).await {
                Ok(Ok(())) => return,
                Ok(Err(failure)) => failure.to_string(),
                Err(failure) => failure.to_string(),
            };
            tracing::warn!(nic = %reporter.nic(), failure, "the DHCP client failed");
            reporter.tell(LeaseSight::Refused { waited_ms: 0 }).await;
        });
        Self { stop, thread }
    }
}

impl DhcpClient for LinuxDhcpClient {
    async fn stop(self) {
        // A thread that is gone needs no telling.
        self.stop.send(()).unwrap_or_default();
        if tokio::time::timeout(STOP_DEADLINE, self.thread)
            .await
            .is_err()
        {
            tracing::warn!("the DHCP client did not stop in time");
        }
    }
}

/// Why a client could not even begin.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error("failed to make a runtime: {0}")]
    Runtime(std::io::Error),
    #[error("failed to set the client up: {0}")]
    Client(DhcpError),
}

fn run_here(
    link: &LeaseLink,
    reporter: &LeaseReporter,
    stopped: oneshot::Receiver<()>,
) -> Result<(), StartError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(StartError::Runtime)?;
    runtime.block_on(async {
        let mut config = DhcpV4Config::new(link.name.as_str());
        config.set_iface_index(link.index.0);
        config
            .set_iface_mac_raw(&link.mac.octets())
            .map_err(StartError::Client)?;
        config.use_mac_as_client_id();
        let client = DhcpV4Client::init(config, None)
            .await
            .map_err(StartError::Client)?;
        run_until_stopped(client, reporter, stopped).await;
        Ok(())
    })
}

async fn run_until_stopped(
    mut client: DhcpV4Client,
    reporter: &LeaseReporter,
    mut stopped: oneshot::Receiver<()>,
) {
    let started = Instant::now();
    let mut held: Option<DhcpV4Lease> = None;
    let mut ever_held = false;
    loop {
        let deadline = started + FIRST_LEASE_DEADLINE;
        tokio::select! {
            biased;
            _ = &mut stopped => break,
            () = tokio::time::sleep_until(deadline), if !ever_held => {
                let waited_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
                return reporter.tell(LeaseSight::Refused { waited_ms }).await;
            }
            state = client.run() => {
                held = take_state(state, &mut client, held, reporter).await;
                ever_held |= held.is_some();
            }
        }
    }
    if let Some(lease) = held {
        let released = tokio::time::timeout(RELEASE_DEADLINE, client.release(&lease)).await;
        if !matches!(released, Ok(Ok(()))) {
            tracing::info!(nic = %reporter.nic(), "the lease was not given back; it expires");
        }
    }
}

/// Tells of a change; returns the lease that is held now.
async fn take_state(
    state: Result<DhcpV4State, DhcpError>,
    client: &mut DhcpV4Client,
    held: Option<DhcpV4Lease>,
    reporter: &LeaseReporter,
) -> Option<DhcpV4Lease> {
    match state {
        Ok(DhcpV4State::Done(granted)) => match lease(&granted) {
            Some(lease) => {
                reporter.tell(LeaseSight::Granted(lease)).await;
                Some(*granted)
            }
            None => {
                let nic = reporter.nic();
                tracing::warn!(%nic, "a lease without a usable address is ignored");
                restart(client, held, reporter).await
            }
        },
        // It is still good until it expires.
        Ok(DhcpV4State::Renewing | DhcpV4State::Rebinding) => held,
        Ok(DhcpV4State::InitReboot | DhcpV4State::Selecting) => {
            if held.is_some() {
                reporter.tell(LeaseSight::Pending).await;
            }
            None
        }
        Err(error) => {
            tracing::warn!(nic = %reporter.nic(), %error, "the DHCP client begins anew");
            restart(client, held, reporter).await
        }
    }
}

async fn restart(
    client: &mut DhcpV4Client,
    held: Option<DhcpV4Lease>,
    reporter: &LeaseReporter,
) -> Option<DhcpV4Lease> {
    if held.is_some() {
        reporter.tell(LeaseSight::Pending).await;
    }
    client.clean_up();
    tokio::time::sleep(RETRY_PAUSE).await;
    None
}

/// What the link gets of a lease; `None` when a host cannot have such an address.
fn lease(granted: &DhcpV4Lease) -> Option<Lease> {
    let host = granted.yiaddr;
    if host.is_unspecified() || host.is_multicast() || host.is_loopback() || host.is_broadcast() {
        return None;
    }
    let address = Ipv4Net::new(host, granted.prefix_length()).ok()?;
    Some(Lease {
        address,
        routes: routes(granted),
    })
}

/// Classless routes replace the router option where both came (RFC 3442).
fn routes(granted: &DhcpV4Lease) -> Vec<Route> {
    let route = |network, prefix_length, router: Ipv4Addr| {
        Some(Route {
            destination: IpNet::V4(Ipv4Net::new(network, prefix_length).ok()?.trunc()),
            gateway: (!router.is_unspecified()).then_some(router.into()),
            metric: None,
        })
    };
    match &granted.classless_routes {
        Some(classless) => classless
            .iter()
            .take(MAX_ROUTES)
            .filter_map(|entry| route(entry.destination, entry.prefix_length, entry.router))
            .collect(),
        None => granted
            .gateways
            .iter()
            .flatten()
            .take(1)
            .filter_map(|router| route(Ipv4Addr::UNSPECIFIED, 0, *router))
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn granted(address: [u8; 4]) -> DhcpV4Lease {
        let mut lease = DhcpV4Lease::default();
        lease.yiaddr = address.into();
        lease.subnet_mask = [255, 255, 255, 0].into();
        lease.gateways = Some(vec![[192, 0, 2, 1].into()]);
        lease
    }

    #[test]
    fn a_lease_gives_an_address_and_a_default_route() {
        let lease = lease(&granted([192, 0, 2, 50])).unwrap();

        assert_eq!(lease.address.to_string(), "192.0.2.50/24");
        assert_eq!(lease.routes.len(), 1);
        assert_eq!(lease.routes[0].destination.to_string(), "0.0.0.0/0");
        assert_eq!(lease.routes[0].gateway, Some([192, 0, 2, 1].into()));
    }

    #[test]
    fn classless_routes_replace_the_router() {
        let mut granted = granted([192, 0, 2, 50]);
        let route = mozim::DhcpV4ClasslessRoute {
            destination: [10, 1, 2, 3].into(),
            prefix_length: 8,
            router: Ipv4Addr::UNSPECIFIED,
        };
        granted.classless_routes = Some(vec![route]);

        let lease = lease(&granted).unwrap();

        assert_eq!(lease.routes.len(), 1);
        assert_eq!(lease.routes[0].destination.to_string(), "10.0.0.0/8");
        assert_eq!(lease.routes[0].gateway, None);
    }

    #[test]
    fn addresses_no_host_may_have_are_not_taken() {
        for address in [[0, 0, 0, 0], [224, 0, 0, 1], [127, 0, 0, 1], [255; 4]] {
            assert_eq!(lease(&granted(address)), None, "{address:?}");
        }
    }
}
