//! What the agent makes of hosts that come, restart and fall silent.

use super::*;
use crate::message::Phase;

const OLD: SessionNonce = SessionNonce(1);
const NEW: SessionNonce = SessionNonce(2);

fn agent() -> AgentSession {
    AgentSession::new(AgentIdentity {
        versions: VersionRange::CURRENT,
        agent: "0.1.0".into(),
        boot_id: "00000000-0000-4000-8000-000000000001".parse().unwrap(),
    })
}

fn frame(nonce: SessionNonce, message: &HostMessage) -> Vec<u8> {
    encode_frame(nonce, &serde_json::to_vec(message).unwrap()).unwrap()
}

fn hello(nonce: SessionNonce) -> Vec<u8> {
    let versions = VersionRange::CURRENT;
    frame(nonce, &HostMessage::Hello { versions })
}

fn open(nonce: SessionNonce) -> AgentSession {
    let mut agent = agent();
    agent.handle_bytes(&hello(nonce));
    while agent.poll_transmit().is_some() {}
    while agent.poll_event().is_some() {}
    agent
}

fn sent(agent: &mut AgentSession) -> Vec<(SessionNonce, AgentMessage)> {
    let mut decoder = FrameDecoder::default();
    std::iter::from_fn(|| agent.poll_transmit())
        .map(|bytes| {
            let frame = decoder.next_frame(&mut bytes.as_slice()).unwrap();
            let message = serde_json::from_slice(&frame.payload).unwrap();
            (frame.nonce, message)
        })
        .collect()
}

fn report(suffix: &str, phase: Phase) -> NicReport {
    NicReport {
        nic: format!("nic-00000000{suffix}").parse().unwrap(),
        generation: 1,
        phase,
        steps: vec![],
    }
}

fn reported(nonce: SessionNonce, report: NicReport) -> (SessionNonce, AgentMessage) {
    let report = Box::new(report);
    (nonce, AgentMessage::Report { report })
}

#[test]
fn a_hello_is_welcomed_every_time_but_opens_one_session() {
    let mut agent = agent();

    agent.handle_bytes(&hello(OLD).repeat(3));

    assert_eq!(agent.poll_event(), Some(AgentEvent::Opened { version: 2 }));
    assert_eq!(agent.poll_event(), None);
    assert_eq!(sent(&mut agent).len(), 3);
}

#[test]
fn a_hello_with_a_new_nonce_drops_the_old_session_and_its_reports() {
    let mut agent = open(OLD);
    agent.report(report("01", Phase::Binding)).unwrap();

    agent.handle_bytes(&hello(NEW));
    agent.handle_bytes(&frame(OLD, &HostMessage::Ping { sequence: 1 }));

    assert_eq!(agent.poll_event(), Some(AgentEvent::Opened { version: 2 }));
    let sent = sent(&mut agent);
    assert!(matches!(
        sent[..],
        [
            (NEW, AgentMessage::Welcome { version: 2, .. }),
            (OLD, AgentMessage::NoSession)
        ]
    ));
    assert_eq!(agent.foreign_frames(), 1);
}

#[test]
fn the_newest_report_of_a_nic_wins_and_keeps_its_place() {
    let mut agent = open(OLD);
    agent.report(report("01", Phase::Awaited)).unwrap();
    agent.report(report("02", Phase::Awaited)).unwrap();
    agent.report(report("01", Phase::Binding)).unwrap();

    assert_eq!(
        sent(&mut agent),
        [
            reported(OLD, report("01", Phase::Binding)),
            reported(OLD, report("02", Phase::Awaited)),
        ]
    );
}

#[test]
fn a_ping_is_answered_with_its_sequence() {
    let mut agent = open(OLD);

    agent.handle_bytes(&frame(OLD, &HostMessage::Ping { sequence: 42 }));

    let pong = AgentMessage::Pong {
        sequence: 42,
        heard: 0,
        reported: 0,
    };
    assert_eq!(sent(&mut agent), [(OLD, pong)]);
}

#[test]
fn lost_bytes_give_the_session_up_and_the_host_is_told_at_its_next_ping() {
    let mut agent = open(OLD);

    agent.handle_bytes(b"lost");
    agent.handle_bytes(&frame(OLD, &HostMessage::Ping { sequence: 1 }));

    let closed = AgentEvent::Closed(AgentCloseReason::BrokenFraming);
    assert_eq!(agent.poll_event(), Some(closed));
    assert_eq!(sent(&mut agent), [(OLD, AgentMessage::NoSession)]);
}

#[test]
fn a_host_without_a_common_version_is_told_what_the_agent_speaks() {
    for (oldest, newest) in [(1, 1), (7, 8)] {
        let mut agent = agent();
        let versions = VersionRange { oldest, newest };

        agent.handle_bytes(&frame(NEW, &HostMessage::Hello { versions }));

        let versions = VersionRange::CURRENT;
        let refusal = AgentMessage::Incompatible { versions };
        assert_eq!(sent(&mut agent), [(NEW, refusal)]);
        assert_eq!(agent.poll_event(), None);
    }
}

#[test]
fn a_flood_of_hellos_keeps_a_bounded_number_of_replies() {
    let mut agent = agent();

    agent.handle_bytes(&hello(OLD).repeat(10_000));

    assert_eq!(sent(&mut agent).len(), MAX_REPLIES);
}
