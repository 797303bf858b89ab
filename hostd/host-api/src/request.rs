//! What clients ask for.

use nic_model::{
    IpNet, LinkName, MacAddr, Mtu, NetworkName, RateLimits, Route, Target, TenantId, VmId,
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::{Wait, openapi};

/// Makes a NIC, and attaches it where `attach` says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
    "network": "blue",
    "limits": {"in": {"bandwidth": 100_000_000}, "out": {}},
    "attach": {"vm": "web-1", "target": {"kind": "netns", "name": "shop"}},
}))]
pub struct CreateNic {
    /// Whose it will be; the caller's own by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<openapi::TenantId>)]
    pub tenant: Option<TenantId>,
    /// The network it is on.
    #[schema(value_type = openapi::NetworkName)]
    pub network: NetworkName,
    /// Its MAC address; a generated one by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<openapi::MacAddr>)]
    pub mac: Option<MacAddr>,
    /// How it gets its addresses; static and allocated by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub addressing: Option<AddressingRequest>,
    /// Largest packet in bytes; the network's own by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<openapi::Mtu>)]
    pub mtu: Option<Mtu>,
    /// Its routes; the network's own by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<openapi::Route>>)]
    pub routes: Option<Vec<Route>>,
    /// Its rates; those of the VM's class by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<openapi::RateLimits>)]
    pub limits: Option<RateLimits>,
    /// Queues of the device; 1 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub queues: Option<u16>,
    /// Where to attach it at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attach: Option<AttachNic>,
}

/// How a NIC is to get its addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AddressingRequest {
    /// Which way.
    pub mode: AddressingMode,
    /// With `static`: these and no others; when absent, hostd allocates one of each subnet of the
    /// network. With `dhcp`: static ones beside the leased one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<openapi::IpNet>)]
    pub addresses: Vec<IpNet>,
}

/// The ways a NIC can get its addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AddressingMode {
    /// From the request or from hostd's allocator.
    Static,
    /// From a DHCP server on the network.
    Dhcp,
}

/// Attaches a NIC to a VM and carries it into a target there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
    "vm": "web-1", "target": {"kind": "pid", "pid": 4242, "netns_inode": 4_026_532_293_u64},
    "link_name": "eth1",
}))]
pub struct AttachNic {
    /// Which VM.
    #[schema(value_type = openapi::VmId)]
    pub vm: VmId,
    /// Where in it.
    #[serde(deserialize_with = "crate::target::deserialize")]
    #[schema(value_type = openapi::Target)]
    pub target: Target,
    /// What the link is called there; `eth0` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<openapi::LinkName>)]
    pub link_name: Option<LinkName>,
}

/// Moves a NIC to another target, of the same VM or of another, keeping id, MAC and addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
    "vm": "web-1", "target": {"kind": "pid", "pid": 4242, "netns_inode": 4_026_532_293_u64},
    "link_name": "eth1",
}))]
pub struct MoveNic {
    /// Which VM.
    #[schema(value_type = openapi::VmId)]
    pub vm: VmId,
    /// Where in it.
    #[serde(deserialize_with = "crate::target::deserialize")]
    #[schema(value_type = openapi::Target)]
    pub target: Target,
    /// What the link is called there; as before the move by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<openapi::LinkName>)]
    pub link_name: Option<LinkName>,
}

/// Query of every mutation.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct MutationQuery {
    /// Answer when the NIC is settled or this time is over, whichever is first; at once by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>, pattern = "^[0-9]+(ms|s|m)$", example = "30s")]
    pub wait: Option<Wait>,
}
