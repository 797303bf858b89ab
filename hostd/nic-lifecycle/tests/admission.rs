//! What the ledger lets through and what it refuses, with the reasons it gives.

mod support;

use nic_lifecycle::{HostQuota, LimitName, NicEvent, NicState, RefusalKind, RequestedAddressing};
use support::{create, ledger, new_nic, nic_id, place};

#[test]
fn a_thousand_attaches_against_a_limit_of_eight_give_eight_and_992_reasons() {
    let mut ledger = ledger(16, 8, HostQuota::default());
    let mut refusals = Vec::new();

    for number in 0..1000 {
        let record = create(&mut ledger, number);
        match ledger.admit_attach(&record, place("vm1", number), 0) {
            Ok(attaching) => drop(ledger.put(attaching)),
            Err(refusal) => refusals.push(refusal),
        }
    }

    assert_eq!(
        ledger
            .nics()
            .filter(|nic| nic.state == NicState::Attaching)
            .count(),
        8
    );
    assert_eq!(refusals.len(), 992);
    for refusal in refusals {
        let limit = refusal.limit.expect("a limit is named");
        assert_eq!(
            (limit.name, limit.value, limit.usage),
            (LimitName::NicsPerVm, 8, 8)
        );
        assert_eq!(limit.frees, "detach a NIC from VM vm1");
    }
}

#[test]
fn slots_used_up_are_a_limit_of_their_own() {
    let mut ledger = ledger(1, 8, HostQuota::default());
    let first = create(&mut ledger, 1);
    let attaching = ledger.admit_attach(&first, place("vm1", 1), 0).unwrap();
    ledger.put(attaching);
    let second = create(&mut ledger, 2);

    let refusal = ledger
        .admit_attach(&second, place("vm1", 2), 0)
        .unwrap_err();

    let limit = refusal.limit.expect("a limit is named");
    assert_eq!(
        (limit.name, limit.value, limit.usage),
        (LimitName::SlotsOfVm, 1, 1)
    );
}

#[test]
fn a_deleted_nic_gives_back_its_mac_its_addresses_and_its_quota() {
    let quota = HostQuota {
        max_nics_per_host: Some(1),
        ..HostQuota::default()
    };
    let mut ledger = ledger(1, 8, quota);
    let first = create(&mut ledger, 1);
    assert_eq!(
        ledger.admit_create(new_nic(2)).unwrap_err().kind,
        RefusalKind::LimitExceeded
    );

    ledger.remove(&first.id);
    let again = ledger.admit_create(new_nic(1)).unwrap();

    assert_eq!((again.mac, again.addressing), (first.mac, first.addressing));
}

#[test]
fn what_is_taken_or_unknown_is_refused_by_field() {
    let mut ledger = ledger(1, 8, HostQuota::default());
    let taken = create(&mut ledger, 1);
    let mut same_mac = new_nic(2);
    same_mac.mac = Some(taken.mac);
    let mut same_address = new_nic(2);
    same_address.addressing = RequestedAddressing::Static(taken.addressing.addresses().to_vec());
    let mut unknown_network = new_nic(2);
    unknown_network.network = "red".parse().unwrap();

    let field = |new| ledger.admit_create(new).unwrap_err().field;

    assert_eq!(field(same_mac), Some("mac"));
    assert_eq!(field(same_address), Some("addressing.addresses"));
    assert_eq!(field(unknown_network), Some("network"));
    let nowhere = ledger.admit_attach(&taken, place("vm9", 1), 0).unwrap_err();
    assert_eq!(
        (nowhere.kind, nowhere.field),
        (RefusalKind::NotFound, Some("vm"))
    );
}

#[test]
fn a_move_reserves_both_places_until_it_is_over() {
    let mut ledger = ledger(1, 1, HostQuota::default());
    let mut record = create(&mut ledger, 1);
    record = ledger.admit_attach(&record, place("vm1", 1), 0).unwrap();
    record.apply(NicEvent::Bound, 0).unwrap();
    record = ledger.admit_move(&record, place("vm2", 1), 0).unwrap();
    ledger.put(record.clone());
    let other = create(&mut ledger, 2);
    let free =
        |ledger: &nic_lifecycle::Ledger, vm| ledger.admit_attach(&other, place(vm, 2), 0).is_ok();

    assert!(!free(&ledger, "vm1") && !free(&ledger, "vm2"));
    record.apply(NicEvent::Relocated, 0).unwrap();
    ledger.put(record.clone());
    assert!(!free(&ledger, "vm1") && !free(&ledger, "vm2"));
    record.apply(NicEvent::Bound, 0).unwrap();
    ledger.put(record);
    assert!(free(&ledger, "vm1") && !free(&ledger, "vm2"));
}

#[test]
fn a_move_that_fails_goes_back_to_where_it_came_from() {
    let mut ledger = ledger(2, 2, HostQuota::default());
    let mut record = create(&mut ledger, 1);
    record = ledger.admit_attach(&record, place("vm1", 1), 0).unwrap();
    record.apply(NicEvent::Bound, 0).unwrap();
    let origin = record.placement.clone();
    record = ledger.admit_move(&record, place("vm2", 1), 0).unwrap();

    record.apply(NicEvent::Relocated, 0).unwrap();
    record.apply(NicEvent::AttachFailed, 0).unwrap();
    record.apply(NicEvent::Relocated, 0).unwrap();

    assert_eq!(
        (record.state, record.placement),
        (NicState::Attaching, origin)
    );
}

#[test]
fn a_nic_that_is_anywhere_is_not_deleted() {
    let mut ledger = ledger(1, 1, HostQuota::default());
    let record = create(&mut ledger, 1);
    let attaching = ledger.admit_attach(&record, place("vm1", 1), 0).unwrap();

    let refusal = ledger.admit_delete(&attaching, 0).unwrap_err();

    assert_eq!(refusal.kind, RefusalKind::Conflict);
    assert_eq!(
        refusal.message,
        "nic-0000000001 is attaching and cannot be deleted"
    );
    assert!(
        refusal
            .hint
            .is_some_and(|hint| hint.contains("detach it first"))
    );
}

#[test]
fn what_cannot_be_done_to_a_nic_that_is_nowhere_says_what_can() {
    let mut ledger = ledger(1, 1, HostQuota::default());
    let record = create(&mut ledger, 1);

    let detach = ledger.admit_detach(&record, 0).unwrap_err();
    let relocate = ledger.admit_move(&record, place("vm1", 1), 0).unwrap_err();

    assert_eq!(detach.hint.as_deref(), Some("it is in no VM already"));
    assert_eq!(relocate.hint.as_deref(), Some("attach it"));
    assert_eq!(detach.field, Some("id"));
}

#[test]
fn two_nics_cannot_have_one_name_in_one_target() {
    let mut ledger = ledger(2, 2, HostQuota::default());
    let first = create(&mut ledger, 1);
    let attaching = ledger.admit_attach(&first, place("vm1", 1), 0).unwrap();
    ledger.put(attaching);
    let second = create(&mut ledger, 2);

    let refusal = ledger
        .admit_attach(&second, place("vm1", 1), 0)
        .unwrap_err();

    assert_eq!(refusal.field, Some("link_name"));
    assert!(refusal.message.starts_with(nic_id(1).as_str()), "{refusal}");
}

#[test]
fn endless_lists_are_refused_by_field() {
    let ledger = ledger(1, 8, HostQuota::default());
    let mut many_routes = new_nic(1);
    let route = nic_model::Route {
        destination: "10.0.0.0/8".parse().unwrap(),
        gateway: None,
        metric: None,
    };
    many_routes.routes = vec![route; 65];
    let mut many_addresses = new_nic(1);
    let address = |number| format!("10.77.1.{number}/16").parse().unwrap();
    many_addresses.addressing = RequestedAddressing::Static((2..67).map(address).collect());

    let field = |new| ledger.admit_create(new).unwrap_err().field;

    assert_eq!(field(many_routes), Some("routes"));
    assert_eq!(field(many_addresses), Some("addressing.addresses"));
}
