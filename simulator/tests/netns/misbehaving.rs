//! Rules, paces and clocks, by command, by file and over HTTP, while a cloud runs.

use host_api::client::{Answer, ClientError, Progress};
use host_api::{NicState, Problem, ProblemCode};
use misbehaviour::{ClockOrder, Effect, Pace, PaceRule, Rule, Side, Transition};
use simulator::netns::{ClockRequest, GuestState, Page, RulePage};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use crate::cells::rule_with as rule;
use crate::support::{Bed, Cloud, User, attach, nic_on_blue, until};

/// Asks for a NIC in `vm1/web` and does not wait for it.
async fn begin(cloud: &Cloud) -> nic_model::NicId {
    let request = host_api::CreateNic {
        attach: Some(attach("vm1", "web")),
        ..nic_on_blue()
    };
    let begun = cloud
        .hostd()
        .create_nic(&request, &Default::default())
        .await
        .unwrap();
    assert_eq!(begun.progress, Progress::UnderWay);
    begun.nic.id
}

/// What hostd says of a NIC that did not get there.
fn problem(answer: Result<Answer, ClientError>) -> Problem {
    match answer {
        Err(ClientError::Problem { problem, .. }) => *problem,
        other => panic!("hostd is content: {other:?}"),
    }
}

/// Whether a transition waits for something in `vm1`.
async fn waits(cloud: &Cloud) -> bool {
    let page: Page = cloud.started.control().get("/").await.unwrap();
    let vm = page.vms.iter().find(|vm| vm.id.as_str() == "vm1");
    let hardware = vm.and_then(|vm| vm.hardware.as_ref());
    hardware.is_some_and(|hardware| !hardware.under_way.is_empty())
}

#[tokio::test]
async fn a_guest_that_refuses_is_named_until_the_rule_goes() {
    let cloud = Cloud::of_two().await;
    let control = cloud.started.control();
    let nic = cloud.nic_in("vm1", "web").await;
    control
        .post("/v1/rules", &rule("no", "guest.unplug", Effect::Refuse))
        .await
        .unwrap();

    cloud
        .hostd()
        .detach_nic(&nic.id, &Default::default())
        .await
        .unwrap();
    until("hostd says what blocks it", async || {
        let nic = cloud.hostd().nic(&nic.id).await.unwrap();
        nic.state == NicState::Detaching && nic.blocked.is_some()
    })
    .await;
    let rules: Vec<RulePage> = control.get("/v1/rules").await.unwrap();
    control.delete("/v1/rules/no").await.unwrap();

    assert!(rules[0].done >= 1, "{rules:?}");
    until("it goes through after all", async || {
        cloud.state_of(&nic.id).await == NicState::Available
    })
    .await;
}

#[tokio::test]
async fn what_qemu_refuses_is_told_in_its_words() {
    let cloud = Cloud::of_two().await;
    let words = [
        "rules",
        "add",
        "full",
        "--at",
        "qmp.device_add",
        "--effect",
        "error=no room",
    ];
    let added = cloud
        .bed
        .run(&[words.as_slice(), &["--vm", "vm1"]].concat())
        .await;
    assert!(added.status.success(), "{added:?}");

    let problem = problem(cloud.create("vm1", "web").await);
    let elsewhere = cloud.nic_in("vm2", "web").await;

    assert_eq!(problem.code, ProblemCode::HypervisorRefused);
    assert!(problem.message.contains("no room"), "{problem:?}");
    assert_eq!(elsewhere.state, NicState::InUse);
}

#[tokio::test]
async fn a_rule_that_could_do_nothing_is_refused() {
    let cloud = Cloud::of_two().await;
    let control = cloud.started.control();
    control
        .post("/v1/rules", &rule("a", "qmp.*", Effect::Lose))
        .await
        .unwrap();
    let cases = [
        (
            rule("a", "guest.plug", Effect::Lose),
            "there is one of that name already",
        ),
        (
            rule("b", "guest.plug", Effect::DiskFull),
            "effect: disk-full cannot happen",
        ),
        (
            rule("c", "port.make", Effect::Stall),
            "ports are links of the real kernel",
        ),
        (
            Rule {
                vm: Some("vm9".parse().unwrap()),
                ..rule("d", "guest.plug", Effect::Lose)
            },
            "there is no VM vm9",
        ),
    ];
    for (rule, expected) in cases {
        let refused = control.post("/v1/rules", &rule).await.unwrap_err();

        assert!(
            refused.cause.to_string().contains(expected),
            "{expected}: {}",
            refused.cause
        );
    }
    control.delete("/v1/rules").await.unwrap();
    let left: Vec<RulePage> = control.get("/v1/rules").await.unwrap();
    assert!(left.is_empty());
}

#[tokio::test]
async fn a_link_comes_when_somebody_says_so() {
    let bed = Bed::of(User::Own);
    let rules = bed.file(
        "rules.toml",
        "[[pace]]\ntransition = \"plug\"\npace = \"manual\"\n",
    );
    let cloud = bed.up(&["--vms", "2", "--rules", &rules]).await;
    let nic = begin(&cloud).await;
    until("the device waits to be probed", async || {
        waits(&cloud).await
    })
    .await;
    assert_eq!(cloud.state_of(&nic).await, NicState::Attaching);

    let stepped = cloud.bed.run(&["step", "vm1"]).await;

    assert!(stepped.status.success(), "{stepped:?}");
    until("the NIC is in use", async || {
        cloud.state_of(&nic).await == NicState::InUse
    })
    .await;
}

#[tokio::test]
async fn a_clock_that_stands_still_moves_by_steps() {
    let cloud = Cloud::of_two().await;
    assert!(cloud.bed.run(&["clock", "freeze"]).await.status.success());
    assert!(
        cloud
            .bed
            .run(&["pace", "plug", "after 1h"])
            .await
            .status
            .success()
    );
    let nic = begin(&cloud).await;
    until("the device waits for its time", async || {
        waits(&cloud).await
    })
    .await;

    let short = ClockRequest {
        vm: None,
        order: ClockOrder::Step("59m".parse().unwrap()),
    };
    cloud
        .started
        .control()
        .post("/v1/clock", &short)
        .await
        .unwrap();
    assert!(waits(&cloud).await);
    assert!(
        cloud
            .bed
            .run(&["clock", "step", "2m"])
            .await
            .status
            .success()
    );

    until("the NIC is in use", async || {
        cloud.state_of(&nic).await == NicState::InUse
    })
    .await;
}

#[tokio::test]
async fn a_clock_can_be_in_a_hurry() {
    let cloud = Cloud::of_two().await;
    assert!(
        cloud
            .bed
            .run(&["pace", "plug", "after 10m"])
            .await
            .status
            .success()
    );

    assert!(
        cloud
            .bed
            .run(&["clock", "speed", "1000"])
            .await
            .status
            .success()
    );

    // Ten minutes at that speed are 0.6 seconds.
    cloud.nic_in("vm1", "web").await;
}

#[tokio::test]
async fn a_transition_can_wait_for_looks() {
    let cloud = Cloud::of_two().await;
    assert!(
        cloud
            .bed
            .run(&["pace", "plug", "after 3 polls"])
            .await
            .status
            .success()
    );

    let nic = begin(&cloud).await;
    until("the device waits to be probed", async || {
        waits(&cloud).await
    })
    .await;

    look(&cloud, 3).await;

    until("the NIC is in use", async || {
        cloud.state_of(&nic).await == NicState::InUse
    })
    .await;
}

/// Looks at `vm1` so often, beside whatever hostd does.
async fn look(cloud: &Cloud, times: usize) {
    let mut monitor = UnixStream::connect(&cloud.started.state.vms[0].monitor)
        .await
        .unwrap();
    let query = "{\"execute\": \"query-status\"}\n".repeat(times);
    monitor.write_all(query.as_bytes()).await.unwrap();
    let mut answers = BufReader::new(monitor).lines();
    // The greeting comes before.
    for _ in 0..=times {
        answers.next_line().await.unwrap();
    }
}

#[tokio::test]
async fn a_qemu_that_crashes_takes_its_guest_along() {
    let cloud = Cloud::of_two().await;
    let control = cloud.started.control();
    let crash = Effect::Crash(Side::After);
    control
        .post("/v1/rules", &rule("boom", "qmp.device_add", crash))
        .await
        .unwrap();

    let problem = problem(cloud.create("vm1", "web").await);

    assert_eq!(problem.code, ProblemCode::VmStopped);
    let page: Page = control.get("/").await.unwrap();
    let off = page.vms.iter().find(|vm| vm.id.as_str() == "vm1").unwrap();
    assert_eq!(off.pid, None);
    assert!(
        page.events
            .iter()
            .any(|event| event.text.starts_with("VM vm1 is off"))
    );
}

#[tokio::test]
async fn a_full_disk_is_hostds_until_the_rule_goes() {
    let cloud = Cloud::of_two().await;
    let control = cloud.started.control();
    let nic = cloud.nic_in("vm1", "web").await;
    control
        .post(
            "/v1/rules",
            &rule("full", "journal.commit", Effect::DiskFull),
        )
        .await
        .unwrap();

    let refused = problem(cloud.create("vm2", "web").await);
    let settled = host_api::client::Mutation {
        wait: Some("20s".parse().unwrap()),
        ..Default::default()
    };
    let detached = cloud.hostd().detach_nic(&nic.id, &settled).await.unwrap();
    control.delete("/v1/rules/full").await.unwrap();
    let again = cloud.nic_in("vm2", "web").await;

    assert_eq!(refused.code, ProblemCode::JournalFull);
    assert_eq!(detached.nic.state, NicState::Available);
    assert_eq!(again.state, NicState::InUse);
}

#[tokio::test]
async fn a_pace_or_a_clock_that_could_do_nothing_is_refused() {
    let cloud = Cloud::of_two().await;
    let control = cloud.started.control();
    let pace = PaceRule {
        transition: Transition::Plug,
        vm: Some("vm9".parse().unwrap()),
        pace: Pace::Manual,
    };
    let clock = ClockRequest {
        vm: None,
        order: ClockOrder::Speed(-1.0),
    };

    let no_vm = control.post("/v1/paces", &pace).await.unwrap_err();
    let no_speed = control.post("/v1/clock", &clock).await.unwrap_err();

    let (no_vm, no_speed) = (no_vm.cause.to_string(), no_speed.cause.to_string());
    assert!(no_vm.contains("vm: there is no VM vm9"), "{no_vm}");
    assert!(no_speed.contains("speed: -1 is not between"), "{no_speed}");
}

#[tokio::test]
async fn a_file_has_orders_for_later() {
    let bed = Bed::of(User::Own);
    // One is lost on what has yet to begin, which on a busy machine may be late.
    let steps: String = (2..30)
        .map(|seconds| format!("[[step]]\nat = \"{seconds}s\"\n"))
        .collect();
    let rules = bed.file(
        "rules.toml",
        &format!(
            "[[pace]]\ntransition = \"plug\"\npace = \"after 10m\"\nvm = \"vm1\"\n\
             [[pace]]\ntransition = \"plug\"\npace = \"manual\"\nvm = \"vm2\"\n\
             [[clock]]\norder = {{ speed = 1000 }}\n{steps}"
        ),
    );
    let cloud = bed.up(&["--vms", "2", "--rules", &rules]).await;

    cloud.nic_in("vm2", "web").await;
    cloud.nic_in("vm1", "web").await;
}

#[tokio::test]
async fn an_order_that_a_vm_has_had_is_not_given_to_its_next_life() {
    let bed = Bed::of(User::Own);
    let rules = bed.file("rules.toml", "[[clock]]\norder = \"freeze\"\n");
    let cloud = bed.up(&["--vms", "1", "--rules", &rules]).await;
    until("the clock stands still", async || {
        speed(&cloud).await == Some(0.0)
    })
    .await;

    for order in ["kill", "start"] {
        let done = cloud.bed.run(&["vm", order, "vm1"]).await;
        assert!(done.status.success(), "{done:?}");
    }
    until("hostd is in touch with the next life", async || {
        let vm = cloud.hostd().vm(&"vm1".parse().unwrap()).await.unwrap();
        let runs = vm.power == Some(nic_model::PowerState::Running);
        runs && vm.agent.state == host_api::AgentState::Ready
    })
    .await;

    assert_eq!(speed(&cloud).await, Some(1.0));
}

/// How fast the clock of `vm1` goes.
async fn speed(cloud: &Cloud) -> Option<f64> {
    let page: Page = cloud.started.control().get("/").await.unwrap();
    let vm = page.vms.iter().find(|vm| vm.id.as_str() == "vm1")?;
    vm.hardware.as_ref().map(|hardware| hardware.speed)
}

/// Whether the guest in `vm1` is in this state, and its QEMU runs.
async fn guest_is(cloud: &Cloud, state: GuestState) -> bool {
    let page: Page = cloud.started.control().get("/").await.unwrap();
    let vm = page.vms.iter().find(|vm| vm.id.as_str() == "vm1").unwrap();
    let guest = vm.hardware.as_ref().map(|hardware| hardware.guest);
    vm.pid.is_some() && guest == Some(state)
}

#[tokio::test]
async fn a_guest_that_panics_leaves_its_qemu_waiting_for_a_reset() {
    let cloud = Cloud::of_two().await;
    let panic = Rule {
        times: Some(1),
        ..rule("panic", "guest.plug", Effect::Crash(Side::Before))
    };
    let control = cloud.started.control();
    control.post("/v1/rules", &panic).await.unwrap();
    begin(&cloud).await;
    until("the guest is down", async || {
        guest_is(&cloud, GuestState::Down).await
    })
    .await;

    let reset = cloud.bed.run(&["vm", "reset", "vm1"]).await;

    assert!(reset.status.success(), "{reset:?}");
    until("the guest is up again", async || {
        guest_is(&cloud, GuestState::Up).await
    })
    .await;
}

#[tokio::test]
async fn a_guest_that_resets_itself_while_it_boots_boots_again() {
    let bed = Bed::of(User::Own);
    let rules = bed.file(
        "rules.toml",
        "[[rule]]\nname = \"b\"\noperation = \"guest.boot\"\ntimes = 2\neffect = \"reset\"\n",
    );
    let cloud = bed.up(&["--vms", "1", "--rules", &rules]).await;

    cloud.nic_in("vm1", "web").await;

    let rules: Vec<RulePage> = cloud.started.control().get("/v1/rules").await.unwrap();
    assert_eq!(rules[0].done, 2);
}

#[tokio::test]
async fn a_vm_that_is_reset_over_and_over_takes_orders_all_the_while() {
    let cloud = Bed::of(User::Own).up(&["--vms", "1"]).await;
    let control = cloud.started.control();
    reset_over_and_over(&cloud).await;

    control.delete("/v1/rules/again").await.unwrap();

    until("the guest is up", async || {
        guest_is(&cloud, GuestState::Up).await
    })
    .await;
    let page: Page = control.get("/").await.unwrap();
    let ends = page
        .events
        .iter()
        .filter(|event| event.text.contains("is off"));
    assert_eq!(ends.count(), 0);
}

#[tokio::test]
async fn a_vm_that_is_reset_over_and_over_follows_its_script_all_the_while() {
    let bed = Bed::of(User::Own);
    let freeze = |second| format!("[[clock]]\nat = \"{second}s\"\norder = \"freeze\"\n");
    let script: String = (3..60).map(freeze).collect();
    let rules = bed.file("rules.toml", &script);
    let cloud = bed.up(&["--vms", "1", "--rules", &rules]).await;
    reset_over_and_over(&cloud).await;
    let control = cloud.started.control();
    let speed_up = ClockRequest {
        vm: None,
        order: ClockOrder::Speed(2.0),
    };

    control.post("/v1/clock", &speed_up).await.unwrap();

    until("the clock stands still", async || {
        speed(&cloud).await == Some(0.0)
    })
    .await;
}

/// Has `vm1` reset by a rule, `again`, whenever hostd asks for its slots, which it does whenever
/// `vm1` has been reset.
async fn reset_over_and_over(cloud: &Cloud) {
    const ROUNDS: u64 = 100;
    let control = cloud.started.control();
    let again = rule("again", "qmp.human-monitor-command", Effect::Reset);
    control.post("/v1/rules", &again).await.unwrap();
    control.post("/v1/vms/vm1/reset", &()).await.unwrap();
    until("it is reset over and over", async || {
        let rules: Vec<RulePage> = control.get("/v1/rules").await.unwrap();
        rules[0].done >= ROUNDS
    })
    .await;
}
