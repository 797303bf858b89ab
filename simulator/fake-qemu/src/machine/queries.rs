//! Commands that only read.

use serde_json::{Map, Value, json};

use super::Machine;
use super::refusal::Refusal;
use crate::catalogue::catalogue;

impl<D> Machine<D> {
    pub(super) fn query(
        &self,
        command: &str,
        arguments: &Map<String, Value>,
    ) -> Result<Value, Refusal> {
        let text = |name: &str| arguments.get(name).and_then(Value::as_str);
        match command {
            "query-status" => Ok(self.query_status()),
            "query-version" => Ok(self.hardware.profile.version()),
            "query-commands" => Ok(query_commands()),
            "query-qmp-schema" => Ok(catalogue().schema_answer.clone()),
            "query-name" => Ok(match &self.hardware.name {
                Some(name) => json!({"name": name}),
                None => json!({}),
            }),
            "query-uuid" => Ok(json!({"UUID": self.hardware.uuid})),
            "query-kvm" => Ok(json!({"enabled": false, "present": true})),
            "query-migrate" => Ok(self.query_migrate()),
            "query-chardev" => Ok(self.query_chardev()),
            "query-fdsets" => Ok(self.query_fdsets()),
            "query-pci" => Ok(self.query_pci()),
            "qom-list" => self.qom_list(text("path").unwrap_or("")),
            "qom-get" => self.qom_get(text("path").unwrap_or(""), text("property").unwrap_or("")),
            "human-monitor-command" => self.human_monitor(arguments),
            // Every command of the recorded schema has its arm, which a test checks.
            command => Err(Refusal::no_command(format!(
                "The command {command} has not been found"
            ))),
        }
    }

    fn query_chardev(&self) -> Value {
        let monitor = |id: &super::MonitorId| {
            let label = format!("compat_monitor{}", id.0);
            json!({"frontend-open": true, "filename": "unix", "label": label})
        };
        self.monitors.keys().map(monitor).collect()
    }

    fn human_monitor(&self, arguments: &Map<String, Value>) -> Result<Value, Refusal> {
        let cpu = arguments.get("cpu-index").and_then(Value::as_i64);
        if cpu.is_some_and(|cpu| cpu != 0) {
            return Err(Refusal::expects("cpu-index", "a CPU number"));
        }
        let line = arguments.get("command-line").and_then(Value::as_str);
        let line = line.unwrap_or("").trim();
        let hardware = &self.hardware;
        Ok(Value::String(match line {
            "" => String::new(),
            "info network" => self.network.text(),
            "info status" => self.status_text(),
            "info version" => format!("{}\r\n", hardware.profile.version_text()),
            "info name" => match &hardware.name {
                Some(name) => format!("{name}\r\n"),
                None => String::new(),
            },
            "info uuid" => format!("{}\r\n", hardware.uuid),
            line => format!("unknown command: '{line}'\r\n"),
        }))
    }
}

fn query_commands() -> Value {
    let commands = catalogue().schema.commands();
    commands.map(|name| json!({"name": name})).collect()
}
