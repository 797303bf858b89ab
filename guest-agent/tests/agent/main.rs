//! The agent's process against a real kernel: what it does with links, containers and hosts that
//! come and go. Needs root, `ip`, `nsenter`, `sysctl` and `dnsmasq`.

#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

mod bed;
mod bodies;
mod veth;

use agent_protocol::Phase;
use bed::{Bed, static_binding};
use veth::Veth;

bodies::scenarios!(Veth, tokio::test);

#[tokio::test]
async fn a_link_that_arrives_in_the_holding_namespace_is_bound() {
    let mut bed = Veth::start().await;
    let target = bed.target("box");
    bed.want_bound(1, static_binding(&target)).await;
    bed.phase(|phase| *phase == Phase::Awaited).await;

    bed.plug_into("holding");

    bed.bound().await;
    assert!(bed.answers("box", "192.0.2.10").await);
}
