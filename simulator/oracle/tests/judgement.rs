//! A healthy system is found healthy, and each thing that is wrong with it is named.

#![expect(clippy::unwrap_used, reason = "set-up that fails is a failed test")]

use std::collections::BTreeMap;

use host_api::{Limit, LimitScope, Nic, NicState};
use nic_model::{NicId, PowerState, VmId};
use oracle::{
    DeviceView, Filters, GuestLink, GuestView, Holder, HostView, JournalClaim, JournalRow,
    JournalView, Moment, Place, PortView, Reachability, Sight, SystemView, VmView, violations,
};
use serde_json::{Value, json};

const NIC: &str = "nic-abc0123xyz";
const TAP: &str = "nf-abc0123xyz";
const MAC: &str = "5a:00:00:00:00:01";

/// One NIC in use in `vm1`, everything as it should be.
fn healthy() -> SystemView {
    SystemView {
        nics: [(id(), nic())].into(),
        limits: vec![max_nics(Some(8), 1)],
        journal: Some(journal()),
        host: HostView {
            ports: [(TAP.to_owned(), port())].into(),
            disturbed: Vec::new(),
        },
        vms: [(vm1(), vm())].into(),
    }
}

fn id() -> NicId {
    NIC.parse().unwrap()
}

fn vm1() -> VmId {
    "vm1".parse().unwrap()
}

fn nic() -> Nic {
    nic_from(&json!({
        "id": NIC, "tenant": "default", "network": "blue", "mac": MAC,
        "addressing": { "mode": "static", "addresses": ["10.77.0.2/24"] },
        "addresses": ["10.77.0.2/24"], "mtu": 1500, "routes": [], "queues": 1,
        "limits": { "in": {}, "out": {} }, "state": "in_use", "generation": 1,
        "timings": [], "created_at_ms": 1, "updated_at_ms": 1,
        "placement": { "vm": "vm1", "target": { "kind": "netns", "name": "shop" },
            "link_name": "eth0", "slot": "rp1", "pci_path": "10.0/00.0" },
    }))
}

fn nic_from(told: &Value) -> Nic {
    serde_json::from_value(told.clone()).unwrap()
}

fn max_nics(value: Option<u64>, usage: u64) -> Limit {
    Limit {
        scope: LimitScope::Vm { vm: vm1() },
        name: "max_nics".to_owned(),
        value,
        usage,
    }
}

fn journal() -> JournalView {
    let body = json!({
        "id": NIC, "tenant": "default", "network": "blue", "mac": MAC,
        "addressing": { "mode": "static", "addresses": ["10.77.0.2/24"] },
        "state": "in_use", "transit": null,
        "placement": { "vm": "vm1", "target": { "kind": "netns", "name": "shop" },
            "link_name": "eth0", "slot": "rp1", "path": "10.0/00.0" },
    });
    let claims = [
        ("mac", MAC),
        ("address/blue", "10.77.0.2"),
        ("slot/vm1", "rp1"),
    ];
    JournalView {
        rows: vec![row("nic", NIC, Some(body))],
        claims: claims.map(|(scope, value)| claim(scope, value)).into(),
    }
}

fn row(kind: &str, key: &str, body: Option<Value>) -> JournalRow {
    JournalRow {
        kind: kind.to_owned(),
        key: key.to_owned(),
        body,
    }
}

fn claim(scope: &str, value: &str) -> JournalClaim {
    JournalClaim {
        owner: ("nic".to_owned(), NIC.to_owned()),
        scope: scope.to_owned(),
        value: value.to_owned(),
    }
}

fn port() -> PortView {
    PortView {
        bridge: Some("br-blue".to_owned()),
        passes: Reachability::Open,
        filters: Some(Filters::On),
        holder: Some(Holder::Somebody),
    }
}

fn vm() -> VmView {
    let device = DeviceView {
        slot: Some("rp1".to_owned()),
        mac: Some(MAC.parse().unwrap()),
    };
    VmView {
        power: PowerState::Running,
        devices: [(id().device_id(), device)].into(),
        netdevs: [id().netdev_id()].into(),
        guest: Some(GuestView {
            devices: Some(["10.0/00.0".parse().unwrap()].into()),
            links: vec![link(Place::Named("shop".to_owned()))],
            named: ["nicferry-holding".to_owned(), "shop".to_owned()].into(),
            processes: [(1, Place::Own), (7, Place::Process(7))].into(),
            sight: Sight::Whole,
        }),
    }
}

fn link(place: Place) -> GuestLink {
    GuestLink {
        place,
        name: "eth0".to_owned(),
        mac: Some(MAC.parse().unwrap()),
    }
}

fn record(view: &mut SystemView) -> &mut Nic {
    view.nics.get_mut(&id()).unwrap()
}

fn in_vm1(view: &mut SystemView) -> &mut VmView {
    view.vms.get_mut(&vm1()).unwrap()
}

fn in_guest(view: &mut SystemView) -> &mut GuestView {
    in_vm1(view).guest.as_mut().unwrap()
}

fn at_port(view: &mut SystemView) -> &mut PortView {
    view.host.ports.get_mut(TAP).unwrap()
}

fn on_disk(view: &mut SystemView) -> &mut JournalView {
    view.journal.as_mut().unwrap()
}

/// The link is in the namespace of process 7 then.
fn aim_at_process(view: &mut SystemView, pid: u32) {
    let target = json!({ "kind": "pid", "pid": pid });
    let place = record(view).placement.as_mut().unwrap();
    place.target = serde_json::from_value(target).unwrap();
    in_guest(view).links = vec![link(Place::Process(7))];
}

/// A second NIC that is nowhere and holds nothing that the first one holds.
fn second(view: &mut SystemView) -> &mut Nic {
    let mut told = serde_json::to_value(nic()).unwrap();
    told["id"] = json!("nic-0000000000");
    told["mac"] = json!("5a:00:00:00:00:02");
    told["addressing"]["addresses"] = json!(["10.77.0.3/24"]);
    told["state"] = json!("available");
    told.as_object_mut().unwrap().remove("placement");
    let second = nic_from(&told);
    view.nics.entry(second.id.clone()).or_insert(second)
}

type Sabotage = (&'static str, fn(&mut SystemView));

fn each_is_found(moment: Moment, cases: &[Sabotage]) {
    for (expected, sabotage) in cases {
        let mut view = healthy();
        sabotage(&mut view);

        let found = violations(&view, moment);

        let named = found.iter().any(|violation| violation.contains(expected));
        assert!(named, "{expected:?} is not among {found:#?}");
    }
}

#[test]
fn a_healthy_system_is_found_healthy() {
    assert_eq!(violations(&healthy(), Moment::AtRest), Vec::<String>::new());
    assert_eq!(
        violations(&SystemView::default(), Moment::AtRest),
        Vec::<String>::new()
    );
}

#[test]
fn what_may_never_be_is_named() {
    each_is_found(
        Moment::Any,
        &[
            ("both hold 5a:00:00:00:00:01", |view| {
                second(view).mac = MAC.parse().unwrap();
            }),
            ("both hold 10.77.0.2 on blue", |view| {
                second(view).addressing = nic().addressing;
            }),
            ("both hold slot rp1 of vm1", |view| {
                second(view).moving_to = nic().placement;
            }),
            ("usage of max_nics is 1, its limit 0", |view| {
                view.limits = vec![max_nics(Some(0), 0)];
            }),
            ("usage of max_nics is 9, its limit 8", |view| {
                view.limits = vec![max_nics(Some(8), 9)];
            }),
            ("host: nf-abc0123xyz has no owner", |view| view.nics.clear()),
            (
                "vm1: QEMU has nic-abc0123xyz, which has no record",
                |view| {
                    view.nics.clear();
                },
            ),
            ("vm1: QEMU has nic-abc0123xyz, which is available", |view| {
                record(view).state = NicState::Available;
            }),
            (
                "vm1: QEMU has nic-abc0123xyz, which is placed elsewhere",
                |view| {
                    record(view).placement.as_mut().unwrap().vm = "vm2".parse().unwrap();
                },
            ),
            ("is plugged into vm1 and into vm2", |view| {
                view.vms.insert("vm2".parse().unwrap(), vm());
            }),
            ("has 5a:00:00:00:00:09, the record", |view| {
                let devices = &mut in_vm1(view).devices;
                devices.get_mut(&id().device_id()).unwrap().mac =
                    Some("5a:00:00:00:00:09".parse().unwrap());
            }),
            ("passes frames without its filters", |view| {
                at_port(view).filters = Some(Filters::Missing);
            }),
            ("passes frames, nic-abc0123xyz is available", |view| {
                view.vms.clear();
                record(view).state = NicState::Available;
            }),
        ],
    );
}

#[test]
fn what_may_not_stay_is_named() {
    each_is_found(
        Moment::AtRest,
        &[
            ("is attaching and says nothing of it", |view| {
                record(view).state = NicState::Attaching;
            }),
            (
                "host: nf-abc0123xyz is there, nic-abc0123xyz is nowhere",
                |view| {
                    record(view).placement = None;
                },
            ),
            ("in use without a port in its network", |view| {
                view.host.ports.clear()
            }),
            ("in use and no QEMU holds its port", |view| {
                at_port(view).holder = Some(Holder::Nobody);
            }),
            ("br-blue is not what it was", |view| {
                view.host.disturbed = vec!["br-blue is not what it was".to_owned()];
            }),
            (
                "vm1: nic-abc0123xyz is in use, but QEMU does not have it",
                |view| {
                    in_vm1(view).devices.clear();
                },
            ),
            ("vm1: nic-abc0123xyz is in use without a backend", |view| {
                in_vm1(view).netdevs.clear();
            }),
            ("sits in slot rp2, reserved is rp1", |view| {
                let devices = &mut in_vm1(view).devices;
                devices.get_mut(&id().device_id()).unwrap().slot = Some("rp2".to_owned());
            }),
            ("vm1: the device net0 has no owner", |view| {
                in_vm1(view)
                    .devices
                    .insert("net0".to_owned(), DeviceView::default());
            }),
            ("vm1: the backend tap0 has no owner", |view| {
                in_vm1(view).netdevs.insert("tap0".to_owned());
            }),
            ("the guest's device 11.0/00.0 has no owner", |view| {
                let devices = in_guest(view).devices.as_mut().unwrap();
                devices.insert("11.0/00.0".parse().unwrap());
            }),
            ("the link eth0 is in the guest's own namespace", |view| {
                in_guest(view).links = vec![link(Place::Own)];
            }),
            ("in use, but not in its target", |view| {
                in_guest(view).links.clear();
            }),
            ("in use, but not in its target", |view| {
                in_guest(view).links = vec![link(Place::Named("nicferry-holding".to_owned()))];
            }),
            ("in use, but not in its target", |view| {
                in_guest(view).links = vec![link(Place::Process(7))];
            }),
            ("in use, but not in its target", |view| {
                aim_at_process(view, 8);
            }),
            ("links nobody owns in nicferry-holding", |view| {
                view.nics.clear();
                in_guest(view).links = vec![link(Place::Named("nicferry-holding".to_owned()))];
            }),
        ],
    );
}

#[test]
fn a_nic_in_the_namespace_of_its_process_is_where_it_should_be() {
    let mut view = healthy();
    aim_at_process(&mut view, 7);
    view.journal = None;

    assert_eq!(violations(&view, Moment::AtRest), Vec::<String>::new());
}

#[test]
fn a_degraded_nic_or_one_in_a_vm_that_is_off_need_not_be_whole() {
    let mut degraded = healthy();
    record(&mut degraded).degraded = Some(host_api::Degraded {
        reason: "its device has gone".to_owned(),
    });
    in_vm1(&mut degraded).devices.clear();
    in_guest(&mut degraded).links.clear();
    let mut off = healthy();
    *in_vm1(&mut off) = VmView {
        power: PowerState::Off,
        devices: BTreeMap::new(),
        netdevs: [].into(),
        guest: None,
    };
    at_port(&mut off).passes = Reachability::Closed;

    assert_eq!(violations(&degraded, Moment::AtRest), Vec::<String>::new());
    assert_eq!(violations(&off, Moment::AtRest), Vec::<String>::new());
}

#[test]
fn a_journal_that_disagrees_with_the_api_is_named() {
    each_is_found(
        Moment::AtRest,
        &[
            ("journal: the nic row nic-abc0123xyz is of no NIC", |view| {
                view.nics.clear()
            }),
            ("journal: nic-abc0123xyz of the API has no row", |view| {
                on_disk(view).rows.clear();
            }),
            (
                "slot/vm1 rp1 is held for nic nic-abc0123xyz, which is no NIC",
                |view| {
                    on_disk(view).rows.clear();
                },
            ),
            (
                "journal: nic-abc0123xyz (in_use) lacks mac 5a:00:00:00:00:01",
                |view| {
                    on_disk(view).claims.retain(|claim| claim.scope != "mac");
                },
            ),
            (
                "journal: nic-abc0123xyz (in_use) holds slot/vm1 rp2",
                |view| {
                    on_disk(view).claims.insert(claim("slot/vm1", "rp2"));
                },
            ),
            (r#"state is "in_use", the API says "available""#, |view| {
                record(view).state = NicState::Available;
            }),
            ("journal: nic-abc0123xyz: placed at", |view| {
                record(view).placement = None
            }),
            ("journal: nic-abc0123xyz: still in transit", |view| {
                let body = on_disk(view).rows[0].body.as_mut().unwrap();
                body["transit"] = json!({ "leg": "leaving" });
            }),
            ("journal: the meta row x is of no kind in use", |view| {
                on_disk(view).rows.push(row("meta", "x", Some(json!({}))));
            }),
            ("journal: the token row a/b says it is c/", |view| {
                let body = Some(json!({ "tenant": "c" }));
                on_disk(view).rows.push(row("token", "a/b", body));
            }),
            ("journal: the token row torn is no JSON", |view| {
                on_disk(view).rows.push(row("token", "torn", None));
            }),
            ("usage of max_nics is 2, the journal holds 1", |view| {
                view.limits = vec![max_nics(None, 2)];
            }),
        ],
    );
}
