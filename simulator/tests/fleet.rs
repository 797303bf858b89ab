//! A small fleet, run by the program itself: clean, and the same from the same seed.

#![expect(clippy::unwrap_used, reason = "set-up that fails is a failed test")]

use std::process::Command;

use serde_json::Value;

/// Runs a fleet in a process of its own.
fn fleet(seed: &str) -> Value {
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
        .args(["--seed", seed, "--json"])
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
}

#[test]
fn two_processes_leave_one_trace_of_one_seed() {
    let [one, other, another] = ["3", "3", "4"].map(fleet);

    assert_eq!(one["trace_hash"], other["trace_hash"]);
    assert_eq!(one["trace_entries"], other["trace_entries"]);
    assert_ne!(one["trace_hash"], another["trace_hash"]);
}

#[test]
fn a_fleet_follows_the_rules_of_a_file_and_refuses_paces() {
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
    let paced = file(
        "paced.toml",
        "[[pace]]\ntransition = \"plug\"\npace = \"manual\"\n",
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
    let refused = run(&paced);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("[[pace]]"));
    assert!(!refused.status.success());
}
