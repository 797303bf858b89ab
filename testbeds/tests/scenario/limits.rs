//! Limits: refused before the host is touched, by name, and enforced on real traffic.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use futures::future::{join_all, try_join_all};
use host_api::{AttachNic, Client, CreateNic, Nic, NicState, ProblemCode};
use nic_model::{BitRate, RateLimit, RateLimits};
use testbeds::bed::{Bed, Vm};
use testbeds::guest::Container;
use testbeds::inspection::HostState;
use testbeds::requests::{attach_new, in_state, into, nic_on_blue, refusal, retire, settled};
use testbeds::scenario::Scenario;
use testbeds::scenarios;
use testbeds::vm::VmOptions;

pub(crate) fn scenarios() -> Vec<Scenario> {
    scenarios![
        slots_used_up,
        a_thousand_attaches_against_a_limit_of_eight,
        a_mac_that_is_taken,
        bandwidth_out_is_enforced,
        bandwidth_in_is_enforced,
    ]
}

fn numbered(vm: &Vm, container: &Container, number: usize) -> Result<CreateNic> {
    Ok(CreateNic {
        attach: Some(AttachNic {
            link_name: Some(format!("n{number}").parse()?),
            ..into(vm, container.target())
        }),
        ..nic_on_blue()
    })
}

async fn slots_used_up(bed: &Bed) -> Result<()> {
    let client = bed.client();
    let options = VmOptions {
        root_ports: 4,
        ..VmOptions::named("vm3")?
    };
    let vm = bed.boot(options).await?;
    bed.agent_is_ready(&vm.id).await?;
    let container = vm.guest.make_container().await?;
    // libvirt puts devices of its own into root ports: the free ones are what counts.
    let free = usize::try_from(client.vm(&vm.id).await?.slots.free)?;
    let mut nics = Vec::new();
    for number in 0..free {
        let request = numbered(&vm, &container, number)?;
        nics.push(in_state(
            client.create_nic(&request, &settled()).await?,
            NicState::InUse,
        )?);
    }
    let before = HostState::of(bed.site()).await?;

    let one_more = numbered(&vm, &container, free)?;
    let problem = refusal(client.create_nic(&one_more, &settled()).await)?;

    ensure!(problem.code == ProblemCode::LimitExceeded, "{problem:?}");
    let limit = problem.limit.context("the refusal names the limit")?;
    ensure!(
        limit.name.contains("slot") && limit.usage >= limit.value,
        "{limit:?}"
    );
    ensure!(!limit.frees.is_empty(), "{limit:?}");
    ensure!(
        HostState::of(bed.site()).await? == before,
        "the host was touched"
    );
    try_join_all(nics.iter().map(|nic| retire(&client, &nic.id))).await?;
    bed.kill_vm(&vm.id).await
}

async fn a_thousand_attaches_against_a_limit_of_eight(bed: &Bed) -> Result<()> {
    const ATTEMPTS: usize = 1000;
    let vm = bed.vm("vm1").await?;
    let client = bed.client();
    let container = vm.guest.make_container().await?;
    let requests = (0..ATTEMPTS).map(|number| numbered(&vm, &container, number));
    let requests = requests.collect::<Result<Vec<_>>>()?;

    let wait = settled();
    let attempts = requests
        .iter()
        .map(|request| client.create_nic(request, &wait));
    let (done, refused): (Vec<_>, Vec<_>) = join_all(attempts)
        .await
        .into_iter()
        .partition(Result::is_ok);

    ensure!(
        done.len() == 8,
        "{} were done, not 8: {:?}",
        done.len(),
        refused.first()
    );
    for result in refused {
        let problem = refusal(result)?;
        let limit = problem
            .limit
            .with_context(|| format!("no limit in {:?}", problem.message))?;
        let as_expected = (limit.name.as_str(), limit.value, limit.usage) == ("max_nics", 8, 8);
        ensure!(as_expected && !limit.frees.is_empty(), "{limit:?}");
    }
    let mut nics = Vec::new();
    for answer in done {
        nics.push(in_state(answer?, NicState::InUse)?);
    }
    ensure!(
        client.nics().await?.nics.len() == 8,
        "refused NICs have records"
    );
    try_join_all(nics.iter().map(|nic| retire(&client, &nic.id))).await?;
    vm.guest.kill_container(&container).await
}

async fn a_mac_that_is_taken(bed: &Bed) -> Result<()> {
    let client = bed.client();
    let first = client.create_nic(&nic_on_blue(), &settled()).await?.nic;

    let again = CreateNic {
        mac: Some(first.mac),
        ..nic_on_blue()
    };
    let problem = refusal(client.create_nic(&again, &settled()).await)?;

    ensure!(problem.code == ProblemCode::Conflict, "{problem:?}");
    ensure!(problem.field.as_deref() == Some("mac"), "{problem:?}");
    retire(&client, &first.id).await
}

/// Ten megabits a second: far below what an emulated guest can do, so that the limit decides.
const LIMIT: BitRate = BitRate::from_megabits_per_second(10);
/// What is sent: two seconds' worth, so that a burst at the beginning does not count for much.
const SENT_BYTES: u64 = 2_500_000;

async fn bandwidth_out_is_enforced(bed: &Bed) -> Result<()> {
    let limits = RateLimits {
        outbound: limited(),
        ..RateLimits::default()
    };
    bandwidth_is_enforced(bed, limits, Sender::Limited).await
}

async fn bandwidth_in_is_enforced(bed: &Bed) -> Result<()> {
    let limits = RateLimits {
        inbound: limited(),
        ..RateLimits::default()
    };
    bandwidth_is_enforced(bed, limits, Sender::Unlimited).await
}

fn limited() -> RateLimit {
    RateLimit {
        bandwidth: Some(LIMIT),
        packets: None,
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sender {
    Limited,
    Unlimited,
}

/// Sends between a limited container and one without limits, and compares with the way back,
/// which is not limited.
async fn bandwidth_is_enforced(bed: &Bed, limits: RateLimits, sender: Sender) -> Result<()> {
    let (vm, peer_vm) = bed.two_vms().await?;
    let client = bed.client();
    let (container, peer) =
        tokio::try_join!(vm.guest.make_container(), peer_vm.guest.make_container())?;
    let request = CreateNic {
        limits: Some(limits),
        attach: Some(into(&vm, container.target())),
        ..nic_on_blue()
    };
    let nic = in_state(
        client.create_nic(&request, &settled()).await?,
        NicState::InUse,
    )?;
    let peer_nic = attach_new(&client, &peer_vm, peer.target()).await?;
    let near = (&*vm, &container, &nic);
    let far = (&*peer_vm, &peer, &peer_nic);

    let (limited, unlimited) = match sender {
        Sender::Limited => (sent(near, far).await?, sent(far, near).await?),
        Sender::Unlimited => (sent(far, near).await?, sent(near, far).await?),
    };

    let limit = LIMIT.bits_per_second();
    ensure!(
        limited <= limit * 11 / 10 && limited >= limit / 2,
        "{limited} bit/s passed a limit of {limit} bit/s"
    );
    ensure!(
        unlimited > limited * 2,
        "the way back, without a limit, did {unlimited} bit/s, the limited one {limited}"
    );
    finish(&client, near).await?;
    finish(&client, far).await
}

async fn finish(client: &Client, (vm, container, nic): (&Vm, &Container, &Nic)) -> Result<()> {
    retire(client, &nic.id).await?;
    vm.guest.kill_container(container).await
}

/// Bits per second of one transfer by HTTP.
async fn sent(
    (from_vm, from, from_nic): (&Vm, &Container, &Nic),
    (to_vm, to, _): (&Vm, &Container, &Nic),
) -> Result<u64> {
    const DEADLINE: Duration = Duration::from_secs(60);
    let from_v4 = from_nic
        .addresses
        .iter()
        .find(|address| address.addr().is_ipv4());
    let address = from_v4.context("the sender has an IPv4 address")?.addr();
    let serve = format!(
        "mkdir -p /run/served; dd if=/dev/zero of=/run/served/file bs={SENT_BYTES} count=1; \
         nsenter --net=/proc/{}/ns/net httpd -p {address}:80 -h /run/served",
        from.pid
    );
    from_vm.guest.succeed(&serve).await?;
    // The transfer's own clock: what the host adds with its shell would count as slowness.
    let fetch = format!(
        "read begin _ </proc/uptime; wget -q -O - http://{address}/file | wc -c; \
         read end _ </proc/uptime; echo $begin $end"
    );
    let fetched = to_vm.guest.run_in_for(&to.place(), &fetch, DEADLINE).await;
    from_vm
        .guest
        .succeed("killall httpd; rm -r /run/served")
        .await?;
    rate(&fetched?.stdout)
}

/// From the number of bytes that arrived, and the guest's uptime in seconds before and after.
fn rate(printed: &str) -> Result<u64> {
    let words: Vec<&str> = printed.split_whitespace().collect();
    let &[received, begin, end] = words.as_slice() else {
        bail!("the guest printed {printed:?}");
    };
    let received: u64 = received.parse()?;
    ensure!(
        received == SENT_BYTES,
        "{received} bytes arrived of {SENT_BYTES}"
    );
    let centiseconds = |uptime: &str| uptime.replace('.', "").parse::<u64>();
    let took = centiseconds(end)? - centiseconds(begin)?;
    Ok(received * 8 * 100 / took.max(1))
}
