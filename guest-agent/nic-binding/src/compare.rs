//! What stands between a wish and what was seen.

use agent_protocol::{BindError, Binding};
use nic_model::{IpNet, Route};

use crate::sight::{NameInTarget, Sight, TargetSight};

/// Why a link that is there cannot go where it is wanted.
pub(crate) fn obstacle(binding: &Binding, sight: &Sight) -> Option<BindError> {
    let target = || binding.target.clone();
    match sight.target {
        TargetSight::NotWanted => None,
        TargetSight::Gone => Some(BindError::TargetGone { target: target() }),
        TargetSight::Changed { found } => Some(BindError::TargetChanged {
            target: target(),
            found,
        }),
        TargetSight::IsGuest => Some(BindError::TargetIsGuest { target: target() }),
        TargetSight::Present { name, .. } => {
            (name == NameInTarget::Taken).then(|| BindError::NameTaken {
                name: binding.link_name.clone(),
            })
        }
    }
}

pub(crate) fn missing(wanted: &[IpNet], present: &[IpNet]) -> Vec<IpNet> {
    let is_missing = |address: &&IpNet| !present.contains(address);
    wanted.iter().filter(is_missing).copied().collect()
}

/// A route without a metric is there whatever metric the kernel gave it (1024 for IPv6).
pub(crate) fn missing_routes(wanted: &[Route], present: &[Route]) -> Vec<Route> {
    let same = |wanted: &Route, present: &Route| {
        wanted.destination.trunc() == present.destination.trunc()
            && wanted.gateway == present.gateway
            && (wanted.metric.is_none() || wanted.metric == present.metric)
    };
    let is_missing = |route: &&Route| !present.iter().any(|present| same(route, present));
    wanted.iter().filter(is_missing).cloned().collect()
}
