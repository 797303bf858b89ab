//! Properties of a new device: from text to value, as QEMU's setters understand it
//! (`qapi/qobject-input-visitor.c` for key-value input, `hw/core/qdev-properties*.c`).

use std::collections::BTreeMap;

use serde_json::Value;

use super::device::Device;
use super::hardware_address::HardwareAddress;
use super::refusal::Refusal;
use crate::catalogue::Property;

/// One property that has been understood.
pub(super) enum Setting {
    Value(&'static str, Value),
    Mac(HardwareAddress),
    /// `None` where QEMU is to choose.
    Address(Option<u8>),
    Netdev(String),
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Settings {
    pub(super) values: BTreeMap<&'static str, Value>,
    pub(super) mac: Option<HardwareAddress>,
    pub(super) devfn: Option<u8>,
    pub(super) netdev: Option<String>,
}

/// `virtio-net-device.mac` and the like: what a virtio device has inside is set through it.
pub(super) fn owner(device: &Device, property: &str) -> String {
    let outer = device.driver_name;
    let inner = device.driver.virtio_backend().unwrap_or(outer);
    match property {
        "addr" | "romfile" => format!("{outer}.{property}"),
        _ => format!("{inner}.{property}"),
    }
}

pub(super) fn read(device: &Device, name: &str, text: &str) -> Result<Setting, Refusal> {
    let Some(property) = device.driver.property(name) else {
        let kind = device.driver_name;
        return Err(Refusal::generic(format!(
            "Property '{kind}.{name}' not found"
        )));
    };
    let bad = || {
        let property = owner(device, name);
        Refusal::generic(format!("Property '{property}' doesn't take value '{text}'"))
    };
    match name {
        "mac" => HardwareAddress::parse(text)
            .map(Setting::Mac)
            .ok_or_else(bad),
        "addr" => address(text).map(Setting::Address).ok_or_else(bad),
        "netdev" => Ok(Setting::Netdev(text.to_owned())),
        _ => value(property, text),
    }
}

/// `set_pci_devfn`: device and function in hexadecimal, or the device alone.
fn address(text: &str) -> Option<Option<u8>> {
    let (device, function) = text.split_once('.').unwrap_or((text, "0"));
    let number = |digits: &str| u8::from_str_radix(digits.trim_start_matches("0x"), 16).ok();
    let (device, function) = (number(device)?, number(function)?);
    (device < 32 && function < 8).then_some(Some(device << 3 | function))
}

fn value(property: &'static Property, text: &str) -> Result<Setting, Refusal> {
    let name = property.name.as_str();
    let value = match property.kind.as_str() {
        "bool" => boolean(name, text)?,
        "uint8" => unsigned(name, text, u64::from(u8::MAX), "uint8_t")?,
        "uint16" => unsigned(name, text, u64::from(u16::MAX), "uint16_t")?,
        "uint32" => unsigned(name, text, u64::from(u32::MAX), "uint32_t")?,
        "uint64" => unsigned(name, text, u64::MAX, "uint64_t")?,
        "int32" => signed(name, text)?,
        "OnOffAuto" => choice(name, text, &["auto", "on", "off"])?,
        "str" => Value::String(text.to_owned()),
        // Links, children and the object's own type are not for setting (`QERR_PERMISSION_DENIED`).
        _ => {
            let text = "Insufficient permission to perform this operation";
            return Err(Refusal::generic(text));
        }
    };
    Ok(Setting::Value(name, value))
}

/// `qapi_bool_parse` in QEMU's `qapi/qapi-util.c`.
fn boolean(name: &str, text: &str) -> Result<Value, Refusal> {
    match text {
        "on" | "yes" | "true" | "y" => Ok(true.into()),
        "off" | "no" | "false" | "n" => Ok(false.into()),
        _ => Err(Refusal::expects(name, "'on' or 'off'")),
    }
}

fn choice(name: &str, text: &str, choices: &[&str]) -> Result<Value, Refusal> {
    if choices.contains(&text) {
        return Ok(text.into());
    }
    let text = format!("Parameter '{name}' does not accept value '{text}'");
    Err(Refusal::generic(text))
}

/// Digits of C: decimal, `0x` or a leading zero, with a sign.
fn digits(text: &str) -> Option<i128> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let number = match digits
        .strip_prefix("0x")
        .or_else(|| digits.strip_prefix("0X"))
    {
        Some(digits) => i128::from_str_radix(digits, 16),
        None if digits.len() > 1 && digits.starts_with('0') => i128::from_str_radix(digits, 8),
        None => digits.parse(),
    };
    Some(sign * number.ok()?)
}

fn unsigned(name: &str, text: &str, most: u64, kind: &str) -> Result<Value, Refusal> {
    let number = digits(text).filter(|number| number.abs() <= i128::from(u64::MAX));
    let number = number.ok_or_else(|| Refusal::expects(name, "integer"))?;
    let number = u64::try_from(number).ok().filter(|number| *number <= most);
    number
        .map(Value::from)
        .ok_or_else(|| Refusal::expects(name, kind))
}

fn signed(name: &str, text: &str) -> Result<Value, Refusal> {
    let number = digits(text).and_then(|number| i64::try_from(number).ok());
    let number = number.ok_or_else(|| Refusal::expects(name, "integer"))?;
    let number = i32::try_from(number).ok();
    number
        .map(Value::from)
        .ok_or_else(|| Refusal::expects(name, "int32_t"))
}

impl Settings {
    /// What a virtio NIC itself minds (`virtio_net_device_realize` in QEMU's
    /// `hw/net/virtio-net.c`), in its order.
    pub(super) fn check(&self, device: &Device) -> Result<(), Refusal> {
        if device.driver.virtio_backend() != Some("virtio-net-device") {
            return Ok(());
        }
        let duplex = self.values.get("duplex").and_then(Value::as_str);
        if duplex.is_some_and(|duplex| !matches!(duplex, "half" | "full")) {
            return Err(Refusal::generic("'duplex' must be 'half' or 'full'"));
        }
        let speed = self.values.get("speed").and_then(Value::as_i64);
        if speed.is_some_and(|speed| speed < -1) {
            return Err(Refusal::generic("'speed' must be between 0 and INT_MAX"));
        }
        self.check_queue("rx_queue_size", ".")?;
        self.check_queue("tx_queue_size", "")
    }

    fn check_queue(&self, name: &str, stop: &str) -> Result<(), Refusal> {
        let Some(size) = self.values.get(name).and_then(Value::as_u64) else {
            return Ok(());
        };
        if size.is_power_of_two() && (256..=1024).contains(&size) {
            return Ok(());
        }
        let text =
            format!("Invalid {name} (= {size}), must be a power of 2 between 256 and 1024{stop}");
        Err(Refusal::generic(text))
    }
}
