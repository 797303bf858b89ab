//! The leak check: everything that exists must have an owner that hostd's API knows, and every NIC
//! that is in use must really be there. A bed is looked at from all sides, the oracle judges.
//!
//! ```text
//!   hostd's API ─► NICs, limits ────────────────────────────┐
//!   ip, tc ──────► links, bridge ports, qdiscs of the host ─┤
//!   its file ────► rows and claims of hostd's journal ──────┼─► SystemView ─► oracle ─► findings
//!   QMP, virsh ──► devices, backends, libvirt's XML ────────┤
//!   shells ──────► virtio NICs, links of each guest ────────┘
//! ```
//!
//! An operation is answered when what it is about is done, and puts things away for a moment after
//! that; so [`at_rest`] looks until nothing is found, for a while that is shorter than hostd's
//! quarantine: what only the quarantine takes away has leaked.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use nic_model::{NicId, PowerState};
use oracle::{
    GuestLink, GuestView, HostView, Moment, Place, PortView, Reachability, Sight, SystemView,
    VmView,
};

use crate::bed::{Bed, Vm};
use crate::host::HostState;
use crate::inspection::GuestState;
use crate::site::BRIDGE;

pub use oracle::Violation as Finding;

/// How long hostd may go on putting things away. Half of [`crate::hostd::QUARANTINE`].
const DEADLINE: Duration = Duration::from_secs(10);
/// Between two looks; each takes longer than that itself.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Prefix of the agent's own named namespaces in the guest.
const AGENT_NETNS_PREFIX: &str = "nicferry";

/// Everything that is wrong with a bed and stays so.
///
/// # Errors
/// When something cannot be looked at.
pub async fn at_rest(bed: &Bed) -> Result<Vec<Finding>> {
    let give_up_at = tokio::time::Instant::now() + DEADLINE;
    loop {
        let findings = findings(bed).await?;
        if let Some(world) = bed.world().simulated().filter(|_| findings.is_empty()) {
            world.is_right_again();
        }
        if findings.is_empty() || tokio::time::Instant::now() >= give_up_at {
            return Ok(findings);
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Everything that is wrong with a bed that is at rest.
///
/// # Errors
/// When something cannot be looked at.
pub async fn findings(bed: &Bed) -> Result<Vec<Finding>> {
    let view = look(bed).await?;
    let mut findings = oracle::violations(&view, Moment::AtRest);
    findings.extend(left_namespaces(&view));
    let simulated = bed.world().simulated();
    findings.extend(simulated.iter().flat_map(|world| world.noted()));
    Ok(findings)
}

/// The bed from all sides.
async fn look(bed: &Bed) -> Result<SystemView> {
    if let Some(world) = bed.world().simulated() {
        return world.look();
    }
    let client = bed.client();
    let nics = client.nics().await?.nics;
    let mut view = SystemView {
        nics: nics.into_iter().map(|nic| (nic.id.clone(), nic)).collect(),
        host: host_view(&bed.host().state().await?, bed.bare_host()),
        limits: client.limits().await?.limits,
        journal: Some(bed.hostd().journal().await?),
        vms: BTreeMap::new(),
    };
    for vm in bed.running_vms().await {
        view.vms.insert(vm.id.clone(), look_into(bed, &vm).await?);
    }
    Ok(view)
}

/// Scenarios take away what they have made.
fn left_namespaces(view: &SystemView) -> Vec<Finding> {
    let guests = view
        .vms
        .iter()
        .filter_map(|(vm, state)| Some((vm, state.guest.as_ref()?)));
    let left = guests.flat_map(|(vm, guest)| {
        let strange = |name: &&String| !name.starts_with(AGENT_NETNS_PREFIX);
        let left = guest.named.iter().filter(strange);
        left.map(move |name| format!("{vm}: the namespace {name} is left"))
    });
    left.collect()
}

/// What a reader of links and qdiscs can tell of a host.
pub(crate) fn host_view(host: &HostState, bare: &HostState) -> HostView {
    let mut view = HostView::default();
    for (link, master) in &host.links {
        if bare.links.contains_key(link) {
            if host.qdiscs.get(link) != bare.qdiscs.get(link) {
                let what = format!("host: the qdiscs of {link} are not what they were");
                view.disturbed.push(what);
            }
        } else if NicId::from_link_name(link).is_some() {
            view.ports
                .insert(link.clone(), port_view(master.as_deref()));
        } else {
            let what = format!("host: {link} (in {master:?}) has no owner");
            view.disturbed.push(what);
        }
    }
    view
}

fn port_view(bridge: Option<&str>) -> PortView {
    PortView {
        bridge: bridge.map(str::to_owned),
        passes: if bridge == Some(BRIDGE) {
            Reachability::Open
        } else {
            Reachability::Closed
        },
        filters: None,
        holder: None,
    }
}

async fn look_into(bed: &Bed, vm: &Vm) -> Result<VmView> {
    let qemu = bed.world().qemu(&vm.id).await?;
    let devices = qemu.devices.union(&qemu.defined);
    Ok(VmView {
        power: PowerState::Running,
        devices: devices
            .map(|device| (device.clone(), oracle::DeviceView::default()))
            .collect(),
        netdevs: qemu.netdevs,
        guest: Some(guest_view(GuestState::of(vm.guest.as_ref()).await?)),
    })
}

/// Namespaces without a name are not looked into, so nothing is said of addresses: a NIC whose link
/// is not found may be in one of those.
fn guest_view(guest: GuestState) -> GuestView {
    let link = |place: Place, name: &str| GuestLink {
        place,
        name: name.to_owned(),
        mac: None,
    };
    let own = guest.own_links.iter();
    let own: Vec<GuestLink> = own.map(|found| link(Place::Own, &found.name)).collect();
    let named = guest.named.iter().flat_map(|(netns, links)| {
        let place = || Place::Named(netns.clone());
        links.iter().map(move |found| link(place(), &found.name))
    });
    let links = own.into_iter().chain(named).collect();
    GuestView {
        devices: guest.virtio_nics,
        links,
        named: guest.named.into_keys().collect(),
        processes: BTreeMap::new(),
        sight: Sight::Named,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bare() -> HostState {
        HostState {
            links: [("br-blue".to_owned(), None)].into(),
            qdiscs: BTreeMap::new(),
        }
    }

    #[test]
    fn only_what_hostd_could_have_made_is_a_port() {
        let mut host = bare();
        let blue = Some("br-blue".to_owned());
        host.links.insert("nf-abc0123xyz".to_owned(), blue);
        host.links.insert("vnet0".to_owned(), None);
        host.qdiscs
            .insert("br-blue".to_owned(), ["tbf 1:".to_owned()].into());

        let view = host_view(&host, &bare());

        assert_eq!(view.ports["nf-abc0123xyz"].passes, Reachability::Open);
        let expected = [
            "host: the qdiscs of br-blue are not what they were",
            "host: vnet0 (in None) has no owner",
        ];
        assert_eq!(view.disturbed, expected);
    }

    #[test]
    fn a_namespace_that_is_not_the_agents_was_left_by_a_scenario() {
        let guest = |names: &[&str]| SystemView {
            vms: [(
                "vm1".parse().unwrap(),
                VmView {
                    power: PowerState::Running,
                    devices: BTreeMap::new(),
                    netdevs: [].into(),
                    guest: Some(GuestView {
                        named: names.iter().map(|&name| name.to_owned()).collect(),
                        ..GuestView::default()
                    }),
                },
            )]
            .into(),
            ..SystemView::default()
        };

        assert!(left_namespaces(&guest(&["nicferry-holding"])).is_empty());
        assert_eq!(
            left_namespaces(&guest(&["nicferry-holding", "blue"])),
            ["vm1: the namespace blue is left"]
        );
    }
}
