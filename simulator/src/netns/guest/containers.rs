//! Containers of a simulated guest: a process that waits, in a network namespace of its own.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Arc;

use linux_network::Netns;
use nic_model::{NetnsName, VmId};
use tokio::sync::Mutex;

use super::protocol::{ContainerView, Naming, Place};
use crate::netns::network::HostNetwork;
use crate::netns::plan::Programs;
use crate::netns::process::{Process, Undertaker, log_to};
use crate::netns::site::Site;
use crate::netns::trouble::{Doing, Trouble};

/// The containers of one guest.
#[derive(Debug, Clone)]
pub(crate) struct Containers {
    vm: VmId,
    site: Site,
    programs: Programs,
    undertaker: Undertaker,
    running: Arc<Mutex<BTreeMap<NetnsName, Container>>>,
}

#[derive(Debug)]
struct Container {
    process: Process,
    netns: Netns,
    naming: Naming,
}

/// A name that means nothing, or something else already.
#[derive(Debug, thiserror::Error)]
enum NameError {
    #[error("there is one already")]
    Taken,
    #[error("there is none")]
    Unknown,
}

impl Containers {
    pub(crate) fn new(vm: VmId, site: Site, programs: Programs, undertaker: Undertaker) -> Self {
        Self {
            vm,
            site,
            programs,
            undertaker,
            running: Arc::default(),
        }
    }

    pub(crate) async fn make(
        &self,
        name: &NetnsName,
        naming: Naming,
    ) -> Result<ContainerView, Trouble> {
        let doing = format!("make container {name}");
        let mut running = self.running.lock().await;
        if running.contains_key(name) {
            return Err(NameError::Taken).doing(doing);
        }
        let netns = match naming {
            Naming::Named => Netns::named_or_create(name).doing(&doing)?,
            Naming::Unnamed => Netns::unnamed().doing(&doing)?,
        };
        HostNetwork::over(netns.clone()).await?;
        let mut command = Command::new(&self.programs.simulator);
        command.arg("container").arg(name.as_str());
        log_to(&mut command, &self.site.log(self.vm.as_str()))?;
        let process = self.undertaker.spawn(command, Some(&netns)).await?;
        let container = Container {
            process,
            netns,
            naming,
        };
        let view = view(name, &container);
        running.insert(name.clone(), container);
        Ok(view)
    }

    pub(crate) async fn kill(&self, name: &NetnsName) -> Result<(), Trouble> {
        let doing = format!("end container {name}");
        let removed = self.running.lock().await.remove(name);
        let mut container = removed.ok_or(NameError::Unknown).doing(&doing)?;
        container.process.kill();
        container.process.ended().await;
        match container.naming {
            Naming::Named => Netns::remove_named(name).doing(doing),
            Naming::Unnamed => Ok(()),
        }
    }

    pub(crate) fn undertaker(&self) -> &Undertaker {
        &self.undertaker
    }

    pub(crate) async fn list(&self) -> Vec<ContainerView> {
        let running = self.running.lock().await;
        running
            .iter()
            .map(|(name, container)| view(name, container))
            .collect()
    }

    /// The namespace of a place.
    pub(crate) async fn netns(&self, place: &Place) -> Result<Netns, Trouble> {
        match place {
            Place::Own => Netns::own().doing("open the guest's own namespace"),
            Place::Netns(name) => {
                Netns::open_named(name).doing(format_args!("open namespace {name}"))
            }
            Place::Container(name) => {
                let running = self.running.lock().await;
                let found = running.get(name).map(|container| container.netns.clone());
                found
                    .ok_or(NameError::Unknown)
                    .doing(format_args!("find container {name}"))
            }
        }
    }
}

fn view(name: &NetnsName, container: &Container) -> ContainerView {
    ContainerView {
        name: name.clone(),
        pid: container.process.pid.as_raw_nonzero().get().unsigned_abs(),
        netns_inode: container.netns.inode(),
        named: container.naming == Naming::Named,
    }
}
