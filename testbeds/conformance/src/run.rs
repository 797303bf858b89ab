//! A transcript, said to one peer and then to the other.

use std::os::fd::OwnedFd;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::compare::compare;
use crate::peer::{self, Peer};
use crate::report::{GroupReport, Report};
use crate::session::Session;
use crate::tap::Descriptors;
use crate::transcript::{ALL, Machine, Step, Transcript, What};

/// Everything that was said in one step.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Exchange {
    /// Line in the transcript.
    pub(crate) line: usize,
    /// What was sent, or what was waited for.
    pub(crate) step: What,
    /// What came.
    pub(crate) messages: Vec<Value>,
}

/// Compares every transcript whose name contains `filter`.
///
/// # Errors
/// When a peer cannot be started or breaks off; a difference is no error.
pub fn compare_all(filter: &str) -> Result<Report> {
    let mut report = Report::default();
    for (name, text) in ALL.into_iter().filter(|(name, _)| name.contains(filter)) {
        report
            .groups
            .push(compare_group(&Transcript::read(name, text)?)?);
    }
    Ok(report)
}

/// Compares one.
///
/// # Errors
/// When a peer cannot be started or breaks off; a difference is no error.
pub fn compare_group(transcript: &Transcript) -> Result<GroupReport> {
    let real = converse(transcript, peer::real).context("the real QEMU")?;
    let fake = converse(transcript, peer::fake).context("fake-qemu")?;
    Ok(compare(transcript, real, fake))
}

fn converse(
    transcript: &Transcript,
    start: impl Fn(Machine) -> Result<Box<dyn Peer>>,
) -> Result<Vec<Exchange>> {
    let mut peer = start(transcript.machine)?;
    let mut conversation = Conversation {
        session: Session::connect(peer.socket())?,
        descriptors: Descriptors::new()?,
        descriptor: None,
        style: Style::OneAnswer,
        since_command: Vec::new(),
    };
    let mut exchanges = Vec::new();
    let begins_raw = transcript
        .steps
        .first()
        .is_some_and(|step| step.what == What::Raw);
    let mut messages = conversation.greet(!begins_raw)?;
    check_version(&messages)?;
    exchanges.push(Exchange {
        line: 0,
        step: What::Connect,
        messages,
    });
    let steps = transcript.steps.iter().skip(usize::from(begins_raw));
    for Step { line, what } in steps {
        messages = conversation
            .take_step(peer.as_mut(), what)
            .with_context(|| format!("{}.qmp:{line}", transcript.name))?;
        let (line, step) = (*line, what.clone());
        exchanges.push(Exchange {
            line,
            step,
            messages,
        });
    }
    Ok(exchanges)
}

/// fake-qemu is held against the QEMU it was recorded from: others differ in what they say.
fn check_version(greeting: &[Value]) -> Result<()> {
    let version = &greeting[0]["QMP"]["version"]["qemu"];
    anyhow::ensure!(
        version["major"] == 7 && version["minor"] == 2,
        "this is QEMU {}.{}, and the suite compares with 7.2",
        version["major"],
        version["minor"]
    );
    Ok(())
}

/// How the end of the answers to a line is known.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Style {
    /// There is exactly one.
    OneAnswer,
    /// A question of the harness's own is answered behind them.
    Quiet,
}

struct Conversation {
    session: Session,
    descriptors: Descriptors,
    descriptor: Option<OwnedFd>,
    style: Style,
    /// What has come since the last command: an event that is waited for may be there already.
    since_command: Vec<Value>,
}

impl Conversation {
    fn greet(&mut self, negotiate: bool) -> Result<Vec<Value>> {
        let mut messages = self.session.until_answered()?;
        if negotiate {
            self.session
                .send(b"{\"execute\":\"qmp_capabilities\"}\n", None)?;
            messages.extend(self.session.until_answered()?);
        }
        Ok(messages)
    }

    fn take_step(&mut self, peer: &mut dyn Peer, what: &What) -> Result<Vec<Value>> {
        match what {
            What::Send(bytes) => self.exchange(bytes),
            What::Part(bytes) => {
                self.session.send(bytes, None)?;
                Ok(Vec::new())
            }
            What::Raw | What::Connect => {
                self.session = Session::connect(peer.socket())?;
                self.greet(*what == What::Connect)
            }
            What::Quiet => {
                self.style = Style::Quiet;
                Ok(Vec::new())
            }
            What::Descriptor(kind) => {
                self.descriptor = Some(self.descriptors.make(*kind)?);
                Ok(Vec::new())
            }
            What::Until { event, device } => self.until(event, device.as_deref()),
            What::Probed(device) => {
                peer.until_probed(&mut self.session, device)?;
                Ok(Vec::new())
            }
            What::Pass(time) => {
                pass(*time);
                Ok(Vec::new())
            }
            What::End => self.until_closed(),
        }
    }

    fn exchange(&mut self, bytes: &[u8]) -> Result<Vec<Value>> {
        self.session.send(bytes, self.descriptor.take())?;
        let messages = match self.style {
            Style::OneAnswer => self.session.until_answered()?,
            Style::Quiet => self.session.until_quiet()?,
        };
        self.since_command.clone_from(&messages);
        Ok(messages)
    }

    fn until(&mut self, event: &str, device: Option<&str>) -> Result<Vec<Value>> {
        let is_it = |message: &Value| {
            let about = ["device", "path"].map(|field| message["data"][field].as_str());
            message["event"] == event && (device.is_none() || about.contains(&device))
        };
        if self.since_command.iter().any(is_it) {
            return Ok(Vec::new());
        }
        let messages = self.session.until(is_it)?;
        self.since_command.extend_from_slice(&messages);
        Ok(messages)
    }

    fn until_closed(&mut self) -> Result<Vec<Value>> {
        let mut messages = Vec::new();
        while let Some(message) = self.session.message()? {
            messages.push(message);
        }
        Ok(messages)
    }
}

fn pass(time: Duration) {
    // Slept, because the real QEMU's clock cannot be turned
    std::thread::sleep(time);
}
