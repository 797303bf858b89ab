//! The host ends of NICs in memory: taps, their filters, the bridges they are in, and who holds
//! them.
//!
//! ```text
//!   make:    tap down ─► into the bridge ─► filters ─► rates ─► up                one effect each
//!   isolate: down ─► out of the bridge
//!   remove:  down ─► out ─► (the kernel takes 15 ms) ─► gone
//! ```
//!
//! A tap outlives whoever made it, and knows whether anybody holds one of its queues. What may
//! never be is noted the moment it happens, since a look from outside could come too late: a tap
//! that is up in a network without its filters, one that is removed under a QEMU that holds it.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use hypervisor::Descriptor;
use misbehaviour::{Effect, Side};
use nic_model::{LinkName, NicId};
use oracle::{Filters, Reachability};
use port::{
    AdminState, Cause, Holder, IsolatePortError, ListPortsError, MakePortError, Port, PortProvider,
    PortSpec, PortView, RemovalClaim, RemovePortError, TapAccess,
};
use tokio::time::sleep;

use super::life::Life;
use super::stage::{Stage, lock};

/// How long the kernel takes to remove a link: 15 ms, measured.
const REMOVAL: Duration = Duration::from_millis(15);

/// The links of one host. Clones are of the same host.
#[derive(Debug, Clone, Default)]
pub struct HostLinks(Arc<Mutex<Links>>);

#[derive(Debug, Default)]
struct Links {
    taps: BTreeMap<String, Tap>,
    breaches: Vec<String>,
    made: u64,
}

#[derive(Debug)]
struct Tap {
    /// Tells this one from another that has had the same name.
    number: u64,
    admin: AdminState,
    bridge: Option<String>,
    filters: Filters,
    queues_held: usize,
}

/// One open queue of a tap.
#[derive(Debug)]
struct Queue {
    links: HostLinks,
    tap: String,
    number: u64,
    /// What stands for it where a descriptor has to be shown.
    stand_in: Arc<std::fs::File>,
}

impl AsFd for Queue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stand_in.as_fd()
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        let mut links = lock(&self.links.0);
        let tap = links.taps.get_mut(&self.tap);
        if let Some(tap) = tap.filter(|tap| tap.number == self.number) {
            tap.queues_held = tap.queues_held.saturating_sub(1);
        }
    }
}

impl HostLinks {
    /// What was ever done that may never be.
    #[must_use]
    pub fn breaches(&self) -> Vec<String> {
        lock(&self.0).breaches.clone()
    }

    /// Puts a tap there that nobody asked for, in `bridge` and up.
    pub fn plant(&self, name: &str, bridge: Option<&str>) {
        let mut links = lock(&self.0);
        let tap = links.tap(name);
        tap.admin = AdminState::Up;
        tap.filters = Filters::On;
        tap.bridge = bridge.map(str::to_owned);
    }

    /// The host has been switched off.
    pub fn forget_all(&self) {
        let gone = std::mem::take(&mut lock(&self.0).taps);
        drop(gone);
    }

    /// Removes a link as somebody with `ip link delete` would.
    pub fn take_away(&self, name: &str) -> bool {
        lock(&self.0).taps.remove(name).is_some()
    }

    /// Takes a link out of its bridge as an operator's mistake does; `false` when there is none.
    pub fn take_out(&self, name: &str) -> bool {
        let mut links = lock(&self.0);
        let tap = links.taps.get_mut(name);
        tap.map(|tap| tap.bridge = None).is_some()
    }

    /// Opens the tap of that name, as a QEMU does that is given it by name.
    #[must_use]
    pub fn open(&self, name: &str, stand_in: &Arc<std::fs::File>) -> Option<Descriptor> {
        let mut links = lock(&self.0);
        let tap = links.taps.get_mut(name)?;
        tap.queues_held += 1;
        Some(Descriptor::new(Queue {
            links: self.clone(),
            tap: name.to_owned(),
            number: tap.number,
            stand_in: Arc::clone(stand_in),
        }))
    }

    /// Whether frames can pass between a VM and its network.
    #[must_use]
    pub fn passes(&self, name: &str) -> Reachability {
        let links = lock(&self.0);
        links
            .taps
            .get(name)
            .map_or(Reachability::Closed, Tap::passes)
    }

    /// Every link, for the judge.
    #[must_use]
    pub fn view(&self) -> BTreeMap<String, oracle::PortView> {
        let links = lock(&self.0);
        let taps = links.taps.iter().map(|(name, tap)| {
            let view = oracle::PortView {
                bridge: tap.bridge.clone(),
                passes: tap.passes(),
                filters: Some(tap.filters),
                holder: Some(match tap.queues_held {
                    0 => oracle::Holder::Nobody,
                    _ => oracle::Holder::Somebody,
                }),
            };
            (name.clone(), view)
        });
        taps.collect()
    }
}

impl Links {
    fn tap(&mut self, name: &str) -> &mut Tap {
        let number = self.made + 1;
        self.made = number;
        self.taps.entry(name.to_owned()).or_insert(Tap {
            number,
            admin: AdminState::Down,
            bridge: None,
            filters: Filters::Missing,
            queues_held: 0,
        })
    }
}

impl Tap {
    fn passes(&self) -> Reachability {
        match (self.admin, &self.bridge) {
            (AdminState::Up, Some(_)) => Reachability::Open,
            _ => Reachability::Closed,
        }
    }
}

/// The ports of one network, as one life of hostd makes them.
#[derive(Debug)]
pub struct SimPorts {
    links: HostLinks,
    bridge: LinkName,
    stage: Stage,
    life: Life,
    host: String,
    stand_in: Arc<std::fs::File>,
}

/// One step of a change, as the kernel does it.
type Step = (&'static str, fn(&mut Tap, &str));

/// As [`BridgePorts`](port::BridgePorts) does it, which sets the rates first: nothing passes before
/// the last step, and rates are no part of a tap here.
const MAKE: [Step; 4] = [
    ("join", |tap, bridge| tap.bridge = Some(bridge.to_owned())),
    ("filter", |tap, _| tap.filters = Filters::On),
    ("rates", |_, _| ()),
    ("up", |tap, _| tap.admin = AdminState::Up),
];
const ISOLATE: [Step; 2] = [
    ("down", |tap, _| tap.admin = AdminState::Down),
    ("leave", |tap, _| {
        tap.bridge = None;
        tap.filters = Filters::Missing;
    }),
];

impl SimPorts {
    /// Ports in `bridge`. `stand_in` is shown where a real descriptor is asked for.
    #[must_use]
    pub fn new(
        links: &HostLinks,
        bridge: LinkName,
        stage: &Stage,
        life: &Life,
        host: &str,
        stand_in: &Arc<std::fs::File>,
    ) -> Self {
        Self {
            links: links.clone(),
            bridge,
            stage: stage.clone(),
            life: life.clone(),
            host: host.to_owned(),
            stand_in: Arc::clone(stand_in),
        }
    }

    /// Does something, or what a rule has in store for it.
    async fn unless_ruled<T>(
        &self,
        operation: &str,
        nic: Option<&NicId>,
        work: impl Future<Output = Result<T, Cause>>,
    ) -> Result<T, Cause> {
        let effect = self.stage.consult(operation, None, nic);
        let dies_after = effect == Some(Effect::Crash(Side::After));
        self.misbehave(operation, effect).await?;
        let done = work.await?;
        if dies_after {
            self.life.end(operation);
            self.life.or_never(false).await;
        }
        Ok(done)
    }

    async fn misbehave(&self, operation: &str, effect: Option<Effect>) -> Result<(), Cause> {
        match effect {
            Some(Effect::Delay(span)) => sleep(span.0).await,
            Some(Effect::Error { text, .. }) => return Err(text.into()),
            Some(Effect::Stall) => std::future::pending().await,
            Some(Effect::Crash(Side::Before)) => {
                self.life.end(operation);
                self.life.or_never(false).await;
            }
            Some(_) | None => {}
        }
        self.life.or_never(true).await;
        Ok(())
    }

    /// Does steps one after the other, each of which may be the last thing this life does.
    async fn walk(&self, name: &str, steps: &[Step]) -> Result<(), Cause> {
        for (what, change) in steps {
            let found = self
                .life
                .effect(what, || {
                    self.stage.note(&self.host, what, name.as_bytes());
                    self.change(name, *change)
                })
                .await;
            if !found {
                return Err(format!("link {name} has vanished").into());
            }
        }
        Ok(())
    }

    fn change(&self, name: &str, change: fn(&mut Tap, &str)) -> bool {
        let mut links = lock(&self.links.0);
        let Some(tap) = links.taps.get_mut(name) else {
            return false;
        };
        change(tap, self.bridge.as_str());
        if tap.passes() == Reachability::Open && tap.filters == Filters::Missing {
            links
                .breaches
                .push(format!("{name} passes frames without its filters"));
        }
        true
    }

    fn make_tap(&self, name: &str, spec: &PortSpec) -> Vec<Descriptor> {
        lock(&self.links.0).tap(name);
        let is_held = lock(&self.links.0)
            .taps
            .get(name)
            .is_some_and(|tap| tap.queues_held > 0);
        // A queue beside those of a running VM would take frames away from it.
        if spec.access == TapAccess::Name || is_held {
            return Vec::new();
        }
        let open = |_| self.links.open(name, &self.stand_in);
        (0..spec.queue_count).filter_map(open).collect()
    }

    async fn try_make(&self, spec: &PortSpec) -> Result<Port, Cause> {
        let tap = spec.nic.tap_name();
        let queues = self
            .life
            .effect("tap", || {
                self.stage.note(&self.host, "tap", tap.as_bytes());
                self.make_tap(&tap, spec)
            })
            .await;
        // One that is up but not secured is switched off before it is corrected.
        if self.is_bare(&tap) {
            self.walk(&tap, &ISOLATE[..1]).await?;
        }
        self.walk(&tap, &MAKE).await?;
        let access = spec.access;
        Ok(Port {
            tap,
            access,
            queues,
        })
    }

    fn is_bare(&self, name: &str) -> bool {
        let links = lock(&self.links.0);
        let tap = links.taps.get(name);
        tap.is_some_and(|tap| {
            tap.admin == AdminState::Up
                && (tap.filters == Filters::Missing
                    || tap.bridge.as_deref() != Some(self.bridge.as_str()))
        })
    }

    async fn try_isolate(&self, nic: &NicId) -> Result<(), Cause> {
        let name = nic.tap_name();
        if lock(&self.links.0).taps.contains_key(&name) {
            self.walk(&name, &ISOLATE).await?;
        }
        Ok(())
    }

    async fn try_remove(&self, nic: &NicId) -> Result<(), Cause> {
        let name = nic.tap_name();
        if !lock(&self.links.0).taps.contains_key(&name) {
            return Ok(());
        }
        self.walk(&name, &ISOLATE).await?;
        sleep(REMOVAL).await;
        let remove = || {
            self.stage.note(&self.host, "untap", name.as_bytes());
            let mut links = lock(&self.links.0);
            let removed = links.taps.remove(&name);
            if removed.is_some_and(|tap| tap.queues_held > 0) {
                links
                    .breaches
                    .push(format!("{name} removed under its holder"));
            }
        };
        self.life.effect("untap", remove).await;
        Ok(())
    }
}

#[async_trait]
impl PortProvider for SimPorts {
    async fn make(&self, spec: &PortSpec) -> Result<Port, MakePortError> {
        let making = self.unless_ruled("port.make", Some(&spec.nic), self.try_make(spec));
        making.await.map_err(|cause| MakePortError {
            nic: spec.nic.clone(),
            step: "obey",
            cause,
        })
    }

    async fn isolate(&self, nic: &NicId) -> Result<(), IsolatePortError> {
        let nic = nic.clone();
        let isolating = self.unless_ruled("port.isolate", Some(&nic), self.try_isolate(&nic));
        isolating
            .await
            .map_err(|cause| IsolatePortError { nic, cause })
    }

    async fn remove(&self, nic: &NicId, claim: RemovalClaim) -> Result<(), RemovePortError> {
        let removed = self
            .unless_ruled("port.remove", Some(nic), self.try_remove(nic))
            .await;
        drop(claim);
        let nic = nic.clone();
        removed.map_err(|cause| RemovePortError { nic, cause })
    }

    fn bridge(&self) -> Option<&LinkName> {
        Some(&self.bridge)
    }

    async fn ports(&self) -> Result<Vec<PortView>, ListPortsError> {
        let list = async {
            let links = lock(&self.links.0);
            Ok(links.taps.iter().filter_map(view_of).collect())
        };
        let listed = self.unless_ruled("port.list", None, list);
        listed.await.map_err(ListPortsError)
    }

    async fn port(&self, nic: &NicId) -> Result<Option<PortView>, ListPortsError> {
        let look = async {
            let links = lock(&self.links.0);
            let found = links.taps.get_key_value(&nic.tap_name());
            Ok(found.and_then(view_of))
        };
        let looked = self.unless_ruled("port.list", Some(nic), look);
        looked.await.map_err(ListPortsError)
    }
}

fn view_of((name, tap): (&String, &Tap)) -> Option<PortView> {
    Some(PortView {
        nic: NicId::from_link_name(name)?,
        tap: Some(name.clone()),
        ifb: None,
        bridge: tap.bridge.clone(),
        admin: tap.admin,
        holder: match tap.queues_held {
            0 => Holder::Nobody,
            _ => Holder::Somebody,
        },
    })
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use misbehaviour::Rulebook;
    use nic_model::{Mtu, RateLimits};

    use super::*;
    use crate::sim::life::Death;
    use crate::sim::trace::Keeping;

    fn ports() -> (HostLinks, SimPorts) {
        let stage = Stage::new(1, Rulebook::new(1), Keeping::Hash);
        let links = HostLinks::default();
        let life = Life::begin("host1", &stage);
        let stand_in = Arc::new(std::fs::File::open("/dev/null").unwrap());
        let bridge = "br-blue".parse().unwrap();
        let ports = SimPorts::new(&links, bridge, &stage, &life, "host1", &stand_in);
        (links, ports)
    }

    fn spec() -> PortSpec {
        PortSpec {
            nic: "nic-abc0123xyz".parse().unwrap(),
            mac: "5a:00:00:00:00:01".parse().unwrap(),
            mtu: Mtu::ETHERNET,
            queue_count: 2,
            limits: RateLimits::default(),
            access: TapAccess::Descriptors,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_port_that_is_made_passes_frames_and_knows_who_holds_it() {
        let (links, ports) = ports();
        let tap = spec().nic.tap_name();

        let port = ports.make(&spec()).await.unwrap();

        assert_eq!(
            (port.queues.len(), links.passes(&tap)),
            (2, Reachability::Open)
        );
        let again = ports.make(&spec()).await.unwrap();
        assert!(again.queues.is_empty(), "somebody holds it");
        drop(port);
        assert_eq!(ports.ports().await.unwrap()[0].holder, Holder::Nobody);
        assert_eq!(links.breaches(), Vec::<String>::new());
    }

    #[tokio::test(start_paused = true)]
    async fn a_hostd_that_dies_in_mid_make_leaves_no_frame_a_way_round_the_filters() {
        for effect in 1..=5 {
            for side in [Side::Before, Side::After] {
                let (links, ports) = ports();
                ports.life.die_at(Some(Death { effect, side }));

                let made = ports.make(&spec()).now_or_never();

                assert!(made.is_none());
                assert_eq!(links.breaches(), Vec::<String>::new());
                let is_last = effect == 5 && side == Side::After;
                let open = links.passes(&spec().nic.tap_name()) == Reachability::Open;
                assert_eq!(open, is_last, "at {effect} {side:?}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_port_that_is_removed_under_its_holder_is_a_breach() {
        let (links, ports) = ports();
        let _held = ports.make(&spec()).await.unwrap();

        ports.remove(&spec().nic, Box::new(())).await.unwrap();

        let tap = spec().nic.tap_name();
        assert_eq!(
            links.breaches(),
            [format!("{tap} removed under its holder")]
        );
    }
}
