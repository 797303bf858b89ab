//! A small fleet, run by the program itself: clean, and the same from the same seed.

#![expect(clippy::unwrap_used, reason = "set-up that fails is a failed test")]

use std::process::Command;

use serde_json::Value;

/// Runs a fleet in a process of its own.
fn fleet(seed: &str) -> Value {
    fleet_with(&["--seed", seed])
}

fn fleet_with(arguments: &[&str]) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_simulator"))
        .args([
            "fleet",
            "--vms",
            "60",
            "--ops",
            "600",
            "--vms-per-host",
            "15",
        ])
        .args(arguments)
        .arg("--json")
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    serde_json::from_str(&text).unwrap()
}

#[test]
fn a_fleet_under_faults_ends_clean() {
    let report = fleet("7");

    assert_eq!(
        (&report["violations"], &report["leaks"]),
        (&0.into(), &0.into())
    );
    assert_eq!((&report["ops"], &report["vms"]), (&600.into(), &60.into()));
    let some = |field: &str| report[field].as_u64().unwrap() > 0;
    assert!(
        some("attaches") && some("detaches") && some("moves"),
        "{report}"
    );
    assert!(some("hostd_deaths") && some("looks"), "{report}");
    // Else nothing is wrong since nothing is done.
    let lost: u64 = ["came_to_nothing", "under_way", "cut_off"]
        .map(|field| report[field].as_u64().unwrap())
        .iter()
        .sum();
    assert!(lost < 600 / 8, "{report}");
}

#[test]
fn two_processes_leave_one_trace_of_one_seed() {
    let [one, other, another] = ["3", "3", "4"].map(fleet);

    assert_eq!(one["trace_hash"], other["trace_hash"]);
    assert_eq!(one["trace_entries"], other["trace_entries"]);
    assert_ne!(one["trace_hash"], another["trace_hash"]);
}

#[test]
fn a_fleet_follows_the_rules_of_a_file() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let calm = file("calm.toml", "");
    let rule = [
        "[[rule]]",
        "name = \"crash\"",
        "operation = \"qmp.device_add\"",
        "effect = { crash = \"after\" }",
        "when = { probability = 0.05 }",
    ]
    .join("\n");
    let crashing = file("crashing.toml", &rule);
    let silent = file(
        "silent.toml",
        "[[rule]]\nname = \"a\"\noperation = \"dhcp.discover\"\neffect = \"lose\"\n",
    );
    let elsewhere = file(
        "elsewhere.toml",
        "[[pace]]\ntransition = \"plug\"\npace = \"instant\"\nvm = \"vm1-11\"\n",
    );
    let run = |rules: &std::path::Path| {
        Command::new(env!("CARGO_BIN_EXE_simulator"))
            .args(["fleet", "--vms", "20", "--ops", "200", "--json", "--rules"])
            .arg(rules)
            .output()
            .unwrap()
    };
    let deaths = |output: std::process::Output| -> u64 {
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        report["qemu_deaths"].as_u64().unwrap()
    };

    assert_eq!(deaths(run(&calm)), 0);
    assert!(deaths(run(&crashing)) > 0);
    for (rules, expected) in [
        (silent, "no DHCP server is simulated there"),
        (elsewhere, "pace 1: vm: there is no VM vm1-11"),
    ] {
        let refused = run(&rules);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(said.contains(expected), "{said}");
        assert!(!refused.status.success());
    }
}

#[test]
fn a_fleet_goes_at_the_paces_and_by_the_clocks_of_a_file() {
    let directory = tempfile::tempdir().unwrap();
    let run = |text: &str| -> Value {
        let path = directory.path().join("script.toml");
        std::fs::write(&path, text).unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_simulator"))
            .args(["fleet", "--vms", "4", "--ops", "40", "--json", "--rules"])
            .arg(&path)
            .output()
            .unwrap();
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(
            output.status.success(),
            report["not_begun"] == 0,
            "{report}"
        );
        report
    };
    let told = "[[pace]]\ntransition = \"plug\"\npace = \"manual\"\n";
    let steps: String = (1..2000)
        .map(|number| format!("[[step]]\nat = \"{}ms\"\n", number * 200))
        .collect();

    let waiting = run(told);
    let stepped = run(&format!("{told}{steps}"));
    let polled = run("[[pace]]\ntransition = \"plug\"\npace = \"after 2 polls\"\n");
    let frozen = run("[[clock]]\norder = \"freeze\"\n");

    // Of two NICs for each VM, none ever arrives.
    let done = |report: &Value| {
        let count = |field: &str| report[field].as_u64().unwrap();
        assert_eq!((count("violations"), count("leaks")), (0, 0), "{report}");
        (count("ops"), count("not_begun"))
    };
    assert_eq!((done(&waiting), done(&frozen)), ((8, 32), (8, 32)));
    assert_eq!((done(&stepped), done(&polled)), ((40, 0), (40, 0)));
}

#[test]
fn the_rules_of_the_example_take_effect() {
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/rules.example.toml");

    let report = fleet_with(&["--seed", "7", "--rules", example]);

    for rule in ["stubborn", "slow", "unlucky"] {
        assert!(report["rules"][rule].as_u64().unwrap() > 0, "{report}");
    }
}
