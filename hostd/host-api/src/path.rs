//! Paths and headers, once for both sides.

use nic_model::{NicId, VmId};

/// `POST` makes a NIC, `GET` lists them.
pub const NICS: &str = "/v1/nics";
/// `GET` shows one NIC, `DELETE` removes it.
pub const NIC: &str = "/v1/nics/{id}";
/// `POST` attaches a NIC.
pub const NIC_ATTACH: &str = "/v1/nics/{id}/attach";
/// `POST` detaches a NIC; no body.
pub const NIC_DETACH: &str = "/v1/nics/{id}/detach";
/// `POST` moves a NIC to another target or VM.
pub const NIC_MOVE: &str = "/v1/nics/{id}/move";
/// `GET` lists the VMs.
pub const VMS: &str = "/v1/vms";
/// `GET` shows one VM.
pub const VM: &str = "/v1/vms/{id}";
/// `GET` shows every limit and what is used of it.
pub const LIMITS: &str = "/v1/limits";
/// `GET` streams events (SSE).
pub const EVENTS: &str = "/v1/events";
/// `GET` shows this API's document.
pub const OPENAPI: &str = "/v1/openapi.json";
/// `GET` tells whether hostd can do its work.
pub const HEALTH: &str = "/v1/health";
/// `GET` shows metrics in Prometheus' text format.
pub const METRICS: &str = "/metrics";

/// Header that makes a mutation recognisable when it is sent again: the second one has no effect
/// of its own and is answered with the NIC as the first one left it, waiting where asked to.
pub const CLIENT_TOKEN_HEADER: &str = "client-token";
/// Header by which an operator acts for a tenant.
pub const TENANT_HEADER: &str = "tenant";
/// Header with the id of the last event seen (WHATWG HTML, "server-sent events").
pub const LAST_EVENT_ID_HEADER: &str = "last-event-id";

/// Path of one NIC. Ids need no escaping: they are made of letters, digits, `.`, `_` and `-`.
#[must_use]
pub fn nic(id: &NicId) -> String {
    NIC.replace("{id}", id.as_str())
}

/// Path to attach one NIC.
#[must_use]
pub fn nic_attach(id: &NicId) -> String {
    NIC_ATTACH.replace("{id}", id.as_str())
}

/// Path to detach one NIC.
#[must_use]
pub fn nic_detach(id: &NicId) -> String {
    NIC_DETACH.replace("{id}", id.as_str())
}

/// Path to move one NIC.
#[must_use]
pub fn nic_move(id: &NicId) -> String {
    NIC_MOVE.replace("{id}", id.as_str())
}

/// Path of one VM.
#[must_use]
pub fn vm(id: &VmId) -> String {
    VM.replace("{id}", id.as_str())
}
