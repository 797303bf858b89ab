//! The host's side of a NIC: what QEMU calls a network backend.

use std::error::Error;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use linux_network::{AdminState, Errno, LinkChange, LinkView, Netlink};
use nic_model::{LinkName, VmId};

use super::Wiring;
use crate::netns::trouble::{Doing, Trouble};

/// What a backend has got hold of.
#[derive(Debug)]
pub(super) enum Backend {
    /// The far end of a pair, by its name.
    Link(LinkName),
    /// The queue of a tap.
    Queue(Arc<OwnedFd>),
}

impl Wiring {
    /// Takes hold of a link of the host.
    pub(in crate::netns::machine) async fn hold(
        &mut self,
        backend: &str,
        link: &str,
    ) -> Result<(), Trouble> {
        let doing = format!("take hold of {link}");
        let name: LinkName = link.parse().doing(&doing)?;
        let index = self.index_of(&name).await?;
        let held = LinkChange {
            alias: Some(self.vm.as_str()),
            admin: Some(AdminState::Up),
            ..LinkChange::default()
        };
        self.netlink.set_link(index, held).await.doing(doing)?;
        self.backends
            .insert(backend.to_owned(), Backend::Link(name));
        Ok(())
    }

    /// Takes hold of the queue of a tap.
    pub(in crate::netns::machine) fn hold_queue(&mut self, backend: &str, queue: OwnedFd) {
        let queue = Backend::Queue(Arc::new(queue));
        self.backends.insert(backend.to_owned(), queue);
    }

    /// Lets go of what it has; that it is gone is fine.
    pub(in crate::netns::machine) async fn let_go(&mut self, backend: &str) -> Result<(), Trouble> {
        self.stop_carrying(backend);
        let Some(Backend::Link(name)) = self.backends.remove(backend) else {
            return Ok(());
        };
        let doing = format!("let go of {name}");
        match self.netlink.link_by_name(&name).await.doing(doing)? {
            Some(link) => release(&self.netlink, &link).await,
            None => Ok(()),
        }
    }
}

/// Lets go of every link that a VM has held until it ended.
///
/// # Errors
/// When the host's kernel does not answer.
pub(crate) async fn let_go_for(netlink: &Netlink, vm: &VmId) -> Result<(), Trouble> {
    let doing = format!("let go of the links of {vm}");
    for link in netlink.links().await.doing(doing)? {
        if link.alias.as_deref() == Some(vm.as_str()) {
            release(netlink, &link).await?;
        }
    }
    Ok(())
}

async fn release(netlink: &Netlink, link: &LinkView) -> Result<(), Trouble> {
    let doing = format!("let go of {}", link.name);
    let unredirected = netlink.unredirect(link.index).await;
    unless_gone(unredirected, |error| error.errno()).doing(&doing)?;
    let free = LinkChange {
        alias: Some(""),
        admin: Some(AdminState::Down),
        ..LinkChange::default()
    };
    let switched = netlink.set_link(link.index, free).await;
    unless_gone(switched, |error| error.errno()).doing(doing)
}

fn unless_gone<E: Error + Send + Sync + 'static>(
    done: Result<(), E>,
    errno: impl Fn(&E) -> Option<Errno>,
) -> Result<(), E> {
    match done {
        Err(error) if errno(&error) == Some(Errno::NODEV) => Ok(()),
        done => done,
    }
}
