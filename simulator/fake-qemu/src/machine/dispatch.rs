//! From a message to the command it asks for, and from its outcome to the answer.
//!
//! The order of the checks is QEMU's (`qmp_dispatch` in `qapi/qmp-dispatch.c`), since a client sees
//! the first that fails: the message's members, the command's name, its arguments, then the command
//! itself.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::event::Reason;
use super::monitor::{Mode, MonitorId};
use super::network::Host;
use super::refusal::Refusal;
use super::{Machine, Output};
use crate::catalogue::catalogue;
use crate::json::JsonError;
use crate::schema::OutOfBand;

/// What a message asks for, as far as it can be told before it is carried out: the command's name,
/// and the device, backend or link it is about.
#[must_use]
pub fn subject(message: &Value) -> Option<(&str, Option<&str>)> {
    let name = message.get("execute").or_else(|| message.get("exec-oob"))?;
    let arguments = message.get("arguments");
    let field = ["id", "name", "fdname"]
        .into_iter()
        .find_map(|field| arguments?.get(field)?.as_str());
    Some((name.as_str()?, field))
}

/// A message whose members are what they should be.
struct Request<'a> {
    command: &'a str,
    out_of_band: bool,
    arguments: &'a Map<String, Value>,
}

impl<D> Machine<D> {
    /// Carries out one message of a monitor's client and answers it.
    pub fn execute(
        &mut self,
        host: &mut impl Host<D>,
        monitor: MonitorId,
        message: &Result<Value, JsonError>,
        now: Duration,
    ) {
        let (outcome, id) = match message {
            Ok(message) => (
                self.dispatch(host, monitor, message, now),
                message.get("id"),
            ),
            Err(error) => (Err(Refusal::generic(error.to_string())), None),
        };
        self.answer(monitor, id, outcome);
        if let Ok(message) = message
            && let Some((command, _)) = subject(message)
        {
            self.follow_up(monitor, command, now);
        }
    }

    /// Answers a message with an error and does nothing of what it asks for.
    pub fn refuse(&mut self, monitor: MonitorId, message: &Value, class: &str, text: &str) {
        let mut answer = json!({"error": {"class": class, "desc": text}});
        if let Some(id) = message.get("id") {
            answer["id"] = id.clone();
        }
        let message = answer;
        self.outputs.push_back(Output::Reply { monitor, message });
    }

    fn answer(&mut self, monitor: MonitorId, id: Option<&Value>, outcome: Result<Value, Refusal>) {
        // Put together by hand: `json!` would copy the answer, which may be long.
        let mut message = Map::new();
        match outcome {
            Ok(value) => message.insert("return".to_owned(), value),
            Err(refusal) => message.insert("error".to_owned(), refusal.message()),
        };
        if let Some(id) = id {
            message.insert("id".to_owned(), id.clone());
        }
        let message = Value::Object(message);
        self.outputs.push_back(Output::Reply { monitor, message });
    }

    fn dispatch(
        &mut self,
        host: &mut impl Host<D>,
        monitor: MonitorId,
        message: &Value,
        now: Duration,
    ) -> Result<Value, Refusal> {
        let Value::Object(message) = message else {
            return Err(Refusal::generic("QMP input must be a JSON object"));
        };
        let none = Map::new();
        let request = read_request(message, self.runs_out_of_band(monitor), &none)?;
        let negotiating = self.mode(monitor) == Mode::Negotiation;
        let admitted = admit(&request, negotiating);
        match admitted {
            Err(refusal) if negotiating && refusal.is_no_command() => Err(Refusal::no_command(
                "Expecting capabilities negotiation with 'qmp_capabilities'",
            )),
            Err(refusal) => Err(refusal),
            Ok(()) => self.run(host, monitor, &request, now),
        }
    }

    fn run(
        &mut self,
        host: &mut impl Host<D>,
        monitor: MonitorId,
        request: &Request<'_>,
        now: Duration,
    ) -> Result<Value, Refusal> {
        let arguments = request.arguments;
        let checked = catalogue().schema.check(request.command, arguments);
        // `device_add` looks at its arguments itself (`'gen': false` in QEMU's `qapi/qdev.json`).
        if request.command != "device_add" {
            checked.map_err(Refusal::generic)?;
        }
        let text = |name: &str| arguments.get(name).and_then(Value::as_str).unwrap_or("");
        let done = |outcome: Result<(), Refusal>| outcome.map(|()| json!({}));
        match request.command {
            "qmp_capabilities" if self.mode(monitor) == Mode::Commands => Err(Refusal::no_command(
                "Capabilities negotiation is already complete, command ignored",
            )),
            "qmp_capabilities" => {
                self.negotiate(monitor, arguments);
                Ok(json!({}))
            }
            "netdev_add" => done(self.netdev_add(host, monitor, arguments)),
            "netdev_del" => done(self.netdev_del(text("id"))),
            "device_add" => done(self.device_add(arguments, now)),
            "device_del" => done(self.device_del(text("id"), now)),
            "set_link" => {
                let up = arguments.get("up").and_then(Value::as_bool);
                done(self.set_link(text("name"), up.unwrap_or_default()))
            }
            "announce-self" => done(self.announce(arguments)),
            "getfd" => done(self.getfd(monitor, text("fdname"))),
            "closefd" => done(self.closefd(monitor, text("fdname"))),
            "add-fd" => self.add_fd(monitor, arguments),
            "remove-fd" => done(self.remove_fd(arguments)),
            "query-rx-filter" => self.query_rx_filter(arguments),
            _ => self.run_on_machine(request, now),
        }
    }

    /// Commands about the machine as a whole.
    fn run_on_machine(&mut self, request: &Request<'_>, now: Duration) -> Result<Value, Refusal> {
        match request.command {
            "migrate" => {
                let uri = request.arguments.get("uri").and_then(Value::as_str);
                self.migrate(uri.unwrap_or_default())?;
            }
            "migrate_cancel" => self.end_migration(),
            // Accepted: nothing is migrated at any speed.
            "migrate-set-parameters" => {}
            "stop" => self.stop(now),
            "cont" => self.cont(now)?,
            "system_reset" => self.announce_reset(Reason::HostReset, now),
            "system_powerdown" => self.powerdown(now),
            "system_wakeup" => {
                let refusal = "Unable to wake up: guest is not in suspended state";
                return Err(Refusal::generic(refusal));
            }
            "quit" => self.announce_quit(Reason::HostQuit, now),
            command => return self.query(command, request.arguments),
        }
        Ok(json!({}))
    }

    /// What a command sets off that is seen only behind its answer.
    fn follow_up(&mut self, monitor: MonitorId, command: &str, now: Duration) {
        if !self.last_was_granted(monitor) {
            return;
        }
        match command {
            // The event comes when the last reader of the device's memory is through (RCU).
            "device_del" => {
                for key in std::mem::take(&mut self.leaving) {
                    self.remove_device(&key, now);
                }
            }
            "system_reset" => self.reset(now),
            "quit" => self.quit(),
            _ => {}
        }
    }

    fn last_was_granted(&self, monitor: MonitorId) -> bool {
        match self.outputs.back() {
            Some(Output::Reply {
                monitor: answered,
                message,
            }) => *answered == monitor && message.get("return").is_some(),
            _ => false,
        }
    }
}

fn admit(request: &Request<'_>, negotiating: bool) -> Result<(), Refusal> {
    let command = request.command;
    let unknown = || Refusal::no_command(format!("The command {command} has not been found"));
    let known = catalogue().schema.command(command).ok_or_else(unknown)?;
    if negotiating && command != "qmp_capabilities" {
        return Err(unknown());
    }
    if request.out_of_band && known == OutOfBand::Refused {
        let text = format!("The command {command} does not support OOB");
        return Err(Refusal::generic(text));
    }
    Ok(())
}

fn read_request<'a>(
    message: &'a Map<String, Value>,
    out_of_band_enabled: bool,
    none: &'a Map<String, Value>,
) -> Result<Request<'a>, Refusal> {
    let mut command: Option<(&str, &str)> = None;
    let mut arguments = none;
    for (name, value) in message {
        match name.as_str() {
            "execute" => command = Some(read_command(name, value, command)?),
            "exec-oob" if out_of_band_enabled => {
                command = Some(read_command(name, value, command)?);
            }
            "arguments" => {
                arguments = value.as_object().ok_or_else(|| {
                    Refusal::generic("QMP input member 'arguments' must be an object")
                })?;
            }
            "id" => {}
            name => {
                let text = format!("QMP input member '{name}' is unexpected");
                return Err(Refusal::generic(text));
            }
        }
    }
    let lacks = || Refusal::generic("QMP input lacks member 'execute'");
    let (member, command) = command.ok_or_else(lacks)?;
    Ok(Request {
        command,
        out_of_band: member == "exec-oob",
        arguments,
    })
}

fn read_command<'a>(
    member: &'a str,
    value: &'a Value,
    earlier: Option<(&str, &str)>,
) -> Result<(&'a str, &'a str), Refusal> {
    let Value::String(command) = value else {
        let text = format!("QMP input member '{member}' must be a string");
        return Err(Refusal::generic(text));
    };
    match earlier {
        Some((earlier, _)) => {
            let text = format!("QMP input member '{member}' clashes with '{earlier}'");
            Err(Refusal::generic(text))
        }
        None => Ok((member, command)),
    }
}
