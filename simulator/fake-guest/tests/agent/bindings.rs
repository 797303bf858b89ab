//! Where a link ends up and in which state.

use agent_protocol::BindStep;

use crate::support::{World, addresses, static_binding};

#[tokio::test(start_paused = true)]
async fn a_link_is_bound_with_both_families_and_answers_at_once() {
    let mut world = World::start().await;
    world.want_bound(1, static_binding("netns:box")).await;
    world.plug();

    let report = world.bound().await;

    assert!(world.answers("box", "192.0.2.10"));
    assert!(world.answers("box", "2001:db8::10"));
    let link = world.link_in("box").unwrap();
    assert_eq!((link.name.as_str(), link.mtu), ("eth0", 1400));
    assert_eq!(
        link.addresses,
        addresses(&["192.0.2.10/24", "2001:db8::10/64"])
    );
    assert_eq!(link.announced.len(), 2);
    let steps: Vec<_> = report.steps.iter().map(|timing| timing.step).collect();
    assert_eq!(
        steps,
        [
            BindStep::Enter,
            BindStep::SetAddresses,
            BindStep::SetUp,
            BindStep::SetRoutes,
            BindStep::Announce,
            BindStep::Verify
        ]
    );
}
