//! What every journal promises, one body for all of them: code above is tested on the one in
//! memory and runs on the one in a file, so they must not differ.

use std::path::Path;

use futures::future::join_all;
use journal::{Batch, Claim, CommitError, Journal, MemoryJournal, Row, RowKind, SqliteJournal};

/// Makes one test of `$promise` for each implementation.
macro_rules! promised {
    ($($promise:ident),* $(,)?) => {
        mod memory {
            $(#[tokio::test]
            async fn $promise() -> anyhow::Result<()> {
                super::$promise(&super::MemoryJournal::default()).await
            })*
        }
        mod sqlite {
            $(#[tokio::test]
            async fn $promise() -> anyhow::Result<()> {
                let directory = tempfile::tempdir()?;
                super::$promise(&super::open(directory.path())?).await
            })*
        }
    };
}

promised!(
    rows_come_back_as_they_were_put_in_order_of_kind_and_key,
    a_row_is_replaced_with_its_claims,
    a_removed_row_frees_its_claims,
    removing_what_is_not_there_is_fine,
    a_batch_with_a_taken_claim_changes_nothing,
    a_batch_hands_a_claim_from_one_row_to_another_in_any_order,
    two_rows_of_one_batch_cannot_share_a_claim,
    rows_of_different_kinds_share_the_space_of_claims,
    of_parallel_claims_exactly_one_wins,
    a_body_at_its_cap_is_kept_and_above_it_refused,
    the_last_change_of_a_row_counts,
);

fn open(directory: &Path) -> anyhow::Result<SqliteJournal> {
    Ok(SqliteJournal::open(directory.join("journal.db"))?)
}

fn nic(key: &str, claims: &[(&str, &str)]) -> Row {
    row(RowKind::Nic, key, claims)
}

fn row(kind: RowKind, key: &str, claims: &[(&str, &str)]) -> Row {
    Row {
        kind,
        key: key.to_owned(),
        body: format!("{{\"key\":\"{key}\"}}"),
        claims: claims
            .iter()
            .map(|(scope, value)| Claim::new(*scope, *value))
            .collect(),
    }
}

fn put(row: Row) -> Batch {
    Batch::default().put(row)
}

/// The claim and the owner of a refusal, to compare with.
fn taken(result: Result<(), CommitError>) -> Option<(String, String)> {
    match result {
        Err(CommitError::ClaimTaken { claim, by }) => Some((claim.to_string(), by)),
        _ => None,
    }
}

fn refusal(claim: &str, by: &str) -> Option<(String, String)> {
    Some((claim.to_owned(), by.to_owned()))
}

async fn rows_come_back_as_they_were_put_in_order_of_kind_and_key(
    journal: &dyn Journal,
) -> anyhow::Result<()> {
    let rows = [
        row(
            RowKind::Nic,
            "nic-a",
            &[("address/blue", "10.0.0.5"), ("mac", "5a:…")],
        ),
        row(RowKind::Nic, "nic-b", &[]),
        row(RowKind::Token, "a", &[]),
        row(RowKind::Meta, "a", &[("quote", "'; DROP TABLE record; --")]),
    ];

    for row in rows.iter().rev() {
        journal.commit(put(row.clone())).await?;
    }

    assert_eq!(journal.load()?, rows);
    Ok(())
}

async fn a_row_is_replaced_with_its_claims(journal: &dyn Journal) -> anyhow::Result<()> {
    journal
        .commit(put(nic("a", &[("mac", "1"), ("mac", "2")])))
        .await?;

    journal
        .commit(put(nic("a", &[("mac", "2"), ("mac", "3")])))
        .await?;

    assert_eq!(journal.load()?, [nic("a", &[("mac", "2"), ("mac", "3")])]);
    journal.commit(put(nic("b", &[("mac", "1")]))).await?;
    assert_eq!(
        taken(journal.commit(put(nic("c", &[("mac", "3")]))).await),
        refusal("mac 3", "a")
    );
    Ok(())
}

async fn a_removed_row_frees_its_claims(journal: &dyn Journal) -> anyhow::Result<()> {
    journal.commit(put(nic("a", &[("mac", "1")]))).await?;

    journal
        .commit(Batch::default().remove(RowKind::Nic, "a"))
        .await?;

    assert_eq!(journal.load()?, []);
    journal.commit(put(nic("b", &[("mac", "1")]))).await?;
    Ok(())
}

async fn removing_what_is_not_there_is_fine(journal: &dyn Journal) -> anyhow::Result<()> {
    journal.commit(put(nic("a", &[]))).await?;

    journal
        .commit(Batch::default().remove(RowKind::Token, "a"))
        .await?;

    assert_eq!(journal.load()?, [nic("a", &[])]);
    Ok(())
}

async fn a_batch_with_a_taken_claim_changes_nothing(journal: &dyn Journal) -> anyhow::Result<()> {
    let before = [nic("a", &[("mac", "1")]), nic("b", &[("slot/vm1", "rp1")])];
    for row in &before {
        journal.commit(put(row.clone())).await?;
    }

    let verdict = journal
        .commit(
            Batch::default()
                .remove(RowKind::Nic, "b")
                .put(nic("c", &[("mac", "2"), ("mac", "1")]))
                .put(row(RowKind::Token, "t", &[])),
        )
        .await;

    assert_eq!(taken(verdict), refusal("mac 1", "a"));
    assert_eq!(journal.load()?, before);
    journal.commit(put(nic("d", &[("mac", "2")]))).await?;
    Ok(())
}

async fn a_batch_hands_a_claim_from_one_row_to_another_in_any_order(
    journal: &dyn Journal,
) -> anyhow::Result<()> {
    journal.commit(put(nic("a", &[("mac", "1")]))).await?;

    journal
        .commit(put(nic("b", &[("mac", "1")])).put(nic("a", &[])))
        .await?;
    journal
        .commit(put(nic("c", &[("mac", "1")])).remove(RowKind::Nic, "b"))
        .await?;

    assert_eq!(journal.load()?, [nic("a", &[]), nic("c", &[("mac", "1")])]);
    Ok(())
}

async fn two_rows_of_one_batch_cannot_share_a_claim(journal: &dyn Journal) -> anyhow::Result<()> {
    let batch = put(nic("b", &[("mac", "1")])).put(nic("a", &[("mac", "1")]));

    let verdict = journal.commit(batch).await;

    assert_eq!(taken(verdict), refusal("mac 1", "a"));
    assert_eq!(journal.load()?, []);
    Ok(())
}

async fn rows_of_different_kinds_share_the_space_of_claims(
    journal: &dyn Journal,
) -> anyhow::Result<()> {
    journal
        .commit(put(row(RowKind::Token, "a", &[("mac", "1")])))
        .await?;

    let verdict = journal.commit(put(nic("a", &[("mac", "1")]))).await;

    assert_eq!(taken(verdict), refusal("mac 1", "a"));
    Ok(())
}

async fn of_parallel_claims_exactly_one_wins(journal: &dyn Journal) -> anyhow::Result<()> {
    let attempts = (0..100).map(|number| {
        let row = nic(&format!("nic-{number}"), &[("mac", "1")]);
        journal.commit(put(row))
    });

    let verdicts = join_all(attempts).await;

    let winners = verdicts.iter().filter(|verdict| verdict.is_ok()).count();
    let rows = journal.load()?;
    assert_eq!((winners, rows.len()), (1, 1));
    let refused = verdicts
        .into_iter()
        .filter_map(taken)
        .filter(|(_, by)| *by == rows[0].key)
        .count();
    assert_eq!(refused, 99);
    Ok(())
}

async fn a_body_at_its_cap_is_kept_and_above_it_refused(
    journal: &dyn Journal,
) -> anyhow::Result<()> {
    let with_body = |bytes: usize| Row {
        body: "x".repeat(bytes),
        ..nic("a", &[])
    };
    let cap = Row::BODY_MAX_BYTES;

    journal.commit(put(with_body(cap))).await?;
    let verdict = journal.commit(put(with_body(cap + 1))).await;

    assert!(
        matches!(&verdict, Err(CommitError::TooLarge { key, bytes, .. })
            if key == "a" && *bytes == cap + 1),
        "{verdict:?}"
    );
    assert_eq!(journal.load()?, [with_body(cap)]);
    Ok(())
}

async fn the_last_change_of_a_row_counts(journal: &dyn Journal) -> anyhow::Result<()> {
    let batch = put(nic("a", &[("mac", "1")]))
        .put(nic("b", &[]))
        .remove(RowKind::Nic, "b")
        .put(nic("a", &[("mac", "2")]))
        .put(nic("c", &[("mac", "1")]));

    journal.commit(batch).await?;

    assert_eq!(
        journal.load()?,
        [nic("a", &[("mac", "2")]), nic("c", &[("mac", "1")])]
    );
    Ok(())
}
