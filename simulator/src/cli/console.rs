//! What the commands say: results to standard output, complaints to standard error. A reader who
//! has gone away is no reason to fail.

use std::fmt::Display;
use std::io::Write;
use std::path::PathBuf;

use simulator::netns::{CloudName, State};

pub(crate) fn say(line: impl Display) {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{line}")
        .and_then(|()| stdout.flush())
        .unwrap_or_default();
}

pub(crate) fn complain(line: impl Display) {
    writeln!(std::io::stderr().lock(), "{line}").unwrap_or_default();
}

/// What runs, for a person: where it is, and what to try.
pub(crate) fn introduce(state: &State, name: &CloudName) {
    let vms: Vec<_> = state.vms.iter().map(|vm| vm.id.to_string()).collect();
    say(format_args!(
        "ready after {:.0} ms: {}",
        state.ready_after_ms,
        vms.join(", ")
    ));
    for host in &state.hosts {
        say(format_args!(
            "  {:<10} {}",
            host.name,
            host.socket.display()
        ));
    }
    for vm in &state.vms {
        say(format_args!(
            "  {:<10} {} (QMP)",
            vm.id,
            vm.monitor.display()
        ));
    }
    say(format_args!(
        "  {:<10} {}",
        "orders",
        state.control.display()
    ));
    if let Some(url) = &state.url {
        say(format_args!("  {:<10} {url}", ""));
    }
    let (Some(host), Some(vm)) = (state.hosts.first(), state.vms.first()) else {
        return;
    };
    let named = match name.as_str() {
        "default" => String::new(),
        name => format!(" --name {name}"),
    };
    let (simulator, nicctl) = (own_name(), beside("nicctl"));
    let (socket, vm) = (host.socket.display(), &vm.id);
    say("\nin another terminal:");
    say(format_args!(
        "  {nicctl} --socket {socket} nic create --network blue --attach {vm} --target netns:web"
    ));
    say(format_args!(
        "  {simulator} exec{named} {vm}/web -- ip address"
    ));
    say(format_args!(
        "  {simulator} rules{named} add stubborn --at guest.unplug --effect refuse --vm {vm}"
    ));
}

/// As it was typed here.
fn own_name() -> String {
    std::env::args()
        .next()
        .unwrap_or_else(|| "simulator".to_owned())
}

/// A program that lies beside this one, as it has to be typed here.
fn beside(program: &str) -> String {
    let own = PathBuf::from(own_name());
    match own.parent() {
        Some(directory) if directory.join(program).is_file() => {
            directory.join(program).display().to_string()
        }
        _ => program.to_owned(),
    }
}
