//! A guest that does its worst on its channel harms nobody but itself: no other VM's records, no
//! other VM's attach, no memory; and it is served again as soon as it behaves.

use std::time::Duration;

use agent_protocol::{AgentMessage, BindError, BindStep, NicReport, Phase, StepTiming};
use hostd::agent_link::AgentState;
use hostd::board::Happening;
use nic_lifecycle::NicState;
use nic_model::{NetnsInode, NicId, TargetIdentity};

use crate::support::guest::boot_id;
use crate::support::hostile::{Attacker, Line, RawFrame};
use crate::support::stage::{Call, Effect, Fault, Times};
use crate::support::{Agents, Setup, World, within};

/// Most that hostd may grow by, with what the test itself holds.
const MOST_GROWTH: usize = 24 << 20;
const CHUNK: usize = 64 << 10;
/// What Linux lets a unix socket hold by default, half of it: the rest is its own bookkeeping.
const SOCKET_BUFFER: usize = 100 << 10;

/// Two VMs: one whose agent behaves and has a NIC in use, and one that is under attack and has a
/// NIC on its way.
struct Siege {
    world: World,
    bystander: NicId,
    own: NicId,
}

impl Siege {
    async fn start() -> Self {
        let mut world = World::with(Setup {
            vms: vec!["healthy", "hostile"],
            slots: 40,
            agents: Agents::Nowhere,
            ..Setup::default()
        })
        .await;
        world.start_agent("healthy");
        let bystander = world.attached("healthy").await;
        let own = world.create().await;
        world.begin_attach(&own, "hostile", "netns:c1").await;
        Self {
            world,
            bystander,
            own,
        }
    }

    /// Attacks until hostd thinks of the guest as said, then shows that nothing else suffers.
    async fn withstand<A, F>(mut self, attack: A, outcome: impl Fn(&AgentState) -> bool)
    where
        A: Fn(Line) -> F + Send + 'static,
        F: Future<Output = std::io::Result<()>> + Send,
    {
        let memory = resident();
        let before = self.world.record(&self.bystander);
        let mut events = self.world.service().board.subscribe(None).future;
        let attacker = Attacker::start(&self.world.channel("hostile"), attack);

        attacker.until_rounds(1).await;
        self.world.until_agent("hostile", outcome).await;
        let newcomer = self.world.attached("healthy").await;
        attacker.until_rounds(3).await;

        self.world.assert_plugged(&newcomer, "healthy");
        assert_eq!(self.world.record(&self.bystander), before);
        assert_eq!(self.world.live(&self.bystander).degraded, None);
        while let Ok(event) = events.try_recv() {
            let healthy = event.vm.is_some_and(|vm| vm.as_str() == "healthy");
            let agent_changed = matches!(event.what, Happening::AgentChanged(_));
            assert!(!(healthy && agent_changed), "the healthy agent was lost");
        }
        let growth = resident().saturating_sub(memory);
        assert!(growth < MOST_GROWTH, "grew by {growth} bytes");
        drop(attacker);
        self.recovers().await;
    }

    async fn recovers(&mut self) {
        self.world.stage.heal();
        self.world.start_agent("hostile");
        self.world.until_agent_is_ready("hostile").await;
        let settled = |state: NicState| state.is_settled();
        let own = &self.own;
        self.world
            .until("rest", own, |record, _| settled(record.state))
            .await;
        if self.world.record(own).state == NicState::Available {
            self.world.attach(own, "hostile", "netns:c1").await.unwrap();
        }
        self.world.assert_plugged(own, "hostile");
    }
}

fn misbehaving(state: &AgentState) -> bool {
    matches!(state, AgentState::Misbehaving { .. })
}

fn connecting(state: &AgentState) -> bool {
    *state == AgentState::Connecting
}

fn ready(state: &AgentState) -> bool {
    matches!(state, AgentState::Ready { .. })
}

fn bound(nic: &NicId, generation: u64) -> AgentMessage {
    report(
        nic,
        generation,
        Phase::Bound {
            target: TargetIdentity {
                boot_id: boot_id(),
                netns_inode: NetnsInode(1),
                process_started: None,
            },
            addresses: vec!["10.77.0.9/16".parse().unwrap()],
        },
    )
}

fn report(nic: &NicId, generation: u64, phase: Phase) -> AgentMessage {
    AgentMessage::Report {
        report: Box::new(NicReport {
            nic: nic.clone(),
            generation,
            phase,
            steps: Vec::new(),
        }),
    }
}

#[tokio::test(start_paused = true)]
async fn megabytes_of_random_bytes_before_any_session() {
    let siege = Siege::start().await;
    let attack = |mut line: Line| async move {
        for seed in 0..256 {
            line.write(&noise(seed, CHUNK)).await?;
        }
        Ok(())
    };
    siege.withstand(attack, misbehaving).await;
}

#[tokio::test(start_paused = true)]
async fn random_bytes_within_a_session() {
    let siege = Siege::start().await;
    let attack = |mut line: Line| async move {
        line.open().await?;
        line.write(&noise(1, CHUNK)).await
    };
    siege.withstand(attack, misbehaving).await;
}

#[tokio::test(start_paused = true)]
async fn half_a_frame_and_then_silence_before_any_session() {
    let siege = Siege::start().await;
    let attack = |mut line: Line| async move {
        let frame = RawFrame::honest(7, &vec![b' '; 60_000]).bytes();
        line.write(&frame[..30_000]).await?;
        // tidy: sleep because paused time passes at once
        tokio::time::sleep(Duration::from_secs(20)).await;
        Ok(())
    };
    siege.withstand(attack, connecting).await;
}

#[tokio::test(start_paused = true)]
async fn half_a_frame_and_then_silence_within_a_session() {
    let siege = Siege::start().await;
    let attack = |mut line: Line| async move {
        let nonce = line.open().await?;
        let frame = RawFrame::honest(nonce, &vec![b' '; 60_000]).bytes();
        line.write(&frame[..30_000]).await?;
        line.until_closed().await
    };
    siege.withstand(attack, connecting).await;
}

#[tokio::test(start_paused = true)]
async fn headers_that_claim_four_gigabytes() {
    let siege = Siege::start().await;
    let attack = |mut line: Line| async move {
        let nonce = line.open().await?;
        let claim = RawFrame {
            length: u32::MAX,
            ..RawFrame::honest(nonce, b"{}")
        };
        line.write(&claim.bytes().repeat(10_000)).await
    };
    siege.withstand(attack, misbehaving).await;
}

#[tokio::test(start_paused = true)]
async fn a_million_reports_of_its_own_nic() {
    let siege = Siege::start().await;
    let own = siege.own.clone();
    let attack = move |mut line: Line| {
        let own = own.clone();
        async move {
            line.open().await?;
            line.flood(&report(&own, 1, Phase::Binding), 1_000_000)
                .await
        }
    };
    siege.withstand(attack, misbehaving).await;
}

#[tokio::test(start_paused = true)]
async fn a_million_pongs() {
    let siege = Siege::start().await;
    let attack = |mut line: Line| async move {
        line.open().await?;
        line.flood(
            &AgentMessage::Pong {
                sequence: 1,
                heard: 0,
                reported: 0,
            },
            1_000_000,
        )
        .await
    };
    siege.withstand(attack, misbehaving).await;
}

#[tokio::test(start_paused = true)]
async fn reports_of_what_is_not_its_own_or_was_never_asked_for() {
    let siege = Siege::start().await;
    let missing = Fault::TimedOut(Effect::Missing);
    let stage = siege.world.stage.clone();
    stage.fail(Call::Plug, Some("hostile"), missing, Times::Always);
    let (own, foreign) = (siege.own.clone(), siege.bystander.clone());
    let (world, own_id) = (siege.world.service().clone(), own.clone());
    let attack = move |mut line: Line| {
        let own = own.clone();
        let foreign = foreign.clone();
        async move {
            line.open().await?;
            for generation in [0, 1, 2, 3, u64::MAX] {
                line.send(&bound(&foreign, generation)).await?;
                line.send(&report(&foreign, generation, Phase::Returned))
                    .await?;
                line.send(&report(&foreign, generation, Phase::Absent))
                    .await?;
                line.send(&bound(&own, generation)).await?;
            }
            // tidy: sleep because paused time passes at once
            tokio::time::sleep(Duration::from_secs(1)).await;
            Ok(())
        }
    };
    siege.withstand(attack, ready).await;
    // It was brought into use only once it had been plugged, after the attack.
    assert_eq!(world.store.nic(&own_id).unwrap().state, NicState::InUse);
}

#[tokio::test(start_paused = true)]
async fn a_nic_that_was_never_plugged_is_not_in_use_whatever_the_guest_says() {
    let siege = Siege::start().await;
    let missing = Fault::TimedOut(Effect::Missing);
    siege
        .world
        .stage
        .fail(Call::Plug, Some("hostile"), missing, Times::Always);
    let own = siege.own.clone();
    let attack = move |mut line: Line| {
        let own = own.clone();
        async move {
            line.open().await?;
            line.send(&bound(&own, 1)).await?;
            line.until_closed().await
        }
    };
    let _attacker = Attacker::start(&siege.world.channel("hostile"), attack);
    let world = &siege.world;
    let agent = world.agent("hostile");
    world
        .until_agent("hostile", |_| agent.view().reports.contains_key(&siege.own))
        .await;

    world.until_state(&siege.own, NicState::Available).await;

    let failure = world.record(&siege.own).last_failure.unwrap();
    assert_eq!(failure.code, "timed_out");
    world.assert_gone(&siege.own).await;
}

#[tokio::test(start_paused = true)]
async fn json_ten_thousand_levels_deep() {
    let siege = Siege::start().await;
    let attack = |mut line: Line| async move {
        let nonce = line.open().await?;
        for (open, close) in [("[", "]"), (r#"{"a":"#, "}")] {
            let deep = open.repeat(10_000) + &close.repeat(10_000);
            line.write(&RawFrame::honest(nonce, deep.as_bytes()).bytes())
                .await?;
        }
        Ok(())
    };
    siege.withstand(attack, misbehaving).await;
}

#[tokio::test(start_paused = true)]
async fn huge_strings_in_its_greeting_are_cut() {
    let siege = Siege::start().await;
    let attack = |mut line: Line| async move {
        line.open_as(&"agent\n".repeat(5_000), &boot_id().to_string())
            .await?;
        // tidy: sleep because paused time passes at once
        tokio::time::sleep(Duration::from_secs(1)).await;
        Ok(())
    };
    let short = |state: &AgentState| match state {
        AgentState::Ready { agent, .. } => {
            assert!(agent.len() <= 200 && !agent.contains('\n'));
            true
        }
        AgentState::Absent
        | AgentState::Connecting
        | AgentState::Incompatible { .. }
        | AgentState::Misbehaving { .. } => false,
    };
    siege.withstand(attack, short).await;
}

#[tokio::test(start_paused = true)]
async fn a_boot_id_that_is_none() {
    let siege = Siege::start().await;
    let attack = |mut line: Line| async move {
        line.open_as("agent", &"boot".repeat(5_000)).await?;
        line.until_closed().await
    };
    siege.withstand(attack, misbehaving).await;
}

#[tokio::test(start_paused = true)]
async fn a_long_report_is_kept_and_shown_short() {
    let siege = Siege::start().await;
    let world = &siege.world;
    let own = siege.own.clone();
    let attack = move |mut line: Line| {
        let own = own.clone();
        async move {
            line.open().await?;
            let error = BindError::Kernel {
                step: BindStep::Enter,
                message: "no\n".repeat(10_000),
            };
            let step = StepTiming {
                step: BindStep::Hold,
                duration_us: 1,
            };
            let long = NicReport {
                nic: own.clone(),
                generation: 1,
                phase: Phase::Failed { error },
                steps: vec![step; 500],
            };
            line.send(&AgentMessage::Report {
                report: Box::new(long),
            })
            .await?;
            line.until_closed().await
        }
    };
    let _attacker = Attacker::start(&world.channel("hostile"), attack);

    let failed = |record: &nic_lifecycle::NicRecord| record.last_failure.is_some();
    world
        .until("a failure", &siege.own, |record, _| failed(record))
        .await;

    let failure = world.record(&siege.own).last_failure.unwrap();
    assert_eq!(failure.code, "guest_kernel_refused");
    assert!(failure.message.len() < 300, "{}", failure.message.len());
    assert!(world.live(&siege.own).timings.len() < 64);
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_reads_nothing_while_much_is_declared() {
    let siege = Siege::start().await;
    let route = |number: usize| {
        let subnet = "2001:db8:aaaa:bbbb:cccc:dddd:eeee";
        format!(
            r#"{{"destination": "{subnet}:{number:04x}/128", "gateway": "{subnet}:ffff",
                "metric": 4000000000}}"#
        )
    };
    let routes: Vec<_> = (0..64).map(route).collect();
    let request = format!(r#"{{"network": "blue", "routes": [{}]}}"#, routes.join(","));
    for number in 0..36 {
        let nic = siege.world.create_from(&request).await;
        let place = format!("netns:many{number}");
        siege.world.begin_attach(&nic, "hostile", &place).await;
    }
    let attack = |mut line: Line| async move {
        line.open().await?;
        let unread = line.ignore().await?;
        assert!(
            unread > SOCKET_BUFFER,
            "hostd could write all: {unread} bytes"
        );
        Ok(())
    };
    siege.withstand(attack, connecting).await;
}

#[tokio::test(start_paused = true)]
async fn opening_and_closing_in_a_loop() {
    let siege = Siege::start().await;
    siege
        .withstand(|_line| std::future::ready(Ok(())), connecting)
        .await;
}

#[tokio::test(start_paused = true)]
async fn greeting_and_closing_in_a_loop_is_slowed_down() {
    let siege = Siege::start().await;
    let attack = |mut line: Line| async move { line.open().await.map(drop) };
    let attacker = Attacker::start(&siege.world.channel("hostile"), attack);
    attacker.until_rounds(10).await;
    let began = tokio::time::Instant::now();

    attacker.until_rounds(20).await;

    assert!(
        began.elapsed() >= Duration::from_secs(15),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_changes_its_mind_without_end_fills_nobodys_history() {
    let mut siege = Siege::start().await;
    siege.world.start_agent("hostile");
    siege.world.until_state(&siege.own, NicState::InUse).await;
    siege.world.guests.clear();
    let own = siege.own.clone();
    let attack = move |mut line: Line| {
        let own = own.clone();
        async move {
            line.open().await?;
            loop {
                line.send(&bound(&own, 1)).await?;
                // tidy: sleep because paused time passes at once
                tokio::time::sleep(Duration::from_millis(5)).await;
                line.send(&report(&own, 1, Phase::Returned)).await?;
                // tidy: sleep because paused time passes at once
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    };
    let mut events = siege.world.service().board.subscribe(None).future;
    let _attacker = Attacker::start(&siege.world.channel("hostile"), attack);
    let began = tokio::time::Instant::now();

    let mut changes = 0;
    while changes < 20 {
        let event = within("an event", events.recv()).await.unwrap();
        let flip = matches!(
            event.what,
            Happening::NicDegraded(_) | Happening::NicRecovered
        );
        changes += u64::from(flip);
    }

    assert!(began.elapsed() >= Duration::from_secs(changes - 2));
}

#[tokio::test(start_paused = true)]
async fn what_a_guest_says_too_soon_after_the_last_news_is_told_in_the_end() {
    let mut siege = Siege::start().await;
    siege.world.start_agent("hostile");
    siege.world.until_state(&siege.own, NicState::InUse).await;
    siege.world.guests.clear();
    let own = siege.own.clone();
    let attack = move |mut line: Line| {
        let own = own.clone();
        async move {
            line.open().await?;
            // What its own agent has said was news too.
            // tidy: sleep because paused time passes at once
            tokio::time::sleep(Duration::from_secs(2)).await;
            line.send(&report(&own, 1, Phase::Returned)).await?;
            // tidy: sleep because paused time passes at once
            tokio::time::sleep(Duration::from_millis(5)).await;
            line.send(&bound(&own, 1)).await?;
            std::future::pending().await
        }
    };
    let mut events = siege.world.service().board.subscribe(None).future;
    let _attacker = Attacker::start(&siege.world.channel("hostile"), attack);

    let mut told = Vec::new();
    while told.len() < 2 {
        let event = within("an event", events.recv()).await.unwrap();
        let flip = matches!(
            event.what,
            Happening::NicDegraded(_) | Happening::NicRecovered
        );
        told.extend(flip.then_some(event.what));
    }

    assert!(matches!(
        told[..],
        [Happening::NicDegraded(_), Happening::NicRecovered]
    ));
}

/// Bytes that look like nothing, the same for the same seed.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_be_bytes()
    });
    next.flatten().take(len).collect()
}

/// Resident memory of this process, in bytes.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line
        .and_then(|line| line.trim().strip_suffix(" kB"))
        .unwrap();
    kilobytes.parse::<usize>().unwrap() << 10
}
