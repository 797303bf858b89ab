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

use super::Finding;
use super::journal::{JournalRow, JournalState};

/// What the API tells.
#[derive(Debug, Clone, Copy)]
pub(super) struct Told<'a> {
    pub(super) nics: &'a BTreeMap<NicId, Nic>,
    pub(super) limits: &'a [Limit],
}

/// Everything in the journal that does not agree with the API.
pub(super) fn in_journal(told: Told<'_>, journal: &JournalState) -> Vec<Finding> {
    let mut findings = rows(told.nics, journal);
    findings.extend(ownerless_claims(journal));
    findings.extend(told.limits.iter().filter_map(|it| miscounted(it, journal)));
    for nic in told.nics.values() {
        let row = row_of(journal, nic);
        findings.extend(row.map_or_else(|| missing(nic), |row| differences(nic, row)));
        // While something is under way a slot may be given back on either side first.
        if nic.state.is_settled() {
            findings.extend(wrong_claims(nic, journal));
        }
    }
    let at = |finding: Finding| format!("journal: {finding}");
    findings.into_iter().map(at).collect()
}

fn row_of<'a>(journal: &'a JournalState, nic: &Nic) -> Option<&'a JournalRow> {
    let mut rows = journal.rows.iter();
    rows.find(|row| row.kind == "nic" && row.key == nic.id.as_str())
}

fn missing(nic: &Nic) -> Vec<Finding> {
    vec![format!("{} of the API has no row", nic.id)]
}

/// Rows that nobody owns, and rows that cannot be understood.
fn rows(nics: &BTreeMap<NicId, Nic>, journal: &JournalState) -> Vec<Finding> {
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
fn ownerless_claims(journal: &JournalState) -> Vec<Finding> {
    let records: BTreeSet<(&str, &str)> = journal
        .rows
        .iter()
        .map(|row| (row.kind.as_str(), row.key.as_str()))
        .collect();
    let ownerless = journal.claims.iter().filter(|claim| {
        let (kind, key) = (claim.owner.0.as_str(), claim.owner.1.as_str());
        kind != "nic" || !records.contains(&(kind, key))
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
fn differences(nic: &Nic, row: &JournalRow) -> Vec<Finding> {
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
    let mut findings: Vec<Finding> = differ
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
        findings.push(format!("{}: placed at {written}, told {told}", nic.id));
    }
    if nic.state.is_settled() && !body["transit"].is_null() {
        findings.push(format!("{}: still in transit: {}", nic.id, body["transit"]));
    }
    findings
}

fn wrong_claims(nic: &Nic, journal: &JournalState) -> Vec<Finding> {
    let owed = owed(nic);
    let held: BTreeSet<(String, String)> = journal
        .claims_of("nic", nic.id.as_str())
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
fn miscounted(limit: &Limit, journal: &JournalState) -> Option<Finding> {
    let nic_rows = || journal.rows.iter().filter(|row| row.kind == "nic");
    let of = |row: &&JournalRow, tenant: &str| {
        let owner = row.body.as_ref().map(|body| text(&body["tenant"]));
        owner == Some(tenant)
    };
    let held = match (&limit.scope, limit.name.as_str()) {
        (LimitScope::Host, "max_nics_per_host") => nic_rows().count(),
        (LimitScope::Tenant { tenant }, "max_nics_per_tenant") => {
            nic_rows().filter(|row| of(row, tenant.as_str())).count()
        }
        (LimitScope::Tenant { tenant }, "max_addresses_per_tenant") => nic_rows()
            .filter(|row| of(row, tenant.as_str()))
            .flat_map(|row| journal.claims_of("nic", &row.key))
            .filter(|(scope, _)| scope.starts_with("address/"))
            .count(),
        (LimitScope::Vm { vm }, "max_nics") => {
            let scope = format!("slot/{vm}");
            let claims = journal.claims.iter();
            let here = claims.filter(|claim| claim.scope == scope);
            let nics: BTreeSet<_> = here.map(|claim| &claim.owner).collect();
            nics.len()
        }
        _ => return None,
    };
    let agrees = u64::try_from(held) == Ok(limit.usage);
    (!agrees).then(|| {
        let (scope, name, usage) = (&limit.scope, &limit.name, limit.usage);
        format!("{scope}: usage of {name} is {usage}, the journal holds {held}")
    })
}

#[cfg(test)]
mod tests {
    use journal::{Batch, Claim, Journal, Row, RowKind, SqliteJournal};
    use rusqlite::Connection;

    use super::*;

    const NIC: &str = "nic-abc0123xyz";

    fn nic() -> Nic {
        let told = json!({
            "id": NIC, "tenant": "default", "network": "blue", "mac": "5a:00:00:00:00:01",
            "addressing": { "mode": "static", "addresses": ["10.77.0.2/24"] },
            "addresses": ["10.77.0.2/24"], "mtu": 1500, "routes": [], "limits": {}, "queues": 1,
            "state": "in_use", "generation": 1, "timings": [], "created_at_ms": 1,
            "updated_at_ms": 1,
            "placement": { "vm": "vm1", "target": { "kind": "netns", "name": "blue" },
                "link_name": "eth0", "slot": "rp1", "pci_path": "10.0/00.0" },
        });
        serde_json::from_value(told).unwrap()
    }

    /// The row of [`nic`] as hostd writes it.
    fn row() -> Row {
        let body = json!({
            "id": NIC, "tenant": "default", "network": "blue", "mac": "5a:00:00:00:00:01",
            "addressing": { "mode": "static", "addresses": ["10.77.0.2/24"] },
            "state": "in_use", "transit": null,
            "placement": { "vm": "vm1", "target": { "kind": "netns", "name": "blue" },
                "link_name": "eth0", "slot": "rp1", "path": "10.0/00.0" },
        });
        let claims = [
            ("mac", "5a:00:00:00:00:01"),
            ("address/blue", "10.77.0.2"),
            ("slot/vm1", "rp1"),
        ];
        Row {
            kind: RowKind::Nic,
            key: NIC.to_owned(),
            body: body.to_string(),
            claims: claims.map(|(scope, value)| Claim::new(scope, value)).into(),
        }
    }

    /// What is found of `nics` in a journal of hostd's own with one good row, after `sabotage`.
    async fn found(nics: &[Nic], limits: &[Limit], sabotage: &str) -> Vec<Finding> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal.sqlite");
        let journal = SqliteJournal::open(&path).unwrap();
        journal.commit(Batch::default().put(row())).await.unwrap();
        Connection::open(&path)
            .unwrap()
            .execute_batch(sabotage)
            .unwrap();
        let state = JournalState::of(&path).await.unwrap();
        let nics = nics
            .iter()
            .map(|nic| (nic.id.clone(), nic.clone()))
            .collect();
        let told = Told {
            nics: &nics,
            limits,
        };
        in_journal(told, &state)
    }

    #[tokio::test]
    async fn a_journal_that_agrees_with_the_api_is_clean() {
        let usage = |scope, name: &str| Limit {
            scope,
            name: name.to_owned(),
            value: None,
            usage: 1,
        };
        let limits = [
            usage(LimitScope::Host, "max_nics_per_host"),
            usage(
                LimitScope::Vm {
                    vm: "vm1".parse().unwrap(),
                },
                "max_nics",
            ),
        ];

        assert_eq!(found(&[nic()], &limits, "").await, Vec::<Finding>::new());
    }

    #[tokio::test]
    async fn a_row_that_no_nic_of_the_api_owns_is_found() {
        let found = found(&[], &[], "").await;

        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with("journal: the nic row nic-abc0123xyz is of no NIC"));
    }

    #[tokio::test]
    async fn a_nic_without_a_row_is_found() {
        let found = found(&[nic()], &[], "DELETE FROM record; DELETE FROM claim").await;

        assert_eq!(found[0], "journal: nic-abc0123xyz of the API has no row");
    }

    #[tokio::test]
    async fn the_claims_of_a_record_deleted_by_half_are_found() {
        let by_half = "PRAGMA foreign_keys = off; DELETE FROM record";

        let found = found(&[], &[], by_half).await;

        assert_eq!(found.len(), 3, "{found:?}");
        assert!(found[2].contains("slot/vm1 rp1 is held for nic nic-abc0123xyz"));
    }

    #[tokio::test]
    async fn claims_that_disagree_with_the_api_are_found() {
        let sabotage = "UPDATE claim SET value = 'rp2' WHERE scope = 'slot/vm1'; \
             DELETE FROM claim WHERE scope = 'mac'";

        let found = found(&[nic()], &[], sabotage).await;

        let expected = [
            "journal: nic-abc0123xyz (in_use) holds slot/vm1 rp2",
            "journal: nic-abc0123xyz (in_use) lacks mac 5a:00:00:00:00:01",
            "journal: nic-abc0123xyz (in_use) lacks slot/vm1 rp1",
        ];
        assert_eq!(found, expected);
    }

    #[tokio::test]
    async fn a_slot_still_held_by_a_nic_that_is_nowhere_is_found() {
        let nowhere = Nic {
            state: NicState::Available,
            placement: None,
            ..nic()
        };

        let found = found(&[nowhere], &[], "").await;

        let slot = "journal: nic-abc0123xyz (available) holds slot/vm1 rp1";
        assert!(found.contains(&slot.to_owned()), "{found:?}");
        let state = r#"state is "in_use", the API says "available""#;
        assert!(found.iter().any(|it| it.contains(state)), "{found:?}");
    }

    #[tokio::test]
    async fn rows_that_say_nothing_or_something_else_are_found() {
        let sabotage = "INSERT INTO record VALUES ('token', 'a/b', '{\"tenant\":\"c\"}', 0); \
             INSERT INTO record VALUES ('token', 'torn', '{', 0); \
             INSERT INTO record VALUES ('meta', 'x', '{}', 0)";

        let found = found(&[nic()], &[], sabotage).await;

        let expected = [
            "journal: the meta row x is of no kind in use",
            "journal: the token row a/b says it is c/",
            "journal: the token row torn is no JSON",
        ];
        assert_eq!(found, expected);
    }

    #[tokio::test]
    async fn a_limit_that_counts_what_nobody_holds_is_found() {
        let limit = Limit {
            scope: LimitScope::Host,
            name: "max_nics_per_host".to_owned(),
            value: Some(1000),
            usage: 2,
        };

        let found = found(&[nic()], &[limit], "").await;

        let expected = "journal: host: usage of max_nics_per_host is 2, the journal holds 1";
        assert_eq!(found, [expected]);
    }
}
