//! Mutations: what is answered, what is repeated, what goes on without its client.

use std::sync::Arc;

use async_trait::async_trait;
use futures::{StreamExt, stream};
use host_api::client::{ClientError, Mutation, Progress};
use host_api::{CreateNic, LimitDetail, NicState, ProblemCode};
use hostd::board::{BoardEvent, Happening};
use hyper::{Method, StatusCode};
use journal::{Batch, CommitError, Journal, LoadError, Row};
use nic_lifecycle::NicEvent;
use nic_lifecycle::NicState::Attaching;
use nic_model::NicId;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::sync::Semaphore;

use crate::support::{Server, attach, attach_path, create, within};

fn once() -> Mutation {
    Mutation {
        token: Some("once".parse().unwrap()),
        wait: None,
    }
}

fn waiting(wait: &str) -> Mutation {
    Mutation {
        token: None,
        wait: Some(wait.parse().unwrap()),
    }
}

fn code_of(error: &ClientError) -> Option<ProblemCode> {
    if let ClientError::Problem { problem, .. } = error {
        return Some(problem.code);
    }
    None
}

#[tokio::test]
async fn a_nic_is_created_shown_listed_and_deleted() {
    let server = Server::start().await;

    let made = server
        .client
        .create_nic(&create(), &Mutation::default())
        .await
        .unwrap();
    let id = &made.nic.id;
    assert_eq!(
        (made.progress, made.nic.state),
        (Progress::Settled, NicState::Available)
    );
    assert_eq!(server.client.nic(id).await.unwrap(), made.nic);
    assert_eq!(
        server.client.nics().await.unwrap().nics,
        std::slice::from_ref(&made.nic)
    );

    let gone = server
        .client
        .delete_nic(id, &Mutation::default())
        .await
        .unwrap();
    assert_eq!((gone.progress, &gone.nic.id), (Progress::Settled, id));
    assert!(server.client.nics().await.unwrap().nics.is_empty());
    let error = server.client.nic(id).await.unwrap_err();
    assert_eq!(code_of(&error), Some(ProblemCode::NotFound));
}

#[tokio::test]
async fn a_repeated_request_has_no_effect_of_its_own() {
    let server = Server::start().await;

    let first = server.client.create_nic(&create(), &once()).await.unwrap();
    let again = server.client.create_nic(&create(), &once()).await.unwrap();

    assert_eq!(again, first);
    assert_eq!(server.client.nics().await.unwrap().nics.len(), 1);
}

#[tokio::test]
async fn a_deletion_repeated_by_an_operator_gives_the_first_answer() {
    let server = Server::start().await;
    let red = CreateNic {
        tenant: Some("red".parse().unwrap()),
        ..create()
    };
    let created = server.client.create_nic(&red, &Mutation::default()).await;
    let id = created.unwrap().nic.id;

    let first = server.client.delete_nic(&id, &once()).await.unwrap();
    let again = server.client.delete_nic(&id, &once()).await.unwrap();

    assert_eq!(again.nic.id, first.nic.id);
}

#[tokio::test]
async fn a_token_of_another_request_is_a_conflict_that_names_the_header() {
    let server = Server::start().await;
    server.client.create_nic(&create(), &once()).await.unwrap();
    let other = br#"{"network": "blue", "mtu": 1400}"#.to_vec();

    let headers = [("client-token", "once")];
    let answer = server.send(Method::POST, "/v1/nics", &headers, other).await;

    assert_eq!(answer.status, StatusCode::CONFLICT);
    assert_eq!(answer.problem().code, ProblemCode::Conflict);
    assert_eq!(answer.problem().field.as_deref(), Some("client-token"));
    assert_eq!(server.client.nics().await.unwrap().nics.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_thousand_attaches_at_once_eight_get_in_and_the_rest_learn_why() {
    let server = Arc::new(Server::start().await);
    let mut ids = Vec::new();
    for _ in 0..1000 {
        ids.push(server.created().await.id);
    }

    let answers: Vec<_> = stream::iter(ids.into_iter().zip(0..))
        .map(|(id, number)| {
            let server = server.clone();
            let body = serde_json::to_vec(&attach(number)).unwrap();
            tokio::spawn(async move { server.post(&attach_path(&id), body).await })
        })
        .buffer_unordered(100)
        .map(Result::unwrap)
        .collect()
        .await;

    let (admitted, refused): (Vec<_>, Vec<_>) = answers
        .iter()
        .partition(|answer| answer.status == StatusCode::ACCEPTED);
    assert_eq!((admitted.len(), refused.len()), (8, 992));
    let limit = LimitDetail {
        name: "max_nics".to_owned(),
        value: 8,
        usage: 8,
        frees: "detach a NIC from VM vm1".to_owned(),
    };
    for answer in refused {
        assert_eq!(answer.status, StatusCode::CONFLICT);
        assert_eq!(answer.problem().code, ProblemCode::LimitExceeded);
        assert_eq!(answer.problem().limit.as_ref(), Some(&limit));
    }
}

#[tokio::test]
async fn a_wait_that_is_over_before_the_nic_settles_is_answered_as_under_way() {
    let server = Server::start().await;
    let id = server.created().await.id;

    let answer = server
        .client
        .attach_nic(&id, &attach(1), &waiting("20ms"))
        .await
        .unwrap();

    assert_eq!(
        (answer.progress, answer.nic.state),
        (Progress::UnderWay, NicState::Attaching)
    );
    assert_eq!(answer.nic.placement.unwrap().vm.as_str(), "vm1");
}

/// Lets the attach of a NIC be admitted, then lets `events` happen to the NIC.
async fn after_admission(server: &Server, id: &NicId, events: &[NicEvent]) {
    let mut happenings = server.service.board.subscribe(Some(0));
    let is_attaching = |event: &BoardEvent| match &event.what {
        Happening::NicChanged(record) => record.state == Attaching,
        Happening::NicDeleted
        | Happening::StepDone(_)
        | Happening::NicBlocked(_)
        | Happening::NicDegraded(_)
        | Happening::NicRecovered
        | Happening::AgentChanged(_)
        | Happening::VmChanged(_)
        | Happening::VmGone => false,
    };
    if !happenings.past.iter().any(is_attaching) {
        while !is_attaching(&within(happenings.future.recv()).await.unwrap()) {}
    }
    for event in events {
        let change = |record: &mut nic_lifecycle::NicRecord| {
            if *event == NicEvent::AttachFailed {
                record.fail("no_lease", "no DHCP server answered", 1);
            }
            record.apply(*event, 1)
        };
        server.service.store.settle(id, change).await.unwrap();
    }
}

#[tokio::test]
async fn a_wait_ends_when_the_nic_is_in_use() {
    let server = Server::start().await;
    let id = server.created().await.id;
    let (request, wait) = (attach(1), waiting("60s"));

    let (answer, ()) = tokio::join!(
        server.client.attach_nic(&id, &request, &wait),
        after_admission(&server, &id, &[NicEvent::Bound]),
    );

    let answer = answer.unwrap();
    assert_eq!(
        (answer.progress, answer.nic.state),
        (Progress::Settled, NicState::InUse)
    );
}

#[tokio::test]
async fn a_wait_for_an_attach_that_comes_to_nothing_ends_with_its_reason() {
    let server = Server::start().await;
    let id = server.created().await.id;
    let (request, wait) = (attach(1), waiting("60s"));

    let (answer, ()) = tokio::join!(
        server.client.attach_nic(&id, &request, &wait),
        after_admission(&server, &id, &[NicEvent::AttachFailed, NicEvent::Detached]),
    );

    let ClientError::Problem { problem, status } = answer.unwrap_err() else {
        panic!("a problem is expected");
    };
    assert_eq!((problem.code, status), (ProblemCode::NoLease, 502));
    assert_eq!(problem.nic, Some(id.clone()));
    let shown = server.client.nic(&id).await.unwrap();
    assert_eq!(shown.last_error.unwrap().code, ProblemCode::NoLease);
}

/// A journal whose commits wait at a gate, or find the disk full.
struct GatedJournal {
    arrived: Semaphore,
    gate: Semaphore,
    outcome: Result<(), CommitError>,
}

impl GatedJournal {
    fn new(gate: usize, outcome: Result<(), CommitError>) -> Arc<Self> {
        Arc::new(Self {
            arrived: Semaphore::new(0),
            gate: Semaphore::new(gate),
            outcome,
        })
    }
}

#[async_trait]
impl Journal for GatedJournal {
    fn load(&self) -> Result<Vec<Row>, LoadError> {
        Ok(Vec::new())
    }

    async fn commit(&self, _batch: Batch) -> Result<(), CommitError> {
        self.arrived.add_permits(1);
        self.gate.acquire().await.unwrap().forget();
        self.outcome.clone()
    }
}

#[tokio::test]
async fn a_request_is_carried_out_though_its_client_goes_away_during_the_commit() {
    let journal = GatedJournal::new(0, Ok(()));
    let server = Server::start_with(journal.clone(), None).await;
    let mut happenings = server.service.board.subscribe(None).future;
    let mut client = UnixStream::connect(&server.socket).await.unwrap();
    let request =
        "POST /v1/nics HTTP/1.1\r\nhost: x\r\ncontent-length: 19\r\n\r\n{\"network\": \"blue\"}";
    client.write_all(request.as_bytes()).await.unwrap();
    within(journal.arrived.acquire()).await.unwrap().forget();

    drop(client);
    server.get("/v1/nics").await;
    journal.gate.add_permits(1);

    let told = within(happenings.recv()).await.unwrap();
    assert!(matches!(told.what, Happening::NicChanged(_)), "{told:?}");
    let listed = server.client.nics().await.unwrap().nics;
    assert_eq!(
        listed
            .into_iter()
            .map(|nic| Some(nic.id))
            .collect::<Vec<_>>(),
        [told.nic]
    );
}

#[tokio::test]
async fn a_full_disk_refuses_and_leaves_nothing() {
    let journal = GatedJournal::new(1, Err(CommitError::Full));
    let server = Server::start_with(journal, None).await;

    let answer = server.post("/v1/nics", br#"{"network": "blue"}"#).await;

    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.problem().code, ProblemCode::JournalFull);
    assert!(server.client.nics().await.unwrap().nics.is_empty());
}
