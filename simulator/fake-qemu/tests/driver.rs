//! A machine behind its monitors: guests that act, rules that interfere, time that passes.

#![expect(clippy::unwrap_used, reason = "set-up that fails is a failed test")]

mod rules;
mod support;

use std::time::Duration;

use fake_qemu::driver::{Ending, LetsGo};
use fake_qemu::{GuestAct, HardwareAddress, HotplugMode, Profile, Start};
use misbehaviour::ClockOrder;
use nic_model::PciSlot;
use serde_json::json;
use support::{Client, EPOCH, hardware, nic, start, start_plain};
use tokio::time::{Instant, advance};

const AFTER: LetsGo = LetsGo::After(Duration::from_millis(200));

fn rule(operation: &str, effect: &str) -> String {
    format!("[[rule]]\nname = \"r\"\noperation = \"{operation}\"\ntimes = 1\neffect = {effect}\n")
}

#[tokio::test(start_paused = true)]
async fn a_guest_lets_go_after_its_time_and_the_event_says_when() {
    let qemu = start_plain(hardware(), AFTER);
    let mut client = Client::negotiated(&qemu).await;
    client.plug().await;
    let begun = Instant::now();

    client.ask("device_del", json!({"id": "net0"})).await;
    client.until("DEVICE_DELETED").await;
    let deleted = client.next().await;

    assert_eq!(begun.elapsed(), Duration::from_millis(200));
    assert_eq!(deleted["data"]["device"], "net0");
    let expected = json!({"seconds": EPOCH.as_secs(), "microseconds": 200_000});
    assert_eq!(deleted["timestamp"], expected);
    assert_eq!(qemu.with(|machine, _| machine.devices().count()), 0);
}

#[tokio::test(start_paused = true)]
async fn a_guest_may_take_a_device_out_unasked_or_say_no() {
    let qemu = start_plain(hardware(), LetsGo::Never);
    let mut client = Client::negotiated(&qemu).await;
    client.plug().await;
    let path = "02.0/00.0".parse().unwrap();

    client.ask("device_del", json!({"id": "net0"})).await;
    qemu.act(GuestAct::Refused { path });
    let refused = client.until("DEVICE_UNPLUG_GUEST_ERROR").await;
    let path = "02.0/00.0".parse().unwrap();
    qemu.act(GuestAct::Ejected { path });
    client.until("DEVICE_DELETED").await;

    assert_eq!(
        refused,
        json!({"device": "net0", "path": "/machine/peripheral/net0"})
    );
    let path = "02.0/00.0".parse().unwrap();
    qemu.act(GuestAct::Ejected { path });
    client.ask("device_add", nic("net0")).await;
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_changes_its_mac_is_told_of_once_until_somebody_asks() {
    let qemu = start_plain(hardware(), LetsGo::Never);
    let mut client = Client::negotiated(&qemu).await;
    client.plug().await;
    let set_mac = |last| GuestAct::SetMac {
        path: "02.0/00.0".parse().unwrap(),
        mac: HardwareAddress([2, 0, 0, 0, 0, last]),
    };

    qemu.act(set_mac(1));
    qemu.act(set_mac(2));
    let changed = client.next().await;
    let filter = client.ask("query-rx-filter", json!({})).await;
    qemu.act(set_mac(3));
    let again = client.next().await;

    assert_eq!(changed["data"]["name"], "net0");
    assert_eq!(filter[0]["main-mac"], "02:00:00:00:00:02");
    assert_eq!(again["event"], "NIC_RX_FILTER_CHANGED");
    let property = json!({"path": "/machine/peripheral/net0", "property": "mac"});
    assert_eq!(client.ask("qom-get", property).await, "5a:00:00:00:00:01");
}

#[tokio::test(start_paused = true)]
async fn a_native_slot_that_is_busy_refuses_and_one_that_is_asked_says_so_for_five_seconds() {
    let mut parts = hardware();
    parts.hotplug = HotplugMode::Native;
    let qemu = start_plain(parts, LetsGo::Never);
    let mut client = Client::negotiated(&qemu).await;
    client.plug().await;
    let port = PciSlot::new(2, 0).unwrap();
    let id = json!({"id": "net0"});

    qemu.act(GuestAct::SlotBusy { port });
    let busy = client.refusal("device_del", id.clone()).await;
    qemu.act(GuestAct::SlotOn { port });
    client.ask("device_del", id.clone()).await;
    advance(Duration::from_millis(4999)).await;
    let asked = client.refusal("device_del", id.clone()).await;
    advance(Duration::from_millis(1)).await;
    client.ask("device_del", id).await;

    assert_eq!(
        busy,
        "Hot-unplug failed: guest is busy (power indicator blinking)"
    );
    assert_eq!(asked, "Device net0 is already in the process of unplug");
}

#[tokio::test(start_paused = true)]
async fn a_request_by_acpi_blocks_later_ones_for_as_long_as_that_version_lets_it() {
    for (profile, blocks) in [
        (Profile::Qemu6_2, true),
        (Profile::Qemu7_2, false),
        (Profile::Qemu8_0, true),
        (Profile::Qemu8_1, false),
    ] {
        let mut parts = hardware();
        parts.profile = profile;
        let qemu = start_plain(parts, LetsGo::Never);
        let mut client = Client::negotiated(&qemu).await;
        client.plug().await;
        advance(Duration::from_millis(10)).await;
        client.ask("device_del", json!({"id": "net0"})).await;
        advance(Duration::from_secs(3600)).await;

        let answer = client.request("device_del", json!({"id": "net0"})).await;

        assert_eq!(answer.get("error").is_some(), blocks, "{profile}: {answer}");
        client.ask("system_reset", json!({})).await;
        client.until("DEVICE_DELETED").await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_migrates_takes_and_gives_no_device() {
    let qemu = start_plain(hardware(), AFTER);
    let mut client = Client::negotiated(&qemu).await;
    client.plug().await;

    qemu.with(|machine, _| machine.begin_migration());
    let removal = client.refusal("device_del", json!({"id": "net0"})).await;
    let mut other = nic("net1");
    other["bus"] = "rp2".into();
    let addition = client.refusal("device_add", other).await;
    let state = client.ask("query-migrate", json!({})).await;
    qemu.with(|machine, _| machine.end_migration());

    assert_eq!(removal, "device_del not allowed while migrating");
    assert_eq!(addition, "device_add not allowed while migrating");
    assert_eq!(state["status"], "active");
    client.ask("device_del", json!({"id": "net0"})).await;
}

#[tokio::test(start_paused = true)]
async fn a_delayed_command_holds_up_the_ones_behind_it_and_no_other_monitor() {
    let rules = rule("qmp.query-version", "{ delay = \"2s\" }");
    let qemu = start(hardware(), AFTER, &rules);
    let mut client = Client::negotiated(&qemu).await;
    let mut other = Client::connect(&qemu, 1);
    let begun = Instant::now();

    client
        .send(
            r#"{"execute":"query-version","id":1}{"execute":"query-status","id":2}"#,
            vec![],
        )
        .await;
    other.next().await;
    other.ask("qmp_capabilities", json!({})).await;

    assert_eq!(begun.elapsed(), Duration::ZERO);
    assert_eq!(client.next().await["id"], 1);
    assert_eq!(client.next().await["id"], 2);
    assert_eq!(begun.elapsed(), Duration::from_secs(2));
}

#[tokio::test(start_paused = true)]
async fn an_error_by_rule_is_answered_and_nothing_is_done() {
    let error = r#"{ error = { class = "GenericError", text = "no room" } }"#;
    let qemu = start(hardware(), AFTER, &rule("qmp.netdev_add", error));
    let mut client = Client::negotiated(&qemu).await;
    let backend = json!({"type": "user", "id": "n0"});

    let refusal = client.refusal("netdev_add", backend.clone()).await;

    assert_eq!(refusal, "no room");
    client.ask("netdev_add", backend).await;
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_leaves_the_command_done_and_the_connection_alive() {
    let qemu = start(hardware(), AFTER, &rule("qmp.netdev_add", "\"lose\""));
    let mut client = Client::negotiated(&qemu).await;
    let lost = r#"{"execute":"netdev_add","arguments":{"type":"user","id":"n0"}}"#;

    client.send(lost, vec![]).await;
    let next = client
        .refusal("netdev_add", json!({"type": "user", "id": "n0"}))
        .await;

    assert_eq!(next, "Duplicate ID 'n0'");
}

#[tokio::test(start_paused = true)]
async fn a_connection_is_cut_before_or_after_a_command_and_another_client_is_served() {
    for (effect, made) in [("{ cut = \"before\" }", 0), ("{ cut = \"after\" }", 1)] {
        let qemu = start(hardware(), AFTER, &rule("qmp.netdev_add", effect));
        let mut client = Client::negotiated(&qemu).await;
        let add = r#"{"execute":"netdev_add","arguments":{"type":"user","id":"n0"}}"#;

        client.send(add, vec![]).await;

        assert_eq!(client.maybe_next().await, None);
        assert_eq!(client.ending().await, Ending::Cut);
        assert_eq!(
            qemu.with(|machine, _| machine.backends().count()),
            made,
            "{effect}"
        );
        Client::negotiated(&qemu).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_stalled_connection_says_nothing_and_ends_when_its_client_does() {
    let qemu = start(hardware(), AFTER, &rule("qmp.query-status", "\"stall\""));
    let mut client = Client::negotiated(&qemu).await;
    client
        .send(
            r#"{"execute":"query-status"}{"execute":"query-version"}"#,
            vec![],
        )
        .await;

    let silence = tokio::time::timeout(Duration::from_secs(3600), client.next()).await;

    assert!(silence.is_err());
    drop(client);
    Client::negotiated(&qemu).await;
}

#[tokio::test(start_paused = true)]
async fn a_crash_ends_every_connection_and_the_machine() {
    let qemu = start(
        hardware(),
        AFTER,
        &rule("qmp.device_add", "{ crash = \"after\" }"),
    );
    let mut client = Client::negotiated(&qemu).await;
    let mut other = Client::connect(&qemu, 1);
    other.next().await;
    client
        .ask("netdev_add", json!({"type": "user", "id": "n0"}))
        .await;

    let add = json!({"execute": "device_add", "arguments": nic("net0")});
    client.send(&add.to_string(), vec![]).await;

    assert_eq!(client.maybe_next().await, None);
    assert_eq!(other.maybe_next().await, None);
    assert_eq!(client.ending().await, Ending::Machine);
    assert!(qemu.has_ended());
}

#[tokio::test(start_paused = true)]
async fn a_reset_by_rule_comes_right_behind_the_command() {
    let qemu = start(
        hardware(),
        LetsGo::Never,
        &rule("qmp.device_del", "\"reset\""),
    );
    let mut client = Client::negotiated(&qemu).await;
    client.plug().await;

    client.ask("device_del", json!({"id": "net0"})).await;

    assert_eq!(client.until("RESET").await["reason"], "guest-reset");
    client.until("DEVICE_DELETED").await;
}

async fn deletions(effect: &str) -> (Vec<String>, Duration) {
    let rules = rule("event.DEVICE_DELETED", effect);
    let qemu = start(hardware(), LetsGo::After(Duration::ZERO), &rules);
    let mut client = Client::negotiated(&qemu).await;
    client.plug().await;
    client.ask("device_del", json!({"id": "net0"})).await;
    let begun = Instant::now();
    let mut seen = Vec::new();
    while seen.last().is_none_or(|last| last != "STOP") {
        let waited = Duration::from_secs(60);
        match tokio::time::timeout(waited, client.maybe_next()).await {
            Ok(Some(message)) if message.get("event").is_some() => {
                let name = message["event"].as_str().unwrap();
                let path = message["data"]["path"].as_str().unwrap_or(name);
                seen.push(path.rsplit('/').next().unwrap().to_owned());
            }
            Ok(Some(_)) => {}
            Ok(None) => break,
            Err(_) => client.send(r#"{"execute":"stop"}"#, vec![]).await,
        }
    }
    seen.pop_if(|last| last == "STOP");
    (seen, begun.elapsed())
}

#[tokio::test(start_paused = true)]
async fn events_are_lost_doubled_reordered_and_delayed_by_rule() {
    let (inner, outer) = ("virtio-backend", "net0");
    for (effect, expected) in [
        ("\"lose\"", vec![outer]),
        ("\"duplicate\"", vec![inner, inner, outer]),
        ("\"reorder\"", vec![outer, inner]),
        ("{ delay = \"5s\" }", vec![outer, inner]),
        ("{ cut = \"before\" }", vec![]),
        ("{ cut = \"after\" }", vec![inner, outer]),
    ] {
        assert_eq!(deletions(effect).await.0, expected, "{effect}");
    }
}

#[tokio::test(start_paused = true)]
async fn out_of_band_commands_go_ahead_of_one_that_is_delayed() {
    let rules = rule("qmp.query-version", "{ delay = \"2s\" }");
    let qemu = start(hardware(), AFTER, &rules);
    let mut client = Client::connect(&qemu, 0);
    client.next().await;
    client
        .ask("qmp_capabilities", json!({"enable": ["oob"]}))
        .await;

    client
        .send(r#"{"execute":"query-version","id":1}"#, vec![])
        .await;
    client
        .send(r#"{"execute":"query-name","id":2}"#, vec![])
        .await;
    client
        .send(r#"{"exec-oob":"query-status","id":3}"#, vec![])
        .await;

    let ids = [
        client.next().await,
        client.next().await,
        client.next().await,
    ];
    assert_eq!(
        ids.map(|message| message["id"].clone()),
        [json!(3), json!(1), json!(2)]
    );
}

#[tokio::test(start_paused = true)]
async fn a_frozen_clock_stops_the_guest_and_a_step_lets_it_go_on() {
    let qemu = start_plain(hardware(), AFTER);
    let mut client = Client::negotiated(&qemu).await;
    client.plug().await;

    qemu.set_clock(ClockOrder::Freeze);
    client.ask("device_del", json!({"id": "net0"})).await;
    advance(Duration::from_secs(3600)).await;
    assert_eq!(qemu.with(|machine, _| machine.devices().count()), 1);
    qemu.set_clock(ClockOrder::Step("200ms".parse().unwrap()));

    client.until("DEVICE_DELETED").await;
    assert_eq!(qemu.with(|machine, _| machine.devices().count()), 0);
}

#[tokio::test(start_paused = true)]
async fn a_descriptor_stays_with_its_backend_and_leaves_with_it() {
    let qemu = start_plain(hardware(), AFTER);
    let mut client = Client::negotiated(&qemu).await;

    client
        .send(
            r#"{"execute":"getfd","arguments":{"fdname":"q"}}"#,
            vec![77, 78],
        )
        .await;
    client.next().await;
    client
        .ask("netdev_add", json!({"type": "tap", "id": "t0", "fd": "q"}))
        .await;

    let held = |qemu: &support::Qemu| {
        qemu.with(|machine, _| {
            machine
                .backends()
                .flat_map(|backend| backend.descriptors.clone())
                .collect::<Vec<_>>()
        })
    };
    assert_eq!(held(&qemu), [77]);
    client.ask("netdev_del", json!({"id": "t0"})).await;
    assert!(held(&qemu).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_is_cut_off() {
    let qemu = start_plain(hardware(), AFTER);
    let mut client = Client::negotiated(&qemu).await;
    let question = r#"{"execute":"query-qmp-schema"}"#;

    let mut questions = 0;
    while client.try_send(question, vec![]).await.is_ok() {
        questions += 1;
        assert!(questions < 100_000, "answers are kept without end");
    }

    assert_eq!(client.ending().await, Ending::Cut);
    Client::negotiated(&qemu).await;
}

#[tokio::test(start_paused = true)]
async fn quitting_says_goodbye_and_ends_the_machine() {
    let mut parts = hardware();
    parts.start = Start::Stopped;
    let qemu = start_plain(parts, AFTER);
    let mut client = Client::negotiated(&qemu).await;

    client.ask("quit", json!({})).await;

    assert_eq!(client.maybe_next().await, None);
    assert_eq!(client.ending().await, Ending::Machine);
    assert!(qemu.has_ended());
}
