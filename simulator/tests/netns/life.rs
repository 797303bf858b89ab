//! A NIC's whole life in a cloud, whoever runs it and however frames go.

use host_api::MoveNic;
use host_api::client::Progress;
use nic_model::Target;

use crate::support::{Bed, User, settled, until};

/// Every frame that gets from one container to the other, and nothing left of it at the end.
async fn a_whole_life(user: User, frames: &str) {
    let cloud = Bed::of(user).up(&["--vms", "2", "--frames", frames]).await;
    let web = cloud.nic_in("vm1", "web").await;
    let db = cloud.nic_in("vm2", "db").await;
    assert!(cloud.reaches("vm2", "db", &web).await);
    assert!(cloud.reaches("vm1", "web", &db).await);

    let over = MoveNic {
        vm: "vm2".parse().unwrap(),
        target: Target::Netns {
            name: "web".parse().unwrap(),
        },
        link_name: None,
    };
    let moved = cloud
        .hostd()
        .move_nic(&web.id, &over, &settled())
        .await
        .unwrap();
    assert_eq!(moved.progress, Progress::Settled);
    assert_eq!(
        (moved.nic.mac, &moved.nic.addresses),
        (web.mac, &web.addresses)
    );
    assert!(cloud.links("vm1", "web").await.is_empty());
    assert!(cloud.reaches("vm2", "db", &moved.nic).await);

    for nic in [&web.id, &db.id] {
        cloud.hostd().detach_nic(nic, &settled()).await.unwrap();
        cloud.hostd().delete_nic(nic, &settled()).await.unwrap();
    }
    for (vm, container) in [("vm1", "web"), ("vm2", "web"), ("vm2", "db")] {
        assert!(
            cloud.links(vm, container).await.is_empty(),
            "{vm}/{container}"
        );
    }
    until("nothing of a NIC is left on the host", async || {
        cloud.host_links(0).await.is_empty()
    })
    .await;
    cloud.started.end().await.unwrap();
    assert_eq!(cloud.bed.left(), [""; 0]);
}

#[tokio::test]
async fn a_nic_lives_on_pairs_of_links() {
    a_whole_life(User::Own, "veth").await;
}

#[tokio::test]
async fn a_nic_lives_on_taps() {
    a_whole_life(User::Own, "tap").await;
}

#[tokio::test]
async fn a_nic_lives_in_a_cloud_of_nobody() {
    a_whole_life(User::Nobody, "auto").await;
}

#[tokio::test]
async fn networks_reach_from_host_to_host() {
    let bed = Bed::of(User::Own);
    let file = bed.file(
        "hosts.toml",
        "[[host]]\nname = \"a\"\n[[host]]\nname = \"b\"\n\
         [[vm]]\nid = \"vm1\"\nhost = \"a\"\ncontainer = [\"web\"]\n\
         [[vm]]\nid = \"vm2\"\nhost = \"b\"\ncontainer = [\"db\"]\n",
    );
    let cloud = bed.up(&[&file]).await;
    let far = cloud.started.hostd(1).unwrap();
    let request = host_api::CreateNic {
        // Each hostd gives addresses of its own, so one of them is told which.
        addressing: Some(crate::support::fixed_address("10.77.0.99/24")),
        attach: Some(crate::support::attach("vm2", "db")),
        ..crate::support::nic_on_blue()
    };
    let db = far.create_nic(&request, &settled()).await.unwrap().nic;

    let web = cloud.nic_in("vm1", "web").await;

    assert!(cloud.reaches("vm1", "web", &db).await, "{db:?} {web:?}");
}

#[tokio::test]
async fn three_vms_are_up_before_anybody_has_waited() {
    let cloud = Bed::of(User::Own).up(&[]).await;

    let vms = cloud.hostd().vms().await.unwrap().vms;

    assert_eq!(vms.len(), 3);
    let ready = |vm: &host_api::Vm| vm.agent.state == host_api::AgentState::Ready;
    assert!(vms.iter().all(ready), "{vms:?}");
    // How long it takes is measured elsewhere; here only that it is told.
    assert!(cloud.started.state.ready_after_ms > 0.0);
}
