//! What is to be done next for one NIC, and how that may fail.

use agent_protocol::{BindError, BindStep, Binding, NicReport};
use nic_model::{IpNet, Ipv4Net, LinkName, MacAddr, Mtu, Route, Target};

/// The next thing to do. Each is safe to repeat: what it wants done may be done already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Nothing, until something is seen, wished or leased.
    Wait,
    /// Look at the link and the target anew: what is known may be wrong.
    Look,
    /// Tell the host.
    Report(Box<NicReport>),
    /// Stop the DHCP client, then move the link from wherever it is into the holding namespace,
    /// switched off.
    Hold,
    /// Stop the DHCP client, switch the link off where it is and remove its addresses: the host
    /// wants the NIC back and unplugs it in a moment.
    Disarm,
    /// The same as holding it, because the host wants the NIC back.
    Release,
    /// Stop the DHCP client, then move the link from wherever it is into the target under its name,
    /// with its MTU, switched off. One that is there already is switched off and renamed, and keeps
    /// its client.
    Enter {
        /// Where.
        target: Target,
        /// Under which name.
        name: LinkName,
        /// With which MTU.
        mtu: Mtu,
        /// With which address, when a container has changed it.
        mac: Option<MacAddr>,
    },
    /// Set the MTU of the link in the target.
    SetMtu(Mtu),
    /// Add these addresses.
    SetAddresses(Vec<IpNet>),
    /// Switch the link on.
    SetUp,
    /// Add these routes.
    SetRoutes(Vec<Route>),
    /// Start a DHCP client on the link.
    StartLease,
    /// A lease is over: switch the link off, which drops its routes, and remove the address.
    DropLease(Ipv4Net),
    /// Tell the segment where these addresses are now.
    Announce(Vec<IpNet>),
    /// Read the link back.
    Verify,
}

impl Action {
    /// Under which name the action's duration is reported.
    #[must_use]
    pub fn step(&self) -> Option<BindStep> {
        Some(match self {
            Self::Wait | Self::Look | Self::Report(_) => return None,
            Self::Hold => BindStep::Hold,
            Self::Disarm | Self::Release => BindStep::Release,
            Self::Enter { .. } => BindStep::Enter,
            Self::SetMtu(_) => BindStep::SetMtu,
            Self::SetAddresses(_) => BindStep::SetAddresses,
            Self::SetUp => BindStep::SetUp,
            Self::SetRoutes(_) => BindStep::SetRoutes,
            Self::StartLease | Self::DropLease(_) => BindStep::Lease,
            Self::Announce(_) => BindStep::Announce,
            Self::Verify => BindStep::Verify,
        })
    }
}

/// Why an action failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StepFailure {
    /// There is no such link any more.
    #[error("the link vanished")]
    LinkVanished,
    /// Another link has the name.
    #[error("the name is taken")]
    NameTaken,
    /// The namespace is gone.
    #[error("the target is gone")]
    TargetGone,
    /// The kernel refused.
    #[error("{0}")]
    Kernel(String),
}

impl StepFailure {
    /// The failure in the host's terms.
    pub(crate) fn explain(self, step: BindStep, binding: Option<&Binding>) -> BindError {
        match (self, binding) {
            (Self::NameTaken, Some(binding)) => BindError::NameTaken {
                name: binding.link_name.clone(),
            },
            (Self::TargetGone, Some(binding)) => BindError::TargetGone {
                target: binding.target.clone(),
            },
            (Self::LinkVanished, _) => BindError::LinkVanished { step },
            (other, _) => kernel_error(step, &other.to_string()),
        }
    }
}

/// A refusal in the host's terms, cut to what the protocol allows.
pub(crate) fn kernel_error(step: BindStep, message: &str) -> BindError {
    const LONGEST: usize = 200;
    let end = (0..=message.len().min(LONGEST))
        .rev()
        .find(|end| message.is_char_boundary(*end))
        .unwrap_or_default();
    BindError::Kernel {
        step,
        message: message[..end].to_owned(),
    }
}
