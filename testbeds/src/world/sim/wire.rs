//! Who reaches whom in a simulated network: frames are not sent, every place they would have to
//! pass is looked at.
//!
//! ```text
//!   container's link ─► route, next hop ─► tap open? ─► bridge learns ─┬─► the host's own address
//!                                                                      └─► tap open? ─► a link
//!                                                                          with the address
//! ```

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use fake_guest::kernel::{GuestView, LinkState, NamespaceView};
use fake_guest::{DhcpMode, DhcpServer, Segment};
use nic_model::{MacAddr, NicId};
use oracle::Reachability;
use simulator::sim::{Host, SimVm};

use crate::guest::Where;
use crate::site::{HOST_V4, HOST_V6, LEASED_V4, RENEWAL_SECONDS, SUBNET_V4};

/// All taps of one host are in one network.
#[derive(Debug)]
pub(super) struct Wire {
    host: Host,
    learned: RefCell<BTreeMap<String, BTreeSet<MacAddr>>>,
}

/// The network as guests hear of it, with a DHCP server that nobody has started yet.
pub(super) fn segment() -> Result<Segment> {
    // A client renews when half of its lease is over.
    let lasts = Duration::from_secs(u64::from(RENEWAL_SECONDS) * 2);
    let mut server = DhcpServer::new(SUBNET_V4.parse()?, None, LEASED_V4, lasts)?;
    server.set_mode(DhcpMode::Silent);
    Ok(Segment::new(server))
}

impl Wire {
    pub(super) fn between(host: &Host) -> Self {
        Self {
            host: host.clone(),
            learned: RefCell::default(),
        }
    }

    pub(super) fn learned(&self, port: &str) -> BTreeSet<MacAddr> {
        let learned = self.learned.borrow();
        learned.get(port).cloned().unwrap_or_default()
    }

    /// Sends an echo request from `place` of `vm` and takes the answer back, by `link` alone where
    /// one is given.
    ///
    /// # Errors
    /// Where it does not get through.
    pub(super) fn echo(
        &self,
        vm: &SimVm,
        place: &Where,
        to: IpAddr,
        link: Option<&str>,
    ) -> Result<()> {
        let view = vm.guest().context("the VM is off")?;
        let from = namespace(&view, place)?;
        if to.is_loopback() || (link.is_none() && from.answers(to)) {
            return Ok(());
        }
        let (link, next_hop) = match link {
            Some(name) => (named(from, name)?, to),
            None => from.way_to(to).context("there is no route")?,
        };
        ensure!(link.carries(), "{} is down", link.name);
        ensure!(next_hop == to, "{next_hop} forwards nothing to {to}");
        let same_family = |own: &&nic_model::IpNet| own.addr().is_ipv4() == to.is_ipv4();
        let source = link.addresses.iter().find(same_family);
        let source = source.context("the link has no address of that family")?;
        self.pass(vm, link.mac)?;
        if [IpAddr::from(HOST_V4), IpAddr::from(HOST_V6)].contains(&to) {
            return Ok(());
        }
        self.answer(to, source.addr())
    }

    /// Whoever has the address answers.
    fn answer(&self, to: IpAddr, source: IpAddr) -> Result<()> {
        for vm in self.host.vms().values() {
            let Some(view) = vm.guest() else { continue };
            for namespace in &view.namespaces {
                let has = |link: &&LinkState| link.addresses.iter().any(|own| own.addr() == to);
                let owner = namespace.links.iter().find(has);
                if let Some(owner) = owner.filter(|link| link.carries() && link.path.is_some()) {
                    namespace.way_to(source).context("no way back")?;
                    return self.pass(vm, owner.mac);
                }
            }
        }
        anyhow::bail!("nobody has {to}")
    }

    /// A frame of `mac` crosses its tap.
    fn pass(&self, vm: &SimVm, mac: MacAddr) -> Result<()> {
        let devices = vm.devices();
        let of = |(id, device): (&String, &oracle::DeviceView)| {
            (device.mac == Some(mac)).then(|| NicId::from_device_id(id))?
        };
        let nic = devices.iter().find_map(of);
        let nic = nic.with_context(|| format!("no NIC of {} has {mac}", vm.id()))?;
        let tap = nic.tap_name();
        let passes = self.host.links().passes(&tap);
        ensure!(passes == Reachability::Open, "{tap} passes no frames");
        self.learned
            .borrow_mut()
            .entry(tap)
            .or_default()
            .insert(mac);
        Ok(())
    }
}

/// The namespace of a place.
///
/// # Errors
/// When there is none.
pub(super) fn namespace<'a>(view: &'a GuestView, place: &Where) -> Result<&'a NamespaceView> {
    let found = match place {
        Where::Guest => view.namespaces.first(),
        Where::Process(pid) => view.of_process(*pid),
        Where::Named(name) => view.named(&name.parse()?),
    };
    found.with_context(|| format!("{place} does not exist"))
}

fn named<'a>(namespace: &'a NamespaceView, name: &str) -> Result<&'a LinkState> {
    let link = namespace.links.iter().find(|link| link.name == name);
    link.with_context(|| format!("there is no link {name}"))
}
