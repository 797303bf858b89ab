//! Attaching: a NIC arrives in a container, is usable there, and leaves without a trace.

use anyhow::Result;
use testbeds::bed::Bed;
use testbeds::scenario::Scenario;
use testbeds::scenarios;

pub(crate) fn scenarios() -> Vec<Scenario> {
    scenarios![vms_boot_and_leave_nothing]
}

async fn vms_boot_and_leave_nothing(bed: &Bed) -> Result<()> {
    bed.two_vms().await.map(drop)
}
