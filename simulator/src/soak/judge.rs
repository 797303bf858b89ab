//! Whether the world is as the model says: where each NIC is, by what hostd tells and by what is
//! there.

use std::collections::BTreeSet;

use fake_guest::kernel::{GuestView, Phase};
use host_api::{AgentState, Nic, NicState};
use nic_model::NicId;
use oracle::model::{Health, Model, NicKey, Spot, Standing, VmKey};
use oracle::{Reachability, SystemView};

use super::cast::{Cast, Container};
use super::{NICS, report::Breach, report::Caught};
use crate::sim::Host;

/// What hostd says of a device that its guest was asked for in vain.
const KEPT: &str = "the guest has not let go of the device";

/// A world as it is now.
pub(crate) struct Scene<'a> {
    pub(crate) host: &'a Host,
    pub(crate) cast: &'a Cast,
    pub(crate) view: &'a SystemView,
}

impl Scene<'_> {
    /// Where the world differs from one that `model` tells of.
    pub(crate) fn differences(&self, model: &Model) -> Vec<String> {
        let keys = (0..NICS).map(NicKey);
        let wrong = keys.filter_map(|nic| {
            let difference = self.difference(model, nic)?;
            Some(format!("{}: {difference}", self.cast.nic_id(nic)))
        });
        self.strangers().into_iter().chain(wrong).collect()
    }

    /// VMs that hostd, or whoever waits for their guests, has yet to catch up with.
    pub(crate) fn unknown_vms(&self, model: &Model) -> Vec<String> {
        let Some(service) = self.host.service() else {
            return vec!["no hostd runs".to_owned()];
        };
        let told = hostd::http::vm_views(&service);
        let vms = self.host.vms().iter();
        let wrong = vms.filter_map(|(id, there)| {
            let Some(vm) = told.iter().find(|vm| vm.id == *id) else {
                return Some(format!("{id}: hostd has not heard of it"));
            };
            let (power, guest) = (there.power(), there.guest());
            let booting = guest.as_ref().is_some_and(is_busy);
            let key = self.cast.vm_key(&vm.id)?;
            let answers = vm.agent.state == AgentState::Ready;
            // What answered before a reset tells nothing of what runs after it.
            let boot = guest.map(|guest| guest.boot_id.to_string());
            let is_fresh = !answers || vm.agent.boot_id == boot;
            let knows = answers == model.has_agent(key) && is_fresh;
            let (seen, agent) = (vm.power, vm.agent.state);
            (seen != Some(power) || booting || !knows).then(|| {
                format!(
                    "{id}: hostd sees {seen:?}, agent {agent}; it is {power:?}, boots: {booting}"
                )
            })
        });
        wrong.collect()
    }

    /// NICs that nobody has made, or has made once too often.
    fn strangers(&self) -> Vec<String> {
        let known: BTreeSet<&NicId> = self.cast.ids().map(|(_, id)| id).collect();
        let all = self.view.nics.keys();
        let strangers = all.filter(|id| !known.contains(id));
        strangers
            .map(|id| format!("{id}: nobody has asked for it"))
            .collect()
    }

    fn difference(&self, model: &Model, key: NicKey) -> Option<String> {
        let nic = self.view.nics.get(&self.cast.nic_id(key));
        let standing = model.standing(key);
        let Some(nic) = nic else {
            let absent = standing == Standing::Absent;
            return (!absent).then(|| format!("has no record, should be {standing:?}"));
        };
        let fits = match standing {
            Standing::Absent => false,
            Standing::Nowhere => nic.state == NicState::Available && nic.placement.is_none(),
            Standing::In { vm, health } => {
                nic.state == NicState::InUse && self.is_at(nic, vm) && fits_health(nic, health)
            }
            Standing::Stuck { vm } => self.is_stuck(nic, vm),
        };
        if !fits {
            return Some(format!("is {}, should be {standing:?}", shown(nic)));
        }
        match standing {
            Standing::In {
                health: Health::Whole,
                ..
            } => self.missing_in(nic, model.container_of(key)?),
            Standing::Stuck { .. } => self.open_port(nic),
            Standing::Absent | Standing::Nowhere | Standing::In { .. } => None,
        }
    }

    fn is_at(&self, nic: &Nic, vm: VmKey) -> bool {
        let id = self.cast.vm_id(vm);
        nic.placement.as_ref().is_some_and(|place| place.vm == *id)
    }

    /// The guest has been asked for the device in vain, and that is what hostd tells.
    fn is_stuck(&self, nic: &Nic, vm: VmKey) -> bool {
        let told = nic.blocked.as_ref().map(|blocked| blocked.reason.as_str());
        let is_kept = self.cast.vm(vm).devices().contains_key(&nic.id.device_id());
        !nic.state.is_settled() && told == Some(KEPT) && is_kept && self.is_at(nic, vm)
    }

    fn open_port(&self, nic: &Nic) -> Option<String> {
        let tap = nic.id.tap_name();
        let open = self.host.links().passes(&tap) == Reachability::Open;
        open.then(|| format!("leaves, and {tap} passes frames"))
    }

    /// What a NIC lacks of being usable in a container.
    pub(crate) fn missing_in(&self, nic: &Nic, spot: Spot) -> Option<String> {
        let Some(Container { pid, .. }) = self.cast.container(spot) else {
            return Some(format!("is in {spot:?}, which nobody has started"));
        };
        let guest = self.cast.vm(spot.vm).guest();
        let Some(guest) = guest else {
            return Some(format!("is in {spot:?}, whose VM is off"));
        };
        let namespace = guest.of_process(pid);
        let link = namespace.and_then(|all| all.links.iter().find(|link| link.mac == nic.mac));
        let Some(link) = link else {
            return Some(format!("has no link in {spot:?}, the namespace of {pid}"));
        };
        let addresses = nic.addressing.addresses();
        let has_all = addresses.iter().all(|one| link.addresses.contains(one));
        let tap = nic.id.tap_name();
        let open = self.host.links().passes(&tap) == Reachability::Open;
        let usable = link.carries() && has_all && open;
        (!usable).then(|| format!("cannot be used in {spot:?}: {link:?}, {tap} open: {open}"))
    }
}

/// Whether a guest boots, or its kernel has yet to make a link of a device.
fn is_busy(guest: &GuestView) -> bool {
    let mut devices = guest.devices.iter();
    guest.phase != Phase::Up || devices.any(|device| guest.link_of(&device.path).is_none())
}

fn fits_health(nic: &Nic, health: Health) -> bool {
    match health {
        Health::Whole => nic.degraded.is_none(),
        // Nobody can tell, so nobody says that it is whole.
        Health::Degraded | Health::Unknown => nic.degraded.is_some(),
    }
}

/// A NIC as an operator sees it, in one line.
pub(crate) fn shown(nic: &Nic) -> String {
    let place =
        |place: &host_api::Placement| format!("{} {} {}", place.vm, place.target, place.slot);
    let at = nic.placement.as_ref().map(place).unwrap_or_default();
    let next = nic.moving_to.as_ref().map(place).unwrap_or_default();
    let mut text = format!("{} [{at}]", nic.state);
    for (word, more) in [
        ("to", Some(next).filter(|next| !next.is_empty())),
        ("step", nic.step.as_ref().map(ToString::to_string)),
        ("blocked", nic.blocked.as_ref().map(|it| it.reason.clone())),
        (
            "degraded",
            nic.degraded.as_ref().map(|it| it.reason.clone()),
        ),
        (
            "error",
            nic.last_error
                .as_ref()
                .map(|it| format!("{} {}", it.code, it.message)),
        ),
    ] {
        if let Some(more) = more {
            text += &format!(" {word}: {more}");
        }
    }
    text
}

/// What of the oracle's sentences is the first to be told.
pub(crate) fn breach_of(caught: Caught, found: Vec<String>) -> Result<(), Breach> {
    if found.is_empty() {
        return Ok(());
    }
    Err(Breach {
        caught,
        sentences: found,
    })
}
