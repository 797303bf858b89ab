//! Limits with what is used of them.

use std::collections::BTreeSet;

use host_api::{Limit, LimitScope};
use nic_lifecycle::{Ledger, LimitUse};
use nic_model::TenantId;

use super::vm;
use crate::service::{Caller, Service};

/// Every limit that concerns what the caller may see.
pub(in crate::http) fn limits(service: &Service, caller: &Caller) -> Vec<Limit> {
    let vms = vm::vms(service, caller);
    service.store.read(|ledger| {
        let host = ledger
            .host_limits()
            .into_iter()
            .map(|limit| view(LimitScope::Host, limit));
        let tenants = tenants(ledger, caller).into_iter().flat_map(|tenant| {
            let scope = LimitScope::Tenant {
                tenant: tenant.clone(),
            };
            ledger
                .tenant_limits(&tenant)
                .into_iter()
                .map(move |limit| view(scope.clone(), limit))
        });
        let vms = vms.into_iter().flat_map(|vm| {
            let scope = LimitScope::Vm { vm: vm.clone() };
            ledger
                .vm_limits(&vm)
                .into_iter()
                .map(move |limit| view(scope.clone(), limit))
        });
        host.chain(tenants).chain(vms).collect()
    })
}

/// A tenant sees its own limits even before it has anything.
fn tenants(ledger: &Ledger, caller: &Caller) -> BTreeSet<TenantId> {
    match caller {
        Caller::Operator => ledger.tenants().cloned().collect(),
        Caller::Tenant(own) => BTreeSet::from([own.clone()]),
    }
}

fn view(scope: LimitScope, limit: LimitUse) -> Limit {
    Limit {
        scope,
        name: limit.name.to_string(),
        value: limit.value,
        usage: limit.usage,
    }
}
