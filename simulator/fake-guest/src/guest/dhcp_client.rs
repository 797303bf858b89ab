//! A DHCP client on one link, with the questions and the patience of the real one (mozim).
//!
//! ```text
//!   ask at 0, 4, 12, 28 s … ──granted──► renew at ½ ──► rebind at ⅞ ──► expired: ask anew
//!     └── 15 s without ever a lease: refused, and the end
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use guest_agent::Task;
use guest_agent::kernel::{
    AdminState, Carrier, DhcpClient, FIRST_LEASE_DEADLINE, Lease, LeaseLink, LeaseReporter,
    LeaseSight, Netns,
};
use misbehaviour::Effect;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::Segment;
use super::handles::FakeNetns;
use crate::dhcp::{DhcpAnswer, DhcpQuestion};

/// The first pause between two questions; each is twice as long as the one before, up to the last.
const FIRST_PAUSE: Duration = Duration::from_secs(4);
const LAST_PAUSE: Duration = Duration::from_secs(64);
/// Pause after a refusal.
const RETRY_PAUSE: Duration = Duration::from_secs(2);

/// A client at work. Dropping it ends it, and its lease runs out.
#[derive(Debug)]
pub struct FakeDhcpClient {
    wire: Wire,
    holds: Arc<AtomicBool>,
    _task: Task,
}

/// What a client reaches.
#[derive(Debug, Clone)]
struct Wire {
    netns: FakeNetns,
    link: LeaseLink,
    nic: nic_model::NicId,
}

impl FakeDhcpClient {
    pub(super) fn start(netns: &FakeNetns, link: LeaseLink, reporter: LeaseReporter) -> Self {
        let wire = Wire {
            netns: netns.clone(),
            link,
            nic: reporter.nic().clone(),
        };
        let holds = Arc::new(AtomicBool::new(false));
        let client = Client {
            wire: wire.clone(),
            reporter,
            holds: holds.clone(),
        };
        Self {
            wire,
            holds,
            _task: Task::spawn(client.run()),
        }
    }
}

impl DhcpClient for FakeDhcpClient {
    async fn stop(self) {
        let lost = self.wire.consult("dhcp.release");
        let heard = lost != Some(Effect::Lose);
        if self.holds.load(Ordering::Relaxed)
            && heard
            && let Some(segment) = self.wire.segment()
        {
            let mac = self.wire.link.mac;
            segment.with(|server, _now| server.release(mac));
        }
    }
}

impl Wire {
    fn consult(&self, operation: &str) -> Option<Effect> {
        self.netns.kernel().consult(operation, Some(&self.nic))
    }

    /// The segment, while frames pass.
    fn segment(&self) -> Option<Segment> {
        let (kernel, netns) = (self.netns.kernel(), self.netns.inode());
        let link = kernel.live(|kernel| kernel.link(netns, self.link.index));
        let link = link.flatten()?;
        let passes = link.admin == AdminState::Up && link.carrier == Carrier::Present;
        passes.then(|| kernel.segment_of(netns, self.link.index))?
    }

    async fn ask(&self, question: DhcpQuestion) -> DhcpAnswer {
        let operation = match question {
            DhcpQuestion::First => "dhcp.discover",
            DhcpQuestion::Renewal(_) => "dhcp.request",
        };
        match self.consult(operation) {
            Some(Effect::Delay(span)) => sleep(span.0).await,
            Some(Effect::Lose) => return DhcpAnswer::Silence,
            Some(Effect::Refuse) => return DhcpAnswer::Refused,
            _ => {}
        }
        let Some(segment) = self.segment() else {
            return DhcpAnswer::Silence;
        };
        let answer = segment.answer(self.link.mac, question);
        if let DhcpAnswer::Granted { after, .. } = &answer
            && !after.is_zero()
        {
            sleep(*after).await;
            // What comes when the link is down again is not heard.
            if self.segment().is_none() {
                return DhcpAnswer::Silence;
            }
        }
        answer
    }
}

struct Client {
    wire: Wire,
    reporter: LeaseReporter,
    holds: Arc<AtomicBool>,
}

impl Client {
    async fn run(self) {
        let started = Instant::now();
        let Ok(mut granted) = timeout_at(started + FIRST_LEASE_DEADLINE, self.obtain()).await
        else {
            let waited = started.elapsed().as_millis();
            let waited_ms = u64::try_from(waited).unwrap_or(u64::MAX);
            return self.reporter.tell(LeaseSight::Refused { waited_ms }).await;
        };
        loop {
            self.keep(granted).await;
            self.holds.store(false, Ordering::Relaxed);
            self.reporter.tell(LeaseSight::Pending).await;
            granted = self.obtain().await;
        }
    }

    /// Asks until an address is granted.
    async fn obtain(&self) -> (Lease, Duration) {
        let mut pause = FIRST_PAUSE;
        loop {
            match self.wire.ask(DhcpQuestion::First).await {
                DhcpAnswer::Granted { lease, lasts, .. } => return (lease, lasts),
                DhcpAnswer::Refused => sleep(RETRY_PAUSE).await,
                DhcpAnswer::Silence => {
                    sleep(pause).await;
                    pause = (pause * 2).min(LAST_PAUSE);
                }
            }
        }
    }

    /// Keeps a lease for as long as it is renewed.
    async fn keep(&self, (mut lease, mut lasts): (Lease, Duration)) {
        loop {
            self.holds.store(true, Ordering::Relaxed);
            self.reporter.tell(LeaseSight::Granted(lease.clone())).await;
            let since = Instant::now();
            let renewal = DhcpQuestion::Renewal(lease.address.addr());
            let mut renewed = None;
            for eighths in [4, 7] {
                sleep_until(since + lasts * eighths / 8).await;
                match self.wire.ask(renewal).await {
                    DhcpAnswer::Granted { lease, lasts, .. } => renewed = Some((lease, lasts)),
                    DhcpAnswer::Refused => return,
                    DhcpAnswer::Silence => continue,
                }
                break;
            }
            match renewed {
                Some(again) => (lease, lasts) = again,
                None => return sleep_until(since + lasts).await,
            }
        }
    }
}
