//! Backends in QEMU's words: what makes one impossible, and its line in `info network`.

use serde_json::{Map, Value};

use super::refusal::Refusal;

/// `MAX_TAP_QUEUES` in QEMU's `net/tap.c`.
pub(super) const QUEUES_MAX: u64 = 1024;

/// One line of `print_net_client` in QEMU's `net/net.c`.
pub(super) fn line(name: &str, queue: usize, kind: &str, text: &str) -> String {
    format!("{name}: index={queue},type={kind},{text}\r\n")
}

/// Types that the schema knows and a Debian QEMU was built without (`net_client_init1`).
pub(super) fn check_compiled(kind: &str) -> Result<(), Refusal> {
    match kind {
        "nic" | "none" | "netmap" => Err(not_compiled(kind)),
        _ => Ok(()),
    }
}

fn not_compiled(kind: &str) -> Refusal {
    let text = format!("network backend '{kind}' is not compiled into this binary");
    Refusal::generic(text)
}

/// The text of a backend that is no tap. Those that would need a peer of their own are checked as
/// far as their arguments go, and then are what a QEMU built without them says: nothing here
/// carries their frames.
pub(super) fn of_backend(kind: &str, arguments: &Map<String, Value>) -> Result<String, Refusal> {
    match kind {
        "user" => {
            let restrict = matches!(arguments.get("restrict"), Some(Value::Bool(true)));
            let restrict = if restrict { "on" } else { "off" };
            let net = arguments.get("net").and_then(Value::as_str);
            Ok(format!(
                "net={},restrict={restrict}",
                net.unwrap_or("10.0.2.0")
            ))
        }
        "hubport" => Ok(String::new()),
        "socket" => {
            check_socket(arguments)?;
            Err(not_compiled(kind))
        }
        "dgram" => {
            check_dgram(arguments)?;
            Err(not_compiled(kind))
        }
        "vhost-user" => {
            let chardev = arguments.get("chardev").and_then(Value::as_str);
            let chardev = chardev.unwrap_or_default();
            Err(Refusal::generic(format!("chardev \"{chardev}\" not found")))
        }
        kind => Err(not_compiled(kind)),
    }
}

/// `net_init_socket` in QEMU's `net/socket.c`.
fn check_socket(arguments: &Map<String, Value>) -> Result<(), Refusal> {
    let ways = ["fd", "listen", "connect", "mcast", "udp"];
    let given = |names: &[&str]| {
        names
            .iter()
            .filter(|name| arguments.contains_key(**name))
            .count()
    };
    if given(&ways) != 1 {
        let text = "exactly one of listen=, connect=, mcast= or udp= is required";
        return Err(Refusal::generic(text));
    }
    if arguments.contains_key("localaddr") && given(&["mcast", "udp"]) == 0 {
        let text = "localaddr= is only valid with mcast= or udp=";
        return Err(Refusal::generic(text));
    }
    if arguments.contains_key("udp") && !arguments.contains_key("localaddr") {
        return Err(Refusal::generic("localaddr= is mandatory with udp="));
    }
    Ok(())
}

/// `net_init_dgram` in QEMU's `net/dgram.c`.
fn check_dgram(arguments: &Map<String, Value>) -> Result<(), Refusal> {
    let kind = |name: &str| {
        arguments
            .get(name)
            .and_then(|address| address["type"].as_str())
    };
    let text = match (kind("local"), kind("remote")) {
        (None, _) => "dgram requires local= parameter",
        (Some("fd"), Some(_)) => "don't set remote with local.fd",
        (Some(local), Some(remote)) if local != remote => "remote and local types must be the same",
        (Some("fd"), None) | (Some(_), Some(_)) => return Ok(()),
        (Some(_), None) => "type=inet or type=unix requires remote parameter",
    };
    Err(Refusal::generic(text))
}

/// Which arguments of a tap exclude each other (`net_init_tap` in QEMU's `net/tap.c`).
pub(super) fn check_tap(arguments: &Map<String, Value>) -> Result<(), Refusal> {
    let given = |names: &[&str]| names.iter().any(|name| arguments.contains_key(*name));
    let own = [
        "ifname",
        "script",
        "downscript",
        "vnet_hdr",
        "helper",
        "queues",
    ];
    if given(&["fd"]) && (given(&own) || given(&["fds", "vhostfds"])) {
        return Err(Refusal::generic(
            "ifname=, script=, downscript=, vnet_hdr=, helper=, queues=, fds=, and vhostfds= \
             are invalid with fd=",
        ));
    }
    if given(&["fd"]) {
        return check_vhost(arguments, "vhostfd");
    }
    if given(&["fds"]) && (given(&own) || given(&["vhostfd"])) {
        return Err(Refusal::generic(
            "ifname=, script=, downscript=, vnet_hdr=, helper=, queues=, and vhostfd= \
             are invalid with fds=",
        ));
    }
    if given(&["fds", "vhostfds"]) && count(arguments, "fds") == 0 {
        return Err(Refusal::generic(
            "vhostfds= is invalid if fds= wasn't specified",
        ));
    }
    if given(&["vhostfds"]) && count(arguments, "fds") != count(arguments, "vhostfds") {
        return Err(Refusal::generic(
            "The number of fds passed does not match the number of vhostfds passed",
        ));
    }
    check_vhost(arguments, "vhostfds")
}

/// Descriptors for vhost without vhost (`net_init_tap_one`).
fn check_vhost(arguments: &Map<String, Value>, field: &str) -> Result<(), Refusal> {
    let off = matches!(arguments.get("vhost"), Some(Value::Bool(false)));
    match off && arguments.contains_key(field) {
        true => Err(Refusal::generic("vhostfd(s)= is not valid without vhost")),
        false => Ok(()),
    }
}

fn count(arguments: &Map<String, Value>, field: &str) -> usize {
    let names = arguments.get(field).and_then(Value::as_str);
    names.map_or(0, |names| names.split(':').count())
}

/// The scripts of a tap opened by name, as its text shows them.
pub(super) fn scripts(arguments: &Map<String, Value>) -> String {
    let script = |name: &str, default: &str| {
        let given = arguments.get(name).and_then(Value::as_str);
        format!("{name}={}", given.unwrap_or(default))
    };
    let up = script("script", "/etc/qemu-ifup");
    let down = script("downscript", "/etc/qemu-ifdown");
    format!("{up},{down}")
}
