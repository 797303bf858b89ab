//! The process of one VM: a QEMU that answers over QMP, and the hardware its guest finds.
//!
//! It runs in its host's network namespace, as a QEMU does, and its end is the end of the guest.

mod guest_process;

use nic_model::VmId;

use self::guest_process::GuestProcess;
use super::guest::READY;
use super::plan::Plan;
use super::runtime;
use super::site::Site;
use super::trouble::Trouble;

/// Is the VM `vm` until it is told to quit, or is killed.
///
/// # Errors
/// When it cannot be set up.
pub fn run(site: &Site, vm: &VmId) -> Result<(), Trouble> {
    let plan = Plan::read(site)?;
    runtime()?.block_on(async {
        let mut guest = GuestProcess::boot(site, vm, &plan.programs).await?;
        super::say(READY);
        guest.ended().await;
        Ok(())
    })
}
