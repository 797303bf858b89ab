//! Events: nothing between two connections is lost, and whatever is lost is told.

use host_api::client::{EventStream, Mutation};
use host_api::{Client, Event, EventKind, EventQuery, ProblemCode};
use hostd::board::{Board, Happening};
use hyper::Method;
use nic_model::VmId;

use crate::support::{Server, attach, within};

async fn next(events: &mut EventStream) -> Event {
    within(events.next()).await.unwrap().unwrap()
}

async fn follow(client: &Client, query: EventQuery, after: Option<u64>) -> EventStream {
    client.events(&query, after).await.unwrap()
}

fn tell(board: &Board, vm: &str, what: &str) {
    board.vm_event(&vm.parse().unwrap(), Happening::VmChanged(what.to_owned()));
}

fn about_vm(vm: &str) -> EventQuery {
    EventQuery {
        nic: None,
        vm: Some(vm.parse().unwrap()),
    }
}

#[tokio::test]
async fn a_client_that_comes_back_gets_what_it_missed() {
    let server = Server::start().await;
    let mut first = follow(&server.client, EventQuery::default(), None).await;
    let nic = server.created().await;
    let seen = next(&mut first).await;
    drop(first);
    tell(&server.service.board, "vm1", "paused");
    server
        .client
        .attach_nic(&nic.id, &attach(1), &Mutation::default())
        .await
        .unwrap();

    let mut again = follow(&server.client, EventQuery::default(), Some(seen.id)).await;

    assert_eq!(
        (seen.kind, seen.nic),
        (EventKind::NicChanged, Some(nic.id.clone()))
    );
    let missed = [
        next(&mut again).await,
        next(&mut again).await,
        next(&mut again).await,
    ];
    assert_eq!(
        missed
            .each_ref()
            .map(|event| (event.kind, event.id - seen.id)),
        [
            (EventKind::VmChanged, 1),
            (EventKind::NicChanged, 2),
            (EventKind::StepDone, 3)
        ],
    );
    assert_eq!(missed[0].message.as_deref(), Some("paused"));
    assert_eq!(missed[1].body.as_ref().unwrap().id, nic.id);
    assert_eq!(missed[2].step.as_ref().unwrap().step.0, "admit");
}

#[tokio::test]
async fn the_end_of_a_vm_is_told_by_name() {
    let server = Server::start().await;
    let mut events = follow(&server.client, about_vm("vm1"), None).await;

    for vm in ["vm2", "vm1"] {
        server
            .service
            .board
            .vm_event(&vm.parse().unwrap(), Happening::VmGone);
    }

    let gone = next(&mut events).await;
    assert_eq!(gone.kind, EventKind::VmGone);
    assert_eq!(gone.vm.as_ref().map(VmId::as_str), Some("vm1"));
    assert_eq!((gone.nic, gone.message), (None, None));
}

#[tokio::test]
async fn an_id_of_another_run_is_answered_with_missed_and_what_is_kept() {
    let server = Server::start().await;
    tell(&server.service.board, "vm1", "found");

    let mut events = follow(&server.client, EventQuery::default(), Some(7)).await;

    let missed = next(&mut events).await;
    let kept = next(&mut events).await;
    assert_eq!(
        (missed.kind, kept.kind),
        (EventKind::Missed, EventKind::VmChanged)
    );
    assert_eq!(
        missed.id + 1,
        kept.id,
        "who comes back with it gets what followed"
    );
}

#[tokio::test]
async fn events_that_are_not_kept_any_more_are_told_as_missed() {
    let server = Server::start().await;
    let board = &server.service.board;
    let mut first = follow(&server.client, EventQuery::default(), None).await;
    tell(board, "vm1", "first");
    let seen = next(&mut first).await.id;
    drop(first);
    for _ in 0..5000 {
        tell(board, "vm1", "more");
    }

    let mut again = follow(&server.client, EventQuery::default(), Some(seen)).await;

    let missed = next(&mut again).await;
    assert_eq!(missed.kind, EventKind::Missed);
    assert_eq!(missed.id, seen + 5000 - 4096);
    assert_eq!(next(&mut again).await.id, missed.id + 1);
}

#[tokio::test]
async fn a_follower_of_a_vm_sees_its_nics_leave_and_nothing_else() {
    let server = Server::start().await;
    let nic = server.created().await;
    let mut events = follow(&server.client, about_vm("vm1"), None).await;
    tell(&server.service.board, "vm2", "paused");
    server
        .client
        .attach_nic(&nic.id, &attach(1), &Mutation::default())
        .await
        .unwrap();
    server
        .client
        .detach_nic(&nic.id, &Mutation::default())
        .await
        .unwrap();
    let leave =
        |record: &mut nic_lifecycle::NicRecord| record.apply(nic_lifecycle::NicEvent::Detached, 1);
    server.service.store.settle(&nic.id, leave).await.unwrap();

    let mut states = Vec::new();
    while states.last().is_none_or(|state| state != "available") {
        let event = next(&mut events).await;
        assert_ne!(event.vm.as_ref().map(VmId::as_str), Some("vm2"));
        states.extend(event.body.map(|nic| nic.state.to_string()));
    }

    assert_eq!(states, ["attaching", "detaching", "available"]);
}

#[tokio::test]
async fn a_tenant_hears_of_its_own_nics_to_their_end_and_of_no_others() {
    let server = Server::start().await;
    let red = server.client.clone().for_tenant("red".parse().unwrap());
    let mut events = follow(&red, EventQuery::default(), None).await;
    let other = server.created().await;
    server
        .client
        .delete_nic(&other.id, &Mutation::default())
        .await
        .unwrap();
    let request = crate::support::create();
    let own = red
        .create_nic(&request, &Mutation::default())
        .await
        .unwrap()
        .nic;
    red.delete_nic(&own.id, &Mutation::default()).await.unwrap();

    let heard = [
        next(&mut events).await,
        next(&mut events).await,
        next(&mut events).await,
    ];

    assert!(
        heard
            .iter()
            .all(|event| event.nic.as_ref() == Some(&own.id)),
        "{heard:?}"
    );
    assert_eq!(
        heard.map(|event| event.kind),
        [
            EventKind::NicChanged,
            EventKind::NicChanged,
            EventKind::NicDeleted
        ],
    );
}

#[tokio::test]
async fn a_bad_last_event_id_is_refused_by_name() {
    let server = Server::start().await;
    for bad in [
        "yesterday",
        "",
        "-1",
        "+1",
        "1.5",
        "0x10",
        "18446744073709551616",
        "\u{661}",
    ] {
        let headers = [("last-event-id", bad)];
        let answer = server
            .send(Method::GET, "/v1/events", &headers, Vec::new())
            .await;

        assert_eq!(answer.problem().code, ProblemCode::InvalidRequest, "{bad}");
        let problem = answer.problem();
        assert_eq!(problem.field.as_deref(), Some("last-event-id"), "{bad}");
        let says = ["whole number", "printable ASCII"];
        assert!(
            says.iter().any(|text| problem.message.contains(text)),
            "{problem:?}"
        );
    }
}

#[tokio::test]
async fn one_follower_too_many_is_refused_and_has_room_once_another_has_left() {
    let server = Server::start().await;
    let mut followers = Vec::new();
    for _ in 0..256 {
        followers.push(follow(&server.client, EventQuery::default(), None).await);
    }

    let refused = server.get("/v1/events").await;
    drop(followers.pop());

    assert_eq!(refused.problem().code, ProblemCode::Overloaded);
    within(async {
        while server
            .client
            .events(&EventQuery::default(), None)
            .await
            .is_err()
        {
            tokio::task::yield_now().await;
        }
    })
    .await;
}
