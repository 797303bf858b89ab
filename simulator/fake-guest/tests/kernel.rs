//! Whatever is done to the model, what it holds hangs together.

use std::collections::BTreeSet;
use std::time::Duration;

use fake_guest::kernel::{
    GuestView, Handling, Held, Kernel, KernelSettings, NamespaceView, Output, Phase, PluggedDevice,
    Unplug,
};
use guest_agent::kernel::{AdminState, Carrier, LinkChange, LinkEvent, LinkIndex};
use nic_model::{LinkName, MacAddr, NetnsInode, NetnsName, PciPath};
use proptest::prelude::*;

/// Something that happens to a guest. Numbers stand for what is there at that moment.
#[derive(Debug, Clone)]
enum Happening {
    Plug(u8),
    RequestUnplug(u8),
    Remove(u8),
    Eject(u8),
    SysfsRemove(u8),
    Rescan,
    AddNetns(u8),
    RemoveNetns(u8),
    Spawn(Option<u8>),
    Exit(u8),
    AddLink(u8, u8),
    Move(u8, u8, Option<u8>),
    Rename(u8, u8),
    Switch(u8, AdminState),
    Address(u8, u8),
    Later(u16),
    Reset,
    Hang,
}

fn happening() -> impl Strategy<Value = Happening> {
    let some = 0..4_u8;
    let admin = prop_oneof![Just(AdminState::Up), Just(AdminState::Down)];
    prop_oneof![
        4 => some.clone().prop_map(Happening::Plug),
        2 => some.clone().prop_map(Happening::RequestUnplug),
        1 => some.clone().prop_map(Happening::Remove),
        1 => some.clone().prop_map(Happening::Eject),
        1 => some.clone().prop_map(Happening::SysfsRemove),
        1 => Just(Happening::Rescan),
        3 => some.clone().prop_map(Happening::AddNetns),
        3 => some.clone().prop_map(Happening::RemoveNetns),
        3 => prop::option::of(some.clone()).prop_map(Happening::Spawn),
        3 => some.clone().prop_map(Happening::Exit),
        2 => (some.clone(), some.clone()).prop_map(|(at, name)| Happening::AddLink(at, name)),
        6 => (some.clone(), some.clone(), prop::option::of(some.clone()))
            .prop_map(|(link, to, name)| Happening::Move(link, to, name)),
        3 => (some.clone(), some.clone()).prop_map(|(link, name)| Happening::Rename(link, name)),
        3 => (some.clone(), admin).prop_map(|(link, admin)| Happening::Switch(link, admin)),
        2 => (some.clone(), some).prop_map(|(link, address)| Happening::Address(link, address)),
        6 => (0..200_u16).prop_map(Happening::Later),
        1 => Just(Happening::Reset),
        1 => Just(Happening::Hang),
    ]
}

fn path(number: u8) -> PciPath {
    let text = format!("{:02x}.0/00.0", number + 2);
    text.parse().expect("it is a path")
}

fn netns(number: u8) -> NetnsName {
    let text = format!("n{number}");
    text.parse().expect("it is a name")
}

fn link_name(number: u8) -> LinkName {
    let text = format!("eth{number}");
    text.parse().expect("it is a name")
}

/// The namespace that a number stands for, and the link.
fn space(view: &GuestView, number: u8) -> Option<NetnsInode> {
    let spaces = &view.namespaces;
    let index = usize::from(number) % spaces.len().max(1);
    spaces.get(index).map(|space| space.inode)
}

fn link(view: &GuestView, number: u8) -> Option<(NetnsInode, LinkIndex)> {
    let links: Vec<_> = view.links().collect();
    let (space, link) = links.get(usize::from(number) % links.len().max(1))?;
    Some((space.inode, LinkIndex(link.index)))
}

fn device(number: u8) -> PluggedDevice {
    PluggedDevice {
        mac: MacAddr::local([0, 0, 0, 0, number]),
        mtu: None,
        carrier: Carrier::Present,
    }
}

/// Refusals are as good as anything else here.
fn happen(kernel: &mut Kernel, now: &mut Duration, happening: &Happening) {
    let view = kernel.view();
    match happening {
        Happening::Plug(at) => kernel.plug(path(*at), device(*at), Handling::Usual),
        Happening::RequestUnplug(at) => kernel.request_unplug(&path(*at), Handling::Usual),
        Happening::Remove(at) => kernel.remove(&path(*at)),
        Happening::Eject(at) => kernel.eject(&path(*at)).unwrap_or_default(),
        Happening::SysfsRemove(at) => kernel.sysfs_remove(&path(*at)).unwrap_or_default(),
        Happening::Rescan => kernel.rescan(),
        Happening::AddNetns(number) => {
            kernel
                .add_netns(&netns(*number))
                .map(|_| ())
                .unwrap_or_default();
        }
        Happening::RemoveNetns(number) => {
            kernel.remove_netns(&netns(*number)).unwrap_or_default();
        }
        Happening::Spawn(at) => {
            let at = at.and_then(|number| space(&view, number));
            kernel.spawn(at).map(|_| ()).unwrap_or_default();
        }
        Happening::Exit(number) => {
            let pids: Vec<u32> = pids(&view).filter(|pid| *pid != 1).collect();
            if let Some(pid) = pids.get(usize::from(*number) % pids.len().max(1)) {
                kernel.exit(*pid).unwrap_or_default();
            }
        }
        Happening::AddLink(at, name) => {
            if let Some(at) = space(&view, *at) {
                let added = kernel.add_link(at, &link_name(*name), MacAddr::local([9; 5]));
                added.map(|_| ()).unwrap_or_default();
            }
        }
        Happening::Later(milliseconds) => {
            *now += Duration::from_millis(u64::from(*milliseconds));
            kernel.advance(*now);
        }
        Happening::Reset => kernel.reset(),
        Happening::Hang => {
            kernel.hang();
            kernel.reset();
        }
        Happening::Move(..)
        | Happening::Rename(..)
        | Happening::Switch(..)
        | Happening::Address(..) => change_link(kernel, &view, happening),
    }
}

fn change_link(kernel: &mut Kernel, view: &GuestView, happening: &Happening) {
    let (Happening::Move(number, ..)
    | Happening::Rename(number, _)
    | Happening::Switch(number, _)
    | Happening::Address(number, _)) = happening
    else {
        return;
    };
    let Some((at, index)) = link(view, *number) else {
        return;
    };
    let (mut target, mut name, mut admin) = (None, None, None);
    if let Happening::Move(_, to, new_name) = happening {
        target = space(view, *to);
        name = new_name.map(link_name);
    } else if let Happening::Rename(_, new_name) = happening {
        name = Some(link_name(*new_name));
    } else if let Happening::Switch(_, new) = happening {
        admin = Some(*new);
    } else if let Happening::Address(_, last) = happening {
        let address = format!("192.0.2.{last}/24");
        let address = address.parse().expect("it is an address");
        return kernel.add_address(at, index, address).unwrap_or_default();
    }
    let change = LinkChange {
        move_to: target.as_ref(),
        name: name.as_ref(),
        admin,
        ..LinkChange::default()
    };
    kernel.set_link(at, index, &change).unwrap_or_default();
}

fn pids(view: &GuestView) -> impl Iterator<Item = u32> {
    let processes = view.namespaces.iter().flat_map(|space| &space.processes);
    processes.map(|process| process.pid)
}

fn assert_coherent(view: &GuestView) {
    for space in &view.namespaces {
        let names: BTreeSet<&str> = space.links.iter().map(|link| link.name.as_str()).collect();
        assert_eq!(names.len(), space.links.len(), "one name twice: {space:?}");
        for link in &space.links {
            assert_ne!((link.name.as_str(), link.index), ("lo", 1), "{space:?}");
            let down_has_none = link.admin == AdminState::Up || link.routes.is_empty();
            assert!(
                down_has_none,
                "routes through a link that is down: {link:?}"
            );
        }
    }
    let mut driven = BTreeSet::new();
    for (_, link) in view.links() {
        let Some(path) = &link.path else { continue };
        let device = view.devices.iter().find(|device| device.path == *path);
        assert!(device.is_some_and(|device| device.seen), "{link:?}");
        assert!(driven.insert(path), "two links of one device: {path}");
    }
}

/// Only what has a name or a process lives on, and the guest's own.
fn assert_nothing_lingers(view: &GuestView) {
    let is_kept = |space: &NamespaceView| !space.names.is_empty() || !space.processes.is_empty();
    for space in &view.namespaces {
        assert!(is_kept(space), "nobody keeps it: {space:?}");
    }
}

proptest! {
    #[test]
    fn what_a_kernel_holds_hangs_together(
        happenings in prop::collection::vec(happening(), 1..60),
        unplug in prop_oneof![Just(Unplug::Native), Just(KernelSettings::default().unplug)],
    ) {
        let mut kernel = Kernel::new(KernelSettings { unplug, ..KernelSettings::default() });
        kernel.power_on();
        let mut now = Duration::ZERO;
        for happening in &happenings {
            happen(&mut kernel, &mut now, happening);
            assert_coherent(&kernel.view());
        }
        kernel.advance(now + Duration::from_secs(60));
        assert_coherent(&kernel.view());
        assert_nothing_lingers(&kernel.view());
        prop_assert_eq!(kernel.phase(), Phase::Up);
        prop_assert_eq!(kernel.deadline(), None);
    }
}

#[test]
fn a_listener_that_does_not_read_is_told_once_and_then_follows_again() {
    let mut kernel = Kernel::new(KernelSettings {
        events_kept: 3,
        ..KernelSettings::default()
    });
    kernel.power_on();
    let own = kernel.own_netns();
    let listener = kernel.subscribe(own);
    for number in 0..9 {
        kernel.plug(path(number), device(number), Handling::Usual);
    }
    kernel.advance(Duration::from_millis(110));

    assert_eq!(kernel.next_event(listener), Some(LinkEvent::Overrun));
    assert_eq!(kernel.next_event(listener), None);
    kernel.remove(&path(0));
    let told = kernel.next_event(listener);
    assert!(matches!(told, Some(LinkEvent::Gone(_))), "{told:?}");
}

#[test]
fn the_number_of_a_namespace_is_used_again_once_nobody_holds_it() {
    let mut kernel = Kernel::new(KernelSettings::default());
    kernel.power_on();
    let first = kernel.add_netns(&netns(1)).expect("the name is free");
    kernel.hold(first, Held::Anew);
    kernel.remove_netns(&netns(1)).expect("it is there");
    kernel.advance(Duration::from_secs(1));
    assert_ne!(kernel.add_netns(&netns(2)), Ok(first));

    kernel.hold(first, Held::NoMore);
    kernel.advance(Duration::from_secs(2));

    assert_eq!(kernel.add_netns(&netns(3)), Ok(first));
}

#[test]
fn a_device_that_leaves_before_its_link_appears_leaves_no_link() {
    let mut kernel = Kernel::new(KernelSettings::default());
    kernel.power_on();
    kernel.plug(path(0), device(0), Handling::Usual);
    kernel.remove(&path(0));
    // Another one in the same slot, which appears in its own time.
    kernel.advance(Duration::from_millis(50));
    kernel.plug(path(0), device(1), Handling::Usual);

    kernel.advance(Duration::from_millis(120));
    assert_eq!(kernel.view().links().count(), 0);
    kernel.advance(Duration::from_millis(150));

    let view = kernel.view();
    let (_, link) = view.link_of(&path(0)).expect("it has appeared");
    assert_eq!(link.mac, device(1).mac);
    assert_eq!(
        kernel.take_outputs().last(),
        Some(&Output::Phase(Phase::Up))
    );
}
