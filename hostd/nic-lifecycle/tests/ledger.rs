//! VMs and tenants that come and go: what the ledger knows of one that is being forgotten.

#![expect(clippy::unwrap_used, reason = "set-up that fails is a failed test")]

mod support;

use nic_lifecycle::{HostQuota, Ledger, NicEvent, NicRecord, RefusalKind, Retirement, Site};
use nic_model::VmId;
use support::{create, hardware, ledger, place};

fn vm1() -> VmId {
    "vm1".parse().unwrap()
}

/// A NIC on its way into `vm1`.
fn attaching(ledger: &mut Ledger) -> NicRecord {
    let record = create(ledger, 1);
    let attaching = ledger.admit_attach(&record, place("vm1", 1), 0).unwrap();
    ledger.put(attaching.clone());
    attaching
}

#[test]
fn a_vm_in_which_a_place_is_reserved_is_not_retired() {
    let mut ledger = ledger(2, 2, HostQuota::default());
    attaching(&mut ledger);

    let retirement = ledger.retire(&vm1());

    assert_eq!(retirement, Retirement::Refused);
    assert!(ledger.is_up_to_date(&vm1()));
}

#[test]
fn nobody_is_admitted_to_a_retired_vm_whatever_is_still_observed_of_it() {
    let mut ledger = ledger(2, 2, HostQuota::default());
    let record = create(&mut ledger, 1);
    assert_eq!(ledger.retire(&vm1()), Retirement::Begun);

    ledger.observe(&vm1(), hardware(2));
    ledger.not_observed(&vm1());

    let refusal = ledger.admit_attach(&record, place("vm1", 1), 0);
    let refusal = refusal.unwrap_err();
    assert_eq!(
        (refusal.kind, refusal.field),
        (RefusalKind::NotFound, Some("vm"))
    );
    assert_eq!(ledger.hardware(&vm1()), None);
}

#[test]
fn a_vm_is_not_denied_before_every_hypervisor_has_said_which_it_has() {
    let mut ledger = Ledger::new(Site::default());
    let asked = |ledger: &Ledger| ledger.may_exist(&vm1());
    ledger.await_listing();
    ledger.await_listing();
    ledger.note_listing();
    assert!(asked(&ledger));

    ledger.note_listing();
    assert!(!asked(&ledger));
    ledger.not_observed(&vm1());

    assert!(asked(&ledger));
}

#[test]
fn a_request_for_a_vm_that_has_not_been_looked_at_is_to_come_again() {
    let mut ledger = ledger(1, 1, HostQuota::default());
    let record = create(&mut ledger, 1);
    ledger.await_listing();

    let refusal = ledger.admit_attach(&record, place("vm9", 1), 0);

    assert_eq!(refusal.unwrap_err().kind, RefusalKind::Unavailable);
}

#[test]
fn a_vm_that_comes_back_after_it_was_gone_is_observed_again() {
    let mut ledger = ledger(2, 2, HostQuota::default());
    let record = create(&mut ledger, 1);
    ledger.retire(&vm1());
    ledger.vm_gone(&vm1());

    ledger.observe(&vm1(), hardware(2));

    assert!(ledger.admit_attach(&record, place("vm1", 1), 0).is_ok());
    assert!(ledger.is_up_to_date(&vm1()));
}

#[test]
fn nothing_of_a_vm_is_left_when_it_is_gone() {
    let mut ledger = ledger(2, 2, HostQuota::default());
    let mut record = attaching(&mut ledger);
    record.apply(NicEvent::AttachFailed, 0).unwrap();
    record.apply(NicEvent::Detached, 0).unwrap();
    ledger.put(record);
    ledger.not_observed(&vm1());

    assert_eq!(ledger.retire(&vm1()), Retirement::Begun);
    ledger.vm_gone(&vm1());

    let left = format!("{ledger:?}");
    assert!(!left.contains("vm1"), "{left}");
}

#[test]
fn nothing_of_a_tenant_is_left_when_its_last_nic_is_gone() {
    let mut ledger = ledger(2, 2, HostQuota::default());
    let records = [create(&mut ledger, 1), create(&mut ledger, 2)];

    ledger.remove(&records[0].id);
    assert_eq!(ledger.tenants().count(), 1, "one NIC is left");
    ledger.remove(&records[1].id);

    let left = format!("{ledger:?}");
    assert!(!left.contains("acme"), "{left}");
}
