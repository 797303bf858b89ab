//! What the host makes of honest, dead, restarted and hostile agents.

use nic_model::{Addressing, LinkName, Mtu, Target};
use proptest::prelude::*;

use super::*;
use crate::message::{Binding, Goal, KnownTarget, Phase};
use crate::{AgentEvent, AgentIdentity, AgentSession};

const NONCE: SessionNonce = SessionNonce(7);
const BOOT: &str = "00000000-0000-4000-8000-000000000001";
const NEXT_BOOT: &str = "00000000-0000-4000-8000-000000000002";
const START: Duration = Duration::from_secs(100);

fn nic(number: usize) -> NicId {
    format!("nic-{number:010}").parse().unwrap()
}

fn wanted(number: usize, generation: u64) -> WantedNic {
    WantedNic {
        nic: nic(number),
        generation,
        path: "02.0/00.0".parse().unwrap(),
        mac: "5a:00:00:00:00:01".parse().unwrap(),
        goal: Goal::Released,
        known_target: None,
    }
}

fn long_name_nic(number: usize, routes: usize) -> WantedNic {
    let route = nic_model::Route {
        destination: "10.0.0.0/8".parse().unwrap(),
        gateway: Some("192.0.2.1".parse().unwrap()),
        metric: Some(100),
    };
    WantedNic {
        goal: Goal::Bound {
            binding: Box::new(Binding {
                target: "netns:blue".parse::<Target>().unwrap(),
                link_name: "eth0".parse::<LinkName>().unwrap(),
                mtu: Mtu::ETHERNET,
                addressing: Addressing::Static { addresses: vec![] },
                routes: vec![route; routes],
            }),
        },
        ..wanted(number, 1)
    }
}

fn report(number: usize, generation: u64, phase: Phase) -> NicReport {
    NicReport {
        nic: nic(number),
        generation,
        phase,
        steps: vec![],
    }
}

fn agent_with(versions: VersionRange) -> AgentSession {
    AgentSession::new(AgentIdentity {
        versions,
        agent: "0.1.0".into(),
        boot_id: BOOT.parse().unwrap(),
    })
}

fn host() -> HostSession {
    HostSession::new(VersionRange::CURRENT, ReceiveLimits::default())
}

/// Carries everything to and fro until both are silent.
fn exchange(host: &mut HostSession, agent: &mut AgentSession, now: Duration) -> Vec<AgentEvent> {
    let mut heard = Vec::new();
    loop {
        let mut silent = true;
        while let Some(frame) = host.poll_transmit() {
            agent.handle_bytes(&frame);
            heard.extend(std::iter::from_fn(|| agent.poll_event()));
            silent = false;
        }
        while let Some(frame) = agent.poll_transmit() {
            host.handle_bytes(&frame, now);
            silent = false;
        }
        if silent {
            return heard;
        }
    }
}

fn events(host: &mut HostSession) -> Vec<SessionEvent> {
    std::iter::from_fn(|| host.poll_event()).collect()
}

fn established() -> (HostSession, AgentSession) {
    let (mut host, mut agent) = (host(), agent_with(VersionRange::CURRENT));
    host.want(wanted(1, 5)).unwrap();
    host.start(NONCE, START);
    exchange(&mut host, &mut agent, START);
    assert!(matches!(
        events(&mut host)[..],
        [SessionEvent::Opened { .. }]
    ));
    (host, agent)
}

/// Of an agent that has heard all and reported nothing.
fn pong(sequence: u64) -> AgentMessage {
    AgentMessage::Pong {
        sequence,
        heard: 9,
        reported: 0,
    }
}

fn message(nonce: SessionNonce, message: &AgentMessage) -> Vec<u8> {
    encode_frame(nonce, &encode(message)).unwrap()
}

#[test]
fn a_session_opens_and_declares_what_was_wanted_before() {
    let (mut host, mut agent) = (host(), agent_with(VersionRange::CURRENT));
    host.want(wanted(1, 1)).unwrap();
    host.want(wanted(2, 1)).unwrap();
    host.start(NONCE, START);

    let heard = exchange(&mut host, &mut agent, START);

    let declared = vec![wanted(1, 1), wanted(2, 1)];
    assert_eq!(
        heard,
        [
            AgentEvent::Opened { version: 2 },
            AgentEvent::Declared(declared)
        ]
    );
}

#[test]
fn hello_is_repeated_until_welcomed_and_one_waits_at_most() {
    let mut host = host();
    host.start(NONCE, START);
    assert!(host.poll_transmit().is_some());
    assert!(host.poll_transmit().is_none());

    host.handle_timeout(START + HELLO_INTERVAL / 2);
    assert!(host.poll_transmit().is_none());
    host.handle_timeout(START + HELLO_INTERVAL);
    host.handle_timeout(START + 2 * HELLO_INTERVAL);

    assert!(host.poll_transmit().is_some());
    assert!(host.poll_transmit().is_none());
    assert_eq!(host.next_deadline(), Some(START + 3 * HELLO_INTERVAL));
}

#[test]
fn changes_follow_the_declaration_and_only_the_newest_is_sent() {
    let (mut host, mut agent) = established();
    host.want(wanted(1, 6)).unwrap();
    host.want(wanted(1, 7)).unwrap();
    host.want(wanted(2, 1)).unwrap();
    host.forget(&nic(2));

    let heard = exchange(&mut host, &mut agent, START);

    assert_eq!(
        heard,
        [
            AgentEvent::Wanted(Box::new(wanted(1, 7))),
            AgentEvent::Forgotten(nic(2))
        ]
    );
}

#[test]
fn a_declaration_larger_than_a_frame_arrives_whole() {
    let (mut host, mut agent) = (host(), agent_with(VersionRange::CURRENT));
    let nics: Vec<_> = (0..40).map(|number| long_name_nic(number, 50)).collect();
    for nic in &nics {
        host.want(nic.clone()).unwrap();
    }
    host.start(NONCE, START);

    let heard = exchange(&mut host, &mut agent, START);

    assert_eq!(heard.last(), Some(&AgentEvent::Declared(nics)));
}

#[test]
fn a_nic_too_long_to_declare_is_refused_and_nothing_changes() {
    let (mut host, mut agent) = established();

    let refusal = host.want(long_name_nic(1, 5000)).unwrap_err();

    assert!(matches!(refusal, DeclareError::TooLong { .. }));
    assert_eq!(exchange(&mut host, &mut agent, START), []);
}

#[test]
fn one_nic_more_than_the_set_holds_is_refused() {
    let mut host = host();
    for number in 0..MAX_NICS {
        host.want(wanted(number, 1)).unwrap();
    }

    assert!(matches!(
        host.want(wanted(MAX_NICS, 1)),
        Err(DeclareError::TooMany { .. })
    ));
    assert_eq!(host.want(wanted(0, 2)), Ok(()));
}

#[test]
fn bytes_of_an_earlier_life_do_not_open_a_session() {
    let mut host = host();
    host.start(NONCE, START);
    let welcome = AgentMessage::Welcome {
        version: 2,
        agent: String::new(),
        boot_id: BOOT.parse().unwrap(),
    };
    let stale = message(SessionNonce(6), &welcome);

    host.handle_bytes(&stale, START);
    host.handle_bytes(&stale[..15], START);
    assert!(!host.is_established());
    // The first may vanish in the half header before it; the repeated Hello brings a second.
    host.handle_bytes(&message(NONCE, &welcome).repeat(2), START);

    assert!(host.is_established());
    assert_eq!(host.counters().foreign_frames, 1);
    assert_eq!(host.counters().garbage_bytes, 15);
}

#[test]
fn the_newest_common_version_is_chosen() {
    let cases = [
        ((1, 1), (1, 1), Some(1)),
        ((1, 2), (2, 3), Some(2)),
        ((2, 3), (1, 3), Some(3)),
        ((3, 4), (1, 2), None),
        ((1, 2), (3, 4), None),
    ];
    for ((oldest, newest), (agent_oldest, agent_newest), expected) in cases {
        let ours = VersionRange { oldest, newest };
        let theirs = VersionRange {
            oldest: agent_oldest,
            newest: agent_newest,
        };
        let mut host = HostSession::new(ours, ReceiveLimits::default());
        let mut agent = agent_with(theirs);
        host.start(NONCE, START);

        exchange(&mut host, &mut agent, START);

        match (expected, host.poll_event()) {
            (Some(expected), Some(SessionEvent::Opened { version, .. })) => {
                assert_eq!(version, expected);
            }
            (None, event) => assert_eq!(
                event,
                Some(SessionEvent::Closed(CloseReason::Incompatible {
                    ours,
                    theirs
                }))
            ),
            (expected, event) => panic!("{expected:?}, but {event:?}"),
        }
    }
}

/// Its Pongs bear no counts, so a session with it would be taken for one that breaks the protocol.
#[test]
fn an_agent_of_the_first_version_is_called_incompatible() {
    let theirs = VersionRange {
        oldest: 1,
        newest: 1,
    };
    let (mut host, mut agent) = (host(), agent_with(theirs));
    host.start(NONCE, START);

    exchange(&mut host, &mut agent, START);

    let ours = VersionRange::CURRENT;
    let reason = CloseReason::Incompatible { ours, theirs };
    assert_eq!(events(&mut host), [SessionEvent::Closed(reason)]);
}

#[test]
fn a_welcome_to_a_version_that_was_not_offered_closes() {
    let mut host = host();
    host.start(NONCE, START);
    let welcome = AgentMessage::Welcome {
        version: 9,
        agent: String::new(),
        boot_id: BOOT.parse().unwrap(),
    };

    host.handle_bytes(&message(NONCE, &welcome), START);

    assert!(matches!(
        host.poll_event(),
        Some(SessionEvent::Closed(CloseReason::Incompatible { .. }))
    ));
}

#[test]
fn three_unanswered_pings_mean_lost_and_a_new_start_recovers() {
    let (mut host, mut agent) = established();
    for _ in 0..=MISSED_PONGS {
        let deadline = host.next_deadline().unwrap();
        host.handle_timeout(deadline);
    }
    assert_eq!(
        events(&mut host),
        [SessionEvent::Closed(CloseReason::Lost { missed: 3 })]
    );
    assert_eq!(host.next_deadline(), None);
    assert_eq!(host.poll_transmit(), None);

    host.start(SessionNonce(8), START);
    let heard = exchange(&mut host, &mut agent, START);

    assert_eq!(
        heard.last(),
        Some(&AgentEvent::Declared(vec![wanted(1, 5)]))
    );
}

#[test]
fn answered_pings_keep_a_session_for_ever() {
    let (mut host, mut agent) = established();
    for _ in 0..100 {
        let now = host.next_deadline().unwrap();
        host.handle_timeout(now);
        exchange(&mut host, &mut agent, now);
    }

    assert_eq!(events(&mut host), []);
}

#[test]
fn pongs_nobody_waits_for_do_not_keep_an_agent_alive() {
    let (mut host, _) = established();
    let mut now = START;
    while host.is_established() {
        now = host.next_deadline().unwrap();
        host.handle_timeout(now);
        host.handle_bytes(&message(NONCE, &pong(99)), now);
    }

    assert_eq!(now, START + 4 * PING_INTERVAL);
    assert!(host.counters().unexpected_messages >= 3);
}

/// What is sent from `now` on, with the agent's answers, but for the `lost` message.
fn exchange_but(host: &mut HostSession, agent: &mut AgentSession, now: Duration, lost: &str) {
    let is_lost = |frame: &[u8]| String::from_utf8_lossy(frame).contains(lost);
    host.handle_timeout(now);
    while let Some(frame) = host.poll_transmit() {
        if !is_lost(&frame) {
            agent.handle_bytes(&frame);
        }
    }
    while let Some(frame) = agent.poll_transmit() {
        if !is_lost(&frame) {
            host.handle_bytes(&frame, now);
        }
    }
}

#[test]
fn a_wish_that_was_lost_is_missed_at_the_next_ping() {
    let (mut host, mut agent) = established();
    host.want(wanted(1, 6)).unwrap();
    exchange_but(&mut host, &mut agent, START, "want");
    assert_eq!(events(&mut host), []);

    exchange_but(&mut host, &mut agent, START + PING_INTERVAL, "nothing");

    let lost = SessionEvent::Closed(CloseReason::MessagesLost);
    assert_eq!(events(&mut host), [lost]);
}

#[test]
fn a_report_that_was_lost_is_missed_at_the_next_ping() {
    let (mut host, mut agent) = established();
    agent.report(report(1, 5, Phase::Binding)).unwrap();
    exchange_but(&mut host, &mut agent, START, "report");
    assert_eq!(events(&mut host), []);

    exchange_but(&mut host, &mut agent, START + PING_INTERVAL, "nothing");

    let lost = SessionEvent::Closed(CloseReason::MessagesLost);
    assert_eq!(events(&mut host), [lost]);
}

#[test]
fn what_is_still_on_its_way_is_not_missed() {
    let (mut host, mut agent) = established();
    host.handle_timeout(START + PING_INTERVAL);
    let ping = host.poll_transmit().unwrap();
    host.want(wanted(1, 6)).unwrap();
    let want = host.poll_transmit().unwrap();

    agent.report(report(1, 5, Phase::Binding)).unwrap();
    agent.handle_bytes(&ping);
    agent.handle_bytes(&want);
    while let Some(frame) = agent.poll_transmit() {
        host.handle_bytes(&frame, START + PING_INTERVAL);
    }

    assert!(host.is_established());
}

#[test]
fn reports_reach_the_owner_only_for_the_declared_generation() {
    let (mut host, _) = established();
    for (number, generation) in [(1, 4), (1, 6), (2, 1), (1, 5)] {
        let report = Box::new(report(number, generation, Phase::Binding));
        host.handle_bytes(&message(NONCE, &AgentMessage::Report { report }), START);
    }

    assert_eq!(
        events(&mut host),
        [SessionEvent::Report(report(1, 5, Phase::Binding))]
    );
    assert_eq!(host.counters().outdated_reports, 2);
    assert_eq!(host.counters().undeclared_reports, 1);
}

#[test]
fn an_owner_that_does_not_poll_keeps_the_newest_reports_only() {
    let (mut host, _) = established();
    for count in 0..100 {
        let phase = if count == 99 {
            Phase::Released
        } else {
            Phase::Awaited
        };
        let report = Box::new(report(1, 5, phase));
        host.handle_bytes(&message(NONCE, &AgentMessage::Report { report }), START);
    }

    let events = events(&mut host);

    assert_eq!(events.len(), REPORTS_KEPT_PER_NIC);
    let newest = SessionEvent::Report(report(1, 5, Phase::Released));
    assert_eq!(events.last(), Some(&newest));
}

#[test]
fn bad_bytes_within_a_session_end_it_with_the_reason() {
    let mut flipped = message(NONCE, &pong(1));
    flipped[25] ^= 1;
    let frame = |payload: &[u8]| encode_frame(NONCE, payload).unwrap();
    let nested = frame("[".repeat(60_000).as_bytes());
    let unknown = frame(b"{\"type\":\"pong\",\"sequence\":1,\"more\":2}");
    let mut endless = flipped.clone();
    endless[12..16].copy_from_slice(&u32::MAX.to_be_bytes());
    let cases: [(&str, Vec<u8>); 5] = [
        ("BrokenFraming", b"hello".to_vec()),
        ("BrokenFraming", flipped),
        ("BrokenFraming", endless),
        ("MalformedMessage", nested),
        ("MalformedMessage", unknown),
    ];
    for (reason, bytes) in cases {
        let (mut host, _) = established();

        host.handle_bytes(&bytes, START);

        let events = events(&mut host);
        assert_eq!(events.len(), 1);
        let text = format!("{:?}", events[0]);
        assert!(text.contains(reason), "{text}");
    }
}

#[test]
fn a_flood_of_frames_or_bytes_ends_the_session() {
    let limits = ReceiveLimits {
        frames_per_second: 10,
        frames_burst: 10,
        bytes_per_second: 1500,
        bytes_burst: 1500,
    };
    let cases = [
        (FloodLimit::Frames, pong(0), 12),
        (
            FloodLimit::Bytes,
            AgentMessage::Report {
                report: Box::new(report(1, 5, Phase::Awaited)),
            },
            14,
        ),
    ];
    for (limit, flood, count) in cases {
        let (_, mut agent) = established();
        let mut host = HostSession::new(VersionRange::CURRENT, limits);
        host.want(wanted(1, 5)).unwrap();
        host.start(NONCE, START);
        exchange(&mut host, &mut agent, START);
        events(&mut host);

        host.handle_bytes(&message(NONCE, &flood).repeat(count), START);

        let last = events(&mut host).pop();
        let closed = SessionEvent::Closed(CloseReason::Flooded { limit });
        assert_eq!(last, Some(closed), "{limit}");
    }
}

#[test]
fn a_forgotten_nics_reports_are_gone_with_it() {
    let (mut host, _) = established();
    let report = Box::new(report(1, 5, Phase::Binding));
    host.handle_bytes(&message(NONCE, &AgentMessage::Report { report }), START);

    host.forget(&nic(1));

    assert_eq!(events(&mut host), []);
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic_and_never_make_a_report(
        bytes in prop::collection::vec(any::<u8>(), 0..3000),
        chunk in 1_usize..700,
    ) {
        let (mut host, _) = established();
        for part in bytes.chunks(chunk) {
            host.handle_bytes(part, START);
        }
        let reports = events(&mut host)
            .into_iter()
            .filter(|event| matches!(event, SessionEvent::Report(_)))
            .count();
        prop_assert_eq!(reports, 0);
    }

    #[test]
    fn a_session_opens_over_a_pipe_with_any_leftovers(
        to_agent in prop::collection::vec(any::<u8>(), 0..300),
        to_host in prop::collection::vec(any::<u8>(), 0..300),
        chunk in 1_usize..40,
    ) {
        let (mut host, mut agent) = (host(), agent_with(VersionRange::CURRENT));
        agent.handle_bytes(&to_agent);
        host.start(NONCE, START);
        host.handle_bytes(&to_host, START);
        let mut now = START;
        for _ in 0..3 {
            while let Some(frame) = host.poll_transmit() {
                frame.chunks(chunk).for_each(|part| agent.handle_bytes(part));
            }
            while let Some(frame) = agent.poll_transmit() {
                frame.chunks(chunk).for_each(|part| host.handle_bytes(part, now));
            }
            now += HELLO_INTERVAL;
            host.handle_timeout(now);
        }
        prop_assert!(host.is_established());
    }
}

fn bound_into_pid(generation: u64) -> WantedNic {
    let mut nic = long_name_nic(1, 0);
    if let Goal::Bound { binding } = &mut nic.goal {
        binding.target = "pid:42".parse().unwrap();
    }
    WantedNic { generation, ..nic }
}

fn declared(heard: Vec<AgentEvent>) -> Option<KnownTarget> {
    heard.into_iter().find_map(|event| match event {
        AgentEvent::Declared(nics) => nics.first().and_then(|nic| nic.known_target),
        AgentEvent::Wanted(nic) => nic.known_target,
        AgentEvent::Opened { .. } | AgentEvent::Forgotten(_) | AgentEvent::Closed(_) => None,
    })
}

fn booted_as(boot_id: &str) -> AgentSession {
    AgentSession::new(AgentIdentity {
        versions: VersionRange::CURRENT,
        agent: "0.1.0".into(),
        boot_id: boot_id.parse().unwrap(),
    })
}

#[test]
fn a_pid_stays_the_one_of_the_boot_it_was_asked_in() {
    let mut host = host();
    host.want(bound_into_pid(1)).unwrap();
    host.start(NONCE, START);
    let first = declared(exchange(&mut host, &mut booted_as(BOOT), START));

    host.start(SessionNonce(8), START);
    let after_reboot = declared(exchange(&mut host, &mut booted_as(NEXT_BOOT), START));

    let boot_id = BOOT.parse().unwrap();
    assert_eq!(first, Some(KnownTarget::AskedIn { boot_id }));
    assert_eq!(after_reboot, first);
}

#[test]
fn a_pid_that_was_bound_is_declared_as_what_it_was() {
    let mut host = host();
    let mut agent = booted_as(BOOT);
    host.want(bound_into_pid(1)).unwrap();
    host.start(NONCE, START);
    exchange(&mut host, &mut agent, START);
    let target = nic_model::TargetIdentity {
        boot_id: BOOT.parse().unwrap(),
        netns_inode: nic_model::NetnsInode(7),
        process_started: Some(nic_model::ProcessStart(99)),
    };
    let addresses = vec![];
    agent
        .report(report(1, 1, Phase::Bound { target, addresses }))
        .unwrap();
    exchange(&mut host, &mut agent, START);

    host.start(SessionNonce(8), START);
    let next = declared(exchange(&mut host, &mut booted_as(NEXT_BOOT), START));

    assert_eq!(next, Some(KnownTarget::BoundIn { target }));
}

#[test]
fn a_new_wish_for_a_pid_means_the_boot_that_runs() {
    let mut host = host();
    host.want(bound_into_pid(1)).unwrap();
    host.start(NONCE, START);
    exchange(&mut host, &mut booted_as(BOOT), START);
    host.start(SessionNonce(8), START);
    let mut agent = booted_as(NEXT_BOOT);
    exchange(&mut host, &mut agent, START);

    host.want(bound_into_pid(2)).unwrap();

    let boot_id = NEXT_BOOT.parse().unwrap();
    let heard = declared(exchange(&mut host, &mut agent, START));
    assert_eq!(heard, Some(KnownTarget::AskedIn { boot_id }));
}

#[test]
fn an_agent_that_was_restarted_says_so_at_the_next_ping() {
    let (mut host, _dead) = established();
    let mut restarted = agent_with(VersionRange::CURRENT);
    host.handle_timeout(START + PING_INTERVAL);

    exchange(&mut host, &mut restarted, START + PING_INTERVAL);

    assert_eq!(
        events(&mut host),
        [SessionEvent::Closed(CloseReason::Restarted)]
    );
    host.start(SessionNonce(8), START + PING_INTERVAL);
    exchange(&mut host, &mut restarted, START + PING_INTERVAL);
    assert!(host.is_established());
}

#[test]
fn what_is_said_of_an_earlier_session_ends_none() {
    let (mut host, _agent) = established();

    host.handle_bytes(&message(SessionNonce(6), &AgentMessage::NoSession), START);

    assert!(host.is_established());
    assert_eq!(events(&mut host), []);
}
