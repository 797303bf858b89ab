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
