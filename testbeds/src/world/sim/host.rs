//! The host of a simulated world, as scenarios see it.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use anyhow::{Result, ensure};
use async_trait::async_trait;
use fake_guest::{DhcpMode, Segment};
use nic_model::{IpNet, MacAddr};
use simulator::sim::Host as SimulatedHost;

use super::Sabotaged;
use super::wire::Wire;
use crate::host::{DhcpServer, Host, HostState, Planted};
use crate::leak;
use crate::site::BRIDGE;

/// One host.
#[derive(Debug)]
pub(super) struct SimHost {
    simulated: SimulatedHost,
    wire: Rc<Wire>,
    segment: Segment,
    sabotaged: Rc<Sabotaged>,
    /// Bridges that are none of hostd's networks.
    bridges: RefCell<BTreeSet<String>>,
    disturbed: Cell<bool>,
}

impl SimHost {
    pub(super) fn new(
        simulated: &SimulatedHost,
        wire: &Rc<Wire>,
        segment: Segment,
        sabotaged: &Rc<Sabotaged>,
    ) -> Self {
        Self {
            simulated: simulated.clone(),
            wire: Rc::clone(wire),
            segment,
            sabotaged: Rc::clone(sabotaged),
            bridges: RefCell::default(),
            disturbed: Cell::default(),
        }
    }

    /// What has changed although it is none of hostd's.
    pub(super) fn disturbed(&self) -> Vec<String> {
        leak::host_view(&self.now(), &bare()).disturbed
    }

    fn now(&self) -> HostState {
        let mut state = bare();
        let taps = self.simulated.links().view().into_iter();
        state
            .links
            .extend(taps.map(|(name, tap)| (name, tap.bridge)));
        let bridges = self.bridges.borrow();
        state
            .links
            .extend(bridges.iter().map(|name| (name.clone(), None)));
        if self.disturbed.get() {
            let qdisc = BTreeSet::from(["pfifo 8001:".to_owned()]);
            state.qdiscs.insert(BRIDGE.to_owned(), qdisc);
        }
        state
    }
}

fn bare() -> HostState {
    HostState {
        links: [(BRIDGE.to_owned(), None)].into(),
        qdiscs: BTreeMap::new(),
    }
}

#[async_trait(?Send)]
impl Host for SimHost {
    async fn state(&self) -> Result<HostState> {
        Ok(self.now())
    }

    /// Links have no addresses here: hostd gives none to any.
    async fn ipv6_addresses(&self, _link: &str) -> Result<Vec<IpNet>> {
        Ok(Vec::new())
    }

    async fn learned(&self, port: &str) -> Result<BTreeSet<MacAddr>> {
        Ok(self.wire.learned(port))
    }

    async fn plant(&self, name: &str, link: Planted) -> Result<()> {
        self.sabotaged.begin();
        match link {
            Planted::LooseTap => self.simulated.links().plant(name, None),
            Planted::TapInNetwork => self.simulated.links().plant(name, Some(BRIDGE)),
            Planted::Bridge => {
                self.bridges.borrow_mut().insert(name.to_owned());
            }
        }
        Ok(())
    }

    async fn remove_planted(&self, name: &str) -> Result<()> {
        let removed =
            self.bridges.borrow_mut().remove(name) || self.simulated.links().take_away(name);
        ensure!(removed, "there is no link {name}");
        Ok(())
    }

    async fn disturb_bridge(&self) -> Result<()> {
        self.disturbed.set(true);
        Ok(())
    }

    async fn restore_bridge(&self) -> Result<()> {
        self.disturbed.set(false);
        Ok(())
    }

    async fn take_out_of_bridge(&self, port: &str) -> Result<()> {
        let taken = self.simulated.links().take_out(port);
        ensure!(taken, "there is no link {port}");
        Ok(())
    }

    async fn start_dhcp_server(&self) -> Result<Box<dyn DhcpServer>> {
        let segment = self.segment.clone();
        segment.with(|server, _| server.set_mode(DhcpMode::Answers));
        Ok(Box::new(SimDhcpServer { segment }))
    }

    async fn details(&self) -> Vec<(String, Result<String>)> {
        let links = format!("{:#?}", self.simulated.links().view());
        vec![("links".to_owned(), Ok(links))]
    }
}

/// The DHCP server of the network, which falls silent when this is dropped.
#[derive(Debug)]
struct SimDhcpServer {
    segment: Segment,
}

impl Drop for SimDhcpServer {
    fn drop(&mut self) {
        self.segment
            .with(|server, _| server.set_mode(DhcpMode::Silent));
    }
}

#[async_trait(?Send)]
impl DhcpServer for SimDhcpServer {
    async fn grants(&self, mac: MacAddr) -> Result<usize> {
        Ok(self.segment.with(|server, _| server.dealings(mac).grants))
    }

    async fn discoveries(&self, mac: MacAddr) -> Result<usize> {
        Ok(self
            .segment
            .with(|server, _| server.dealings(mac).discoveries))
    }

    async fn log(&self) -> Result<String> {
        Ok(self.segment.with(|server, _| format!("{server:?}")))
    }
}
