//! Every rule about commands and events that is taken in is followed by a machine by itself, and
//! the names that rules know are those of the machine.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::{Client, EPOCH, Qemu, hardware, start_plain};
use fake_qemu::GuestAct;
use fake_qemu::driver::{AnyTap, FakeQemu, LetsGo, PlainGuest, Settings, SharedRules};
use misbehaviour::{EffectKind, Rulebook, Script, World, members_of, possible_in};
use serde_json::{Value, json};

const AFTER: LetsGo = LetsGo::After(Duration::from_millis(200));

/// As a file of rules has it.
fn spelled(effect: EffectKind) -> String {
    match (effect.name().split_once('='), effect) {
        (Some((name, side)), _) => format!("{{ {name} = \"{side}\" }}"),
        (None, EffectKind::Delay) => "{ delay = \"1s\" }".to_owned(),
        (None, EffectKind::Error) => "{ error = { text = \"no\" } }".to_owned(),
        (None, plain) => format!("\"{}\"", plain.name()),
    }
}

fn machine_under(operation: &str, effect: EffectKind) -> (Qemu, SharedRules) {
    let effect = spelled(effect);
    let text = format!("[[rule]]\nname = \"r\"\noperation = \"{operation}\"\neffect = {effect}\n");
    let script: Script = toml::from_str(&text).unwrap();
    let rules = Rulebook::from_script(World::Qemu, &script).unwrap();
    let rules = Arc::new(Mutex::new(rules));
    let settings = Settings {
        hardware: Arc::new(hardware()),
        vm: None,
        rules: rules.clone(),
        epoch: EPOCH,
    };
    let host = AnyTap;
    let lets_go = AFTER;
    let qemu = FakeQemu::start(settings, PlainGuest { lets_go, host });
    tokio::spawn(qemu.run());
    (qemu, rules)
}

fn done(rules: &SharedRules) -> u64 {
    let rules = rules.lock().unwrap();
    rules.rules().map(|(_, done)| done).sum()
}

/// Sends a command, whatever becomes of it.
async fn give(client: &mut Client, command: &str, arguments: Value) {
    let message = json!({"execute": command, "arguments": arguments});
    // A machine that has crashed takes nothing any more.
    drop(client.try_send(&format!("{message}\n"), Vec::new()).await);
    tokio::time::advance(Duration::from_millis(1)).await;
}

/// Has the machine tell an event.
async fn bring_about(event: &str, qemu: &Qemu, client: &mut Client) {
    match event {
        "RESET" => give(client, "system_reset", json!({})).await,
        "POWERDOWN" => give(client, "system_powerdown", json!({})).await,
        "STOP" => give(client, "stop", json!({})).await,
        "RESUME" => {
            give(client, "stop", json!({})).await;
            give(client, "cont", json!({})).await;
        }
        "SHUTDOWN" => give(client, "quit", json!({})).await,
        "DEVICE_DELETED" => {
            client.plug().await;
            let path = "02.0/00.0".parse().unwrap();
            qemu.act(GuestAct::Ejected { path });
        }
        other => panic!("nobody knows how {other} comes about"),
    }
}

#[tokio::test(start_paused = true)]
async fn every_rule_that_is_taken_in_is_followed() {
    for (operation, effect) in possible_in(World::Qemu) {
        let (qemu, rules) = machine_under(&operation, effect);
        let mut client = Client::connect(&qemu, 0);
        client.next().await;
        give(&mut client, "qmp_capabilities", json!({})).await;

        match operation.split_once('.').unwrap() {
            ("event", event) => {
                client.next().await;
                bring_about(event, &qemu, &mut client).await;
            }
            (_, "qmp_capabilities") => {}
            (_, command) => give(&mut client, command, json!({})).await,
        }

        assert!(done(&rules) >= 1, "{operation} {}", effect.name());
    }
}

#[tokio::test(start_paused = true)]
async fn rules_know_every_command_of_the_machine_and_no_other() {
    let qemu = start_plain(hardware(), AFTER);
    let mut client = Client::negotiated(&qemu).await;

    let answer = client.ask("query-commands", json!({})).await;

    let commands = answer.as_array().unwrap().iter();
    let commands: BTreeSet<&str> = commands.map(|it| it["name"].as_str().unwrap()).collect();
    assert_eq!(members_of("qmp").collect::<BTreeSet<_>>(), commands);
}

#[tokio::test(start_paused = true)]
async fn rules_know_every_event_of_the_machine_and_no_other() {
    let qemu = start_plain(hardware(), AFTER);
    let mut client = Client::negotiated(&qemu).await;

    let answer = client.ask("query-qmp-schema", json!({})).await;

    let entries = answer.as_array().unwrap().iter();
    let events = entries.filter(|entry| entry["meta-type"] == "event");
    let events: BTreeSet<&str> = events.map(|it| it["name"].as_str().unwrap()).collect();
    assert_eq!(members_of("event").collect::<BTreeSet<_>>(), events);
}
