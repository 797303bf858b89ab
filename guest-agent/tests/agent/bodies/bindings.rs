//! Where a link ends up and in which state, and what stands in its way.

use agent_protocol::{BindError, BindStep, Phase};

use crate::bed::{Admin, Bed, static_binding};

pub(crate) async fn a_link_is_bound_with_both_families_and_reachable_at_once<B: Bed>() {
    let mut bed = B::start().await;
    bed.switch_ipv6_off("box");
    let target = bed.target("box");
    bed.want_bound(1, static_binding(&target)).await;
    assert_eq!(bed.phase(|_any| true).await.phase, Phase::Awaited);
    bed.plug();

    assert_eq!(bed.phase(|_any| true).await.phase, Phase::Binding);
    let report = bed.bound().await;
    assert!(bed.answers("box", "2001:db8::10").await);
    assert!(bed.answers("box", "192.0.2.10").await);
    let link = bed.link("box").unwrap();
    assert_eq!((link.name.as_str(), link.mtu), ("eth0", 1400));
    assert_eq!(link.default_gateway.as_deref(), Some("192.0.2.1"));
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

pub(crate) async fn a_bound_address_is_announced<B: Bed>() {
    let bed = B::bound_bed().await;

    assert!(bed.was_announced("192.0.2.10"));
}

pub(crate) async fn a_taken_name_is_an_error_and_the_link_is_held<B: Bed>() {
    let mut bed = B::start().await;
    bed.add_link("box", "eth0", Admin::Down);
    let target = bed.target("box");
    bed.want_bound(1, static_binding(&target)).await;
    bed.plug();

    let error = bed.error().await;

    let name = "eth0".parse().unwrap();
    assert_eq!(error, BindError::NameTaken { name });
    bed.assert_held();
}

pub(crate) async fn a_target_that_does_not_exist_is_an_error_until_a_new_generation<B: Bed>() {
    let mut bed = B::start().await;
    let binding = static_binding(&bed.target("other"));
    let target = binding.target.clone();
    bed.want_bound(1, binding.clone()).await;
    bed.plug();

    let error = bed.error().await;

    assert_eq!(error, BindError::TargetGone { target });
    bed.assert_held();
    bed.add_netns("other");
    bed.want_bound(2, binding).await;
    bed.bound().await;
    assert!(bed.link("other").is_some());
}

pub(crate) async fn a_pid_in_another_namespace_than_declared_is_refused<B: Bed>() {
    let mut bed = B::start().await;
    let container = bed.start_container().await;
    let target = format!("pid:{}@1", container.pid);
    bed.want_bound(1, static_binding(&target)).await;
    bed.plug();

    let error = bed.error().await;

    assert!(
        matches!(error, BindError::TargetChanged { .. }),
        "{error:?}"
    );
    bed.assert_held();
}

pub(crate) async fn the_guests_own_namespace_is_no_target<B: Bed>() {
    let mut bed = B::start().await;
    bed.plug();
    for (generation, which) in (1..).zip(["guest", "holding"]) {
        let target = bed.target(which);
        bed.want_bound(generation, static_binding(&target)).await;

        let error = bed.error().await;

        assert!(
            matches!(error, BindError::TargetIsGuest { .. }),
            "{error:?}"
        );
        bed.assert_held();
    }
}

pub(crate) async fn another_target_moves_the_link<B: Bed>() {
    let mut bed = B::bound_bed().await;
    bed.add_netns("other");

    let binding = static_binding(&bed.target("other"));
    bed.want_bound(2, binding).await;

    let report = bed.bound().await;
    let steps: Vec<_> = report.steps.iter().map(|timing| timing.step).collect();
    assert_eq!(steps[..2], [BindStep::Enter, BindStep::SetAddresses]);
    assert_eq!(bed.link("box"), None);
    assert!(bed.answers("other", "192.0.2.10").await);
}

pub(crate) async fn a_link_nobody_declared_is_not_touched<B: Bed>() {
    let mut bed = B::start().await;
    bed.add_link("guest", "own0", Admin::Up);
    let target = bed.target("box");
    bed.want_bound(1, static_binding(&target)).await;
    bed.plug();

    bed.bound().await;

    assert!(bed.has_link("guest", "own0", Admin::Up));
}

pub(crate) async fn a_forgotten_nic_is_left_where_it_is<B: Bed>() {
    let mut bed = B::bound_bed().await;

    bed.host().forget().await;
    bed.connect().await;

    assert!(bed.link("box").is_some());
    assert_eq!(bed.link("holding"), None);
}
