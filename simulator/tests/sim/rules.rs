//! Every rule that world `sim` takes in is asked about in it. Those about monitors are walked
//! through beside the machine itself; those about DHCP, and about a link whose MTU the hypervisor
//! has not told, need guests of other worlds, whose own tests have them.

use std::time::Duration;

use misbehaviour::{EffectKind, Script, World, possible_in};
use simulator::sim::{Director, Plan, Sim};
use tokio::time::timeout;

use crate::support::{Operator, live, run, with_containers};

/// Longer than a NIC's life that nothing goes wrong in.
const A_WHILE: Duration = Duration::from_secs(20);

/// A NIC for which the agent has to do all that it can.
const UNUSUAL: &str = r#"{"network": "blue", "mtu": 1400,
    "routes": [{"destination": "192.0.2.0/24", "gateway": "10.0.0.1"}]}"#;

/// As a file of rules has it.
fn spelled(effect: EffectKind) -> String {
    match (effect.name().split_once('='), effect) {
        (Some((name, side)), _) => format!("{{ {name} = \"{side}\" }}"),
        (None, EffectKind::Delay | EffectKind::Eject) => {
            format!("{{ {} = \"1s\" }}", effect.name())
        }
        (None, EffectKind::Error) => "{ error = { text = \"EBUSY\" } }".to_owned(),
        (None, plain) => format!("\"{}\"", plain.name()),
    }
}

fn is_walked_elsewhere(operation: &str) -> bool {
    let beside = ["qmp.", "event.", "dhcp.", "agent.lease", "agent.set-mtu"];
    beside.iter().any(|family| operation.starts_with(family))
}

/// A NIC's life and a boot of each guest, as far as they get.
async fn times_followed(sim: &Sim, script: &Script) -> u64 {
    with_containers(sim).await;
    let vms: Vec<_> = sim.vms().map(|(_, vm)| vm.clone()).collect();
    let _director = Director::begin(script, &sim.stage, vms.clone()).unwrap();
    // Whatever comes of it under the rule.
    drop(timeout(A_WHILE, live(&sim.hosts[0])).await);
    drop(timeout(A_WHILE, lose_a_container(sim)).await);
    vms.iter().for_each(|vm| vm.reset());
    sim.pass(Duration::from_secs(1)).await;
    let rules = sim.stage.rules();
    rules.rules().map(|(_, done)| done).sum()
}

/// A container ends with a NIC in it, which the agent has to take care of.
async fn lose_a_container(sim: &Sim) -> Option<()> {
    let host = &sim.hosts[0];
    let operator = Operator::of(host);
    let nic = operator.create_from(UNUSUAL).await.ok()?.id;
    operator.attach(&nic, "vm0-0").await.ok()?;
    let guest = host.vms().values().next()?.guest_handle()?;
    guest.remove_netns(&"blue".parse().ok()?).ok()?;
    sim.pass(Duration::from_secs(2)).await;
    Some(())
}

#[test]
fn every_rule_that_is_taken_in_is_followed() {
    let mut unheard = Vec::new();
    let cells = possible_in(World::Sim).filter(|(operation, _)| !is_walked_elsewhere(operation));
    for (operation, effect) in cells {
        let effect = spelled(effect);
        let text =
            format!("[[rule]]\nname = \"r\"\noperation = \"{operation}\"\neffect = {effect}\n");
        let script: Script = toml::from_str(&text).unwrap();
        run(&Plan::default(), async |sim| {
            let followed = times_followed(&sim, &script).await;
            if followed == 0 {
                unheard.push(format!("{operation} {effect}"));
            }
        });
    }
    assert_eq!(unheard, Vec::<String>::new());
}

#[test]
fn a_row_that_was_damaged_as_it_was_written_keeps_hostd_from_starting() {
    let text = "[[rule]]\nname = \"r\"\noperation = \"journal.commit\"\neffect = \"corrupt\"\n";
    let script: Script = toml::from_str(text).unwrap();
    run(&Plan::default(), async |sim| {
        times_followed(&sim, &script).await;
        let host = &sim.hosts[0];
        Operator::of(host).create().await.unwrap();
        host.kill();

        let refused = host.boot().map(drop).unwrap_err();

        let refused = format!("{refused:?}");
        assert!(refused.contains("Damaged"), "{refused}");
    });
}
