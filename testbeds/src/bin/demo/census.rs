//! A count of everything that an attached NIC is made of, wherever it is: before the first NIC,
//! with NICs, and at the end. A search that finds nothing shows little unless it has been seen to
//! find something.

use anyhow::Result;
use nic_model::NicId;
use testbeds::bed::{Bed, Vm};
use testbeds::guest::Container;
use testbeds::host::HostState;
use testbeds::inspection::GuestState;
use testbeds::site::BRIDGE;
use testbeds::world::WorldKind;

/// Something that is in a container.
pub(crate) trait Inside {
    /// Which container of which VM.
    fn inside(&self) -> (&Vm, &Container);
}

/// How many there are of each, in the order of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Census(Vec<(&'static str, u64)>);

impl Census {
    /// Counts.
    pub(crate) async fn of(bed: &Bed, containers: &[impl Inside]) -> Result<Self> {
        let mut census = Self(Vec::new());
        census.host(&bed.host().state().await?);
        census.virtual_machines(bed).await?;
        let mut links = 0;
        for container in containers {
            let (vm, container) = container.inside();
            links += vm.guest.links(&container.place()).await?.len();
        }
        census.add("guest: links in the containers", links);
        census.records(bed).await?;
        Ok(census)
    }

    fn add(&mut self, what: &'static str, count: usize) {
        // A usize has 64 bits on every machine this runs on.
        self.0.push((what, count as u64));
    }

    fn host(&mut self, host: &HostState) {
        let ours = |prefix: &str, name: &str| {
            name.starts_with(prefix) && NicId::from_link_name(name).is_some()
        };
        let with = |prefix| host.links.keys().filter(|name| ours(prefix, name)).count();
        let in_bridge = |master: &&Option<String>| master.as_deref() == Some(BRIDGE);
        let qdiscs = host.qdiscs.values().map(std::collections::BTreeSet::len);
        self.add("host: taps", with(NicId::TAP_PREFIX));
        self.add(
            "host: IFBs, which shape what a NIC sends",
            with(NicId::IFB_PREFIX),
        );
        self.add(
            "host: ports of the bridge",
            host.links.values().filter(in_bridge).count(),
        );
        self.add("host: links of any kind", host.links.len());
        self.add("host: queueing disciplines", qdiscs.sum());
    }

    async fn virtual_machines(&mut self, bed: &Bed) -> Result<()> {
        let (mut devices, mut netdevs, mut defined) = (0, 0, 0);
        let (mut nics, mut own, mut held, mut names) = (0, 0, 0, 0);
        for vm in bed.running_vms().await {
            let qemu = bed.world().qemu(&vm.id).await?;
            devices += qemu.devices.len();
            netdevs += qemu.netdevs.len();
            defined += qemu.defined.len();
            let guest = GuestState::of(vm.guest.as_ref()).await?;
            nics += guest.virtio_nics.map_or(0, |nics| nics.len());
            own += guest.own_links.len();
            held += guest.named.values().map(Vec::len).sum::<usize>();
            names += guest.named.len();
        }
        self.add("QEMU: network backends", netdevs);
        self.add("QEMU: network devices", devices);
        if bed.world().kind() == WorldKind::Libvirt {
            self.add("libvirt: interfaces in the definitions", defined);
        }
        self.add("guest: virtio NICs on PCI", nics);
        self.add("guest: links in its own namespace", own);
        self.add("guest: named namespaces (the agent's)", names);
        self.add("guest: links in those", held);
        Ok(())
    }

    async fn records(&mut self, bed: &Bed) -> Result<()> {
        let client = bed.client();
        let nics = client.nics().await?.nics.len();
        let vms = client.vms().await?.vms;
        let slots = vms.iter().map(|vm| vm.slots.total - vm.slots.free).sum();
        let addresses = vms.iter().map(|vm| vm.usage.addresses).sum();
        self.add("hostd: NICs on record", nics);
        self.0.push(("hostd: hot-plug slots in use", slots));
        self.0.push(("hostd: addresses in use", addresses));
        Ok(())
    }
}

/// One line for each thing looked at.
pub(crate) fn table(censuses: [&Census; 3]) -> Vec<String> {
    let [at_first, with_nics, now] = censuses;
    let header = format!(
        "{:<42}{:>9}{:>11}{:>6}",
        "looked at", "at first", "with NICs", "now"
    );
    let rows = at_first.0.iter().zip(&with_nics.0).zip(&now.0);
    let rows = rows.map(|(((what, first), (_, between)), (_, now))| {
        format!("{what:<42}{first:>9}{between:>11}{now:>6}")
    });
    std::iter::once(header).chain(rows).collect()
}
