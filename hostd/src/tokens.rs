//! Client tokens: which requests have come already, so that one that comes again changes nothing.
//!
//! ```text
//!   used ──► remembered ──┬── 24 h ──────────────────────────────► forgotten
//!                         └── 8192 newer ones of the same tenant ─► forgotten
//! ```
//!
//! A token has to outlive the retries of its client and nothing else. Without a bound in number a
//! client in a loop would fill memory and journal for a day; with one for each tenant it costs
//! nobody's tokens but its own.

use std::collections::BTreeMap;

use nic_lifecycle::NicRecord;
use nic_model::{ClientToken, NicId, TenantId};
use serde::{Deserialize, Serialize};

/// Tokens of one tenant that are remembered. Eight times what hostd works on at once, so that none
/// is forgotten whose request is still under way; about 8 MiB of memory when all are in use.
pub const TOKENS_PER_TENANT: usize = 8192;
/// How long a token is remembered: longer than any client retries.
const LIFETIME_MS: u64 = 24 * 60 * 60 * 1000;

/// What a client token was used for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenUse {
    /// Whose token.
    pub tenant: TenantId,
    /// The token.
    pub token: ClientToken,
    /// The request it came with, in a form that is equal for equal requests.
    pub request: String,
    /// The NIC that the request made or changed.
    pub nic: NicId,
    /// What that NIC was, where the request deleted it.
    pub last: Option<Box<NicRecord>>,
    /// Milliseconds since the Unix epoch.
    pub at_ms: u64,
}

/// Every token that is remembered.
#[derive(Debug, Default)]
pub(crate) struct TokenBook {
    tenants: BTreeMap<TenantId, TokensOfTenant>,
}

#[derive(Debug, Default)]
struct TokensOfTenant {
    /// With the number under which each stands in `by_age`.
    uses: BTreeMap<ClientToken, (u64, TokenUse)>,
    by_age: BTreeMap<u64, ClientToken>,
}

/// A token that made room for a new one.
#[derive(Debug)]
pub(crate) struct Displaced {
    number: u64,
    pub(crate) used: TokenUse,
}

impl TokenBook {
    /// What was remembered before. More of a tenant's than there is room for, from a version with
    /// more of it, are forgotten with the next that expire.
    pub(crate) fn of(mut uses: Vec<TokenUse>) -> Self {
        uses.sort_by_key(|used| used.at_ms);
        let mut book = Self::default();
        for used in uses {
            book.of_tenant(&used.tenant).add(used);
        }
        book
    }

    pub(crate) fn get(&self, tenant: &TenantId, token: &ClientToken) -> Option<&TokenUse> {
        let tokens = self.tenants.get(tenant)?;
        tokens.uses.get(token).map(|(_, used)| used)
    }

    /// Remembers a new token, and gives the oldest of the same tenant where there is no room for
    /// both.
    pub(crate) fn insert(&mut self, used: TokenUse) -> Option<Displaced> {
        let tokens = self.of_tenant(&used.tenant);
        let displaced = if tokens.uses.len() < TOKENS_PER_TENANT {
            None
        } else {
            tokens.take_oldest()
        };
        tokens.add(used);
        displaced
    }

    /// Takes back an [`Self::insert`] that came to nothing.
    pub(crate) fn give_back(&mut self, used: &TokenUse, displaced: Option<Displaced>) {
        self.remove(used);
        let Some(Displaced { number, used }) = displaced else {
            return;
        };
        let tokens = self.of_tenant(&used.tenant);
        // Unless it came again meanwhile, as new.
        if !tokens.uses.contains_key(&used.token) {
            tokens.by_age.insert(number, used.token.clone());
            tokens.uses.insert(used.token.clone(), (number, used));
        }
    }

    pub(crate) fn remove(&mut self, used: &TokenUse) {
        let Some(tokens) = self.tenants.get_mut(&used.tenant) else {
            return;
        };
        if let Some((number, _)) = tokens.uses.remove(&used.token) {
            tokens.by_age.remove(&number);
        }
        if tokens.uses.is_empty() {
            self.tenants.remove(&used.tenant);
        }
    }

    /// Tokens that nobody will send again, and those beyond the bound; at most so many.
    pub(crate) fn expired(&self, now_ms: u64, at_most: usize) -> Vec<TokenUse> {
        let expired = self.tenants.values().flat_map(|tokens| {
            let surplus = tokens.uses.len().saturating_sub(TOKENS_PER_TENANT);
            let is_over = move |used: &TokenUse| used.at_ms.saturating_add(LIFETIME_MS) < now_ms;
            tokens
                .oldest_first()
                .enumerate()
                .take_while(move |(index, used)| *index < surplus || is_over(used))
                .map(|(_, used)| used.clone())
        });
        expired.take(at_most).collect()
    }

    /// Whose token was used for a request.
    pub(crate) fn user_of(&self, token: &ClientToken, request: &str) -> Option<&TenantId> {
        let mut users = self.tenants.iter().filter(|(_, tokens)| {
            let used = tokens.uses.get(token);
            used.is_some_and(|(_, used)| used.request == request)
        });
        users.next().map(|(tenant, _)| tenant)
    }

    fn of_tenant(&mut self, tenant: &TenantId) -> &mut TokensOfTenant {
        self.tenants.entry(tenant.clone()).or_default()
    }
}

impl TokensOfTenant {
    fn add(&mut self, used: TokenUse) {
        let newest = self.by_age.last_key_value();
        let number = newest.map_or(0, |(number, _)| number + 1);
        self.by_age.insert(number, used.token.clone());
        self.uses.insert(used.token.clone(), (number, used));
    }

    fn take_oldest(&mut self) -> Option<Displaced> {
        let (_, token) = self.by_age.pop_first()?;
        let (number, used) = self.uses.remove(&token)?;
        Some(Displaced { number, used })
    }

    fn oldest_first(&self) -> impl Iterator<Item = &TokenUse> {
        let uses = self
            .by_age
            .values()
            .filter_map(|token| self.uses.get(token));
        uses.map(|(_, used)| used)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn used(number: usize, at_ms: u64) -> TokenUse {
        TokenUse {
            tenant: "acme".parse().expect("the name is valid"),
            token: format!("token-{number}").parse().expect("it is valid"),
            request: "create".to_owned(),
            nic: "nic-abc0123xyz".parse().expect("the id is valid"),
            last: None,
            at_ms,
        }
    }

    #[test]
    fn tokens_expire_oldest_first_and_not_too_many_at_once() {
        let book = TokenBook::of(vec![used(3, 30), used(1, 10), used(2, 20)]);
        let expired = |now_ms, at_most| -> Vec<u64> {
            let expired = book.expired(now_ms, at_most);
            expired.iter().map(|used| used.at_ms).collect()
        };

        assert_eq!(expired(LIFETIME_MS + 21, 9), [10, 20]);
        assert_eq!(expired(LIFETIME_MS + 99, 2), [10, 20]);
        assert_eq!(expired(LIFETIME_MS, 9), [] as [u64; 0]);
    }

    #[test]
    fn more_than_there_is_room_for_expire_before_their_time() {
        let uses = (0..TOKENS_PER_TENANT + 2).map(|number| used(number, number as u64));

        let expired = TokenBook::of(uses.collect()).expired(0, 9);

        assert_eq!(expired, [used(0, 0), used(1, 1)]);
    }

    #[test]
    fn what_came_to_nothing_leaves_every_token_as_old_as_it_was() {
        let uses = (0..TOKENS_PER_TENANT).map(|number| used(number, 0));
        let mut book = TokenBook::of(uses.collect());
        let new = used(TOKENS_PER_TENANT, 1);

        let displaced = book.insert(new.clone());
        assert!(displaced.is_some());
        book.give_back(&new, displaced);

        assert_eq!(book.get(&new.tenant, &new.token), None);
        let displaced = book.insert(new).map(|displaced| displaced.used);
        assert_eq!(displaced, Some(used(0, 0)));
    }

    #[test]
    fn a_tenant_whose_tokens_are_forgotten_leaves_nothing() {
        let mut book = TokenBook::of(vec![used(1, 1)]);

        book.remove(&used(1, 1));

        assert!(book.tenants.is_empty());
    }
}
