//! Ledger and journal as one: nothing is held twice, nothing is told before it is durable.

#![expect(clippy::unwrap_used, reason = "set-up that fails is a failed test")]

mod site;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use hostd::board::Board;
use hostd::store::{AdmitError, Admitted, Store, TOKENS_PER_TENANT, TokenUse};
use journal::{
    Batch, Change, CommitError, Journal, LoadError, MemoryJournal, Room, Row, RowKind,
    SqliteJournal,
};
use nic_lifecycle::{
    Ledger, NewNic, NicEvent, NicRecord, Refusal, RequestedAddressing, RequestedPlacement,
};
use nic_model::{MacAddr, NicId, RateLimits, SlotId};
use tokio::sync::{Notify, Semaphore};

use site::{hardware, site};

/// A journal whose disk is slow until it is let through, or full.
struct SluggishJournal {
    gate: Semaphore,
    full: bool,
}

#[async_trait]
impl Journal for SluggishJournal {
    fn load(&self) -> Result<Vec<Row>, LoadError> {
        Ok(Vec::new())
    }

    async fn commit(&self, _batch: Batch) -> Result<(), CommitError> {
        self.gate.acquire().await.unwrap().forget();
        if self.full {
            Err(CommitError::Full)
        } else {
            Ok(())
        }
    }
}

/// A journal whose disk fills up but for its reserve.
#[derive(Default)]
struct CrampedJournal {
    rows: MemoryJournal,
    is_full: AtomicBool,
}

#[async_trait]
impl Journal for CrampedJournal {
    fn load(&self) -> Result<Vec<Row>, LoadError> {
        self.rows.load()
    }

    async fn commit(&self, batch: Batch) -> Result<(), CommitError> {
        if self.is_full.load(Ordering::Relaxed) && batch.room == Room::Free {
            return Err(CommitError::Full);
        }
        self.rows.commit(batch).await
    }
}

/// A journal without claims, for more rows than [`MemoryJournal`] has the time for.
#[derive(Default)]
struct PlainJournal(Mutex<BTreeMap<(RowKind, String), Row>>);

impl PlainJournal {
    fn tokens(&self) -> usize {
        let rows = self.0.lock().unwrap();
        rows.keys()
            .filter(|(kind, _)| *kind == RowKind::Token)
            .count()
    }
}

#[async_trait]
impl Journal for PlainJournal {
    fn load(&self) -> Result<Vec<Row>, LoadError> {
        Ok(self.0.lock().unwrap().values().cloned().collect())
    }

    async fn commit(&self, batch: Batch) -> Result<(), CommitError> {
        let mut rows = self.0.lock().unwrap();
        for change in batch.changes {
            match change {
                Change::Put(row) => drop(rows.insert((row.kind, row.key.clone()), row)),
                Change::Remove { kind, key } => drop(rows.remove(&(kind, key))),
            }
        }
        Ok(())
    }
}

/// A journal that takes its time with what only removes.
#[derive(Default)]
struct LateRemovals {
    rows: PlainJournal,
    arrived: Notify,
    gate: Notify,
}

#[async_trait]
impl Journal for LateRemovals {
    fn load(&self) -> Result<Vec<Row>, LoadError> {
        self.rows.load()
    }

    async fn commit(&self, batch: Batch) -> Result<(), CommitError> {
        let is_put = |change: &Change| matches!(change, Change::Put(_));
        if !batch.changes.iter().any(is_put) {
            self.arrived.notify_one();
            self.gate.notified().await;
        }
        self.rows.commit(batch).await
    }
}

fn store_on(journal: Arc<dyn Journal>) -> Arc<Store> {
    let store = Store::open(site(), journal, Arc::new(Board::default())).unwrap();
    store.observe(|ledger| ledger.observe(&"vm1".parse().unwrap(), hardware()));
    Arc::new(store)
}

fn nic_id(number: u16) -> NicId {
    format!("nic-{number:010}").parse().unwrap()
}

fn admit_create(ledger: &Ledger, number: u16) -> Result<NicRecord, Refusal> {
    let [high, low] = number.to_be_bytes();
    ledger.admit_create(NewNic {
        id: nic_id(number),
        tenant: "acme".parse().unwrap(),
        network: "blue".parse().unwrap(),
        mac: None,
        mac_candidates: vec![MacAddr::local([0, 0, 0, high, low])],
        addressing: RequestedAddressing::Allocate,
        mtu: None,
        routes: Vec::new(),
        limits: RateLimits::default(),
        queue_count: 1,
        now_ms: 0,
    })
}

fn admit_attach(ledger: &Ledger, number: u16) -> Result<NicRecord, Refusal> {
    let to = RequestedPlacement {
        vm: "vm1".parse().unwrap(),
        target: format!("netns:c{number}").parse().unwrap(),
        link_name: "eth0".parse().unwrap(),
        boot_id: None,
    };
    ledger.admit_attach(ledger.nic(&nic_id(number)).unwrap(), to, 0)
}

async fn create(store: &Store, number: u16) {
    store
        .admit(&nic_id(number), None, |ledger| admit_create(ledger, number))
        .await
        .unwrap();
}

fn token(number: u16, request: &str) -> Option<TokenUse> {
    Some(TokenUse {
        tenant: "acme".parse().unwrap(),
        token: "once".parse().unwrap(),
        request: request.to_owned(),
        nic: nic_id(number),
        last: None,
        at_ms: 0,
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_thousand_attaches_at_once_eight_get_in() {
    let store = store_on(Arc::new(MemoryJournal::default()));
    for number in 0..1000 {
        create(&store, number).await;
    }

    let attaches = (0..1000).map(|number| {
        let store = store.clone();
        tokio::spawn(async move {
            store
                .admit(&nic_id(number), None, |ledger| admit_attach(ledger, number))
                .await
        })
    });
    let mut admitted = 0;
    for attach in attaches.collect::<Vec<_>>() {
        match attach.await.unwrap() {
            Ok(_) => admitted += 1,
            Err(AdmitError::Refused(refusal)) => assert_eq!(refusal.limit.unwrap().usage, 8),
            Err(other) => panic!("{other}"),
        }
    }

    assert_eq!(admitted, 8);
    assert_eq!(store.durable_nics_at(&"vm1".parse().unwrap()).len(), 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_request_at_once_from_many_makes_one_nic() {
    let store = store_on(Arc::new(MemoryJournal::default()));

    let requests = (0..50).map(|number| {
        let store = store.clone();
        tokio::spawn(async move {
            let decide = |ledger: &Ledger| admit_create(ledger, number);
            store
                .admit(&nic_id(number), token(number, "create"), decide)
                .await
                .unwrap()
        })
    });
    let mut nics = Vec::new();
    for request in requests.collect::<Vec<_>>() {
        nics.push(match request.await.unwrap() {
            Admitted::Fresh(record) => record.id.clone(),
            Admitted::Repeated(used) => used.nic,
        });
    }

    nics.dedup();
    assert_eq!(nics.len(), 1);
    assert_eq!(store.read(|ledger| ledger.nics().count()), 1);
}

#[tokio::test]
async fn a_token_does_not_cover_another_request() {
    let store = store_on(Arc::new(MemoryJournal::default()));
    store
        .admit(&nic_id(1), token(1, "one"), |ledger| {
            admit_create(ledger, 1)
        })
        .await
        .unwrap();

    let refused = store
        .admit(&nic_id(2), token(2, "other"), |ledger| {
            admit_create(ledger, 2)
        })
        .await;

    assert!(
        matches!(refused, Err(AdmitError::TokenReused { .. })),
        "{refused:?}"
    );
    assert_eq!(store.read(|ledger| ledger.nics().count()), 1);
}

/// Whether a request with a token of its own is recognised as one that has come before.
async fn comes_again(store: &Store, tenant: &str, number: usize) -> bool {
    let used = TokenUse {
        tenant: tenant.parse().unwrap(),
        token: format!("token-{number}").parse().unwrap(),
        at_ms: number as u64,
        ..token(1, "again").unwrap()
    };
    let unchanged = |ledger: &Ledger| Ok(ledger.nic(&nic_id(1)).unwrap().clone());
    match store.admit(&nic_id(1), Some(used), unchanged).await {
        Ok(Admitted::Repeated(_)) => true,
        Ok(Admitted::Fresh(_)) => false,
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn a_tenant_that_uses_too_many_tokens_loses_its_own_oldest_ones() {
    let journal = Arc::new(PlainJournal::default());
    let store = store_on(journal.clone());
    create(&store, 1).await;
    assert!(!comes_again(&store, "blue", 0).await);

    for number in 0..TOKENS_PER_TENANT + 2 {
        assert!(!comes_again(&store, "red", number).await);
    }

    let after_a_restart = store_on(journal.clone());
    assert_eq!(journal.tokens(), TOKENS_PER_TENANT + 1);
    for store in [store, after_a_restart] {
        assert!(comes_again(&store, "blue", 0).await, "another tenant's");
        assert!(comes_again(&store, "red", 2).await, "the oldest kept");
        assert!(!comes_again(&store, "red", 1).await, "forgotten");
    }
}

#[tokio::test]
async fn a_token_used_anew_while_its_first_use_is_forgotten_is_remembered() {
    let journal = Arc::new(LateRemovals::default());
    let store = store_on(journal.clone());
    create(&store, 1).await;
    assert!(!comes_again(&store, "red", 0).await);
    let (expiring, just_over) = (store.clone(), 24 * 60 * 60 * 1000 + 1);
    let expiring = tokio::spawn(async move { expiring.expire_tokens(just_over).await });
    journal.arrived.notified().await;

    for number in 1..=TOKENS_PER_TENANT {
        assert!(!comes_again(&store, "red", number).await);
    }
    assert!(!comes_again(&store, "red", 0).await, "displaced, so new");
    journal.gate.notify_one();
    assert_eq!(expiring.await.unwrap().unwrap(), 1);

    for store in [store, store_on(journal)] {
        assert!(comes_again(&store, "red", 0).await);
    }
}

#[tokio::test]
async fn what_is_remembered_of_a_token_is_small_whatever_came_with_it() {
    let journal = Arc::new(PlainJournal::default());
    let store = store_on(journal.clone());
    create(&store, 1).await;
    let mut last = store.nic(&nic_id(1)).unwrap();
    let route = r#"{"destination": "10.0.0.0/8"}"#;
    last.routes = vec![serde_json::from_str(route).unwrap(); 64];
    last.fail("no_lease", &"x".repeat(4000), 0);
    let large = TokenUse {
        last: Some(Box::new(last)),
        ..token(1, &"x".repeat(60_000)).unwrap()
    };
    let unchanged = |ledger: &Ledger| Ok(ledger.nic(&nic_id(1)).unwrap().clone());

    store
        .admit(&nic_id(1), Some(large.clone()), unchanged)
        .await
        .unwrap();

    let rows = journal.load().unwrap();
    let row = rows.iter().find(|row| row.kind == RowKind::Token).unwrap();
    assert!(row.body.len() < 1024, "{}", row.body);
    let again = store_on(journal);
    let again = again.admit(&nic_id(1), Some(large), unchanged).await;
    assert!(matches!(again, Ok(Admitted::Repeated(used)) if used.last.is_some()));
}

#[tokio::test]
async fn a_row_that_holds_a_whole_request_and_no_number_counts() {
    let journal = Arc::new(PlainJournal::default());
    let body = r#"{"tenant": "acme", "token": "once", "request": "create  {}", "last": null,
        "nic": "nic-0000000001", "at_ms": 0}"#;
    let row = Row {
        kind: RowKind::Token,
        key: "acme/once".to_owned(),
        body: body.to_owned(),
        claims: Vec::new(),
    };
    journal.commit(Batch::default().put(row)).await.unwrap();
    let store = store_on(journal.clone());

    let decide = |ledger: &Ledger| admit_create(ledger, 2);
    let again = store
        .admit(&nic_id(2), token(2, "create  {}"), decide)
        .await;
    let forgotten = store.expire_tokens(u64::MAX).await.unwrap();

    assert!(matches!(again, Ok(Admitted::Repeated(used)) if used.nic == nic_id(1)));
    assert_eq!((forgotten, journal.tokens()), (1, 0));
}

#[tokio::test]
async fn what_cannot_be_journalled_is_given_back() {
    let journal = SluggishJournal {
        gate: Semaphore::new(1),
        full: true,
    };
    let store = store_on(Arc::new(journal));

    let refused = store
        .admit(&nic_id(1), token(1, "one"), |ledger| {
            admit_create(ledger, 1)
        })
        .await;

    assert!(
        matches!(refused, Err(AdmitError::Journal(CommitError::Full))),
        "{refused:?}"
    );
    assert_eq!(store.nic(&nic_id(1)), None);
    assert!(
        store.read(|ledger| admit_create(ledger, 1)).is_ok(),
        "MAC and address are free again"
    );
}

#[tokio::test]
async fn on_a_full_disk_nothing_is_begun_and_everything_is_given_up() {
    let journal = Arc::new(CrampedJournal::default());
    let store = store_on(journal.clone());
    create(&store, 1).await;
    create(&store, 2).await;
    let nic = nic_id(1);
    let attach = |ledger: &Ledger| admit_attach(ledger, 1);
    store.admit(&nic, token(1, "one"), attach).await.unwrap();
    journal.is_full.store(true, Ordering::Relaxed);

    let bound = |record: &mut NicRecord| record.apply(NicEvent::Bound, 0);
    store.settle(&nic, bound).await.unwrap();
    let elsewhere = RequestedPlacement {
        vm: "vm1".parse().unwrap(),
        target: "netns:elsewhere".parse().unwrap(),
        link_name: "eth0".parse().unwrap(),
        boot_id: None,
    };
    let refused = [
        store
            .admit(&nic_id(3), None, |ledger| admit_create(ledger, 3))
            .await,
        store
            .admit(&nic_id(2), None, |ledger| admit_attach(ledger, 2))
            .await,
        store
            .admit(&nic, None, |ledger| {
                ledger.admit_move(ledger.nic(&nic).unwrap(), elsewhere, 0)
            })
            .await,
    ];
    let detach = |ledger: &Ledger| ledger.admit_detach(ledger.nic(&nic).unwrap(), 0);
    store.admit(&nic, None, detach).await.unwrap();
    let detached = |record: &mut NicRecord| record.apply(NicEvent::Detached, 0);
    store.settle(&nic, detached).await.unwrap();
    let delete = |ledger: &Ledger| ledger.admit_delete(ledger.nic(&nic).unwrap(), 0);
    store.admit(&nic, None, delete).await.unwrap();
    store.remove(&nic).await.unwrap();
    let forgotten = store.expire_tokens(u64::MAX).await;

    for refused in refused {
        let full = matches!(refused, Err(AdmitError::Journal(CommitError::Full)));
        assert!(full, "{refused:?}");
    }
    assert_eq!(store.nic(&nic), None);
    assert_eq!(forgotten.unwrap(), 1);
}

#[tokio::test]
async fn a_worker_does_not_see_what_is_not_durable_yet() {
    let journal = Arc::new(SluggishJournal {
        gate: Semaphore::new(1),
        full: false,
    });
    let store = store_on(journal.clone());
    create(&store, 1).await;
    let vm = "vm1".parse().unwrap();

    let attaching = {
        let store = store.clone();
        tokio::spawn(async move {
            store
                .admit(&nic_id(1), None, |ledger| admit_attach(ledger, 1))
                .await
        })
    };
    while store.read(|ledger| ledger.nics_at(&vm).count()) == 0 {
        tokio::task::yield_now().await;
    }
    let seen_before = store.durable_nics_at(&vm);
    journal.gate.add_permits(1);
    attaching.await.unwrap().unwrap();

    assert!(seen_before.is_empty(), "reserved, but not to be acted on");
    assert_eq!(store.durable_nics_at(&vm).len(), 1);
}

#[tokio::test]
async fn everything_acknowledged_is_there_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("journal.sqlite");
    {
        let store = store_on(Arc::new(SqliteJournal::open(&path).unwrap()));
        store
            .admit(&nic_id(1), token(1, "one"), |ledger| {
                admit_create(ledger, 1)
            })
            .await
            .unwrap();
        store
            .admit(&nic_id(1), None, |ledger| admit_attach(ledger, 1))
            .await
            .unwrap();
    }

    let store = store_on(Arc::new(SqliteJournal::open(&path).unwrap()));

    let record = store.nic(&nic_id(1)).unwrap();
    assert_eq!(record.placement.unwrap().slot, SlotId("rp0".to_owned()));
    let again = store
        .admit(&nic_id(2), token(2, "one"), |ledger| {
            admit_create(ledger, 2)
        })
        .await;
    assert!(matches!(again, Ok(Admitted::Repeated(used)) if used.nic == nic_id(1)));
}
