//! What goes well.

use host_api::NicState;
use oracle::Moment;
use simulator::sim::Plan;

use crate::support::{Operator, PATIENCE, assert_right, live, run, with_containers};

#[test]
fn a_nic_lives_and_nothing_is_left_of_it() {
    run(&Plan::default(), async |sim| {
        with_containers(&sim).await;

        live(&sim.hosts[0]).await.unwrap();

        let found = sim.come_to_rest(PATIENCE).await;
        assert_right(&sim, &found);
        let view = sim.hosts[0].view().unwrap();
        assert!(view.nics.is_empty() && view.host.ports.is_empty());
        assert!(view.vms.values().all(|vm| vm.netdevs.is_empty()));
    });
}

#[test]
fn a_nic_in_use_is_in_its_container_and_everything_agrees() {
    run(&Plan::default(), async |sim| {
        with_containers(&sim).await;
        let operator = Operator::of(&sim.hosts[0]);
        let nic = operator.create().await.unwrap().id;

        let attached = operator.attach(&nic, "vm0-1").await.unwrap();

        assert_eq!(attached.state, NicState::InUse);
        assert_right(&sim, &sim.violations(Moment::AtRest));
        let guest = sim.hosts[0].vms().values().nth(1).unwrap().guest().unwrap();
        let blue = guest.named(&"blue".parse().unwrap()).unwrap();
        assert_eq!(blue.links[0].mac, attached.mac);
    });
}
