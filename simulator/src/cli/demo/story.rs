//! What is shown, in order. Each part checks what it shows: a demonstration that goes on after a
//! surprise would show nothing.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use host_api::{AttachNic, CreateNic, MoveNic, Nic};
use nic_model::{BitRate, IpNet, NetnsName, RateLimit, RateLimits, Target, VmId};
use simulator::demo::{Operator, Screen};
use simulator::netns::{ContainerView, Frames, GuestClient, Link, Naming, Place, Started};

use super::census::{self, Census};

/// Stages of the story.
pub(super) const STAGES: u32 = 7;

/// Two VMs; containers come in the course of the story.
pub(super) const TOPOLOGY: &str = "\
    [[network]]\nname = \"blue\"\nsubnets = [\"10.77.0.0/24\", \"fd77::/64\"]\n\
    [[vm]]\nid = \"vm1\"\n\
    [[vm]]\nid = \"vm2\"\n";

/// What each NIC may pass either way: so that there is something to see of the limits too.
const RATE: BitRate = BitRate::from_megabits_per_second(100);

/// A container that is not there after this time is not coming.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often each address is pinged.
const PINGS: u16 = 3;

/// What the kernel takes to tear a link down is over by then.
const SETTLING: Duration = Duration::from_secs(5);
const SETTLING_POLL: Duration = Duration::from_millis(5);

/// The story and those in it.
pub(super) struct Story<'a> {
    cloud: &'a Started,
    screen: &'a Screen,
    operator: Operator<'a>,
}

/// A container and the VM it is in.
struct Container {
    vm: VmId,
    guest: GuestClient,
    view: ContainerView,
}

/// The container `web` of the first VM; `db` and `spare` are in the second.
struct Containers {
    web: Container,
    db: Container,
    spare: Container,
}

impl<'a> Story<'a> {
    pub(super) fn on(cloud: &'a Started, screen: &'a Screen) -> Result<Self> {
        let client = cloud.hostd(0).context("the cloud has a host")?;
        Ok(Self {
            cloud,
            screen,
            operator: Operator::new(client, screen),
        })
    }

    /// All of it, to the leak check.
    pub(super) async fn tell(&self) -> Result<()> {
        self.introduce();
        let containers = self.containers().await?;
        let at_first = Census::of(self.cloud).await?;
        self.screen
            .heading("A NIC into each container: plugged into the VM, carried in by the agent");
        let web = self.attach_to(&containers.web).await?;
        let db = self.attach_to(&containers.db).await?;
        let with_nics = Census::of(self.cloud).await?;
        self.screen.heading(
            "Ping from container to container: it leaves VM 2, crosses the bridge, enters VM 1",
        );
        self.ping(&containers.db, &web).await?;
        let moved = self.relocate(&containers, &web).await?;
        self.detach(&containers, &[&moved, &db]).await?;
        self.nothing_left([at_first, with_nics]).await
    }

    fn introduce(&self) {
        let state = &self.cloud.state;
        let frames = match state.frames {
            Frames::Tap => "taps, as with a real QEMU",
            Frames::Veth => "pairs of virtual links: /dev/net/tun is not for this user",
        };
        self.screen
            .line(format_args!("ready after {:.0} ms", state.ready_after_ms));
        self.screen.line(format_args!("frames go by {frames}"));
        self.screen
            .line("each line with a $ is the command that does the same by hand, after");
        for host in &state.hosts {
            let line = format!("export NICFERRY_SOCKET={}", host.socket.display());
            self.screen.command(&line);
        }
    }

    async fn containers(&self) -> Result<Containers> {
        self.screen.heading(
            "Containers: network namespaces with nothing but the loopback, no veth, no bridge",
        );
        Ok(Containers {
            web: self.container("vm1", "web").await?,
            db: self.container("vm2", "db").await?,
            spare: self.container("vm2", "spare").await?,
        })
    }

    async fn container(&self, vm: &str, name: &str) -> Result<Container> {
        let guest = self.cloud.guest(vm).context("the VM is there")?;
        let name: NetnsName = name.parse()?;
        let view = guest.make_container(&name, Naming::Unnamed).await?;
        let container = Container {
            vm: vm.parse()?,
            guest,
            view,
        };
        self.screen.line(format_args!(
            "{name} is process {} of {vm}, for nicctl {}",
            container.view.pid,
            container.target()
        ));
        Ok(container)
    }

    async fn attach_to(&self, container: &Container) -> Result<Nic> {
        let rate = RateLimit {
            bandwidth: Some(RATE),
            packets: None,
        };
        let request = CreateNic {
            tenant: None,
            network: "blue".parse()?,
            mac: None,
            addressing: None,
            mtu: None,
            routes: None,
            limits: Some(RateLimits {
                inbound: rate,
                outbound: rate,
            }),
            queues: None,
            attach: Some(AttachNic {
                vm: container.vm.clone(),
                target: container.target(),
                link_name: Some("eth0".parse()?),
            }),
        };
        let nic = self.operator.create(&request).await?;
        self.look_into(container).await?;
        container.holds(&nic).await?;
        Ok(nic)
    }

    /// Pings every address of `nic` from the container of another.
    async fn ping(&self, from: &Container, nic: &Nic) -> Result<()> {
        for address in nic.addresses.iter().map(IpNet::addr) {
            let place = Place::Container(from.view.name.clone());
            let echoes = from.guest.ping(place, address, PINGS, PATIENCE).await?;
            self.screen
                .line(format_args!("{}# ping -c {PINGS} {address}", from.prompt()));
            for (number, milliseconds) in (1..).zip(echoes) {
                self.screen.line(format_args!(
                    "64 bytes from {address}: seq={number} time={milliseconds:.3} ms"
                ));
            }
        }
        Ok(())
    }

    async fn relocate(&self, containers: &Containers, before: &Nic) -> Result<Nic> {
        self.screen
            .heading("The NIC of `web` moves to a container in VM 2, and its address with it");
        let to = &containers.spare;
        let request = MoveNic {
            vm: to.vm.clone(),
            target: to.target(),
            link_name: None,
        };
        let after = self.operator.relocate(&before.id, &request).await?;
        let kept = (after.mac, &after.addresses) == (before.mac, &before.addresses);
        ensure!(kept, "{after:?} differs from {before:?}");
        containers.web.is_bare().await?;
        self.look_into(to).await?;
        to.holds(&after).await?;
        self.screen.good(&format!(
            "same NIC, same MAC {}, same addresses, another VM",
            after.mac
        ));
        self.ping(&containers.db, &after).await?;
        Ok(after)
    }

    async fn detach(&self, containers: &Containers, nics: &[&Nic]) -> Result<()> {
        self.screen
            .heading("Detach and delete: the guest lets go first, then nothing of it may stay");
        for nic in nics {
            self.operator.detach(&nic.id).await?;
            self.operator.delete(&nic.id).await?;
        }
        for container in [&containers.web, &containers.db, &containers.spare] {
            self.look_into(container).await?;
            container.is_bare().await?;
        }
        Ok(())
    }

    async fn nothing_left(&self, before: [Census; 2]) -> Result<()> {
        self.screen.heading(
            "Leak check: host, QEMU, guests and hostd's records are searched for anything left",
        );
        let [at_first, with_nics] = before;
        let now = tokio::time::timeout(SETTLING, self.until_as(&at_first)).await;
        let now = match now {
            Ok(now) => now?,
            Err(_elapsed) => Census::of(self.cloud).await?,
        };
        for line in census::table([&at_first, &with_nics, &now]) {
            self.screen.line(line);
        }
        ensure!(now == at_first, "not everything is as it was at first");
        ensure!(now != with_nics, "the search has never found anything");
        self.screen.good("nothing left");
        Ok(())
    }

    /// A host end goes when nobody waits for it, tens of milliseconds later.
    async fn until_as(&self, at_first: &Census) -> Result<Census> {
        loop {
            let now = Census::of(self.cloud).await?;
            if now == *at_first {
                return Ok(now);
            }
            tokio::time::sleep(SETTLING_POLL).await;
        }
    }

    /// What `ip` would show in a container.
    async fn look_into(&self, container: &Container) -> Result<()> {
        let prompt = container.prompt();
        self.screen
            .line(format_args!("{prompt}# ip -brief address"));
        let links = container.links().await?;
        if links.is_empty() {
            self.screen.note("(the loopback alone)");
        }
        for link in links {
            let addresses: Vec<_> = link.addresses.iter().map(ToString::to_string).collect();
            let state = if link.up { "UP" } else { "DOWN" };
            let line = format!("{:<16} {state:<6} {}", link.name, addresses.join(" "));
            self.screen.note(&line);
        }
        Ok(())
    }
}

impl Container {
    /// As hostd is told it, guarded against a reused pid.
    fn target(&self) -> Target {
        Target::Pid {
            pid: self.view.pid,
            netns_inode: Some(self.view.netns_inode),
        }
    }

    /// Before its prompt, as in a shell of the container.
    fn prompt(&self) -> String {
        format!("{}@{}", self.view.name, self.vm)
    }

    async fn links(&self) -> Result<Vec<Link>> {
        let place = Place::Container(self.view.name.clone());
        Ok(self.guest.links(place).await?)
    }

    /// The link in the container is what hostd says it is.
    async fn holds(&self, nic: &Nic) -> Result<()> {
        let links = self.links().await?;
        let link = links.iter().find(|link| link.mac == Some(nic.mac));
        let link = link.with_context(|| format!("{} is not among {links:?}", nic.mac))?;
        let name = nic.placement.as_ref().map(|place| place.link_name.as_str());
        let as_told = name == Some(link.name.as_str())
            && link.up
            && sorted(&link.addresses) == sorted(&nic.addresses);
        ensure!(as_told, "{link:?} is not what hostd says: {nic:?}");
        Ok(())
    }

    async fn is_bare(&self) -> Result<()> {
        let links = self.links().await?;
        ensure!(links.is_empty(), "left in {}: {links:?}", self.prompt());
        Ok(())
    }
}

fn sorted(addresses: &[IpNet]) -> Vec<IpNet> {
    let mut addresses = addresses.to_vec();
    addresses.sort();
    addresses
}
