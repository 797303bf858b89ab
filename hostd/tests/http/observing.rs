//! What an operator watches: VMs, limits, health, metrics.

use std::time::Duration;

use host_api::{HealthStatus, LimitScope, Slots};
use hostd::board::TimedStep;
use hyper::{Method, StatusCode};
use nic_lifecycle::{Action, Step};

use crate::support::{Server, attach, attach_path, within};

#[tokio::test]
async fn a_vm_shows_what_it_has_and_what_is_reserved_in_it() {
    let server = Server::start().await;
    let nic = server.attaching().await;

    let vm = server.client.vm(&"vm1".parse().unwrap()).await.unwrap();

    assert_eq!(
        vm.slots,
        Slots {
            total: 16,
            free: 15,
            reserved: 1
        }
    );
    assert_eq!(
        (vm.limits.max_nics, vm.usage.nics, vm.usage.addresses),
        (8, 1, 1)
    );
    assert_eq!(vm.nics, [nic.id]);
}

#[tokio::test]
async fn limits_show_what_is_used_of_them() {
    let server = Server::start().await;
    server.attaching().await;

    let limits = server.client.limits().await.unwrap().limits;

    let scope = LimitScope::Vm {
        vm: "vm1".parse().unwrap(),
    };
    let of_the_vm: Vec<_> = limits
        .iter()
        .filter(|limit| limit.scope == scope)
        .map(|limit| (limit.name.as_str(), limit.value, limit.usage))
        .collect();
    assert_eq!(
        of_the_vm,
        [("max_nics", Some(8), 1), ("hotplug_slots", Some(16), 1)]
    );
}

#[tokio::test]
async fn health_tells_of_a_vm_whose_hypervisor_does_not_answer() {
    let server = Server::start().await;
    let before = server.client.health().await.unwrap();
    server
        .service
        .store
        .observe(|ledger| ledger.vm_gone(&"vm2".parse().unwrap()));
    server.attaching().await;
    server
        .service
        .store
        .observe(|ledger| ledger.vm_gone(&"vm1".parse().unwrap()));

    let after = server.client.health().await.unwrap();

    assert_eq!(
        (before.status, before.problems.len()),
        (HealthStatus::Ok, 0)
    );
    assert_eq!(after.status, HealthStatus::Degraded);
    assert_eq!(after.problems, ["the hypervisor of VM vm1 does not answer"]);
}

#[tokio::test]
async fn metrics_count_requests_operations_steps_and_states() {
    let server = Server::start().await;
    let nic = server.attaching().await;
    let plug = TimedStep::Host(Step::Act(Action::Plug));
    server
        .service
        .board
        .step_done(&nic.id, None, plug, Duration::from_millis(3));

    let wanted = [
        "hostd_nics{state=\"attaching\"} 1",
        "hostd_nics{state=\"in_use\"} 0",
        "hostd_vms{power=\"running\"} 3",
        "hostd_agents{state=\"absent\"} 3",
        "hostd_slots_free{vm=\"vm1\"} 15",
        "hostd_limit{scope=\"vm\",of=\"vm1\",limit=\"max_nics\"} 8",
        "hostd_limit_usage{scope=\"vm\",of=\"vm1\",limit=\"max_nics\"} 1",
        "hostd_operations_total{operation=\"create\",outcome=\"settled\"} 1",
        "hostd_operations_total{operation=\"attach\",outcome=\"under_way\"} 1",
        "hostd_http_requests_total{route=\"/v1/nics/{id}/attach\",status=\"202\"} 1",
        "hostd_step_duration_seconds_count{step=\"plug\",source=\"host\"} 1",
        "# EOF",
    ];
    let text = within(async {
        loop {
            let text = String::from_utf8(server.get("/metrics").await.body.to_vec()).unwrap();
            if text.contains("step=\"plug\"") {
                return text;
            }
        }
    })
    .await;
    for line in wanted {
        assert!(
            text.lines().any(|found| found == line),
            "{line} is not in\n{text}"
        );
    }
    assert!(
        !text.contains(nic.id.as_str()),
        "no label bears what clients can make"
    );
}

#[tokio::test]
async fn metrics_are_not_for_tenants() {
    let server = Server::start_for_tenant("acme").await;

    let answer = server.get("/metrics").await;

    assert_eq!(answer.status, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn a_request_that_waits_keeps_its_place() {
    let server = Server::start().await;
    let nic = server.created().await;
    let body = serde_json::to_vec(&attach(1)).unwrap();
    let path = format!("{}?wait=60s", attach_path(&nic.id));
    let waiting = server.send(Method::POST, &path, &[], body);
    let admitted = async {
        let is_attaching = |nic: &host_api::Nic| nic.state == host_api::NicState::Attaching;
        while !is_attaching(&server.client.nic(&nic.id).await.unwrap()) {}
        // Whoever is admitted is answered before this, unless it waits.
        server.get("/v1/nics").await;
        String::from_utf8(server.get("/metrics").await.body.to_vec()).unwrap()
    };

    let text = tokio::select! {
        answer = waiting => panic!("it does not wait: {answer:?}"),
        text = within(admitted) => text,
    };

    let in_flight = "hostd_in_flight{what=\"requests\"} 2";
    assert!(text.lines().any(|line| line == in_flight), "{text}");
}
