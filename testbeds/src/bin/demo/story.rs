//! What is shown, in order. Each part checks what it shows: a demonstration that goes on after a
//! surprise would show nothing.

use std::net::IpAddr;
use std::rc::Rc;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use host_api::{AttachNic, CreateNic, Nic};
use nic_model::{BitRate, IpNet, RateLimit, RateLimits};
use simulator::demo::{Operator, Screen};
use testbeds::bed::{Bed, Vm};
use testbeds::guest::{Admin, Container};
use testbeds::leak;
use testbeds::requests::{into, nic_on_blue, over_to};
use testbeds::site::{BRIDGE, NETWORK, SUBNET_V4, SUBNET_V6};

use crate::census::{self, Census};

/// Stages of the story.
pub(crate) const STAGES: u32 = 9;

/// What each NIC may pass either way: so that there is something to see of the limits too.
const RATE: BitRate = BitRate::from_megabits_per_second(100);

/// The story and those in it.
pub(crate) struct Story<'a> {
    bed: &'a Bed,
    screen: &'a Screen,
    operator: Operator<'a>,
}

/// A container and the VM it is in.
struct Place {
    name: &'static str,
    vm: Rc<Vm>,
    container: Container,
}

/// The container `web` of the first VM; `db` and `spare` are in the second.
struct Places {
    web: Place,
    db: Place,
    spare: Place,
}

impl<'a> Story<'a> {
    pub(crate) fn on(bed: &'a Bed, screen: &'a Screen) -> Self {
        let operator = Operator::new(bed.client(), screen);
        Self {
            bed,
            screen,
            operator,
        }
    }

    /// All of it, to the leak check.
    pub(crate) async fn tell(&self) -> Result<()> {
        self.introduce()?;
        let places = self.places().await?;
        let at_first = Census::of(self.bed, &places.all()).await?;
        let (web, db) = self.attach(&places).await?;
        let with_nics = Census::of(self.bed, &places.all()).await?;
        self.screen.heading(
            "Ping from container to container: it leaves VM 2, crosses the bridge, enters VM 1",
        );
        self.ping(&places.db, &web).await?;
        let moved = self.relocate(&places, &web).await?;
        self.detach(&places, &[&moved, &db]).await?;
        self.nothing_left(&places, [at_first, with_nics]).await
    }

    fn introduce(&self) -> Result<()> {
        let hostd = self.bed.hostd().socket()?;
        self.screen.line(format_args!(
            "network {NETWORK}: bridge {BRIDGE}, {SUBNET_V4} and {SUBNET_V6}"
        ));
        self.screen
            .line("each line with a $ is the command that does the same by hand, after");
        self.screen
            .command(&format!("export NICFERRY_SOCKET={}", hostd.display()));
        Ok(())
    }

    async fn places(&self) -> Result<Places> {
        self.screen
            .heading("Two VMs boot: ordinary guests, without any NIC, with empty PCIe slots");
        let began = Instant::now();
        let (vm1, vm2) = self.bed.two_vms().await?;
        self.screen.command("nicctl vm list");
        for vm in self.bed.client().vms().await?.vms {
            let booted = [&vm1.id, &vm2.id].contains(&&vm.id);
            if booted {
                self.screen.line(format_args!(
                    "{}: agent {}, {} of {} slots free, {} of {} NICs",
                    vm.id,
                    vm.agent.state,
                    vm.slots.free,
                    vm.slots.total,
                    vm.usage.nics,
                    vm.limits.max_nics
                ));
            }
        }
        let seconds = began.elapsed().as_secs_f64();
        self.screen
            .line(format_args!("booted and in touch after {seconds:.1} s"));
        self.screen.heading(
            "Containers: network namespaces with nothing but the loopback, no veth, no bridge",
        );
        Ok(Places {
            web: self.place("web", &vm1).await?,
            db: self.place("db", &vm2).await?,
            spare: self.place("spare", &vm2).await?,
        })
    }

    async fn place(&self, name: &'static str, vm: &Rc<Vm>) -> Result<Place> {
        let container = vm.guest.make_container().await?;
        let place = Place {
            name,
            vm: Rc::clone(vm),
            container,
        };
        self.screen.line(format_args!(
            "{name} is process {} of {}, for nicctl {}",
            place.container.pid,
            vm.id,
            place.container.target()
        ));
        self.look_into(&place).await?;
        Ok(place)
    }

    async fn attach(&self, places: &Places) -> Result<(Nic, Nic)> {
        self.screen
            .heading("A NIC into each container: plugged into the VM, carried in by the agent");
        let web = self.attach_to(&places.web).await?;
        let db = self.attach_to(&places.db).await?;
        Ok((web, db))
    }

    async fn attach_to(&self, place: &Place) -> Result<Nic> {
        let rate = RateLimit {
            bandwidth: Some(RATE),
            packets: None,
        };
        let attach = AttachNic {
            link_name: Some("eth0".parse()?),
            ..into(&place.vm, place.container.target())
        };
        let request = CreateNic {
            limits: Some(RateLimits {
                inbound: rate,
                outbound: rate,
            }),
            attach: Some(attach),
            ..nic_on_blue()
        };
        let nic = self.operator.create(&request).await?;
        self.look_into(place).await?;
        place.holds(&nic).await?;
        Ok(nic)
    }

    /// Pings every address of `nic` from the container of another.
    async fn ping(&self, from: &Place, nic: &Nic) -> Result<()> {
        for address in nic.addresses.iter().map(IpNet::addr) {
            let printed = from.ping(address).await?;
            self.screen
                .line(format_args!("{}# ping -c 3 {address}", from.prompt()));
            let answers = printed.lines().filter(|line| line.contains("time="));
            for answer in answers {
                self.screen.line(answer);
            }
        }
        Ok(())
    }

    async fn relocate(&self, places: &Places, before: &Nic) -> Result<Nic> {
        self.screen
            .heading("The NIC of `web` moves to a container in VM 2, and its address with it");
        let to = &places.spare;
        let request = over_to(&to.vm, to.container.target());
        let after = self.operator.relocate(&before.id, &request).await?;
        let kept = (after.mac, &after.addresses) == (before.mac, &before.addresses);
        ensure!(kept, "{after:?} differs from {before:?}");
        self.look_into(&places.web).await?;
        places.web.is_bare().await?;
        self.look_into(to).await?;
        to.holds(&after).await?;
        self.screen.good(&format!(
            "same NIC, same MAC {}, same addresses, another VM",
            after.mac
        ));
        self.ping(&places.db, &after).await?;
        Ok(after)
    }

    async fn detach(&self, places: &Places, nics: &[&Nic]) -> Result<()> {
        self.screen
            .heading("Detach and delete: the guest lets go first, then nothing of it may stay");
        for nic in nics {
            self.operator.detach(&nic.id).await?;
            self.operator.delete(&nic.id).await?;
        }
        for place in places.all() {
            self.look_into(place).await?;
            place.is_bare().await?;
        }
        Ok(())
    }

    async fn nothing_left(&self, places: &Places, before: [Census; 2]) -> Result<()> {
        self.screen.heading(
            "Leak check: host, QEMU, guests and hostd's records are searched for anything left",
        );
        let [at_first, with_nics] = before;
        let now = Census::of(self.bed, &places.all()).await?;
        for line in census::table([&at_first, &with_nics, &now]) {
            self.screen.line(line);
        }
        let findings = leak::at_rest(self.bed).await?;
        if !findings.is_empty() {
            bail!("left behind: {}", findings.join("; "));
        }
        ensure!(now == at_first, "not everything is as it was at first");
        self.screen.good("nothing left");
        Ok(())
    }

    /// What `ip` shows in a container.
    async fn look_into(&self, place: &Place) -> Result<()> {
        // The kernel settles what a link's state is called once a second (net/core/link_watch.c);
        // frames pass before that.
        let script = "while ip -brief link | grep -q NO-CARRIER; do usleep 20000; done; \
             ip -brief link && ip -brief address";
        let container = &place.container;
        let output = place
            .vm
            .guest
            .shell()?
            .run_in(&container.place(), script)
            .await?;
        ensure!(
            output.status == 0,
            "`ip` fails in {}: {}",
            place.prompt(),
            output.stderr
        );
        self.screen.line(format_args!(
            "{}# ip -brief link; ip -brief address",
            place.prompt()
        ));
        for line in output.stdout.lines() {
            self.screen.note(line.trim_end());
        }
        Ok(())
    }
}

impl Places {
    fn all(&self) -> [&Place; 3] {
        [&self.web, &self.db, &self.spare]
    }
}

impl census::Inside for &Place {
    fn inside(&self) -> (&Vm, &Container) {
        (&self.vm, &self.container)
    }
}

impl Place {
    /// Before its prompt, as in a shell of the container.
    fn prompt(&self) -> String {
        format!("{}@{}", self.name, self.vm.id)
    }

    /// Pings three times; every answer must come.
    async fn ping(&self, address: IpAddr) -> Result<String> {
        let script = format!("ping -c 3 -W 5 {address}");
        let guest = self.vm.guest.shell()?;
        let output = guest.run_in(&self.container.place(), &script).await?;
        let all = output.status == 0 && output.stdout.contains(" 0% packet loss");
        ensure!(
            all,
            "{} does not reach {address}: {}{}",
            self.prompt(),
            output.stdout,
            output.stderr
        );
        Ok(output.stdout)
    }

    /// The link in the container is what hostd says it is.
    async fn holds(&self, nic: &Nic) -> Result<()> {
        let links = self.vm.guest.links(&self.container.place()).await?;
        let link = links.iter().find(|link| link.mac == Some(nic.mac));
        let link = link.with_context(|| format!("{} is not among {links:?}", nic.mac))?;
        let name = nic.placement.as_ref().map(|place| place.link_name.as_str());
        let as_told = name == Some(link.name.as_str())
            && link.admin == Admin::Up
            && sorted(&link.addresses) == sorted(&nic.addresses);
        ensure!(as_told, "{link:?} is not what hostd says: {nic:?}");
        Ok(())
    }

    async fn is_bare(&self) -> Result<()> {
        let links = self.vm.guest.links(&self.container.place()).await?;
        ensure!(links.is_empty(), "left in {}: {links:?}", self.prompt());
        Ok(())
    }
}

fn sorted(addresses: &[IpNet]) -> Vec<IpNet> {
    let mut addresses = addresses.to_vec();
    addresses.sort();
    addresses
}
