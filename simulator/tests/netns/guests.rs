//! What a simulated machine has in common with a real one.

use std::time::Duration;

use host_api::NicState;
use simulator::netns::{AgentWanted, Naming, Place};

use crate::support::{Bed, Cloud, User, settled, until};

#[tokio::test]
async fn a_vm_that_is_reset_gets_its_nics_again() {
    for frames in ["veth", "tap"] {
        let cloud = Bed::of(User::Own)
            .up(&["--vms", "2", "--frames", frames])
            .await;
        let web = cloud.nic_in("vm1", "web").await;
        let db = cloud.nic_in("vm2", "db").await;

        let reset = cloud.bed.run(&["vm", "reset", "vm1"]).await;

        assert!(reset.status.success(), "{reset:?}");
        until("the NIC is bound in the new guest", async || {
            // Nobody answers before it is up.
            let place = Place::Container("web".parse().unwrap());
            let links = cloud.guest("vm1").links(place).await.unwrap_or_default();
            links
                .iter()
                .any(|link| link.mac == Some(web.mac) && link.up)
        })
        .await;
        assert!(cloud.reaches("vm2", "db", &web).await, "{frames}");
        assert!(cloud.reaches("vm1", "web", &db).await, "{frames}");
    }
}

#[tokio::test]
async fn a_link_outlives_the_container_it_was_in() {
    for frames in ["veth", "tap"] {
        let cloud = Bed::of(User::Own)
            .up(&["--vms", "1", "--frames", frames])
            .await;
        let guest = cloud.guest("vm1");
        let name = "brief".parse().unwrap();
        guest.make_container(&name, Naming::Named).await.unwrap();
        let nic = cloud.nic_in("vm1", "brief").await;

        guest.kill_container(&name).await.unwrap();

        let holding = Place::Netns("nicferry-holding".parse().unwrap());
        until("the agent holds the link that came back", async || {
            let links = guest.links(holding.clone()).await.unwrap();
            links.iter().any(|link| link.mac == Some(nic.mac))
        })
        .await;
        let detached = cloud.hostd().detach_nic(&nic.id, &settled()).await.unwrap();
        assert_eq!(detached.nic.state, NicState::Available, "{frames}");
        assert!(guest.links(holding).await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn an_agent_that_has_died_finds_what_it_has_bound() {
    let cloud = Cloud::of_two().await;
    let nic = cloud.nic_in("vm1", "web").await;

    cloud
        .guest("vm1")
        .set_agent(AgentWanted::Restarted)
        .await
        .unwrap();

    let detached = cloud.hostd().detach_nic(&nic.id, &settled()).await.unwrap();
    assert_eq!(detached.nic.state, NicState::Available);
    assert!(cloud.links("vm1", "web").await.is_empty());
}

#[tokio::test]
async fn guests_do_not_see_each_other() {
    let cloud = Cloud::of_two().await;
    let list = ["sh", "-c", "ls /run/netns; ls -d /proc/[0-9]*"];

    let seen = cloud
        .guest("vm1")
        .run(Place::Own, &list, Duration::from_secs(5))
        .await
        .unwrap();

    let names: Vec<_> = seen
        .stdout
        .lines()
        .filter(|line| !line.starts_with('/'))
        .collect();
    assert_eq!(names, ["db", "nicferry-holding", "web"]);
    // The first process, the agent, two containers and the shell with its own.
    let processes = seen
        .stdout
        .lines()
        .filter(|line| line.starts_with("/proc/"))
        .count();
    assert!((4..=7).contains(&processes), "{}", seen.stdout);
}

#[tokio::test]
async fn a_program_runs_in_a_container_with_its_own_words() {
    for user in [User::Own, User::Nobody] {
        let cloud = Bed::of(user).up(&["--vms", "1"]).await;
        let nic = cloud.nic_in("vm1", "web").await;

        let shown = ["exec", "vm1/web", "--", "cat", "/proc/net/dev"];
        let shown = cloud.bed.run(&shown).await;
        let failed = ["exec", "vm1/db", "--", "sh", "-c", "exit 7"];
        let failed = cloud.bed.run(&failed).await;
        let nowhere = cloud.bed.run(&["exec", "vm1/cellar", "--", "true"]).await;

        let text = String::from_utf8_lossy(&shown.stdout).into_owned();
        assert!(text.contains("eth0:"), "{nic:?}: {shown:?}");
        assert_eq!(failed.status.code(), Some(7), "{failed:?}");
        let complaint = String::from_utf8_lossy(&nowhere.stderr).into_owned();
        assert!(
            complaint.contains("there is no container cellar"),
            "{complaint}"
        );
    }
}

#[tokio::test]
async fn a_vm_that_has_lost_its_power_can_be_switched_on_again() {
    for frames in ["tap", "veth"] {
        power_failure(frames).await;
    }
}

async fn power_failure(frames: &str) {
    let bed = Bed::of(User::Own);
    let rule = "[[rule]]\nname = \"a\"\noperation = \"event.STOP\"\neffect = \"lose\"\n";
    let rules = bed.file("rules.toml", rule);
    let cloud = bed
        .up(&["--vms", "1", "--frames", frames, "--rules", &rules])
        .await;
    let nic = cloud.nic_in("vm1", "web").await;

    assert!(cloud.bed.run(&["vm", "kill", "vm1"]).await.status.success());
    until("hostd knows that the NIC is in no VM", async || {
        cloud.state_of(&nic.id).await == NicState::Available
    })
    .await;
    let again = cloud.bed.run(&["vm", "kill", "vm1"]).await;
    let started = cloud.bed.run(&["vm", "start", "vm1"]).await;

    assert!(
        String::from_utf8_lossy(&again.stderr).contains("VM vm1 is off"),
        "{again:?}"
    );
    assert!(started.status.success(), "{started:?}");
    until("hostd is in touch with the VM again", async || {
        let vm = cloud.hostd().vm(&"vm1".parse().unwrap()).await.unwrap();
        let runs = vm.power == Some(nic_model::PowerState::Running);
        runs && vm.agent.state == host_api::AgentState::Ready
    })
    .await;
    let attach = crate::support::attach("vm1", "web");
    let attached = cloud
        .hostd()
        .attach_nic(&nic.id, &attach, &settled())
        .await
        .unwrap();
    assert_eq!(attached.nic.state, NicState::InUse);
}
