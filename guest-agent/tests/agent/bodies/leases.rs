//! Addresses from a DHCP server.

use agent_protocol::{BindError, BindStep, Goal, Phase};
use tokio::time::Instant;

use crate::bed::{Bed, PATIENCE, dhcp_binding};

pub(crate) async fn a_lease_is_taken_and_given_back<B: Bed>() {
    let mut bed = B::start().await;
    let target = bed.target("box");
    bed.plug();
    bed.serve_dhcp();
    bed.want_bound(1, dhcp_binding(&target)).await;

    let report = bed.bound().await;

    let Phase::Bound { addresses, .. } = report.phase else {
        unreachable!("bound() waits for it");
    };
    assert_eq!(addresses, ["192.0.2.100/24".parse().unwrap()]);
    let link = bed.link("box").unwrap();
    assert_eq!(link.default_gateway.as_deref(), Some("192.0.2.1"));
    assert!(bed.has_lease());

    bed.want(2, Goal::Released).await;
    bed.phase(|phase| *phase == Phase::Released).await;
    let deadline = Instant::now() + PATIENCE;
    while bed.has_lease() && Instant::now() < deadline {
        bed.wait_a_little().await;
    }
    assert!(!bed.has_lease());
}

pub(crate) async fn no_dhcp_server_is_an_error_and_the_link_is_held<B: Bed>() {
    let mut bed = B::start().await;
    let target = bed.target("box");
    bed.plug();
    bed.want_bound(1, dhcp_binding(&target)).await;

    let error = bed.error().await;

    assert!(matches!(error, BindError::NoLease { waited_ms } if waited_ms >= 15_000));
    bed.assert_held();
}

pub(crate) async fn a_link_unplugged_in_mid_bind_is_an_error_and_the_next_one_is_bound<B: Bed>() {
    let bed = B::start().await;
    let target = bed.target("box");
    let mut bed = B::waiting_for_a_lease(&target, bed).await;

    bed.unplug();

    let step = BindStep::Lease;
    assert_eq!(bed.error().await, BindError::LinkVanished { step });
    bed.plug();
    bed.serve_dhcp();
    bed.want_bound(2, dhcp_binding(&target)).await;
    let report = bed.bound().await;
    assert_eq!(report.generation, 2);
    assert!(bed.answers("box", "192.0.2.100").await);
}
