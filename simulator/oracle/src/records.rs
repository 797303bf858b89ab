//! Judging hostd's records: what is on the disk must be what the API tells, and nothing besides.
//!
//! ```text
//!   journal's rows ──┬─ one per NIC of the API, saying the same
//!                    └─ tokens, each whole
//!   journal's claims ── exactly what the API's NICs hold: MAC, addresses, slots
//!   API's limits ────── count what is claimed
//! ```

use std::collections::{BTreeMap, BTreeSet};

use host_api::{Limit, LimitScope, Nic, NicState, Placement};
use nic_model::NicId;
use serde_json::{Value, json};

use crate::Violation;
use crate::view::{JournalRow, JournalView};

/// Everything in the journal that does not agree with the API.
pub(crate) fn violations(
    nics: &BTreeMap<NicId, Nic>,
    limits: &[Limit],
    journal: &JournalView,
) -> Vec<Violation> {
    let index = Index::of(journal);
    let mut found = rows(nics, journal);
    found.extend(ownerless_claims(journal, &index));
    found.extend(limits.iter().filter_map(|it| miscounted(it, &index)));
    for nic in nics.values() {
        let row = index.nics.get(nic.id.as_str());
        found.extend(row.map_or_else(|| missing(nic), |row| differences(nic, row)));
        // While something is under way a slot may be given back on either side first.
        if nic.state.is_settled() {
            found.extend(wrong_claims(nic, &index));
        }
    }
    let at = |violation: Violation| format!("journal: {violation}");
    found.into_iter().map(at).collect()
}

/// The journal by what is asked of it, so that judging a large one takes no longer for each NIC.
struct Index<'a> {
    /// The rows of NICs, by their keys.
    nics: BTreeMap<&'a str, &'a JournalRow>,
    /// What each NIC claims, as scope and value, by its key.
    claims: BTreeMap<&'a str, BTreeSet<(&'a str, &'a str)>>,
    /// Who claims anything in a scope, as kind and key.
    owners: BTreeMap<&'a str, BTreeSet<(&'a str, &'a str)>>,
}

impl<'a> Index<'a> {
    fn of(journal: &'a JournalView) -> Self {
        let rows = journal.rows.iter().filter(|row| row.kind == "nic");
        let mut index = Self {
            nics: rows.map(|row| (row.key.as_str(), row)).collect(),
            claims: BTreeMap::new(),
            owners: BTreeMap::new(),
        };
        for claim in &journal.claims {
            let (kind, key) = (claim.owner.0.as_str(), claim.owner.1.as_str());
            let (scope, value) = (claim.scope.as_str(), claim.value.as_str());
            index.owners.entry(scope).or_default().insert((kind, key));
            if kind == "nic" {
                index.claims.entry(key).or_default().insert((scope, value));
            }
        }
        index
    }

    fn nics_of(&self, tenant: &str) -> impl Iterator<Item = &'a JournalRow> {
        let rows = self.nics.values().copied();
        rows.filter(move |row| {
            let owner = row.body.as_ref().map(|body| text(&body["tenant"]));
            owner == Some(tenant)
        })
    }

    fn claims_of(&self, nic: &str) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.claims.get(nic).into_iter().flatten().copied()
    }
}

fn missing(nic: &Nic) -> Vec<Violation> {
    vec![format!("{} of the API has no row", nic.id)]
}

/// Rows that nobody owns, and rows that cannot be understood.
fn rows(nics: &BTreeMap<NicId, Nic>, journal: &JournalView) -> Vec<Violation> {
    let strange = journal.rows.iter().filter_map(|row| {
        let (kind, key) = (&row.kind, &row.key);
        let Some(body) = &row.body else {
            return Some(format!("the {kind} row {key} is no JSON"));
        };
        match kind.as_str() {
            "nic" => {
                let owned = key.parse().is_ok_and(|id: NicId| nics.contains_key(&id));
                (!owned).then(|| format!("the nic row {key} is of no NIC: {body}"))
            }
            "token" => {
                // It outlives its NIC on purpose: the same request may be sent again.
                let mut own = format!("{}/{}", text(&body["tenant"]), text(&body["token"]));
                if let Some(number) = body["number"].as_u64() {
                    own += &format!(" {number}");
                }
                (own != *key).then(|| format!("the token row {key} says it is {own}"))
            }
            _ => Some(format!("the {kind} row {key} is of no kind in use")),
        }
    });
    strange.collect()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// What is left of a record that has been deleted by half; only NICs have anything to claim.
fn ownerless_claims(journal: &JournalView, index: &Index<'_>) -> Vec<Violation> {
    let ownerless = journal.claims.iter().filter(|claim| {
        let (kind, key) = (claim.owner.0.as_str(), claim.owner.1.as_str());
        kind != "nic" || !index.nics.contains_key(key)
    });
    ownerless
        .map(|claim| {
            let (kind, key) = &claim.owner;
            let (scope, value) = (&claim.scope, &claim.value);
            format!("{scope} {value} is held for {kind} {key}, which is no NIC")
        })
        .collect()
}

/// Where the row of a NIC says something else than the API.
fn differences(nic: &Nic, row: &JournalRow) -> Vec<Violation> {
    let body = row.body.as_ref().unwrap_or(&Value::Null);
    let told = [
        ("id", json!(nic.id)),
        ("tenant", json!(nic.tenant)),
        ("network", json!(nic.network)),
        ("mac", json!(nic.mac)),
        ("addressing", json!(nic.addressing)),
        ("state", json!(nic.state)),
    ];
    let differ = told.iter().filter(|(field, told)| body[field] != *told);
    let mut found: Vec<Violation> = differ
        .map(|(field, told)| {
            let written = &body[field];
            format!("{}: {field} is {written}, the API says {told}", nic.id)
        })
        .collect();
    let places = ["vm", "slot", "target", "link_name"];
    let written = places.map(|field| &body["placement"][field]);
    let told = json!(nic.placement);
    if written != places.map(|field| &told[field]) {
        let written = &body["placement"];
        found.push(format!("{}: placed at {written}, told {told}", nic.id));
    }
    if nic.state.is_settled() && !body["transit"].is_null() {
        found.push(format!("{}: still in transit: {}", nic.id, body["transit"]));
    }
    found
}

fn wrong_claims(nic: &Nic, index: &Index<'_>) -> Vec<Violation> {
    let owed = owed(nic);
    let held: BTreeSet<(String, String)> = index
        .claims_of(nic.id.as_str())
        .map(|(scope, value)| (scope.to_owned(), value.to_owned()))
        .collect();
    let too_much = held
        .difference(&owed)
        .map(|(scope, value)| format!("{} ({}) holds {scope} {value}", nic.id, nic.state));
    let too_little = owed
        .difference(&held)
        .map(|(scope, value)| format!("{} ({}) lacks {scope} {value}", nic.id, nic.state));
    too_much.chain(too_little).collect()
}

/// What a NIC at rest has to hold, by what the API says of it.
fn owed(nic: &Nic) -> BTreeSet<(String, String)> {
    let mut owed = BTreeSet::from([("mac".to_owned(), nic.mac.to_string())]);
    for address in nic.addressing.addresses() {
        let scope = format!("address/{}", nic.network);
        owed.insert((scope, address.addr().to_string()));
    }
    let here: Option<&Placement> = nic.placement.as_ref();
    let places = here.filter(|_| nic.state == NicState::InUse);
    owed.extend(places.map(|place| (format!("slot/{}", place.vm), place.slot.to_string())));
    owed
}

/// A limit whose usage is not what the journal holds.
fn miscounted(limit: &Limit, index: &Index<'_>) -> Option<Violation> {
    let held = match (&limit.scope, limit.name.as_str()) {
        (LimitScope::Host, "max_nics_per_host") => index.nics.len(),
        (LimitScope::Tenant { tenant }, "max_nics_per_tenant") => {
            index.nics_of(tenant.as_str()).count()
        }
        (LimitScope::Tenant { tenant }, "max_addresses_per_tenant") => index
            .nics_of(tenant.as_str())
            .flat_map(|row| index.claims_of(&row.key))
            .filter(|(scope, _)| scope.starts_with("address/"))
            .count(),
        (LimitScope::Vm { vm }, "max_nics") => {
            let owners = index.owners.get(format!("slot/{vm}").as_str());
            owners.map_or(0, BTreeSet::len)
        }
        _ => return None,
    };
    let agrees = u64::try_from(held) == Ok(limit.usage);
    (!agrees).then(|| {
        let (scope, name, usage) = (&limit.scope, &limit.name, limit.usage);
        format!("{scope}: usage of {name} is {usage}, the journal holds {held}")
    })
}
