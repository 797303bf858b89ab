//! A simulated guest, as scenarios see it.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use async_trait::async_trait;
use fake_guest::FakeGuest;
use fake_guest::kernel::{GuestView, LinkState, Phase};
use futures::future::LocalBoxFuture;
use guest_agent::kernel::AdminState;
use misbehaviour::{Effect, Rule, When};
use nic_model::{HotplugMode, IpNet, MacAddr, NetnsName, PciPath};
use simulator::sim::{SimVm, Stage};
use tokio::time::{Instant, sleep};

use super::agent::SimAgent;
use super::wire::{Wire, namespace};
use crate::guest::{Admin, AgentControl, Container, Guest, GuestLink, GuestRoute, Where};

/// How often something is looked at that tells nobody of its changes.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// Address of a link that is none of the hypervisor's.
const SOFTWARE_MAC: &str = "02:00:00:00:00:01";

/// One guest.
#[derive(Debug)]
pub(super) struct SimGuest {
    vm: SimVm,
    mode: HotplugMode,
    stage: Stage,
    wire: Rc<Wire>,
    agent: SimAgent,
}

impl SimGuest {
    pub(super) fn new(vm: SimVm, mode: HotplugMode, stage: &Stage, wire: &Rc<Wire>) -> Self {
        Self {
            agent: SimAgent::of(vm.clone(), stage),
            vm,
            mode,
            stage: stage.clone(),
            wire: Rc::clone(wire),
        }
    }

    fn guest(&self) -> Result<Arc<FakeGuest>> {
        let guest = self.vm.guest_handle();
        guest.with_context(|| format!("{} is off", self.vm.id()))
    }

    fn view(&self) -> Result<GuestView> {
        Ok(self.guest()?.view())
    }

    async fn until(&self, deadline: Duration, is_so: impl Fn(&GuestView) -> bool) -> Result<()> {
        let give_up_at = Instant::now() + deadline;
        while !is_so(&self.view()?) {
            ensure!(
                Instant::now() < give_up_at,
                "the guest was not up within {deadline:?}"
            );
            sleep(LOOK_AGAIN).await;
        }
        Ok(())
    }

    fn container(&self, started: fake_guest::Container) -> Container {
        Container {
            pid: started.pid,
            netns_inode: started.netns,
        }
    }

    fn rules(&self) -> [Rule; 2] {
        ["guest.unplug", "guest.plug"].map(|operation| Rule {
            name: format!("{} ignores {operation}", self.vm.id()),
            operation: operation.parse().expect("a known operation"),
            vm: Some(self.vm.id().as_ref().clone()),
            nic: None,
            when: When::Always,
            times: None,
            effect: Effect::Ignore,
        })
    }
}

fn is_up(view: &GuestView) -> bool {
    matches!(view.phase, Phase::NoAgent | Phase::Up)
}

#[async_trait(?Send)]
impl Guest for SimGuest {
    async fn ready(&self, deadline: Duration) -> Result<()> {
        self.until(deadline, is_up).await
    }

    async fn over_reset(
        &self,
        reset: LocalBoxFuture<'_, Result<()>>,
        deadline: Duration,
    ) -> Result<()> {
        let before = self.view()?.boot_id;
        reset.await?;
        let is_up_again = |view: &GuestView| view.boot_id != before && is_up(view);
        self.until(deadline, is_up_again).await
    }

    async fn links(&self, place: &Where) -> Result<Vec<GuestLink>> {
        let view = self.view()?;
        let links = namespace(&view, place)?.links.iter();
        Ok(links.map(link).collect())
    }

    async fn routes(&self, place: &Where, destination: IpNet) -> Result<Vec<GuestRoute>> {
        let view = self.view()?;
        let routes = namespace(&view, place)?.links.iter();
        let routes = routes.flat_map(|link| &link.routes);
        let wanted = routes.filter(|route| route.destination == destination.trunc());
        let wanted = wanted.map(|route| GuestRoute {
            gateway: route.gateway,
        });
        Ok(wanted.collect())
    }

    async fn netns_names(&self) -> Result<Vec<String>> {
        let view = self.view()?;
        let names = view.namespaces.iter().flat_map(|netns| &netns.names);
        Ok(names.map(ToString::to_string).collect())
    }

    async fn virtio_nics(&self) -> Result<Option<BTreeSet<PciPath>>> {
        let view = self.view()?;
        let seen = view.devices.into_iter().filter(|device| device.seen);
        Ok(Some(seen.map(|device| device.path).collect()))
    }

    async fn ping(&self, place: &Where, to: IpAddr, deadline: Duration) -> Result<()> {
        let give_up_at = Instant::now() + deadline;
        loop {
            let echo = self.wire.echo(&self.vm, place, to, None);
            if echo.is_ok() || Instant::now() >= give_up_at {
                return echo.with_context(|| format!("no answer from {to} within {deadline:?}"));
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    async fn ping_over(&self, place: &Where, link: &str, to: IpAddr) -> Result<()> {
        let echo = self.wire.echo(&self.vm, place, to, Some(link));
        echo.with_context(|| format!("no answer from {to} over {link}"))
    }

    async fn make_container(&self) -> Result<Container> {
        Ok(self.container(self.guest()?.start_container()?))
    }

    async fn make_container_with_pid(&self, pid: u32) -> Result<Container> {
        Ok(self.container(self.guest()?.start_container_as(pid)?))
    }

    async fn make_named_container(&self, name: &str) -> Result<Container> {
        let guest = self.guest()?;
        let netns = guest.add_netns(&name.parse::<NetnsName>()?)?;
        let pid = guest.with_kernel(|kernel| kernel.spawn(Some(netns)))?;
        Ok(Container {
            pid,
            netns_inode: netns,
        })
    }

    async fn kill_container(&self, container: &Container) -> Result<()> {
        Ok(self.guest()?.kill(container.pid)?)
    }

    async fn add_netns_name(&self, name: &str) -> Result<()> {
        self.guest()?.add_netns(&name.parse()?)?;
        Ok(())
    }

    async fn remove_netns_name(&self, name: &str) -> Result<()> {
        Ok(self.guest()?.remove_netns(&name.parse()?)?)
    }

    async fn make_link(&self, place: &Where, name: &str) -> Result<()> {
        let guest = self.guest()?;
        let netns = namespace(&guest.view(), place)?.inode;
        let (name, mac) = (name.parse()?, SOFTWARE_MAC.parse::<MacAddr>()?);
        guest.with_kernel(|kernel| kernel.add_link(netns, &name, mac))?;
        Ok(())
    }

    async fn hotplug_mode(&self) -> Result<HotplugMode> {
        Ok(self.mode)
    }

    async fn ignore_hotplug(&self, _mode: HotplugMode) -> Result<()> {
        for rule in self.rules() {
            self.stage.rules().add(rule)?;
        }
        Ok(())
    }

    async fn heed_hotplug(&self, _mode: HotplugMode) -> Result<()> {
        for rule in self.rules() {
            let removed = self.stage.rules().remove(&rule.name);
            removed.context("the guest heeds hot-plug already")?;
        }
        Ok(())
    }

    fn agent(&self) -> &dyn AgentControl {
        &self.agent
    }

    async fn details(&self) -> Result<String> {
        Ok(format!("{:#?}", self.view()?))
    }
}

fn link(state: &LinkState) -> GuestLink {
    GuestLink {
        name: state.name.clone(),
        mac: Some(state.mac),
        mtu: state.mtu,
        admin: match state.admin {
            AdminState::Up => Admin::Up,
            AdminState::Down => Admin::Down,
        },
        addresses: state.addresses.clone(),
    }
}
