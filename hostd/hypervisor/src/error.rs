//! One small error per operation: the operand in the message, the cause in `source`.

use nic_model::{NicId, SlotId, VmId};

/// What kept a hypervisor from doing its part, common to all operations.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// It knows no such VM.
    #[error("there is no such VM")]
    NoSuchVm,
    /// The VM does not run.
    #[error("the VM is not running")]
    NotRunning,
    /// QEMU refuses hot-plug while it migrates.
    #[error("the VM is migrating")]
    Migrating,
    /// Nobody answered in time; what was asked may have happened.
    #[error("no answer within {waited_ms} ms")]
    TimedOut {
        /// How long was waited, in milliseconds.
        waited_ms: u64,
    },
    /// The connection could not be made or broke; what was asked may have happened.
    #[error("the connection failed")]
    Connection(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The hypervisor answered that it will not.
    #[error("the hypervisor refused: {message}")]
    Refused {
        /// QEMU's or libvirt's own words.
        message: String,
    },
    /// The answer made no sense.
    #[error("the hypervisor's answer is not understood: {message}")]
    Protocol {
        /// What was wrong with it.
        message: String,
    },
}

impl Trouble {
    /// Whether what was asked may have happened although no success was reported.
    #[must_use]
    pub fn outcome_is_unknown(&self) -> bool {
        matches!(
            self,
            Self::TimedOut { .. } | Self::Connection(_) | Self::Protocol { .. }
        )
    }
}

/// From [`crate::Hypervisor::vms`].
#[derive(Debug, thiserror::Error)]
#[error("failed to list the VMs")]
pub struct ListError(#[source] pub Trouble);

/// From [`crate::Hypervisor::inspect`].
#[derive(Debug, thiserror::Error)]
#[error("failed to inspect VM {vm}")]
pub struct InspectError {
    /// Which VM.
    pub vm: VmId,
    /// Why.
    #[source]
    pub trouble: Trouble,
}

/// From [`crate::Hypervisor::plug`].
#[derive(Debug, thiserror::Error)]
#[error("failed to plug {nic} into slot {slot} of VM {vm}")]
pub struct PlugError {
    /// Which VM.
    pub vm: VmId,
    /// Which NIC.
    pub nic: NicId,
    /// Where.
    pub slot: SlotId,
    /// Why.
    #[source]
    pub trouble: Trouble,
}

/// From [`crate::Hypervisor::unplug`].
#[derive(Debug, thiserror::Error)]
#[error("failed to unplug {nic} from VM {vm}")]
pub struct UnplugError {
    /// Which VM.
    pub vm: VmId,
    /// Which NIC.
    pub nic: NicId,
    /// Why.
    #[source]
    pub trouble: Trouble,
}

/// From [`crate::Hypervisor::set_link`].
#[derive(Debug, thiserror::Error)]
#[error("failed to set the carrier of {nic} in VM {vm}")]
pub struct SetLinkError {
    /// Which VM.
    pub vm: VmId,
    /// Which NIC.
    pub nic: NicId,
    /// Why.
    #[source]
    pub trouble: Trouble,
}
