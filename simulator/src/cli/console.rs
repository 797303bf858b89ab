//! What the commands say: results to standard output, complaints to standard error. A reader who
//! has gone away is no reason to fail.

use std::fmt::Display;
use std::io::Write;
use std::path::PathBuf;

use simulator::netns::{CloudName, Network, State, Topology, Vm};

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
pub(crate) fn introduce(state: &State, name: &CloudName, topology: &Topology) {
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
    let steps = first_steps(state, name, topology);
    if !steps.is_empty() {
        say("\nin another terminal:");
    }
    for step in steps {
        say(format_args!("  {step}"));
    }
}

/// Commands that work in this cloud as it is: a NIC into a container, a look at it there, and
/// something that goes wrong. None where there is nothing to do it with.
fn first_steps(state: &State, name: &CloudName, topology: &Topology) -> Vec<String> {
    let inhabited = |vm: &&Vm| !vm.containers.is_empty();
    let vms = || topology.vms.iter();
    let networks = || topology.networks.iter();
    let with_addresses = |network: &&Network| !network.subnets.is_empty();
    let vm = vms().find(inhabited).or_else(|| vms().next());
    let network = networks().find(with_addresses);
    let network = network.or_else(|| networks().next());
    let host = vm.and_then(|vm| state.hosts.iter().find(|host| host.name == vm.host));
    let (Some(vm), Some(network), Some(host)) = (vm, network, host) else {
        return Vec::new();
    };
    let named = match name.as_str() {
        "default" => String::new(),
        name => format!(" --name {name}"),
    };
    let tenant = vm.tenant.as_ref();
    let tenant = tenant.map_or_else(String::new, |tenant| format!(" --tenant {tenant}"));
    let (simulator, nicctl) = (quoted(&own_name()), quoted(&beside("nicctl")));
    let (socket, network) = (quoted(&host.socket.display().to_string()), &network.name);
    let (id, exec) = (&vm.id, format!("{simulator} exec{named}"));
    let (made, container, look) = match vm.containers.first() {
        Some(name) => {
            let look = format!("{exec} {} -- ip address", quoted(&format!("{id}/{name}")));
            (None, quoted(name.as_str()), look)
        }
        None => {
            let made = format!("{exec} {id} -- ip netns add web");
            let look = format!("{exec} {id} -- ip netns exec web ip address");
            (Some(made), "web".to_owned(), look)
        }
    };
    let create = format!(
        "{nicctl} --socket {socket}{tenant} nic create --network {network} --attach {id} \
         --target netns:{container}"
    );
    let stubborn = format!(
        "{simulator} rules{named} add stubborn --at guest.unplug --effect refuse --vm {id}"
    );
    made.into_iter().chain([create, look, stubborn]).collect()
}

/// As a shell takes it for one word.
fn quoted(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"./_:@%+=,-".contains(&byte);
    match word.bytes().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
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
