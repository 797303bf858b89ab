//! What the rules make of a command or an event.

use std::time::Duration;

use misbehaviour::{Effect, Side};
use serde_json::Value;

use super::Surroundings;
use super::state::{Due, Fate, State};
use crate::json::JsonError;
use crate::machine::{GuestAct, MonitorId, Output, subject};

/// What became of a command.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Carried {
    /// It is done with.
    Out,
    /// It is to be carried out at this time of the machine's.
    Later(Duration),
}

impl<D, S: Surroundings<D>> State<D, S> {
    /// Carries a command out, or does what the rules say instead.
    pub(super) fn command(
        &mut self,
        monitor: MonitorId,
        message: &Result<Value, JsonError>,
    ) -> Carried {
        self.surroundings.looked();
        let request = message.as_ref().ok().and_then(|message| {
            let (name, about) = subject(message)?;
            Some((message, self.consult(&format!("qmp.{name}"), about)?))
        });
        let Some((message, effect)) = request else {
            self.carry_out(monitor, message);
            return Carried::Out;
        };
        let message = &Ok(message.clone());
        match effect {
            Effect::Delay(span) => return Carried::Later(self.now().saturating_add(span.0)),
            Effect::Error { class, text } => self.refuse(monitor, message, &class, &text),
            Effect::Lose => self.carry_out_silently(monitor, message),
            Effect::Cut(Side::Before) => self.decide(monitor, Fate::Cut),
            Effect::Cut(Side::After) => {
                self.carry_out_silently(monitor, message);
                self.decide(monitor, Fate::Cut);
            }
            Effect::Stall => self.decide(monitor, Fate::Stalls),
            Effect::Crash(Side::Before) => self.die(),
            Effect::Crash(Side::After) => {
                self.carry_out_silently(monitor, message);
                self.die();
            }
            Effect::Reset => {
                self.carry_out(monitor, message);
                let now = self.now();
                self.machine.guest(GuestAct::Reset, now);
                self.settle();
            }
            // The rulebook takes no other effect in for a command.
            Effect::Duplicate
            | Effect::Reorder
            | Effect::Corrupt
            | Effect::Refuse
            | Effect::Ignore
            | Effect::Eject(_)
            | Effect::DiskFull
            | Effect::FsyncError => self.carry_out(monitor, message),
        }
        Carried::Out
    }

    /// As a machine without rules would.
    pub(super) fn carry_out(&mut self, monitor: MonitorId, message: &Result<Value, JsonError>) {
        let now = self.now();
        self.machine
            .execute(&mut self.surroundings, monitor, message, now);
        self.settle();
    }

    fn refuse(
        &mut self,
        monitor: MonitorId,
        message: &Result<Value, JsonError>,
        class: &str,
        text: &str,
    ) {
        if let Ok(message) = message {
            self.machine.refuse(monitor, message, class, text);
        }
        self.settle();
    }

    /// Done, and its answer is lost. Events are told all the same.
    fn carry_out_silently(&mut self, monitor: MonitorId, message: &Result<Value, JsonError>) {
        let now = self.now();
        self.machine
            .execute(&mut self.surroundings, monitor, message, now);
        self.machine.drop_output(|output| {
            matches!(output, Output::Reply { monitor: answered, .. } if *answered == monitor)
        });
        self.settle();
    }

    fn decide(&mut self, monitor: MonitorId, fate: Fate) {
        if let Some(client) = self.client(monitor) {
            client.decide(fate);
        }
    }

    /// Tells an event, or does what the rules say instead.
    pub(super) fn event(&mut self, name: &'static str, message: &Value, line: Vec<u8>) {
        let data = &message["data"];
        let about = data["device"].as_str().or_else(|| data["name"].as_str());
        let effect = self.consult(&format!("event.{name}"), about);
        match effect {
            Some(Effect::Delay(span)) => {
                let time = self.now().saturating_add(span.0);
                self.schedule(time, Due::Event { line });
            }
            Some(Effect::Lose) => {}
            Some(Effect::Duplicate) => {
                self.broadcast(&line);
                self.broadcast(&line);
            }
            Some(Effect::Reorder) => self.hold(&line),
            Some(Effect::Cut(Side::Before)) => self.cut_all(),
            Some(Effect::Cut(Side::After)) => {
                self.broadcast(&line);
                self.end_all();
            }
            Some(Effect::Crash(Side::Before)) => self.die(),
            Some(Effect::Crash(Side::After)) => {
                self.broadcast(&line);
                self.end_all();
                self.quit();
            }
            // The rulebook takes no other effect in for an event.
            Some(_) | None => self.broadcast(&line),
        }
    }
}
