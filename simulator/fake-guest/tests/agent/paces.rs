//! Guests whose transitions and clocks go as somebody says: paces, steps, a clock that stands still
//! or is in a hurry, boots that go wrong.

use std::time::Duration;

use fake_guest::GuestSignal;
use fake_guest::kernel::{KernelSettings, Phase};
use misbehaviour::{BOOT_LOOP, ClockOrder, Pace, Transition};
use tokio::time::Instant;

use crate::bed::Bed;
use crate::fake::{Fake, path};

const LONG: Duration = Duration::from_secs(60);

fn paced(transition: Transition, pace: &str) -> KernelSettings {
    let mut settings = KernelSettings::default();
    settings.set_pace(transition, pace.parse().unwrap());
    settings
}

#[tokio::test(start_paused = true)]
async fn a_boot_can_wait_to_be_told() {
    let bed = Fake::with(KernelSettings::default());
    bed.guest.set_pace(Transition::Boot, Pace::Manual);
    bed.guest.reset();
    bed.pass(LONG).await;
    assert_eq!(bed.guest.view().phase, Phase::Firmware);

    bed.guest.step();

    assert_eq!(bed.guest.view().phase, Phase::Up);
}

#[tokio::test(start_paused = true)]
async fn a_step_does_the_transition_that_has_waited_longest_and_is_still_wanted() {
    let mut bed = Fake::with(paced(Transition::Plug, "manual"));
    bed.plug();
    bed.guest.remove(&path());
    bed.plug();
    bed.guest.set_pace(Transition::Unplug, Pace::Manual);
    bed.guest.request_unplug(&path());

    bed.guest.step();
    assert!(bed.link("guest").is_some());
    assert!(bed.has_device());
    bed.guest.step();

    assert!(!bed.has_device());
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_stands_still_moves_by_steps() {
    let mut bed = Fake::with(paced(Transition::Plug, "after 1h"));
    bed.guest.set_clock(ClockOrder::Freeze);
    bed.plug();
    bed.pass(Duration::from_secs(7200)).await;
    bed.guest
        .set_clock(ClockOrder::Step("59m".parse().unwrap()));
    assert_eq!(bed.link("guest"), None);

    bed.guest.set_clock(ClockOrder::Step("2m".parse().unwrap()));

    assert!(bed.link("guest").is_some());
}

#[tokio::test(start_paused = true)]
async fn a_clock_in_a_hurry_brings_things_sooner_and_a_slow_one_later() {
    for (speed, seconds) in [(10.0, 6), (0.5, 120)] {
        let mut bed = Fake::with(paced(Transition::Plug, "after 1m"));
        bed.guest.set_clock(ClockOrder::Speed(speed));
        bed.plug();
        let span = Duration::from_secs(seconds);

        bed.pass(span - Duration::from_millis(5)).await;
        assert_eq!(bed.link("guest"), None, "{speed}");
        bed.pass(Duration::from_millis(10)).await;

        assert!(bed.link("guest").is_some(), "{speed}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_resets_itself_while_it_boots_takes_its_time_for_it() {
    let mut bed = Fake::with(KernelSettings::default());
    bed.rule("operation = \"guest.boot\"\ntimes = 1\neffect = \"reset\"");
    let begun = Instant::now();
    bed.guest.reset();
    assert_eq!(bed.guest.view().phase, Phase::Firmware);

    let signal = bed.signals.recv().await;
    assert_eq!(signal, Some(GuestSignal::Reset));
    assert_eq!(begun.elapsed(), BOOT_LOOP);
    bed.guest.reset();

    assert_eq!(bed.guest.view().phase, Phase::Up);
}

#[tokio::test(start_paused = true)]
async fn a_kernel_that_panics_while_it_boots_says_so_and_stays_where_it_is() {
    let mut bed = Fake::with(KernelSettings::default());
    bed.rule("operation = \"guest.boot\"\neffect = { crash = \"before\" }");

    bed.guest.reset();

    assert_eq!(bed.signals.recv().await, Some(GuestSignal::Panicked));
    bed.pass(LONG).await;
    assert_eq!(bed.guest.view().phase, Phase::Firmware);
}
