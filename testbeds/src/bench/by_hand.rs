//! The peer: the same attach as an operator's script does it with ready tools.
//!
//! ```text
//!   before the clock      ip tuntap add, into the bridge, up; the interface's XML in a file
//!   the clock runs        virsh attach-device
//!                         guest-exec test -e /sys/class/net/eth0, until it is there
//!                         guest-exec ip link set eth0 netns PID
//!                         guest-exec nsenter … ip link set eth0 name net0
//!                         guest-exec nsenter … ip link set net0 mtu 1500
//!                         guest-exec nsenter … ip address add
//!                         guest-exec nsenter … ip link set net0 up
//!                         guest-exec nsenter … ip route add default
//!   the clock stops       first echo reply
//! ```
//!
//! Nothing is made slower than it has to be: each `guest-exec` is asked for its end at once and
//! then every [`POLL`], no pause stands anywhere else, and preparing the tap is free of charge.
//! The VM is one of its own without our agent, in a libvirt of its own without hostd.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nic_model::{HotplugMode, MacAddr, VmId};
use serde_json::{Value, json};

use super::milliseconds;
use super::probe::{self, Probe};
use crate::guest::{Container, Guest};
use crate::requests::PATIENCE;
use crate::site::{BRIDGE, Foundation, HOST_V4, Site};
use crate::vm::{AgentStart, VmOptions};
use crate::world::{LibvirtWorld, World};

/// How often a script asks whether something has happened, each time with a program of its own.
pub(super) const POLL: Duration = Duration::from_millis(10);

/// A guest boots in about four seconds under emulation with a core to itself.
const BOOT_DEADLINE: Duration = Duration::from_secs(120);

const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 20);
const MAC: &str = "5a:00:00:00:00:20";
const TAP: &str = "hand0";
/// What the guest's kernel calls the only NIC in its own namespace.
const ARRIVED: &str = "eth0";
const WANTED: &str = "net0";

/// A VM that is operated by hand.
#[derive(Debug)]
pub struct ByHand {
    // Kept open, though unused: without a host the guest's shell tries again ten times a second.
    _shell: Box<dyn Guest>,
    world: LibvirtWorld,
    vm: VmId,
    container: Container,
    interface_xml: PathBuf,
}

/// What one attach and one detach took, in milliseconds.
#[derive(Debug, Clone, Copy)]
pub struct HandTimes {
    /// `virsh attach-device` started → first echo reply out of the container.
    pub attach: f64,
    /// `virsh detach-device` started → libvirt lists no interface any more.
    pub detach: f64,
}

impl ByHand {
    /// Boots a VM with a container and QEMU's guest agent.
    ///
    /// # Errors
    /// When libvirt or the guest does not come up.
    pub async fn set(foundation: Arc<Foundation>, hotplug: HotplugMode) -> Result<Self> {
        let world = LibvirtWorld::start(Arc::new(Site::make(foundation).await?)).await?;
        let options = VmOptions {
            agent: AgentStart::Never,
            hotplug,
            ..VmOptions::named("hand")?
        };
        let guest = world.boot(&options).await?;
        guest.ready(BOOT_DEADLINE).await?;
        let container = guest.make_container().await?;
        let interface_xml = world.site().directory().join("interface.xml");
        std::fs::write(&interface_xml, xml())?;
        let mac: MacAddr = MAC.parse()?;
        probe::prepare(world.site()).await?;
        probe::introduce(world.site(), ADDRESS, mac).await?;
        let by_hand = Self {
            _shell: guest,
            world,
            vm: options.id,
            container,
            interface_xml,
        };
        let ready = tokio::time::timeout(BOOT_DEADLINE, by_hand.guest_agent_answers());
        ready.await.context("QEMU's guest agent does not answer")?;
        Ok(by_hand)
    }

    /// Attaches and detaches once; `identifier` tells this pair's echoes from any other's.
    ///
    /// # Errors
    /// When a command fails or takes far too long.
    pub async fn pair(&self, identifier: u16) -> Result<HandTimes> {
        self.make_tap().await?;
        let attach = tokio::time::timeout(PATIENCE, self.attach(identifier));
        let attach = attach.await.context("attaching by hand takes too long")??;
        let detach = tokio::time::timeout(PATIENCE, self.detach());
        let detach = detach.await.context("detaching by hand takes too long")??;
        self.remove_tap().await?;
        Ok(HandTimes { attach, detach })
    }

    /// Gets back to a VM without a NIC, after a pair that failed.
    ///
    /// # Errors
    /// When it keeps one.
    pub async fn recover(&self) -> Result<()> {
        if !self.interfaces().await?.is_empty() {
            let detach = tokio::time::timeout(PATIENCE, self.detach());
            detach.await.context("detaching by hand takes too long")??;
        }
        // It is there or not, depending on how far the pair came.
        drop(self.remove_tap().await);
        Ok(())
    }

    async fn attach(&self, identifier: u16) -> Result<f64> {
        let began = Instant::now();
        self.virsh_device("attach-device").await?;
        while self
            .guest_exec("/bin/test", &["-e", "/sys/class/net/eth0"])
            .await?
            != 0
        {
            tokio::time::sleep(POLL).await;
        }
        let pid = self.container.pid.to_string();
        self.ip_in_guest(&["link", "set", ARRIVED, "netns", &pid])
            .await?;
        self.ip_in_container(&["link", "set", ARRIVED, "name", WANTED])
            .await?;
        self.ip_in_container(&["link", "set", WANTED, "mtu", "1500"])
            .await?;
        let address = format!("{ADDRESS}/24");
        self.ip_in_container(&["address", "add", &address, "dev", WANTED])
            .await?;
        self.ip_in_container(&["link", "set", WANTED, "up"]).await?;
        // Earlier there is no way back: requests would only pile up in the tap and keep the
        // guest busy once the link is up.
        let probe = Probe::start(&self.world.site().netns, ADDRESS, identifier).await?;
        let gateway = HOST_V4.to_string();
        self.ip_in_container(&["route", "add", "default", "via", &gateway])
            .await?;
        let usable_at = probe.first_reply(PATIENCE).await?;
        Ok(milliseconds(usable_at.saturating_duration_since(began)))
    }

    async fn detach(&self) -> Result<f64> {
        let began = Instant::now();
        self.virsh_device("detach-device").await?;
        // libvirt gives up waiting after five seconds, and says nothing of it.
        while !self.interfaces().await?.is_empty() {
            tokio::time::sleep(POLL).await;
        }
        Ok(milliseconds(began.elapsed()))
    }

    async fn make_tap(&self) -> Result<()> {
        let netns = &self.world.site().netns;
        netns.ip(&format!("tuntap add {TAP} mode tap")).await?;
        let into_bridge = format!("link set {TAP} master {BRIDGE} up");
        netns.ip(&into_bridge).await.map(drop)
    }

    async fn remove_tap(&self) -> Result<()> {
        let netns = &self.world.site().netns;
        netns.ip(&format!("link del {TAP}")).await.map(drop)
    }

    async fn virsh_device(&self, command: &str) -> Result<String> {
        let xml = self.interface_xml.to_str();
        let xml = xml.context("the temporary directory is UTF-8")?;
        self.world
            .virsh(&[command, self.vm.as_str(), xml, "--live"])
            .await
    }

    async fn interfaces(&self) -> Result<String> {
        let listed = self.world.virsh(&["domiflist", self.vm.as_str()]).await?;
        Ok(listed.trim().to_owned())
    }

    async fn guest_agent_answers(&self) {
        let ping = json!({ "execute": "guest-ping" });
        while self.guest_agent(&ping).await.is_err() {
            tokio::time::sleep(POLL).await;
        }
    }

    async fn guest_agent(&self, request: &Value) -> Result<Value> {
        let request = request.to_string();
        let arguments = ["qemu-agent-command", self.vm.as_str(), &request];
        let answer: Value = serde_json::from_str(&self.world.virsh(&arguments).await?)?;
        Ok(answer["return"].clone())
    }

    /// Runs a program in the guest and gives its exit status.
    async fn guest_exec(&self, path: &str, arguments: &[&str]) -> Result<i64> {
        let exec = json!({ "path": path, "arg": arguments });
        let exec = json!({ "execute": "guest-exec", "arguments": exec });
        let started = self.guest_agent(&exec).await?;
        let pid = json!({ "pid": started["pid"] });
        let status = json!({ "execute": "guest-exec-status", "arguments": pid });
        loop {
            let status = self.guest_agent(&status).await?;
            if status["exited"] == true {
                // A program that was ended by a signal has none.
                return status["exitcode"].as_i64().context("no exit status");
            }
            tokio::time::sleep(POLL).await;
        }
    }

    async fn ip_in_guest(&self, arguments: &[&str]) -> Result<()> {
        let status = self.guest_exec("/sbin/ip", arguments).await?;
        anyhow::ensure!(
            status == 0,
            "ip {} ended with {status}",
            arguments.join(" ")
        );
        Ok(())
    }

    async fn ip_in_container(&self, arguments: &[&str]) -> Result<()> {
        let netns = format!("--net=/proc/{}/ns/net", self.container.pid);
        let all = [&[netns.as_str(), "/sbin/ip"], arguments].concat();
        let status = self.guest_exec("/bin/nsenter", &all).await?;
        anyhow::ensure!(
            status == 0,
            "ip {} ended with {status}",
            arguments.join(" ")
        );
        Ok(())
    }
}

fn xml() -> String {
    format!(
        "<interface type='ethernet'>
           <mac address='{MAC}'/>
           <target dev='{TAP}' managed='no'/>
           <model type='virtio'/>
         </interface>"
    )
}
