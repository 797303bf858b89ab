//! What may differ between the two, and why.
//!
//! Each mask replaces what it hides in both, and is printed with its reason when it hid something:
//! nobody shall think more was compared than was.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use crate::run::Exchange;
use crate::transcript::What;

/// Something that is not compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Mask {
    Timestamps,
    Version,
    ObjectOrder,
    Implemented,
    DescriptorNumbers,
    Chardev,
    Placement,
    FirmwareResets,
    Digits,
    DeletionTime,
    MigrationProgress,
}

impl Mask {
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::DeletionTime => {
                "whether DEVICE_DELETED comes just before or just behind the answer: it comes when \
                 the last reader of the device's memory is through (RCU)"
            }
            Self::MigrationProgress => {
                "statistics of a migration, and whether it is still being set up or cancelled"
            }
            Self::Digits => "floating-point numbers beyond 12 digits: rounding of the reader here",
            Self::Timestamps => "timestamps of events: the two run one after the other",
            Self::Version => "version and package: which QEMU is installed here, to the last digit",
            Self::ObjectOrder => "order of qom-list and query-fdsets: that of QEMU's hash tables",
            Self::Implemented => {
                "commands and schema beyond what fake-qemu implements: what it shows must be in \
                 the real one's answer, word for word"
            }
            Self::DescriptorNumbers => "numbers of file descriptors: each process has its own",
            Self::Chardev => "path of the monitor's socket",
            Self::Placement => {
                "addresses, windows and interrupts of PCI devices: the guest chooses them"
            }
            Self::FirmwareResets => {
                "resets by SeaBIOS itself: it resets a machine once more after a warm reset"
            }
        }
    }
}

/// Makes what two peers said comparable.
pub(crate) fn mask(exchanges: &mut [Exchange], masks: &mut BTreeSet<Mask>) {
    for exchange in &mut *exchanges {
        let command = command(exchange);
        let before = exchange.messages.len();
        exchange
            .messages
            .retain(|message| !is_firmware_reset(message));
        if exchange.messages.len() < before {
            masks.insert(Mask::FirmwareResets);
        }
        for message in &mut exchange.messages {
            mask_message(message, &command, masks);
        }
    }
    gather_deletions(exchanges, masks);
}

/// Moves every `DEVICE_DELETED` behind the answer of the command that led to it, as far as the
/// harness waited.
fn gather_deletions(exchanges: &mut [Exchange], masks: &mut BTreeSet<Mask>) {
    let is_deletion = |message: &mut Value| message["event"] == "DEVICE_DELETED";
    for first in 0..exchanges.len() {
        if !matches!(
            command(&exchanges[first]).as_str(),
            "device_del" | "system_reset"
        ) {
            continue;
        }
        let waited = exchanges[first + 1..].iter();
        let waited = waited
            .take_while(|next| matches!(next.step, What::Until { .. }))
            .count();
        let group = &mut exchanges[first..=first + waited];
        let mut deletions = Vec::new();
        for exchange in &mut *group {
            deletions.extend(exchange.messages.extract_if(.., is_deletion));
        }
        if let (Some(last), false) = (group.last_mut(), deletions.is_empty()) {
            last.messages.extend(deletions);
            masks.insert(Mask::DeletionTime);
        }
    }
}

/// The command that a line asks for, or nothing.
pub(crate) fn command(exchange: &Exchange) -> String {
    let What::Send(bytes) = &exchange.step else {
        return String::new();
    };
    let message: Value = serde_json::from_slice(bytes).unwrap_or_default();
    message["execute"].as_str().unwrap_or_default().to_owned()
}

fn is_firmware_reset(message: &Value) -> bool {
    message["event"] == "RESET" && message["data"]["guest"] == true
}

fn mask_message(message: &mut Value, command: &str, masks: &mut BTreeSet<Mask>) {
    if let Some(timestamp) = message.get_mut("timestamp") {
        *timestamp = Value::Null;
        masks.insert(Mask::Timestamps);
    }
    for holder in ["/QMP/version", "/return"] {
        let version = message.pointer_mut(holder);
        if let Some(version) = version.filter(|version| version.get("package").is_some()) {
            *version = "a version".into();
            masks.insert(Mask::Version);
        }
    }
    match command {
        "qom-list" | "query-fdsets" => {
            if let Some(Value::Array(list)) = message.get_mut("return") {
                list.sort_by_key(Value::to_string);
                masks.insert(Mask::ObjectOrder);
            }
        }
        "query-migrate" => mask_migration(message, masks),
        "query-pci" => mask_placement(message, masks),
        "query-chardev" => mask_chardevs(message, masks),
        _ => {}
    }
    mask_texts(message, masks);
    if matches!(command, "add-fd" | "query-fdsets") {
        mask_fields(message, &["fd"], Mask::DescriptorNumbers, masks);
    }
}

fn mask_migration(message: &mut Value, masks: &mut BTreeSet<Mask>) {
    let Some(Value::Object(answer)) = message.get_mut("return") else {
        return;
    };
    answer.retain(|field, _| field == "status");
    if let Some(status) = answer.get_mut("status") {
        masks.insert(Mask::MigrationProgress);
        let settled = match status.as_str() {
            Some("setup") => "active",
            Some("cancelling") => "cancelled",
            _ => return,
        };
        *status = settled.into();
    }
}

fn mask_placement(message: &mut Value, masks: &mut BTreeSet<Mask>) {
    let placed = [
        "address",
        "irq",
        "io_range",
        "memory_range",
        "prefetchable_range",
    ];
    mask_fields(message, &placed, Mask::Placement, masks);
}

fn mask_chardevs(message: &mut Value, masks: &mut BTreeSet<Mask>) {
    mask_fields(message, &["filename"], Mask::Chardev, masks);
}

/// Hides fields wherever they are.
fn mask_fields(value: &mut Value, names: &[&str], mask: Mask, masks: &mut BTreeSet<Mask>) {
    match value {
        Value::Object(object) => mask_members(object, names, mask, masks),
        Value::Array(values) => {
            for value in values {
                mask_fields(value, names, mask, masks);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn mask_members(
    object: &mut Map<String, Value>,
    names: &[&str],
    mask: Mask,
    masks: &mut BTreeSet<Mask>,
) {
    for (name, value) in object {
        if names.contains(&name.as_str()) {
            *value = Value::Null;
            masks.insert(mask);
        } else {
            mask_fields(value, names, mask, masks);
        }
    }
}

/// Numbers of descriptors and versions within texts, and last digits.
fn mask_texts(value: &mut Value, masks: &mut BTreeSet<Mask>) {
    match value {
        Value::String(text) => mask_text(text, masks),
        Value::Number(number) if number.is_f64() => {
            let float = number.as_f64().unwrap_or_default();
            *value = format!("{float:.12e}").into();
            masks.insert(Mask::Digits);
        }
        Value::Number(_) => {}
        Value::Array(values) => {
            for value in values {
                mask_texts(value, masks);
            }
        }
        Value::Object(object) => {
            for (_, value) in object {
                mask_texts(value, masks);
            }
        }
        Value::Null | Value::Bool(_) => {}
    }
}

fn mask_text(text: &mut String, masks: &mut BTreeSet<Mask>) {
    for before in ["fd=", "on FD "] {
        let masked = mask_digits(text, before);
        if masked != *text {
            *text = masked;
            masks.insert(Mask::DescriptorNumbers);
        }
    }
    if text.ends_with("fake-qemu)\r\n") || text.contains("Debian 1:") {
        "a version".clone_into(text);
        masks.insert(Mask::Version);
    }
}

fn mask_digits(text: &str, before: &str) -> String {
    let mut parts = text.split(before);
    let mut masked = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let rest = part.trim_start_matches(|digit: char| digit.is_ascii_digit());
        masked += before;
        masked += if rest.len() < part.len() { "N" } else { "" };
        masked += rest;
    }
    masked
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_number_is_hidden_and_the_rest_of_the_text_is_not() {
        assert_eq!(
            mask_digits("t: type=tap,fd=11\r\nfd=x", "fd="),
            "t: type=tap,fd=N\r\nfd=x"
        );
    }
}
