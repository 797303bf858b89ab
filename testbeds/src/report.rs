//! What an operator would look at when something went wrong, all in one text: a failed scenario
//! prints it, so that nobody has to reproduce the failure to begin understanding it.

use std::fmt::Write;

use host_api::{Nic, Vm as ApiVm};

use crate::bed::{Bed, Vm};
use crate::inspection::info_network;

/// Lines of each log.
const LOG_LINES: u32 = 50;

/// Everything worth knowing about a bed. What cannot be had says why instead.
pub async fn report(bed: &Bed) -> String {
    let mut report = Report::default();
    let client = bed.client();
    report.section("NICs", client.nics().await.map(|list| nics(&list.nics)));
    report.section("VMs", client.vms().await.map(|list| vms(&list.vms)));
    for (title, content) in bed.host().details().await {
        report.section(&format!("host: {title}"), content);
    }
    for vm in bed.running_vms().await {
        of_vm(&mut report, bed, &vm).await;
    }
    let lines = LOG_LINES as usize;
    report.text("hostd's log", &bed.hostd().log_tail(lines));
    report.text("the hypervisor's log", &bed.world().log_tail(lines).await);
    report.text
}

async fn of_vm(report: &mut Report, bed: &Bed, vm: &Vm) {
    let id = &vm.id;
    let network = info_network(bed.world(), id).await;
    report.section(&format!("{id}: QEMU's info network"), network);
    let details = vm.guest.details().await;
    report.section(&format!("{id}: the guest's links"), details);
    let log = vm.guest.agent().log(LOG_LINES).await;
    report.section(&format!("{id}: the agent's log"), log);
}

#[derive(Debug, Default)]
struct Report {
    text: String,
}

impl Report {
    fn text(&mut self, title: &str, content: &str) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.text, "──── {title}\n{}", content.trim_end());
    }

    fn section<E: Into<anyhow::Error>>(&mut self, title: &str, content: Result<String, E>) {
        match content {
            Ok(content) => self.text(title, &content),
            Err(error) => self.text(title, &format!("cannot be had: {:#}", error.into())),
        }
    }
}

fn nics(nics: &[Nic]) -> String {
    let line = |nic: &Nic| {
        let place = nic.placement.as_ref();
        let place = place.map(|place| format!("{} {}", place.vm, place.target));
        let steps: Vec<String> = nic
            .timings
            .iter()
            .map(|timing| format!("{} {:.1}", timing.step, timing.duration_ms))
            .collect();
        format!(
            "{} {} {} {:?} at {} step {:?} blocked {:?} degraded {:?} error {:?}\n    steps/ms: {}",
            nic.id,
            nic.state,
            nic.mac,
            nic.addresses,
            place.unwrap_or_else(|| "nowhere".to_owned()),
            nic.step.as_ref().map(ToString::to_string),
            nic.blocked.as_ref().map(|blocked| &blocked.reason),
            nic.degraded.as_ref().map(|degraded| &degraded.reason),
            nic.last_error.as_ref().map(|problem| &problem.message),
            steps.join(", ")
        )
    };
    nics.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn vms(vms: &[ApiVm]) -> String {
    let line = |vm: &ApiVm| {
        format!(
            "{} power {:?} agent {} slots {}/{} free ({} reserved) nics {:?}",
            vm.id,
            vm.power,
            vm.agent.state,
            vm.slots.free,
            vm.slots.total,
            vm.slots.reserved,
            vm.nics
        )
    };
    vms.iter().map(line).collect::<Vec<_>>().join("\n")
}
