//! Who may have what: each `admit_*` looks at the ledger and gives the record that would follow, or
//! the reason why not. Nothing is changed here; the caller stores and journals the record in the
//! same transaction, so that two requests can never both take the last place.

use agent_protocol::KnownTarget;
use nic_model::{
    Addressing, BitRate, BootId, Direction, IpNet, LinkName, MacAddr, Mtu, NetworkName, NicId,
    PacketRate, PowerState, RateLimits, Route, SlotId, SlotOccupant, Target, TenantId, VmHardware,
    VmId,
};

use crate::ledger::Ledger;
use crate::limits::{LimitName, LimitUse, VmClass};
use crate::record::{NicRecord, Placement, Transit};
use crate::refusal::{LimitRefusal, Refusal, RefusalKind};
use crate::state::{NicEvent, NicState};
use crate::subnet::Network;

/// A NIC to be created, with the randomness it may need.
#[derive(Debug, Clone)]
pub struct NewNic {
    /// A fresh id.
    pub id: NicId,
    /// Whose it will be.
    pub tenant: TenantId,
    /// The network its port will be on.
    pub network: NetworkName,
    /// The address asked for.
    pub mac: Option<MacAddr>,
    /// Addresses to choose from when none was asked for.
    pub mac_candidates: Vec<MacAddr>,
    /// How it gets its IP addresses.
    pub addressing: RequestedAddressing,
    /// The network's own when absent.
    pub mtu: Option<Mtu>,
    /// Routes beside those that the addresses imply.
    pub routes: Vec<Route>,
    /// Rates asked for.
    pub limits: RateLimits,
    /// Queues of the device, 1 or more.
    pub queue_count: u16,
    /// Milliseconds since the Unix epoch.
    pub now_ms: u64,
}

/// How a new NIC is to get its addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequestedAddressing {
    /// One free address of each subnet.
    Allocate,
    /// These.
    Static(Vec<IpNet>),
    /// IPv4 from a DHCP server, these besides.
    Dhcp(Vec<IpNet>),
}

/// Where a NIC is asked to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestedPlacement {
    /// Which VM.
    pub vm: VmId,
    /// Where in it.
    pub target: Target,
    /// Under which name.
    pub link_name: LinkName,
    /// The boot of the guest that runs, as far as its agent has told.
    pub boot_id: Option<BootId>,
}

impl Ledger {
    /// A record for a new NIC.
    ///
    /// # Errors
    /// When a field is wrong, something asked for is taken, or a quota is used up.
    pub fn admit_create(&self, new: NewNic) -> Result<NicRecord, Refusal> {
        let network = self.known_network(&new.network)?;
        if new.queue_count == 0 {
            return Err(Refusal::invalid("queues", "a NIC has at least one queue"));
        }
        check_lengths(&new)?;
        let mac = self.free_mac(new.mac, &new.mac_candidates)?;
        let addressing = self.free_addresses(network, new.addressing)?;
        self.check_quota(&new.tenant, addressing.addresses().len() as u64)?;
        Ok(NicRecord {
            mtu: fitting_mtu(network, new.mtu)?,
            id: new.id,
            tenant: new.tenant,
            network: new.network,
            mac,
            addressing,
            routes: new.routes,
            limits: new.limits,
            queue_count: new.queue_count,
            state: NicState::Available,
            generation: 0,
            placement: None,
            transit: None,
            last_failure: None,
            created_at_ms: new.now_ms,
            updated_at_ms: new.now_ms,
        })
    }

    /// The record of a NIC on its way into a VM, with a slot reserved.
    ///
    /// # Errors
    /// When it is somewhere already, the VM cannot take it, or a limit is met.
    pub fn admit_attach(
        &self,
        record: &NicRecord,
        to: RequestedPlacement,
        now_ms: u64,
    ) -> Result<NicRecord, Refusal> {
        let mut record = record.clone();
        transition(&mut record, NicEvent::AttachAdmitted, now_ms)?;
        record.placement = Some(self.reserve(&record, to, None)?);
        record.last_failure = None;
        Ok(record)
    }

    /// The record of a NIC on its way to another place, both places reserved.
    ///
    /// # Errors
    /// When it is not in use, the VM cannot take it, or a limit is met.
    pub fn admit_move(
        &self,
        record: &NicRecord,
        to: RequestedPlacement,
        now_ms: u64,
    ) -> Result<NicRecord, Refusal> {
        let mut record = record.clone();
        transition(&mut record, NicEvent::MoveAdmitted, now_ms)?;
        let to = self.reserve(&record, to, record.placement.as_ref())?;
        record.transit = Some(Box::new(Transit::Leaving { to }));
        record.last_failure = None;
        Ok(record)
    }

    /// The record of a NIC on its way out.
    ///
    /// # Errors
    /// When it is nowhere, or on its way out already.
    pub fn admit_detach(&self, record: &NicRecord, now_ms: u64) -> Result<NicRecord, Refusal> {
        let mut record = record.clone();
        transition(&mut record, NicEvent::DetachAdmitted, now_ms)?;
        record.last_failure = None;
        Ok(record)
    }

    /// Whether a NIC may be deleted.
    ///
    /// # Errors
    /// When it is anywhere.
    pub fn admit_delete(&self, record: &NicRecord, now_ms: u64) -> Result<NicRecord, Refusal> {
        let mut record = record.clone();
        transition(&mut record, NicEvent::DeleteAdmitted, now_ms)?;
        Ok(record)
    }

    fn known_network(&self, name: &NetworkName) -> Result<&Network, Refusal> {
        self.site.networks.get(name).ok_or_else(|| {
            let known: Vec<_> = self.site.networks.keys().map(NetworkName::as_str).collect();
            Refusal::new(RefusalKind::NotFound, format!("there is no network {name}"))
                .at("network")
                .hint(format!("this host has the networks {}", known.join(", ")))
        })
    }

    fn free_mac(&self, asked: Option<MacAddr>, candidates: &[MacAddr]) -> Result<MacAddr, Refusal> {
        let Some(asked) = asked else {
            return candidates
                .iter()
                .copied()
                .find(|mac| self.holder_of(*mac).is_none())
                .ok_or_else(|| {
                    Refusal::new(RefusalKind::Unavailable, "no free MAC address was drawn")
                        .hint("try again")
                });
        };
        match self.holder_of(asked) {
            None => Ok(asked),
            Some(holder) => Err(Refusal::new(
                RefusalKind::Conflict,
                format!("MAC address {asked} is taken by {holder}"),
            )
            .at("mac")
            .hint("leave it out to have one chosen")),
        }
    }

    fn free_addresses(
        &self,
        network: &Network,
        asked: RequestedAddressing,
    ) -> Result<Addressing, Refusal> {
        let taken = self.taken_addresses(&network.name);
        match asked {
            RequestedAddressing::Allocate => Ok(Addressing::Static {
                addresses: network.allocate(taken, |_| true)?,
            }),
            RequestedAddressing::Static(addresses) => {
                network.check(&addresses, taken)?;
                Ok(Addressing::Static { addresses })
            }
            RequestedAddressing::Dhcp(addresses) => {
                network.check(&addresses, taken)?;
                Ok(Addressing::Dhcp { addresses })
            }
        }
    }

    fn check_quota(&self, tenant: &TenantId, new_addresses: u64) -> Result<(), Refusal> {
        let frees = |what: &str| format!("delete {what}");
        for limit in self.host_limits() {
            check_room(limit, 1, || frees("a NIC on this host"))?;
        }
        for limit in self.tenant_limits(tenant) {
            let wanted = if limit.name == LimitName::AddressesPerTenant {
                new_addresses
            } else {
                1
            };
            check_room(limit, wanted, || {
                frees(&format!("a NIC of tenant {tenant}"))
            })?;
        }
        Ok(())
    }

    /// Checks everything a place in a VM costs and picks a slot. `leaving` is the place that a
    /// move gives up: in the same VM, its slot and its count are kept.
    fn reserve(
        &self,
        record: &NicRecord,
        to: RequestedPlacement,
        leaving: Option<&Placement>,
    ) -> Result<Placement, Refusal> {
        let hardware = self.usable_vm(&record.tenant, &to.vm)?;
        let class = self.site.class(&to.vm).ok_or_else(|| {
            Refusal::new(
                RefusalKind::Unavailable,
                format!("VM {} has no class", to.vm),
            )
            .at("vm")
            .hint("set default_class in hostd's configuration")
        })?;
        check_class(class, record)?;
        let staying = leaving.filter(|place| place.vm == to.vm);
        let slot = match staying {
            Some(place) => (place.slot.clone(), place.path.clone()),
            None => self.free_slot(&to.vm, class, hardware)?,
        };
        let known_target = asked_in(&to);
        let placement = Placement {
            vm: to.vm,
            slot: slot.0,
            path: slot.1,
            known_target,
            target: to.target,
            link_name: to.link_name,
        };
        match self.link_name_taken(&record.id, &placement) {
            None => Ok(placement),
            Some(other) => Err(Refusal::new(
                RefusalKind::Conflict,
                format!(
                    "{other} is named {} in {} already",
                    placement.link_name, placement.target
                ),
            )
            .at("link_name")),
        }
    }

    fn usable_vm(&self, tenant: &TenantId, vm: &VmId) -> Result<&VmHardware, Refusal> {
        let unknown =
            || Refusal::new(RefusalKind::NotFound, format!("there is no VM {vm}")).at("vm");
        if self
            .site
            .tenant_of
            .get(vm)
            .is_some_and(|owner| owner != tenant)
        {
            return Err(unknown());
        }
        let unseen = || match self.may_exist(vm) {
            true => Refusal::new(
                RefusalKind::Unavailable,
                format!("VM {vm} has not been seen yet"),
            )
            .at("vm"),
            false => unknown(),
        };
        let hardware = self.hardware(vm).ok_or_else(unseen)?;
        match hardware.power {
            PowerState::Running | PowerState::Paused => Ok(hardware),
            PowerState::Off => {
                Err(Refusal::new(RefusalKind::Conflict, format!("VM {vm} is not running")).at("vm"))
            }
            PowerState::Migrating => Err(Refusal::new(
                RefusalKind::Unavailable,
                format!("VM {vm} is migrating"),
            )
            .at("vm")
            .hint("try again on the host it arrives at")),
        }
    }

    fn free_slot(
        &self,
        vm: &VmId,
        class: &VmClass,
        hardware: &VmHardware,
    ) -> Result<(SlotId, nic_model::PciPath), Refusal> {
        let usage = self.nics_at(vm).count() as u64;
        let nics = LimitUse {
            name: LimitName::NicsPerVm,
            value: Some(class.max_nics),
            usage,
        };
        check_room(nics, 1, || format!("detach a NIC from VM {vm}"))?;
        let slots = self.slot_use(vm, hardware);
        check_room(slots, 1, || {
            format!(
                "unplug a device from VM {vm}, or give it more pcie-root-ports at its next start"
            )
        })?;
        let reserved = self.reserved_slots(vm);
        hardware
            .slots
            .iter()
            .find(|slot| slot.occupant == SlotOccupant::Empty && !reserved.contains(&slot.id))
            .map(|slot| (slot.id.clone(), slot.path.clone()))
            .ok_or_else(|| {
                Refusal::new(
                    RefusalKind::Unavailable,
                    format!("VM {vm} has no free slot"),
                )
            })
    }
}

/// Longest lists of one NIC: with all of them full it still fits what an agent takes of one NIC
/// (16 KiB) and a journal row (64 KiB) several times.
const MAX_ROUTES: usize = 64;
const MAX_ADDRESSES: usize = 64;

fn check_lengths(new: &NewNic) -> Result<(), Refusal> {
    if new.routes.len() > MAX_ROUTES {
        let message = format!("a NIC has at most {MAX_ROUTES} routes");
        return Err(Refusal::invalid("routes", message));
    }
    match &new.addressing {
        RequestedAddressing::Static(addresses) | RequestedAddressing::Dhcp(addresses)
            if addresses.len() > MAX_ADDRESSES =>
        {
            let message = format!("a NIC has at most {MAX_ADDRESSES} static addresses");
            Err(Refusal::invalid("addressing.addresses", message))
        }
        RequestedAddressing::Allocate
        | RequestedAddressing::Static(_)
        | RequestedAddressing::Dhcp(_) => Ok(()),
    }
}

fn fitting_mtu(network: &Network, asked: Option<Mtu>) -> Result<Mtu, Refusal> {
    match asked {
        None => Ok(network.mtu),
        Some(mtu) if mtu <= network.mtu => Ok(mtu),
        Some(mtu) => Err(Refusal::invalid(
            "mtu",
            format!(
                "an MTU of {} exceeds the {} of network {}",
                mtu.bytes(),
                network.mtu.bytes(),
                network.name
            ),
        )),
    }
}

fn check_class(class: &VmClass, record: &NicRecord) -> Result<(), Refusal> {
    let at_most = |name, value, usage: u64, frees: &str| {
        let refusal = LimitRefusal {
            name,
            value,
            usage,
            frees: frees.to_owned(),
        };
        if usage <= value {
            Ok(())
        } else {
            Err(Refusal::over_limit(refusal))
        }
    };
    let addresses = record.addressing.addresses().len() as u64;
    at_most(
        LimitName::AddressesPerNic,
        class.max_addresses_per_nic,
        addresses,
        "create the NIC with fewer addresses",
    )?;
    at_most(
        LimitName::QueuesPerNic,
        class.max_queues.into(),
        record.queue_count.into(),
        "create the NIC with fewer queues",
    )?;
    let rates = [
        (Direction::In, class.rates.inbound, record.limits.inbound),
        (Direction::Out, class.rates.outbound, record.limits.outbound),
    ];
    for (direction, most, asked) in rates {
        if let (Some(most), Some(asked)) = (most.bandwidth, asked.bandwidth) {
            let (most, asked) = (BitRate::bits_per_second(most), asked.bits_per_second());
            at_most(
                LimitName::Bandwidth(direction),
                most,
                asked,
                "ask for less bandwidth",
            )?;
        }
        if let (Some(most), Some(asked)) = (most.packets, asked.packets) {
            let (most, asked) = (
                PacketRate::packets_per_second(most),
                asked.packets_per_second(),
            );
            at_most(
                LimitName::Packets(direction),
                most,
                asked,
                "ask for fewer packets per second",
            )?;
        }
    }
    Ok(())
}

fn check_room(limit: LimitUse, wanted: u64, frees: impl Fn() -> String) -> Result<(), Refusal> {
    match limit.value {
        Some(value) if limit.usage + wanted > value => Err(Refusal::over_limit(LimitRefusal {
            name: limit.name,
            value,
            usage: limit.usage,
            frees: frees(),
        })),
        _ => Ok(()),
    }
}

fn transition(record: &mut NicRecord, event: NicEvent, now_ms: u64) -> Result<(), Refusal> {
    let hint = match (record.state, event) {
        (NicState::InUse, NicEvent::AttachAdmitted) => "detach it first, or move it",
        (NicState::InUse | NicState::Attaching | NicState::Detaching, NicEvent::DeleteAdmitted) => {
            "detach it first, and wait until it is available"
        }
        (NicState::Detaching, _) => "wait until it is available",
        (NicState::Attaching, _) => "wait until it is in use, or detach it",
        (NicState::Available, NicEvent::DetachAdmitted) => "it is in no VM already",
        (NicState::Available, NicEvent::MoveAdmitted) => "attach it",
        (NicState::Deleting, _) => "make another one: this one is about to be gone",
        _ => "see its present state",
    };
    record.apply(event, now_ms).map_err(|invalid| {
        let wish = match event {
            NicEvent::AttachAdmitted => "attached",
            NicEvent::MoveAdmitted => "moved",
            NicEvent::DeleteAdmitted => "deleted",
            NicEvent::DetachAdmitted
            | NicEvent::Bound
            | NicEvent::AttachFailed
            | NicEvent::Lost
            | NicEvent::Detached
            | NicEvent::Relocated => "detached",
        };
        let message = format!("{} is {} and cannot be {wish}", record.id, invalid.current);
        Refusal::new(RefusalKind::Conflict, message)
            .at("id")
            .hint(hint)
    })
}

fn asked_in(to: &RequestedPlacement) -> Option<KnownTarget> {
    match to.target {
        Target::Pid { .. } => to.boot_id.map(|boot_id| KnownTarget::AskedIn { boot_id }),
        Target::Netns { .. } => None,
    }
}
