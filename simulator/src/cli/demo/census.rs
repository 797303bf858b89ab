//! A count of everything that an attached NIC is made of, wherever it is: before the first NIC,
//! with NICs, and at the end. A search that finds nothing shows little unless it has been seen to
//! find something.

use anyhow::{Context, Result};
use nic_model::NicId;
use simulator::netns::{Page, Place, Started};

/// The agent's default (`--holding-netns`).
const HOLDING: &str = "nicferry-holding";

/// How many there are of each, in the order of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Census(Vec<(&'static str, u64)>);

impl Census {
    /// Counts.
    pub(super) async fn of(cloud: &Started) -> Result<Self> {
        let mut census = Self(Vec::new());
        census.host(cloud).await?;
        census.virtual_machines(cloud).await?;
        census.records(cloud).await?;
        Ok(census)
    }

    fn add(&mut self, what: &'static str, count: usize) {
        // A usize has 64 bits on every machine this runs on.
        self.0.push((what, count as u64));
    }

    async fn host(&mut self, cloud: &Started) -> Result<()> {
        let host = cloud.state.hosts.first().context("there is a host")?;
        let path = format!("/v1/hosts/{}/links", host.name);
        let links: Vec<String> = cloud.control().get(&path).await?;
        let ours = |name: &&String| NicId::from_link_name(name).is_some();
        self.add("host: links of NICs", links.iter().filter(ours).count());
        self.add("host: links of any kind", links.len());
        Ok(())
    }

    async fn virtual_machines(&mut self, cloud: &Started) -> Result<()> {
        let page: Page = cloud.control().get("/").await?;
        let hardware = page.vms.iter().filter_map(|vm| vm.hardware.as_ref());
        self.add(
            "QEMU: NICs behind root ports",
            hardware.map(|vm| vm.nics.len()).sum(),
        );
        let (mut own, mut held, mut inside) = (0, 0, 0);
        for vm in &cloud.state.vms {
            let guest = cloud.guest(vm.id.as_str()).context("there is a terminal")?;
            own += guest.links(Place::Own).await?.len();
            held += guest.links(Place::Netns(HOLDING.parse()?)).await?.len();
            for container in guest.containers().await? {
                inside += guest.links(Place::Container(container.name)).await?.len();
            }
        }
        self.add("guests: links in their own namespaces", own);
        self.add("guests: links that the agents hold", held);
        self.add("guests: links in containers", inside);
        Ok(())
    }

    async fn records(&mut self, cloud: &Started) -> Result<()> {
        let client = cloud.hostd(0).context("there is a hostd")?;
        let vms = client.vms().await?.vms;
        let slots = vms.iter().map(|vm| vm.slots.total - vm.slots.free).sum();
        let addresses = vms.iter().map(|vm| vm.usage.addresses).sum();
        self.add("hostd: NICs on record", client.nics().await?.nics.len());
        self.0.push(("hostd: hot-plug slots in use", slots));
        self.0.push(("hostd: addresses in use", addresses));
        Ok(())
    }
}

/// One line for each thing looked at.
pub(super) fn table(censuses: [&Census; 3]) -> Vec<String> {
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
