//! The system as an operator would see it: a line for each NIC, VM, and namespace of a guest.

use super::judge::shown;
use super::rig::Rig;
use crate::sim::{Host, SimVm};

impl Rig {
    /// See the module.
    #[must_use]
    pub fn system(&self) -> Vec<String> {
        self.sim().hosts.iter().flat_map(system_of).collect()
    }
}

fn system_of(host: &Host) -> Vec<String> {
    let mut lines = Vec::new();
    match host.view() {
        None => lines.push("no hostd runs".to_owned()),
        Some(view) => {
            let nics = view.nics.values();
            lines.extend(nics.map(|nic| format!("{} {} {}", nic.id, nic.mac, shown(nic))));
        }
    }
    for (tap, port) in host.links().view() {
        let (passes, holder) = (port.passes, port.holder);
        lines.push(format!("{tap}: {passes:?}, held by {holder:?}"));
    }
    lines.extend(host.vms().values().flat_map(lines_of_vm));
    lines
}

fn lines_of_vm(vm: &SimVm) -> Vec<String> {
    let devices = vm.devices();
    let devices: Vec<_> = devices.keys().map(String::as_str).collect();
    let netdevs: Vec<_> = vm.netdevs().into_iter().collect();
    let mut lines = vec![format!(
        "{}: {:?}, devices {devices:?}, backends {netdevs:?}",
        vm.id(),
        vm.power()
    )];
    let Some(guest) = vm.guest() else {
        return lines;
    };
    lines.push(format!("  guest {:?}", guest.phase));
    for namespace in &guest.namespaces {
        let links: Vec<_> = namespace
            .links
            .iter()
            .map(|link| (&link.name, link.mac))
            .collect();
        let pids: Vec<_> = namespace
            .processes
            .iter()
            .map(|process| process.pid)
            .collect();
        lines.push(format!(
            "  {:?} processes {pids:?}: {links:?}",
            namespace.names
        ));
    }
    lines
}
