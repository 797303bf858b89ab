//! Who asks: the user id of the connection decides, a header can only narrow it.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use host_api::{Problem, ProblemCode, path};
use nic_model::TenantId;

use super::connection::PeerUid;
use super::problem::{NoPeer, Refused, internal};
use super::{Api, fields};
use crate::service::Caller;

impl FromRequestParts<Arc<Api>> for Caller {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, Refused> {
        let PeerUid(uid) = parts
            .extensions
            .get()
            .copied()
            .ok_or_else(|| internal(&NoPeer))?;
        let named = fields::header(&parts.headers, path::TENANT_HEADER)?;
        decide(api.tenants_by_uid.get(&uid), named)
    }
}

/// Whoever may reach the socket and is nobody's tenant is an operator: the socket's mode says who
/// may reach it.
fn decide(own: Option<&TenantId>, named: Option<TenantId>) -> Result<Caller, Refused> {
    match (own, named) {
        (None, None) => Ok(Caller::Operator),
        (None, Some(named)) => Ok(Caller::Tenant(named)),
        (Some(own), None) => Ok(Caller::Tenant(own.clone())),
        (Some(own), Some(named)) if *own == named => Ok(Caller::Tenant(named)),
        (Some(own), Some(named)) => Err(Refused::from(Problem {
            field: Some(path::TENANT_HEADER.to_owned()),
            hint: Some("leave the header out".to_owned()),
            ..Problem::new(
                ProblemCode::Forbidden,
                format!("tenant {own} cannot act for tenant {named}"),
            )
        })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(name: &str) -> TenantId {
        name.parse().unwrap()
    }

    #[test]
    fn an_operator_acts_for_anybody_and_a_tenant_for_itself() {
        let blue = tenant("blue");
        let as_blue = Caller::Tenant(blue.clone());

        assert_eq!(decide(None, None).unwrap(), Caller::Operator);
        assert_eq!(decide(None, Some(blue.clone())).unwrap(), as_blue);
        assert_eq!(decide(Some(&blue), None).unwrap(), as_blue);
        assert_eq!(decide(Some(&blue), Some(blue.clone())).unwrap(), as_blue);
    }

    #[test]
    fn a_tenant_that_names_another_is_refused() {
        let refused = decide(Some(&tenant("blue")), Some(tenant("red"))).unwrap_err();

        assert_eq!(refused.code(), ProblemCode::Forbidden);
    }
}
