//! One seed, one trace.

use simulator::sim::{Plan, Sim};

use crate::support::{live, with_containers};

fn trace_of(seed: u64) -> ([u8; 32], Vec<String>) {
    let plan = Plan {
        seed,
        hosts: 2,
        vms_per_host: 3,
        ..Plan::default()
    };
    Sim::run(&plan, async |sim| {
        with_containers(&sim).await;
        live(&sim.hosts[0]).await.unwrap();
        let trace = sim.stage.trace();
        (trace.hash(), trace.log().map(ToString::to_string).collect())
    })
    .unwrap()
}

#[test]
fn two_runs_of_one_seed_leave_the_same_trace_and_another_seed_another() {
    let (first, first_log) = trace_of(7);
    let (second, second_log) = trace_of(7);

    let pairs = first_log.iter().zip(&second_log);
    let difference = pairs.into_iter().find(|(one, other)| one != other);
    assert_eq!(difference, None);
    assert_eq!(first, second);
    assert_ne!(first, trace_of(8).0);
}
