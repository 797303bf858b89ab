//! What goes wrong in the middle of a step, at every step.

use std::time::Duration;

use agent_protocol::{BindError, BindStep, Goal, Phase};
use fake_guest::kernel::KernelSettings;
use guest_agent::kernel::step_name;

use crate::bed::{Bed, static_binding};
use crate::fake::{Fake, path};

/// The steps of binding a link with static addresses.
const STEPS: [BindStep; 6] = [
    BindStep::Enter,
    BindStep::SetAddresses,
    BindStep::SetUp,
    BindStep::SetRoutes,
    BindStep::Announce,
    BindStep::Verify,
];

async fn wanted() -> Fake {
    let mut bed = Fake::start().await;
    let target = bed.target("box");
    bed.want_bound(1, static_binding(&target)).await;
    bed
}

fn rule(bed: &Fake, step: BindStep, effect: &str) {
    let step = step_name(step);
    bed.rule(&format!(
        "operation = \"agent.{step}\"\ntimes = 1\neffect = {effect}"
    ));
}

#[tokio::test(start_paused = true)]
async fn a_link_unplugged_before_any_step_is_an_error_and_the_next_one_is_bound() {
    for step in STEPS {
        let mut bed = wanted().await;
        rule(&bed, step, "{ delay = \"3s\" }");
        bed.plug();
        bed.phase(|phase| *phase == Phase::Binding).await;
        bed.pass(Duration::from_secs(1)).await;

        bed.unplug();

        let error = bed.error().await;
        let vanished = matches!(error, BindError::LinkVanished { .. });
        assert!(vanished, "{step:?}: {error:?}");
        let target = bed.target("box");
        bed.plug();
        bed.want_bound(2, static_binding(&target)).await;
        bed.bound().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_step_the_kernel_refuses_is_an_error_and_the_link_is_held() {
    // Nothing is asked of the kernel to announce, and what fails is told to nobody.
    for step in STEPS.into_iter().filter(|step| *step != BindStep::Announce) {
        let mut bed = wanted().await;
        rule(&bed, step, "{ error = { text = \"ENOMEM\" } }");
        bed.plug();

        let error = bed.error().await;

        let refused = matches!(&error, BindError::Kernel { step: at, .. } if *at == step);
        assert!(refused, "{step:?}: {error:?}");
        bed.assert_held();
        assert!(!bed.answers("box", "192.0.2.10").await);
    }
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_dies_around_any_step_carries_on_after_its_restart() {
    for step in STEPS {
        for side in ["before", "after"] {
            let mut bed = wanted().await;
            rule(&bed, step, &format!("{{ crash = \"{side}\" }}"));
            bed.plug();
            bed.pass(Duration::from_secs(1)).await;
            bed.connect().await;

            let report = bed.bound().await;

            assert!(bed.answers("box", "192.0.2.10").await, "{side} {step:?}");
            let last = report.steps.last().map(|timing| timing.step);
            assert_eq!(last, Some(BindStep::Verify), "{side} {step:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_target_that_ends_before_any_step_gets_no_link() {
    for step in STEPS {
        let mut bed = wanted().await;
        rule(&bed, step, "{ delay = \"3s\" }");
        bed.plug();
        bed.phase(|phase| *phase == Phase::Binding).await;
        bed.pass(Duration::from_secs(1)).await;

        bed.remove_netns("box");

        let ended = |phase: &Phase| matches!(phase, Phase::Failed { .. } | Phase::Returned);
        bed.phase(ended).await;
        bed.assert_held_soon().await;
    }
}

#[tokio::test(start_paused = true)]
async fn udev_may_rename_a_link_at_any_moment() {
    for milliseconds in [0, 1, 50, 120] {
        let mut bed = Fake::with(KernelSettings {
            rename_after: Some(Duration::from_millis(milliseconds)),
            ..KernelSettings::default()
        });
        bed.connect().await;
        let target = bed.target("box");
        bed.want_bound(1, static_binding(&target)).await;
        rule(&bed, BindStep::Enter, "{ delay = \"60ms\" }");
        bed.plug();

        bed.bound().await;

        bed.pass(Duration::from_secs(1)).await;
        assert_eq!(bed.link("box").unwrap().name, "eth0", "{milliseconds} ms");
    }
}

#[tokio::test(start_paused = true)]
async fn a_release_the_kernel_refuses_is_told_and_tried_again() {
    let mut bed = Fake::bound_bed().await;
    bed.rule("operation = \"agent.release\"\ntimes = 2\neffect = { error = { text = \"EBUSY\" } }");

    bed.want(2, Goal::Released).await;

    bed.phase(|phase| *phase == Phase::Released).await;
    bed.assert_held_soon().await;
}

#[tokio::test(start_paused = true)]
async fn link_events_that_rules_lose_are_made_good_by_looking() {
    let mut bed = wanted().await;
    bed.rule("operation = \"guest.link-event\"\neffect = \"lose\"");
    bed.plug();

    bed.bound().await;

    assert!(bed.guest.view().link_of(&path()).is_some());
}
