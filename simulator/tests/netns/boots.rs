//! Guests that take their time to boot, or never do: the cloud is there without them.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use simulator::netns::{GuestState, Page};
use tokio::process::Command;

use crate::support::{Bed, Cloud, User, until};

async fn guest_state(cloud: &Cloud) -> GuestState {
    let page: Page = cloud.started.control().get("/").await.unwrap();
    page.vms[0].hardware.as_ref().unwrap().guest
}

#[tokio::test]
async fn a_cloud_does_not_wait_for_a_guest_that_is_held_up() {
    let boot = "operation = \"guest.boot\"\nname = \"b\"\n";
    for (script, after_step) in [
        (
            "[[pace]]\ntransition = \"boot\"\npace = \"manual\"\n",
            GuestState::Up,
        ),
        (
            "[[pace]]\ntransition = \"boot\"\npace = \"after 1h\"\n",
            GuestState::Down,
        ),
        (
            &format!("[[rule]]\n{boot}effect = \"lose\"\n"),
            GuestState::Down,
        ),
        (
            &format!("[[rule]]\n{boot}effect = \"ignore\"\n"),
            GuestState::Down,
        ),
        (
            &format!("[[rule]]\n{boot}effect = {{ crash = \"before\" }}\n"),
            GuestState::Down,
        ),
    ] {
        let bed = Bed::of(User::Own);
        let rules = bed.file("rules.toml", script);

        let cloud = bed.up(&["--vms", "1", "--rules", &rules]).await;

        assert_eq!(guest_state(&cloud).await, GuestState::Down, "{script}");
        let stepped = cloud.bed.run(&["step", "vm1"]).await;
        assert!(stepped.status.success(), "{stepped:?}");
        assert_eq!(guest_state(&cloud).await, after_step, "{script}");
        if after_step == GuestState::Up {
            until("hostd is in touch with the agent", async || {
                let vm = cloud.hostd().vm(&"vm1".parse().unwrap()).await.unwrap();
                vm.agent.state == host_api::AgentState::Ready
            })
            .await;
        }
    }
}

#[tokio::test]
async fn a_cloud_that_does_not_come_up_leaves_nothing() {
    let bed = Bed::of(User::Own);
    let rules = bed.file(
        "rules.toml",
        "[[rule]]\nname = \"b\"\noperation = \"qmp.qmp_capabilities\"\n\
         effect = { crash = \"before\" }\n",
    );

    let ended = bed.run(&["up", "--vms", "1", "--rules", &rules]).await;

    let complaint = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(!ended.status.success(), "{complaint}");
    assert!(complaint.contains("the sandbox is ready"), "{complaint}");
    assert_eq!(bed.left(), Vec::<String>::new());
}

#[tokio::test]
async fn a_vm_that_does_not_come_up_is_ended_and_its_last_words_are_told() {
    let bed = Bed::of(User::Own);
    let simulator = bed.own_programs().join("simulator");
    let mut up = Command::new(&simulator);
    up.args(["up", "--json", "--tied", "--vms", "1"]);
    up.env("XDG_RUNTIME_DIR", bed.directory.path());
    let cloud = bed.started(up).await;
    let control = cloud.started.control();
    control.post("/v1/vms/vm1/kill", &()).await.unwrap();
    let script = "#!/bin/sh\necho no kernel >&2\necho what is a VM\nexec sleep 60\n";
    let fresh = cloud.bed.file("stuck", script);
    fs::set_permissions(&fresh, fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(fresh, simulator).unwrap();

    let refused = control.post("/v1/vms/vm1/start", &()).await.unwrap_err();

    let refused = refused.cause.to_string();
    assert!(refused.contains("it says something else"), "{refused}");
    assert!(refused.contains("no kernel"), "{refused}");
    until("both VMs are told to be off", async || {
        let page: Page = control.get("/").await.unwrap();
        let off = page
            .events
            .iter()
            .filter(|event| event.text == "VM vm1 is off: signal 9");
        off.count() == 2
    })
    .await;
}
