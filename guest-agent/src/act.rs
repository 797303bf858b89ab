//! Doing what was decided. Every function here may find its work done already.

use nic_binding::{Action, LinkPlace, LinkSeen, StepFailure};
use nic_model::{IpNet, Ipv4Net, LinkName, MacAddr, Mtu, Route};

use crate::guest::{Guest, Located, in_full};
use crate::kernel::{
    AddAddressError, AdminState, Announce, DuplicateDetection, Errno, GuestKernel, Ipv6, Ipv6Scope,
    LinkChange, LinkIndex, Rtnetlink, SetLinkError,
};
use crate::nic::{Nic, details};

/// Does one action on the link of `nic`. What concerns reports, looks and leases is not done here.
pub(crate) async fn perform<K: GuestKernel>(
    action: &Action,
    nic: &mut Nic<K>,
    guest: &Guest<K>,
) -> Result<(), StepFailure> {
    match action {
        Action::Hold | Action::Release => hold(nic, guest).await,
        Action::Disarm => disarm(nic).await,
        Action::Enter { name, mtu, mac, .. } => enter(nic, name, *mtu, *mac).await,
        Action::SetMtu(mtu) => {
            let mtu = Some(*mtu);
            change(
                nic,
                LinkChange {
                    mtu,
                    ..LinkChange::default()
                },
            )
            .await
        }
        Action::SetAddresses(addresses) => set_addresses(nic, guest, addresses).await,
        Action::SetUp => switch(nic, AdminState::Up).await,
        Action::SetRoutes(routes) => set_routes(nic, routes).await,
        Action::DropLease(address) => drop_lease(nic, *address).await,
        Action::Announce(addresses) => announce(nic, addresses),
        Action::Wait | Action::Look | Action::Report(_) | Action::StartLease | Action::Verify => {
            Ok(())
        }
    }
}

/// Reads the link back; `None` when it is not in the target.
pub(crate) async fn read_back<K: GuestKernel>(
    nic: &Nic<K>,
) -> Result<Option<LinkSeen>, StepFailure> {
    let located = located(nic)?;
    let netlink = &located.space.netlink;
    let link = netlink
        .link(located.index)
        .await
        .map_err(|error| refused(&error))?;
    match link {
        Some(link) => details(netlink, &link)
            .await
            .map(Some)
            .map_err(StepFailure::Kernel),
        None => Ok(None),
    }
}

/// A held link keeps its name and bears its NIC's id as alias, so that a person can tell whose it
/// is. Only when two of one name meet there is one named after its NIC: a rename waits for an RCU
/// grace period (`dev_change_name`, Linux 6.1), about as long as all the rest of the release.
async fn hold<K: GuestKernel>(nic: &mut Nic<K>, guest: &Guest<K>) -> Result<(), StepFailure> {
    let located = located(nic)?;
    if located.space.is(&guest.holding) {
        return switch(nic, AdminState::Down).await;
    }
    let id = &nic.binding.wanted().nic;
    let mut name = name_of(&located).await?;
    let unique: LinkName = id
        .tap_name()
        .parse()
        .map_err(|error| StepFailure::Kernel(in_full(&error)))?;
    let into_holding = |name| LinkChange {
        move_to: Some(&guest.holding.netns),
        name,
        alias: Some(id.as_str()),
        admin: Some(AdminState::Down),
        ..LinkChange::default()
    };
    let netlink = &located.space.netlink;
    let mut moved = netlink.set_link(located.index, into_holding(None)).await;
    if matches!(&moved, Err(error) if error.errno() == Some(Errno::EXIST)) {
        moved = netlink
            .set_link(located.index, into_holding(Some(&unique)))
            .await;
        name = unique;
    }
    moved.map_err(|error| failure(&error))?;
    let index = index_of(&guest.holding.netlink, &name).await?;
    nic.at = Some(Located {
        space: guest.holding.clone(),
        index,
    });
    Ok(())
}

/// Being switched off costs a link its routes and its IPv6 addresses (`fib_disable_ip`,
/// `addrconf_ifdown`), but an IPv4 address stays, and the container would go on taking it for its
/// own while it is in use elsewhere.
async fn disarm<K: GuestKernel>(nic: &Nic<K>) -> Result<(), StepFailure> {
    switch(nic, AdminState::Down).await?;
    let located = located(nic)?;
    let link = nic.binding.place().and_then(LinkPlace::link);
    let addresses = link.map(|link| link.addresses.iter()).into_iter().flatten();
    for address in addresses.filter(|address| address.addr().is_ipv4()) {
        let netlink = &located.space.netlink;
        match netlink.remove_address(located.index, *address).await {
            Err(error) if error.errno() == Some(Errno::NODEV) => {
                return Err(StepFailure::LinkVanished);
            }
            done => done.map_err(|error| refused(&error))?,
        }
    }
    Ok(())
}

async fn name_of<K: GuestKernel>(located: &Located<K>) -> Result<LinkName, StepFailure> {
    let link = located.space.netlink.link(located.index).await;
    let link = link.map_err(|error| refused(&error))?;
    let name = link.ok_or(StepFailure::LinkVanished)?.name;
    name.parse()
        .map_err(|error| StepFailure::Kernel(in_full(&error)))
}

async fn enter<K: GuestKernel>(
    nic: &mut Nic<K>,
    name: &LinkName,
    mtu: Mtu,
    mac: Option<MacAddr>,
) -> Result<(), StepFailure> {
    let Some(target) = nic.target.as_ref().map(|target| target.space.clone()) else {
        return Err(StepFailure::TargetGone);
    };
    let located = located(nic)?;
    let is_there = located.space.is(&target);
    if is_there {
        switch(nic, AdminState::Down).await?;
    }
    let change = LinkChange {
        move_to: (!is_there).then_some(&target.netns),
        mac,
        mtu: Some(mtu),
        name: Some(name),
        ..LinkChange::default()
    };
    let moved = located.space.netlink.set_link(located.index, change).await;
    moved.map_err(|error| failure(&error))?;
    let index = index_of(&target.netlink, name).await?;
    nic.at = Some(Located {
        space: target,
        index,
    });
    Ok(())
}

/// A move keeps a link's number unless another link has it there.
async fn index_of(netlink: &impl Rtnetlink, name: &LinkName) -> Result<LinkIndex, StepFailure> {
    match netlink.link_by_name(name).await {
        Ok(Some(link)) => Ok(link.index),
        Ok(None) => Err(StepFailure::LinkVanished),
        Err(error) => Err(refused(&error)),
    }
}

async fn switch<K: GuestKernel>(nic: &Nic<K>, admin: AdminState) -> Result<(), StepFailure> {
    let admin = Some(admin);
    change(
        nic,
        LinkChange {
            admin,
            ..LinkChange::default()
        },
    )
    .await
}

async fn change<K: GuestKernel>(
    nic: &Nic<K>,
    change: LinkChange<'_, K::Netns>,
) -> Result<(), StepFailure> {
    let located = located(nic)?;
    let done = located.space.netlink.set_link(located.index, change).await;
    done.map_err(|error| failure(&error))
}

async fn set_addresses<K: GuestKernel>(
    nic: &Nic<K>,
    guest: &Guest<K>,
    addresses: &[IpNet],
) -> Result<(), StepFailure> {
    let located = located(nic)?;
    for address in addresses {
        let mut added = add_address(&located, *address).await;
        if let Err(error) = &added
            && matches!(error.errno(), Some(Errno::ACCESS | Errno::OPNOTSUPP))
            && address.addr().is_ipv6()
        {
            enable_ipv6(nic, guest, &located).await?;
            added = add_address(&located, *address).await;
        }
        match added {
            Err(error) if error.errno() == Some(Errno::EXIST) => {}
            Err(error) if error.errno() == Some(Errno::NODEV) => {
                return Err(StepFailure::LinkVanished);
            }
            done => done.map_err(|error| refused(&error))?,
        }
    }
    Ok(())
}

/// The allocator keeps addresses unique, so nobody is asked.
async fn add_address<K: GuestKernel>(
    located: &Located<K>,
    address: IpNet,
) -> Result<(), AddAddressError> {
    let netlink = &located.space.netlink;
    netlink
        .add_address(located.index, address, DuplicateDetection::Off)
        .await
}

/// Container runtimes switch IPv6 off for every link that appears (`docker run --net none`).
async fn enable_ipv6<K: GuestKernel>(
    nic: &Nic<K>,
    guest: &Guest<K>,
    located: &Located<K>,
) -> Result<(), StepFailure> {
    let Some(binding) = nic.binding.binding() else {
        return Ok(());
    };
    let link = Ipv6Scope::Link(&binding.link_name);
    let enabled = guest.kernel.set_ipv6(&located.space.netns, link, Ipv6::On);
    let enabled = enabled.await;
    enabled.map_err(|error| refused(&error))
}

async fn set_routes<K: GuestKernel>(nic: &Nic<K>, routes: &[Route]) -> Result<(), StepFailure> {
    let located = located(nic)?;
    for route in routes {
        match located.space.netlink.add_route(located.index, route).await {
            // Through this link it is what was wanted, which reading back tells; through another
            // one it stands in the way, which reading back tells as well.
            Err(error) if error.errno() == Some(Errno::EXIST) => {}
            Err(error) if error.errno() == Some(Errno::NODEV) => {
                return Err(StepFailure::LinkVanished);
            }
            done => done.map_err(|error| refused(&error))?,
        }
    }
    Ok(())
}

async fn drop_lease<K: GuestKernel>(nic: &Nic<K>, address: Ipv4Net) -> Result<(), StepFailure> {
    switch(nic, AdminState::Down).await?;
    let located = located(nic)?;
    let netlink = &located.space.netlink;
    let removed = netlink.remove_address(located.index, address.into()).await;
    removed.map_err(|error| refused(&error))
}

/// A link without carrier reaches nobody who could have a stale entry: not telling is no failure.
fn announce<K: GuestKernel>(nic: &Nic<K>, addresses: &[IpNet]) -> Result<(), StepFailure> {
    let located = located(nic)?;
    let Some(target) = &nic.target else {
        return Err(StepFailure::TargetGone);
    };
    let mac = nic.binding.wanted().mac;
    for address in addresses {
        let announcer = &target.announcer;
        if let Err(error) = announcer.announce(located.index, mac, address.addr()) {
            tracing::warn!(%address, error = in_full(&error), "the address was not announced");
        }
    }
    Ok(())
}

fn located<K: GuestKernel>(nic: &Nic<K>) -> Result<Located<K>, StepFailure> {
    nic.at.clone().ok_or(StepFailure::LinkVanished)
}

fn failure(error: &SetLinkError) -> StepFailure {
    match error.errno() {
        Some(Errno::NODEV) => StepFailure::LinkVanished,
        Some(Errno::EXIST) => StepFailure::NameTaken,
        _ => refused(error),
    }
}

fn refused(error: &dyn std::error::Error) -> StepFailure {
    StepFailure::Kernel(in_full(error))
}
