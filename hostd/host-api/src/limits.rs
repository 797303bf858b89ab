//! Every limit with what is used of it.

use std::fmt;

use nic_model::{TenantId, VmId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::openapi;

/// Answer to `GET /v1/limits`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Limits {
    /// Every limit that concerns what the caller may see: the host's, then tenants', then VMs'.
    pub limits: Vec<Limit>,
}

/// One limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({
    "scope": {"kind": "vm", "vm": "web-1"}, "name": "max_nics", "value": 8, "usage": 2,
}))]
pub struct Limit {
    /// Of what.
    pub scope: LimitScope,
    /// Its name, as refusals give it.
    #[schema(example = "max_nics")]
    pub name: String,
    /// Its value; absent is unlimited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<u64>,
    /// How much of it is used.
    pub usage: u64,
}

/// Of what a limit is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum LimitScope {
    /// This host.
    Host,
    /// A tenant on this host.
    Tenant {
        /// Which.
        #[schema(value_type = openapi::TenantId)]
        tenant: TenantId,
    },
    /// A VM.
    Vm {
        /// Which.
        #[schema(value_type = openapi::VmId)]
        vm: VmId,
    },
}

impl fmt::Display for LimitScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.write_str("host"),
            Self::Tenant { tenant } => write!(f, "tenant {tenant}"),
            Self::Vm { vm } => write!(f, "vm {vm}"),
        }
    }
}
