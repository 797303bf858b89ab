//! What every world stands on: the programs and the guest image, and a piece of host with the
//! network `blue`.
//!
//! ```text
//!   Foundation   once per test run    image, accelerator, hostd, nicctl: each when first asked for
//!   Site         once per world       namespace ─ br-blue 10.77.0.1/24 fd77::1/64 ─ taps of NICs
//! ```

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use tokio::sync::OnceCell;

use crate::accelerator::Accelerator;
pub use crate::build::SimulatorPrograms;
use crate::build::{self, HostPrograms};
use crate::cache::Cache;
use crate::image::{self, GuestImage};
use crate::netns::{self, HostNetns};

/// Name of the bridge.
pub const BRIDGE: &str = "br-blue";
/// Name of the network for hostd.
pub const NETWORK: &str = "blue";
/// The network's IPv4 subnet.
pub const SUBNET_V4: &str = "10.77.0.0/24";
/// The network's IPv6 subnet.
pub const SUBNET_V6: &str = "fd77::/64";
/// The host's own address on the bridge.
pub const HOST_V4: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// The host's own address on the bridge.
pub const HOST_V6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 1);
/// What the DHCP server leases, first and last.
pub const LEASED_V4: (Ipv4Addr, Ipv4Addr) =
    (Ipv4Addr::new(10, 77, 0, 128), Ipv4Addr::new(10, 77, 0, 199));
/// The program that leases addresses on a site.
pub const DHCP_SERVER: &str = "dnsmasq";
/// After how long a DHCP client is to renew its lease, in seconds. A server's own choice would be
/// half of the lease.
pub const RENEWAL_SECONDS: u32 = 5;

/// What is made once and used by every world.
#[derive(Debug)]
pub struct Foundation {
    /// Where it is kept.
    pub cache: Cache,
    guests: OnceCell<GuestFoundation>,
    programs: OnceCell<HostPrograms>,
    simulator: OnceCell<SimulatorPrograms>,
}

/// What real guests need.
#[derive(Debug)]
pub struct GuestFoundation {
    /// What they boot.
    pub image: GuestImage,
    /// What runs their code.
    pub accelerator: Accelerator,
}

impl Foundation {
    /// Builds nothing yet, and sweeps away what killed test runs left on the machine.
    ///
    /// # Errors
    /// When there is no place to keep things.
    pub fn lay() -> Result<Arc<Self>> {
        netns::sweep();
        Ok(Arc::new(Self {
            cache: Cache::open()?,
            guests: OnceCell::new(),
            programs: OnceCell::new(),
            simulator: OnceCell::new(),
        }))
    }

    /// What real guests need, built when first asked for.
    ///
    /// # Errors
    /// When it does not build.
    pub async fn guests(&self) -> Result<&GuestFoundation> {
        let build = || async {
            let image = image::guest_image(&self.cache).await?;
            let accelerator = Accelerator::of_this_machine(&self.cache, &image).await?;
            Ok(GuestFoundation { image, accelerator })
        };
        self.guests.get_or_try_init(build).await
    }

    /// The programs under test, built when first asked for.
    ///
    /// # Errors
    /// When they do not build.
    pub async fn programs(&self) -> Result<&HostPrograms> {
        let build = || build::host_programs(&self.cache);
        self.programs.get_or_try_init(build).await
    }

    /// The programs of guests that are namespaces, built when first asked for.
    ///
    /// # Errors
    /// When they do not build.
    pub async fn simulator_programs(&self) -> Result<&SimulatorPrograms> {
        let build = || build::simulator_programs(&self.cache);
        self.simulator.get_or_try_init(build).await
    }
}

/// A piece of host of one world.
#[derive(Debug)]
pub struct Site {
    /// What it stands on.
    pub foundation: Arc<Foundation>,
    /// Its network namespace and directory.
    pub netns: HostNetns,
}

impl Site {
    /// Makes the namespace and in it the bridge with the host's addresses.
    ///
    /// # Errors
    /// When the caller may not.
    pub async fn make(foundation: Arc<Foundation>) -> Result<Self> {
        let netns = HostNetns::make().await?;
        netns.ip(&format!("link add {BRIDGE} type bridge")).await?;
        for address in [format!("{HOST_V4}/24"), format!("{HOST_V6}/64")] {
            netns
                .ip(&format!("address add {address} dev {BRIDGE} nodad"))
                .await?;
        }
        netns.ip(&format!("link set {BRIDGE} up")).await?;
        Ok(Self { foundation, netns })
    }

    /// Where the world's files are.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.netns.directory()
    }
}
