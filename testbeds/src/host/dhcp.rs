//! A DHCP server as a process: dnsmasq on a site's bridge.

use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, Result};
use async_trait::async_trait;
use nic_model::MacAddr;
use tokio::process::Child;

use super::DhcpServer;
use crate::site::{BRIDGE, DHCP_SERVER, LEASED_V4, RENEWAL_SECONDS, Site};

/// A running dnsmasq; killed when dropped.
#[derive(Debug)]
pub(super) struct Dnsmasq {
    _process: Child,
    log: PathBuf,
}

impl Dnsmasq {
    /// Starts it on the bridge of `site`.
    pub(super) fn start(site: &Site) -> Result<Self> {
        let (first, last) = LEASED_V4;
        // The shortest lease that dnsmasq gives.
        let range = format!("--dhcp-range={first},{last},255.255.255.0,2m");
        let log = site.directory().join("dnsmasq.log");
        let output = std::fs::File::create(&log)?;
        let process = site
            .netns
            .command(DHCP_SERVER)
            .args([
                "--keep-in-foreground",
                "--conf-file=/dev/null",
                "--user=root",
            ])
            .args(["--port=0", "--interface", BRIDGE, "--bind-interfaces"])
            .args(["--dhcp-authoritative", "--no-ping", "--leasefile-ro"])
            .args(["--pid-file=", "--log-facility=-", "--log-dhcp"])
            .arg(range)
            .arg(format!("--dhcp-option=option:T1,{RENEWAL_SECONDS}"))
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .kill_on_drop(true)
            .spawn()
            .context("starting the DHCP server")?;
        Ok(Self {
            _process: process,
            log,
        })
    }
}

impl Dnsmasq {
    /// How many lines of its log are of this kind and about `mac`.
    async fn count(&self, kind: &str, mac: MacAddr) -> Result<usize> {
        let mac = mac.to_string();
        let is_it = |line: &&str| line.contains(kind) && line.contains(&mac);
        Ok(self.log().await?.lines().filter(is_it).count())
    }
}

#[async_trait(?Send)]
impl DhcpServer for Dnsmasq {
    async fn grants(&self, mac: MacAddr) -> Result<usize> {
        self.count("DHCPACK(", mac).await
    }

    async fn discoveries(&self, mac: MacAddr) -> Result<usize> {
        self.count("DHCPDISCOVER(", mac).await
    }

    async fn log(&self) -> Result<String> {
        std::fs::read_to_string(&self.log).context("reading the DHCP server's log")
    }
}
