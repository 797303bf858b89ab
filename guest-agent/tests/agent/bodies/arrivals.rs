//! Links whose arrival the kernel did not tell the agent of.

use agent_protocol::Phase;

use crate::bed::{Bed, static_binding};

pub(crate) async fn a_link_that_arrives_while_events_are_lost_is_bound<B: Bed>() {
    let mut bed = B::start().await;
    let target = bed.target("box");
    bed.want_bound(1, static_binding(&target)).await;
    bed.phase(|phase| *phase == Phase::Awaited).await;

    bed.plug_while_events_are_lost().await;

    bed.bound().await;
    assert!(bed.answers("box", "192.0.2.10").await);
}

pub(crate) async fn a_link_that_arrives_where_nobody_tells_of_it_is_bound<B: Bed>() {
    let mut bed = B::start().await;
    let target = bed.target("box");
    bed.want_bound(1, static_binding(&target)).await;
    bed.phase(|phase| *phase == Phase::Awaited).await;

    bed.plug_unnoticed();

    bed.bound().await;
    assert!(bed.answers("box", "192.0.2.10").await);
}
