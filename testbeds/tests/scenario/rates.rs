//! Rates, enforced on real traffic between two VMs and counted where they are enforced.
//!
//! What is asserted is the bound that a limit is: however busy the machine, no more than burst plus
//! rate × time passes the NIC's token bucket. The time is taken around everything, so that a slow
//! machine widens the bound; and the bucket must have held packets back, so more was offered than
//! the limit.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use host_api::{CreateNic, Nic, NicState};
use nic_model::{BitRate, Direction, PacketRate, RateLimit, RateLimits};
use serde::Deserialize;
use testbeds::bed::{Bed, Vm};
use testbeds::guest::Container;
use testbeds::requests::{attach_new, in_state, into, nic_on_blue, retire, settled};
use testbeds::scenario::{Scenario, not_in};
use testbeds::scenarios;
use testbeds::site::HOST_V4;
use testbeds::world::WorldKind;

/// Far below what an emulated guest sends on a busy machine.
const BANDWIDTH: BitRate = BitRate::from_megabits_per_second(4);
/// Three seconds' worth of [`BANDWIDTH`], so that the burst at the beginning counts for little.
const SENT_BYTES: u32 = 1_500_000;
/// Far below what an emulated guest sends and answers.
const PACKETS: PacketRate = PacketRate::from_packets_per_second(100);
/// Echoes asked for: three seconds' worth of [`PACKETS`].
const ECHOES: u32 = 300;
/// What may pass at once: the documentation of hostd's limits promises this for slow NICs.
const BURST_BYTES: f64 = 65_536.0;
/// The kernel rounds rates to a multiplication and a shift.
const TOLERANCE: f64 = 1.02;
/// A transfer takes three seconds; a busy machine may take its time.
const DEADLINE: Duration = Duration::from_secs(120);

pub(crate) fn scenarios() -> Vec<Scenario> {
    let all = scenarios![
        bandwidth_out_is_enforced,
        bandwidth_in_is_enforced,
        packet_rate_out_is_enforced,
        packet_rate_in_is_enforced,
    ];
    not_in(
        all,
        WorldKind::Sim,
        "frames are asked about and not sent, so nothing can hold them back",
    )
}

async fn bandwidth_out_is_enforced(bed: &Bed) -> Result<()> {
    bandwidth_is_enforced(bed, Direction::Out).await
}

async fn bandwidth_in_is_enforced(bed: &Bed) -> Result<()> {
    bandwidth_is_enforced(bed, Direction::In).await
}

async fn packet_rate_out_is_enforced(bed: &Bed) -> Result<()> {
    packet_rate_is_enforced(bed, Direction::Out).await
}

async fn packet_rate_in_is_enforced(bed: &Bed) -> Result<()> {
    packet_rate_is_enforced(bed, Direction::In).await
}

/// Sends through the limit, and then as much the other way, which is not limited.
async fn bandwidth_is_enforced(bed: &Bed, direction: Direction) -> Result<()> {
    let limit = RateLimit {
        bandwidth: Some(BANDWIDTH),
        packets: None,
    };
    let (near, far) = limited_and_free(bed, limit, direction).await?;
    let (sender, receiver) = match direction {
        Direction::Out => (&near, &far),
        Direction::In => (&far, &near),
    };

    let limited = passing(bed, sender.sends_to(receiver)).await?;
    let other_way = passing(bed, receiver.sends_to(sender)).await?;

    let rate = f64::from(u32::try_from(BANDWIDTH.bytes_per_second())?);
    let allowed = BURST_BYTES + rate * limited.seconds * TOLERANCE;
    ensure!(
        limited.bytes >= f64::from(SENT_BYTES) && limited.bytes <= allowed,
        "{SENT_BYTES} bytes were sent, {allowed} may pass, {limited:?} have"
    );
    ensure!(
        limited.held_back > 0.0,
        "nothing was held back: {limited:?}"
    );
    // Acknowledgements go through the bucket, what they acknowledge does not.
    ensure!(
        other_way.bytes < f64::from(SENT_BYTES) / 4.0,
        "the other way went through the limit too: {other_way:?}"
    );
    near.retire(bed).await?;
    far.retire(bed).await
}

/// Asks the host for echoes, each as soon as the one before has come: of either direction as many
/// packets as of the other.
async fn packet_rate_is_enforced(bed: &Bed, direction: Direction) -> Result<()> {
    let limit = RateLimit {
        bandwidth: None,
        packets: Some(PACKETS),
    };
    let (near, far) = limited_and_free(bed, limit, direction).await?;

    let limited = passing(bed, near.asks_for_echoes()).await?;
    let free = passing(bed, far.asks_for_echoes()).await?;

    let rate = f64::from(u32::try_from(PACKETS.packets_per_second())?);
    let full_frame = f64::from(near.nic.mtu.bytes());
    let allowed = BURST_BYTES / full_frame + rate * limited.seconds * TOLERANCE;
    ensure!(
        limited.packets >= f64::from(ECHOES) && limited.packets <= allowed,
        "{ECHOES} packets were sent, {allowed} may pass, {limited:?} have"
    );
    ensure!(
        limited.held_back > 0.0,
        "nothing was held back: {limited:?}"
    );
    ensure!(
        free.packets < f64::from(ECHOES) / 4.0,
        "packets of another NIC went through the limit: {free:?}"
    );
    near.retire(bed).await?;
    far.retire(bed).await
}

/// A container with a NIC of its own.
struct End {
    vm: std::rc::Rc<Vm>,
    container: Container,
    nic: Nic,
}

/// One with a limit, and one in another VM without any.
async fn limited_and_free(bed: &Bed, limit: RateLimit, direction: Direction) -> Result<(End, End)> {
    let (vm, free_vm) = bed.two_vms().await?;
    let (container, free) =
        tokio::try_join!(vm.guest.make_container(), free_vm.guest.make_container())?;
    let none = RateLimit::default();
    let (inbound, outbound) = match direction {
        Direction::In => (limit, none),
        Direction::Out => (none, limit),
    };
    let request = CreateNic {
        limits: Some(RateLimits { inbound, outbound }),
        attach: Some(into(&vm, container.target())),
        ..nic_on_blue()
    };
    let answer = bed.client().create_nic(&request, &settled()).await?;
    let nic = in_state(answer, NicState::InUse)?;
    let free_nic = attach_new(&bed.client(), &free_vm, free.target()).await?;
    let near = End { vm, container, nic };
    let far = End {
        vm: free_vm,
        container: free,
        nic: free_nic,
    };
    Ok((near, far))
}

impl End {
    /// Hands [`SENT_BYTES`] over by HTTP.
    async fn sends_to(&self, receiver: &Self) -> Result<()> {
        let addresses = self.nic.addresses.iter();
        let mut v4 = addresses.filter(|address| address.addr().is_ipv4());
        let address = v4.next().context("the sender has an IPv4 address")?.addr();
        let serve = format!(
            "mkdir -p /run/served; dd if=/dev/zero of=/run/served/file bs={SENT_BYTES} count=1; \
             nsenter --net=/proc/{}/ns/net httpd -p {address}:80 -h /run/served",
            self.container.pid
        );
        self.vm.guest.shell()?.succeed(&serve).await?;
        let fetch = format!("wget -q -O - http://{address}/file | wc -c");
        let guest = receiver.vm.guest.shell()?;
        let fetched = guest
            .run_in_for(&receiver.container.place(), &fetch, DEADLINE)
            .await;
        self.vm
            .guest
            .shell()?
            .succeed("killall httpd; rm -r /run/served")
            .await?;
        let received = fetched?.stdout;
        ensure!(
            received.trim() == SENT_BYTES.to_string(),
            "{} bytes arrived of {SENT_BYTES}",
            received.trim()
        );
        Ok(())
    }

    async fn asks_for_echoes(&self) -> Result<()> {
        let ping = format!("ping -A -q -c {ECHOES} -W 10 {HOST_V4}");
        let place = self.container.place();
        let output = self
            .vm
            .guest
            .shell()?
            .run_in_for(&place, &ping, DEADLINE)
            .await?;
        ensure!(output.status == 0, "no echoes: {output:?}");
        Ok(())
    }

    async fn retire(self, bed: &Bed) -> Result<()> {
        retire(&bed.client(), &self.nic.id).await?;
        self.vm.guest.kill_container(&self.container).await
    }
}

/// What has passed the site's only token bucket, and in which time.
#[derive(Debug)]
struct Passed {
    bytes: f64,
    packets: f64,
    held_back: f64,
    seconds: f64,
}

/// The bucket's own counters before and after `traffic`.
async fn passing(bed: &Bed, traffic: impl Future<Output = Result<()>>) -> Result<Passed> {
    let began = Instant::now();
    let before = bucket(bed).await?;
    traffic.await?;
    let after = bucket(bed).await?;
    let difference = |count: fn(&Qdisc) -> u32| f64::from(count(&after) - count(&before));
    Ok(Passed {
        bytes: difference(|bucket| bucket.bytes),
        packets: difference(|bucket| bucket.packets),
        held_back: difference(|bucket| bucket.overlimits),
        seconds: began.elapsed().as_secs_f64(),
    })
}

/// One element of `tc -s -j qdisc`.
#[derive(Debug, Deserialize)]
struct Qdisc {
    kind: String,
    bytes: u32,
    packets: u32,
    overlimits: u32,
}

async fn bucket(bed: &Bed) -> Result<Qdisc> {
    let listing = bed.host().site()?.netns.run("tc -s -j qdisc").await?;
    let qdiscs: Vec<Qdisc> = serde_json::from_str(&listing)?;
    let mut buckets = qdiscs.into_iter().filter(|qdisc| qdisc.kind == "tbf");
    let bucket = buckets.next().context("the limited NIC has no bucket")?;
    ensure!(
        buckets.next().is_none(),
        "one direction of one NIC is limited, and there is more than one bucket"
    );
    Ok(bucket)
}
