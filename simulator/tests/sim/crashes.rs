//! hostd dies before and after each effect it has on the world, and is started again.

use std::ops::RangeInclusive;

use misbehaviour::Side;
use oracle::Moment;
use simulator::sim::{Death, Keeping, Plan, Sim};

use crate::support::{PATIENCE, assert_right, live, run, with_containers};

/// How hostd goes.
#[derive(Clone, Copy)]
enum End {
    Killed,
    PowerLost,
}

fn plan() -> Plan {
    Plan {
        keeping: Keeping::Log,
        ..Plan::default()
    }
}

/// The effects that the life of a NIC has, behind those of hostd's start.
fn effects_of_a_life() -> RangeInclusive<u64> {
    let mut effects = 0..=0;
    run(&plan(), async |sim| {
        with_containers(&sim).await;
        let before = sim.hosts[0].life().unwrap().effects();
        live(&sim.hosts[0]).await.unwrap();
        effects = before + 1..=sim.hosts[0].life().unwrap().effects();
    });
    effects
}

async fn die_and_go_on(sim: &Sim, death: Death, end: End) {
    let host = &sim.hosts[0];
    with_containers(sim).await;
    let first = host.life().unwrap();
    first.die_at(Some(death));
    tokio::select! {
        biased;
        () = first.ended() => {}
        lived = live(host) => lived.unwrap(),
    }
    assert!(first.is_over(), "{death:?} has not come");
    assert_right(sim, &sim.violations(Moment::Any));
    if matches!(end, End::PowerLost) {
        host.lose_power();
        for vm in host.vms().values() {
            vm.power_on();
        }
    }

    host.boot().unwrap();

    assert_right(sim, &sim.come_to_rest(PATIENCE).await);
}

#[test]
fn a_hostd_killed_at_any_effect_goes_on_where_it_was() {
    for effect in effects_of_a_life() {
        for side in [Side::Before, Side::After] {
            let death = Death { effect, side };
            run(&plan(), async |sim| {
                die_and_go_on(&sim, death, End::Killed).await
            });
        }
    }
}

#[test]
fn a_host_that_loses_its_power_at_any_effect_keeps_what_it_promised() {
    for effect in effects_of_a_life() {
        let side = Side::After;
        let death = Death { effect, side };
        run(&plan(), async |sim| {
            die_and_go_on(&sim, death, End::PowerLost).await;
        });
    }
}
