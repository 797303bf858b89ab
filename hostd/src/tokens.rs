//! Client tokens: which requests have come already, so that one that comes again changes nothing.
//!
//! ```text
//!   used ──► remembered ──┬── 24 h ──────────────────────────────► forgotten
//!                         └── 8192 newer ones of the same tenant ─► forgotten
//! ```
//!
//! A token has to outlive the retries of its client and nothing else. Without a bound in number a
//! client in a loop would fill memory and journal for a day; with one for each tenant it costs
//! nobody's tokens but its own. Without a bound in size the tokens would be as large as what came
//! with them: so of a request its digest is kept, and of a deleted NIC no list of its owner's.
//!
//! Uses are numbered. A token that is forgotten can be used anew before it is known that the
//! journal has forgotten its first use, and the journal may write the two in any order: so each
//! use has a row of its own, and nothing that ends one use can end another.

use std::collections::{BTreeMap, BTreeSet};

use nic_lifecycle::NicRecord;
use nic_model::{ClientToken, NicId, TenantId};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Tokens of one tenant that are remembered. Eight times what hostd works on at once, so that none
/// is forgotten whose request is still under way; some 5 MiB of memory when all are in use, twice
/// that when each deleted a NIC with an address or two.
pub const TOKENS_PER_TENANT: usize = 8192;
/// How long a token is remembered: longer than any client retries.
const LIFETIME_MS: u64 = 24 * 60 * 60 * 1000;

/// A client token as it comes, and what for.
#[derive(Debug, Clone, PartialEq, Eq)]
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

/// What is remembered of a token's use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RememberedUse {
    /// Grows from use to use, of whatever tenant. Rows that have none come first.
    #[serde(default)]
    number: u64,
    tenant: TenantId,
    token: ClientToken,
    request: RequestDigest,
    /// The NIC that the request made or changed.
    pub nic: NicId,
    /// What that NIC was, where the request deleted it, but for its routes.
    pub last: Option<Box<NicRecord>>,
    at_ms: u64,
}

/// The first 128 bits of a request's SHA-256: who finds two requests that share them can make one
/// pass for the other, of one tenant's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
struct RequestDigest(u128);

impl RequestDigest {
    fn of(request: &str) -> Self {
        let digest = Sha256::digest(request);
        let first = digest.first_chunk().expect("SHA-256 has 32 bytes");
        Self(u128::from_be_bytes(*first))
    }
}

impl From<RequestDigest> for String {
    fn from(RequestDigest(digest): RequestDigest) -> Self {
        format!("{digest:032x}")
    }
}

/// A row may hold the request itself, which never reads like a digest.
impl From<String> for RequestDigest {
    fn from(text: String) -> Self {
        u128::from_str_radix(&text, 16).map_or_else(|_| Self::of(&text), Self)
    }
}

impl RememberedUse {
    /// Without a number yet.
    pub(crate) fn of(used: TokenUse) -> Self {
        Self {
            number: 0,
            tenant: used.tenant,
            token: used.token,
            request: RequestDigest::of(&used.request),
            nic: used.nic,
            last: used.last,
            at_ms: used.at_ms,
        }
        .bounded()
    }

    /// A NIC that is deleted is nowhere, and its routes are most of what it can take.
    fn bounded(mut self) -> Self {
        if let Some(last) = &mut self.last {
            last.routes = Vec::new();
            last.placement = None;
            last.transit = None;
            last.last_failure = None;
        }
        self
    }

    pub(crate) fn token(&self) -> &ClientToken {
        &self.token
    }

    pub(crate) fn is_of_request(&self, other: &Self) -> bool {
        self.request == other.request
    }

    /// Its name in the journal, where no other use ever has it. A token has no spaces.
    pub(crate) fn key(&self) -> String {
        match self.number {
            0 => format!("{}/{}", self.tenant, self.token),
            number => format!("{}/{} {number}", self.tenant, self.token),
        }
    }
}

/// Every token that is remembered.
#[derive(Debug, Default)]
pub(crate) struct TokenBook {
    tenants: BTreeMap<TenantId, TokensOfTenant>,
    newest_number: u64,
    /// Uses that a newer one of the same token has followed, while the journal may still have them.
    followed: Vec<RememberedUse>,
}

#[derive(Debug, Default)]
struct TokensOfTenant {
    uses: BTreeMap<ClientToken, RememberedUse>,
    by_age: BTreeSet<(u64, ClientToken)>,
}

/// A token that is remembered now, and the one that made room for it.
#[derive(Debug)]
pub(crate) struct Inserted {
    pub(crate) used: RememberedUse,
    pub(crate) displaced: Option<RememberedUse>,
}

impl TokenBook {
    /// What was remembered before. More of a tenant's than there is room for, from a version with
    /// more of it, are forgotten with the next that expire.
    pub(crate) fn of(mut uses: Vec<RememberedUse>) -> Self {
        uses.sort_by_key(|used| used.number);
        let mut book = Self {
            newest_number: uses.last().map_or(0, |used| used.number),
            ..Self::default()
        };
        for used in uses {
            let before = book.of_tenant(&used.tenant).add(used.bounded());
            book.followed.extend(before);
        }
        book
    }

    pub(crate) fn get(&self, tenant: &TenantId, token: &ClientToken) -> Option<&RememberedUse> {
        self.tenants.get(tenant)?.uses.get(token)
    }

    /// What is remembered of the same token, if it is.
    pub(crate) fn before(&self, used: &RememberedUse) -> Option<&RememberedUse> {
        self.get(&used.tenant, &used.token)
    }

    /// Remembers a new token, and forgets the oldest of the same tenant where there is no room for
    /// both.
    pub(crate) fn insert(&mut self, used: RememberedUse) -> Inserted {
        self.newest_number += 1;
        let used = RememberedUse {
            number: self.newest_number,
            ..used
        };
        let tokens = self.of_tenant(&used.tenant);
        let displaced = if tokens.uses.len() < TOKENS_PER_TENANT {
            None
        } else {
            tokens.take_oldest()
        };
        tokens.add(used.clone());
        Inserted { used, displaced }
    }

    /// Takes back an [`Self::insert`] that came to nothing.
    pub(crate) fn give_back(&mut self, inserted: Inserted) {
        self.remove(&inserted.used);
        let Some(displaced) = inserted.displaced else {
            return;
        };
        if self.before(&displaced).is_some() {
            self.followed.push(displaced);
        } else {
            self.of_tenant(&displaced.tenant).add(displaced);
        }
    }

    /// Forgets this very use, no other of the same token.
    pub(crate) fn remove(&mut self, used: &RememberedUse) {
        self.followed.retain(|other| other != used);
        let Some(tokens) = self.tenants.get_mut(&used.tenant) else {
            return;
        };
        if tokens.by_age.remove(&(used.number, used.token.clone())) {
            tokens.uses.remove(&used.token);
        }
        if tokens.uses.is_empty() {
            self.tenants.remove(&used.tenant);
        }
    }

    /// Tokens that nobody will send again, and those beyond the bound; at most so many.
    pub(crate) fn expired(&self, now_ms: u64, at_most: usize) -> Vec<RememberedUse> {
        let expired = self.tenants.values().flat_map(|tokens| {
            let surplus = tokens.uses.len().saturating_sub(TOKENS_PER_TENANT);
            let is_over =
                move |used: &RememberedUse| used.at_ms.saturating_add(LIFETIME_MS) < now_ms;
            tokens
                .oldest_first()
                .enumerate()
                .take_while(move |(index, used)| *index < surplus || is_over(used))
                .map(|(_, used)| used)
        });
        let followed = self.followed.iter();
        followed.chain(expired).take(at_most).cloned().collect()
    }

    /// Whose token was used for a request.
    pub(crate) fn user_of(&self, token: &ClientToken, request: &str) -> Option<&TenantId> {
        let request = RequestDigest::of(request);
        let mut users = self.tenants.iter().filter(|(_, tokens)| {
            let used = tokens.uses.get(token);
            used.is_some_and(|used| used.request == request)
        });
        users.next().map(|(tenant, _)| tenant)
    }

    fn of_tenant(&mut self, tenant: &TenantId) -> &mut TokensOfTenant {
        self.tenants.entry(tenant.clone()).or_default()
    }
}

impl TokensOfTenant {
    /// Adds a use, and gives the one of the same token that it follows.
    fn add(&mut self, used: RememberedUse) -> Option<RememberedUse> {
        self.by_age.insert((used.number, used.token.clone()));
        let before = self.uses.insert(used.token.clone(), used)?;
        self.by_age.remove(&(before.number, before.token.clone()));
        Some(before)
    }

    fn take_oldest(&mut self) -> Option<RememberedUse> {
        let (_, token) = self.by_age.pop_first()?;
        self.uses.remove(&token)
    }

    fn oldest_first(&self) -> impl Iterator<Item = &RememberedUse> {
        let tokens = self.by_age.iter();
        tokens.filter_map(|(_, token)| self.uses.get(token))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn used(number: u64, at_ms: u64) -> RememberedUse {
        let used = RememberedUse::of(TokenUse {
            tenant: "acme".parse().expect("the name is valid"),
            token: format!("token-{number}").parse().expect("it is valid"),
            request: "create".to_owned(),
            nic: "nic-abc0123xyz".parse().expect("the id is valid"),
            last: None,
            at_ms,
        });
        RememberedUse { number, ..used }
    }

    fn full() -> TokenBook {
        let uses = (1..=TOKENS_PER_TENANT as u64).map(|number| used(number, number));
        TokenBook::of(uses.collect())
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
        let uses = (0..TOKENS_PER_TENANT as u64 + 2).map(|number| used(number, number));

        let expired = TokenBook::of(uses.collect()).expired(0, 9);

        assert_eq!(expired, [used(0, 0), used(1, 1)]);
    }

    #[test]
    fn what_came_to_nothing_leaves_every_token_as_old_as_it_was() {
        let mut book = full();
        let new = used(TOKENS_PER_TENANT as u64 + 1, 1);

        let inserted = book.insert(new.clone());
        assert_eq!(inserted.displaced, Some(used(1, 1)));
        book.give_back(inserted);

        assert_eq!(book.before(&new), None);
        assert_eq!(book.insert(new).displaced, Some(used(1, 1)));
    }

    #[test]
    fn the_end_of_one_use_of_a_token_is_not_that_of_the_next() {
        let mut book = full();
        let expiring = used(1, 1);
        book.insert(used(TOKENS_PER_TENANT as u64 + 1, 1));
        let again = book.insert(expiring.clone()).used;

        book.remove(&expiring);

        assert_ne!(again.key(), expiring.key());
        assert_eq!(book.before(&expiring), Some(&again));
    }

    #[test]
    fn of_two_uses_in_the_journal_the_newer_counts_and_the_other_is_forgotten() {
        let newer = RememberedUse {
            number: 7,
            ..used(1, 1)
        };
        let mut book = TokenBook::of(vec![newer.clone(), used(1, 1)]);

        assert_eq!(book.before(&newer), Some(&newer));
        assert_eq!(book.expired(0, 9), [used(1, 1)]);
        book.remove(&used(1, 1));
        assert_eq!(book.expired(0, 9), []);
    }

    #[test]
    fn a_tenant_whose_tokens_are_forgotten_leaves_nothing() {
        let mut book = TokenBook::of(vec![used(1, 1)]);

        book.remove(&used(1, 1));

        assert!(book.tenants.is_empty());
    }
}
