//! A cloud that is kept in a file and made anew from it.

use std::fs;

use host_api::NicState;
use misbehaviour::Pace;
use simulator::netns::{Naming, Page};

use crate::support::{Bed, Cloud, User};

#[tokio::test]
async fn a_restored_cloud_has_its_nics_where_they_were() {
    let old = Cloud::of_two().await;
    let web = old.nic_in("vm1", "web").await;
    let guest = old.guest("vm2");
    let extra = guest
        .make_container(&"extra".parse().unwrap(), Naming::Unnamed)
        .await
        .unwrap();
    let mut request = crate::support::nic_on_blue();
    request.attach = Some(host_api::AttachNic {
        target: nic_model::Target::Pid {
            pid: extra.pid,
            netns_inode: Some(extra.netns_inode),
        },
        ..crate::support::attach("vm2", "web")
    });
    let settled = crate::support::settled();
    let by_pid = old
        .hostd()
        .create_nic(&request, &settled)
        .await
        .unwrap()
        .nic;
    let idle = old
        .hostd()
        .create_nic(&crate::support::nic_on_blue(), &settled)
        .await
        .unwrap()
        .nic;
    let added = [
        "rules",
        "add",
        "kept",
        "--at",
        "event.RESUME",
        "--effect",
        "lose",
    ];
    assert!(old.bed.run(&added).await.status.success());
    let file = old.bed.file("cloud.json", "");

    let kept = old.bed.run(&["snapshot", &file]).await;
    assert!(kept.status.success(), "{kept:?}");
    // Taking it has changed nothing.
    assert_eq!(old.state_of(&web.id).await, NicState::InUse);
    let text = fs::read_to_string(&file).unwrap();
    old.started.end().await.unwrap();
    let bed = Bed::of(User::Own);
    let file = bed.file("cloud.json", &text);
    let restore = bed.command(&["restore", "--json", "--tied", &file]);
    let new = bed.started(restore).await;

    for before in [&web, &by_pid] {
        let after = new.hostd().nic(&before.id).await.unwrap();
        assert_eq!(
            (after.mac, &after.addresses),
            (before.mac, &before.addresses)
        );
        assert_eq!(after.state, NicState::InUse);
    }
    assert_eq!(new.state_of(&idle.id).await, NicState::Available);
    assert!(new.reaches("vm2", "extra", &web).await);
    assert!(new.reaches("vm1", "web", &by_pid).await);
    let rules = new.bed.run(&["rules", "list"]).await;
    assert!(
        String::from_utf8_lossy(&rules.stdout).contains("\"kept\""),
        "{rules:?}"
    );
}

#[tokio::test]
async fn a_cloud_with_a_vm_that_is_off_can_be_kept() {
    let bed = Bed::of(User::Own);
    let topology = bed.file(
        "cloud.toml",
        "[[host]]\nname = \"h1\"\n[[host]]\nname = \"h2\"\n\
         [[vm]]\nid = \"a\"\nhost = \"h1\"\n\
         [[vm]]\nid = \"b\"\nhost = \"h2\"\n\
         [[vm]]\nid = \"c\"\nhost = \"h2\"\n",
    );
    let cloud = bed.up(&[&topology]).await;
    let killed = cloud.bed.run(&["vm", "kill", "a"]).await;
    assert!(killed.status.success(), "{killed:?}");
    let file = cloud.bed.file("cloud.json", "");

    let kept = cloud.bed.run(&["snapshot", &file]).await;

    assert!(kept.status.success(), "{kept:?}");
}

#[tokio::test]
async fn what_would_hold_nics_up_comes_after_them() {
    let old = Bed::of(User::Own).up(&["--vms", "1"]).await;
    let nic = old.nic_in("vm1", "web").await;
    let rule = ["--at", "qmp.device_add", "--effect", "error=no room"];
    let rule = [["rules", "add", "full"].as_slice(), &rule].concat();
    assert!(old.bed.run(&rule).await.status.success());
    let pace = old.bed.run(&["pace", "plug", "manual"]).await;
    assert!(pace.status.success(), "{pace:?}");
    let file = old.bed.file("cloud.json", "");
    let kept = old.bed.run(&["snapshot", &file]).await;
    assert!(kept.status.success(), "{kept:?}");
    let text = fs::read_to_string(&file).unwrap();
    old.started.end().await.unwrap();

    let bed = Bed::of(User::Own);
    let file = bed.file("cloud.json", &text);
    let restore = bed.command(&["restore", "--json", "--tied", &file]);
    let new = bed.started(restore).await;

    assert_eq!(new.state_of(&nic.id).await, NicState::InUse);
    for again in ["restored", "reset"] {
        let page: Page = new.started.control().get("/").await.unwrap();
        let hardware = page.vms[0].hardware.as_ref().unwrap();
        assert_eq!(hardware.rules[0].rule.name, "full", "{again}");
        assert_eq!(hardware.paces[0].pace, Pace::Manual, "{again}");
        assert!(new.bed.run(&["reset"]).await.status.success());
    }
}

#[tokio::test]
async fn a_file_that_is_no_snapshot_is_refused() {
    let bed = Bed::of(User::Own);
    let empty = "{\"version\": 9, \"plan\": {\"topology\": {\"hosts\": [], \"networks\": [], \
        \"classes\": [], \"quota\": {}, \"timeouts\": {}, \"vms\": []}, \"frames\": \"veth\", \
        \"script\": {}, \"programs\": {\"simulator\": \"\", \"hostd\": \"\", \
        \"guest_agent\": \"\"}}, \"journals\": {}, \"containers\": {}, \"placed\": []}";
    for (content, expected) in [("{}", "missing field"), (empty, "version: it is 9")] {
        let file = bed.file("cloud.json", content);

        let refused = bed.run(&["restore", &file]).await;

        let complaint = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(
            !refused.status.success() && complaint.contains(expected),
            "{complaint}"
        );
    }
}

#[tokio::test]
async fn a_file_that_cannot_be_written_is_told_before_any_hostd_is_killed_for_it() {
    let cloud = Bed::of(User::Own).up(&["--vms", "1"]).await;

    let kept = cloud
        .bed
        .run(&["snapshot", "/nonexistent/cloud.json"])
        .await;

    let said = String::from_utf8(kept.stderr).unwrap();
    assert!(!kept.status.success(), "{said}");
    assert!(
        said.contains("cannot write /nonexistent/cloud.json: "),
        "{said}"
    );
    let page: Page = cloud.started.control().get("/").await.unwrap();
    let ended = |event: &simulator::netns::Event| event.text.contains("has ended");
    assert!(!page.events.iter().any(ended), "{:?}", page.events);
}
