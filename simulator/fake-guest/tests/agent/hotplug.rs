//! Devices that come and go in ways a guest may choose, and guests that are not up.

use std::time::Duration;

use agent_protocol::Phase;
use fake_guest::GuestSignal;
use fake_guest::kernel::{BootTimes, KernelSettings, Unplug};
use misbehaviour::Pace;
use tokio::time::{Instant, timeout};

use crate::bed::{Bed, static_binding};
use crate::fake::{Fake, path};

const LONG: Duration = Duration::from_secs(60);

async fn plugged(kernel: KernelSettings) -> Fake {
    let mut bed = Fake::with(kernel);
    bed.plug();
    bed.pass(Duration::from_secs(1)).await;
    bed
}

fn unplugging(unplug: Unplug) -> KernelSettings {
    KernelSettings {
        unplug,
        ..KernelSettings::default()
    }
}

async fn signal(bed: &mut Fake) -> Option<GuestSignal> {
    timeout(LONG, bed.signals.recv()).await.ok().flatten()
}

#[tokio::test(start_paused = true)]
async fn a_guest_asked_by_acpi_lets_go_soon() {
    let mut bed = plugged(KernelSettings::default()).await;
    let asked = Instant::now();

    bed.guest.request_unplug(&path());

    assert_eq!(signal(&mut bed).await, Some(GuestSignal::Ejected(path())));
    assert!(asked.elapsed() < Duration::from_millis(200));
    assert_eq!(bed.link("guest"), None);
}

#[tokio::test(start_paused = true)]
async fn a_guest_asked_natively_takes_six_seconds_and_a_second_press_cancels() {
    let mut bed = plugged(unplugging(Unplug::Native)).await;
    let asked = Instant::now();
    bed.guest.request_unplug(&path());
    assert_eq!(signal(&mut bed).await, Some(GuestSignal::SlotBusy(path())));
    assert_eq!(signal(&mut bed).await, Some(GuestSignal::Ejected(path())));
    assert_eq!(asked.elapsed(), Duration::from_secs(6));

    let mut bed = plugged(unplugging(Unplug::Native)).await;
    bed.guest.request_unplug(&path());
    bed.pass(Duration::from_secs(4)).await;
    bed.guest.request_unplug(&path());

    assert_eq!(signal(&mut bed).await, Some(GuestSignal::SlotBusy(path())));
    assert_eq!(signal(&mut bed).await, Some(GuestSignal::SlotOn(path())));
    assert_eq!(signal(&mut bed).await, None);
    assert!(bed.link("guest").is_some());
}

#[tokio::test(start_paused = true)]
async fn a_guest_may_refuse_ignore_or_be_told_to() {
    let mut bed = plugged(unplugging(Unplug::Refuses)).await;
    bed.guest.request_unplug(&path());
    assert_eq!(signal(&mut bed).await, Some(GuestSignal::Refused(path())));

    let mut bed = plugged(unplugging(Unplug::Ignores)).await;
    bed.guest.request_unplug(&path());
    assert_eq!(signal(&mut bed).await, None);

    let mut bed = plugged(KernelSettings::default()).await;
    for (effect, expected) in [
        ("\"refuse\"", Some(GuestSignal::Refused(path()))),
        ("\"ignore\"", None),
        ("{ delay = \"50s\" }", Some(GuestSignal::Ejected(path()))),
    ] {
        bed.rule(&format!("operation = \"guest.unplug\"\neffect = {effect}"));
        bed.guest.request_unplug(&path());
        assert_eq!(signal(&mut bed).await, expected, "{effect}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_container_loses_its_link_when_the_guest_ejects_it_unasked() {
    let mut bed = Fake::bound_bed().await;

    bed.guest.eject(&path()).unwrap();

    assert_eq!(signal(&mut bed).await, Some(GuestSignal::Ejected(path())));
    bed.phase(|phase| matches!(phase, Phase::Failed { .. }))
        .await;
    assert!(!bed.has_device());
}

#[tokio::test(start_paused = true)]
async fn a_device_taken_out_of_the_books_comes_back_by_a_rescan() {
    let mut bed = Fake::bound_bed().await;
    let taken = bed.guest.with_kernel(|kernel| kernel.sysfs_remove(&path()));
    taken.unwrap();
    bed.phase(|phase| matches!(phase, Phase::Failed { .. }))
        .await;
    assert!(bed.has_device());

    bed.guest.with_kernel(fake_guest::kernel::Kernel::rescan);
    let target = bed.target("box");
    bed.want_bound(2, static_binding(&target)).await;

    bed.bound().await;
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_boots_hears_of_plugs_and_of_no_unplug() {
    let second = Duration::from_secs(1);
    let boot = BootTimes {
        firmware: second,
        hotplug: second,
        agent: second,
    };
    let mut bed = Fake::with(KernelSettings {
        boot,
        ..KernelSettings::default()
    });
    bed.plug();
    bed.pass(Duration::from_millis(1500)).await;
    bed.guest.request_unplug(&path());

    bed.pass(second).await;

    assert_eq!(bed.guest.view().phase, fake_guest::kernel::Phase::NoAgent);
    assert!(bed.link("guest").is_some());
    bed.connect().await;
    let target = bed.target("box");
    bed.want_bound(1, static_binding(&target)).await;
    bed.bound().await;
    assert_eq!(bed.signals.try_recv().ok(), None);
}

#[tokio::test(start_paused = true)]
async fn what_is_manual_or_counts_looks_waits_for_them() {
    let mut bed = Fake::with(KernelSettings {
        probe: Pace::AfterPolls(2),
        unplug: Unplug::LetsGo(Pace::Manual),
        ..KernelSettings::default()
    });
    bed.plug();
    bed.pass(LONG).await;
    bed.guest.look();
    assert_eq!(bed.link("guest"), None);
    bed.guest.look();
    assert!(bed.link("guest").is_some());

    bed.guest.request_unplug(&path());
    assert_eq!(signal(&mut bed).await, None);
    bed.guest.step();

    assert_eq!(signal(&mut bed).await, Some(GuestSignal::Ejected(path())));
}

#[tokio::test(start_paused = true)]
async fn nothing_of_a_guest_that_was_reset_is_left_but_its_devices() {
    let mut bed = Fake::bound_bed().await;
    let before = bed.guest.view();

    bed.guest.reset();
    bed.furnish();
    bed.connect().await;

    let after = bed.guest.view();
    assert_ne!(after.boot_id, before.boot_id);
    assert!(bed.has_device());
    bed.phase(|phase| matches!(phase, Phase::Bound { .. } | Phase::Failed { .. }))
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_guest_whose_processors_stand_still_does_nothing() {
    let mut bed = Fake::start().await;
    let target = bed.target("box");
    bed.want_bound(1, static_binding(&target)).await;
    bed.phase(|phase| *phase == Phase::Awaited).await;
    bed.guest.pause();
    bed.plug();
    bed.pass(LONG).await;
    assert_eq!(bed.link("guest"), None);

    bed.guest.resume();

    bed.bound().await;
}

#[tokio::test(start_paused = true)]
async fn nothing_of_a_guest_runs_on_when_it_is_dropped() {
    let tasks = || {
        tokio::runtime::Handle::current()
            .metrics()
            .num_alive_tasks()
    };
    let before = tasks();
    let mut bed = Fake::start().await;
    let container = bed.start_container().await;
    let target = format!("pid:{}", container.pid);
    let bed = Fake::waiting_for_a_lease(&target, bed).await;
    assert!(tasks() > before);

    drop(bed);

    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    assert_eq!(tasks(), before);
}
