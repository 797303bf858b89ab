//! What only a journal in a file can promise: that it outlives its process, notices damage, keeps
//! others out, and says what a full disk did.

use std::env;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};
use futures::future::join_all;
use futures::poll;
use journal::{
    Batch, Claim, CommitError, Journal, LoadError, OpenError, Room, Row, RowKind, SqliteJournal,
};
use rusqlite::Connection;

/// Set in a process that a test starts of itself: the directory to work in.
const CHILD_DIRECTORY: &str = "JOURNAL_TEST_DIRECTORY";

fn nic(key: &str, body: &str) -> Row {
    Row {
        kind: RowKind::Nic,
        key: key.to_owned(),
        body: body.to_owned(),
        claims: vec![Claim::new("mac", key)],
    }
}

fn put(row: Row) -> Batch {
    Batch::default().put(row)
}

/// Runs one test of this file in a process of its own, through `wrapper` where there is one.
fn this_test_as_a_child(wrapper: &[&str], test: &str, directory: &Path) -> Result<Child> {
    let program = env::current_exe()?;
    let mut words = wrapper.iter().map(std::ffi::OsStr::new).collect::<Vec<_>>();
    words.extend([program.as_os_str(), test.as_ref()]);
    words.extend(["--exact", "--nocapture"].map(std::ffi::OsStr::new));
    Command::new(words[0])
        .args(&words[1..])
        .env(CHILD_DIRECTORY, directory)
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("failed to start {test} as a child"))
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_kill_9() -> Result<()> {
    if let Some(directory) = env::var_os(CHILD_DIRECTORY) {
        return commit_and_acknowledge_for_ever(directory.as_ref()).await;
    }
    let directory = tempfile::tempdir()?;
    for round in 1..=3 {
        let name = "what_was_acknowledged_is_there_after_kill_9";
        let mut child = this_test_as_a_child(&[], name, directory.path())?;
        let mut output = BufReader::new(child.stdout.take().context("no output")?).lines();
        let mut acknowledged = Vec::new();
        while acknowledged.len() < 50 {
            let line = output.next().context("the child ended by itself")??;
            acknowledged.extend(acknowledgement(&line));
        }
        child.kill()?;
        child.wait()?;
        for line in output {
            acknowledged.extend(acknowledgement(&line?));
        }

        let rows = SqliteJournal::open(directory.path().join("journal.db"))?.load()?;

        for key in &acknowledged {
            let found = rows.iter().any(|row| row.key == *key);
            assert!(found, "{key} is lost in round {round}");
        }
    }
    Ok(())
}

fn acknowledgement(line: &str) -> Option<String> {
    line.strip_prefix("acknowledged ").map(str::to_owned)
}

async fn commit_and_acknowledge_for_ever(directory: &Path) -> Result<()> {
    let journal = SqliteJournal::open(directory.join("journal.db"))?;
    let journal = &journal;
    let process = std::process::id();
    let workers = (0..4).map(|worker| async move {
        for number in 0.. {
            let key = format!("{process}-{worker}-{number}");
            journal.commit(put(nic(&key, &"x".repeat(300)))).await?;
            // One write a line: half of one is no acknowledgement.
            std::io::stdout().write_all(format!("acknowledged {key}\n").as_bytes())?;
        }
        anyhow::Ok(())
    });
    join_all(workers).await.into_iter().collect()
}

/// Does `work` on a disk of 16 MiB, in a child of `test` with a mount namespace of its own, so that
/// the disk goes away with the process.
async fn on_a_small_disk(test: &str, work: impl AsyncFnOnce(&Path) -> Result<()>) -> Result<()> {
    if let Some(directory) = env::var_os(CHILD_DIRECTORY) {
        let mount = ["-t", "tmpfs", "-o", "size=16m", "tmpfs"];
        let mounted = Command::new("mount").args(mount).arg(&directory).status()?;
        anyhow::ensure!(mounted.success(), "no tmpfs");
        work(directory.as_ref()).await?;
        std::io::stdout().write_all(b"survived the full disk\n")?;
        return Ok(());
    }
    let directory = tempfile::tempdir()?;
    let private = ["unshare", "--mount", "--propagation", "private"];

    let output = this_test_as_a_child(&private, test, directory.path())?.wait_with_output()?;

    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("survived the full disk"), "{text}");
    Ok(())
}

#[tokio::test]
async fn a_full_disk_refuses_and_harms_nothing() -> Result<()> {
    let test = "a_full_disk_refuses_and_harms_nothing";
    on_a_small_disk(test, refuse_and_harm_nothing).await
}

async fn refuse_and_harm_nothing(directory: &Path) -> Result<()> {
    let path = directory.join("journal.db");
    let journal = SqliteJournal::open(&path)?;
    let ballast = directory.join("ballast");
    std::fs::write(&ballast, vec![0; 6 * 1024 * 1024])?;
    let large = |number: usize| nic(&format!("nic-{number:04}"), &"x".repeat(30_000));

    let mut kept = Vec::new();
    let refused = loop {
        let row = large(kept.len());
        match journal.commit(put(row.clone())).await {
            Ok(()) => kept.push(row),
            Err(CommitError::Full) => break row,
            Err(other) => bail!(other),
        }
    };
    assert!(!kept.is_empty() && kept.len() < 80, "{}", kept.len());
    assert_eq!(journal.load()?, kept);

    std::fs::remove_file(ballast)?;
    journal.commit(put(refused.clone())).await?;
    kept.push(refused);
    drop(journal);
    assert_eq!(SqliteJournal::open(&path)?.load()?, kept);
    Ok(())
}

#[tokio::test]
async fn on_a_full_disk_everything_can_be_given_up() -> Result<()> {
    let test = "on_a_full_disk_everything_can_be_given_up";
    on_a_small_disk(test, give_everything_up).await
}

async fn give_everything_up(directory: &Path) -> Result<()> {
    let journal = SqliteJournal::open(directory.join("journal.db"))?;
    journal.commit(everything()).await?;
    let ballast = directory.join("ballast");
    fill_up(&ballast)?;

    give_up_all_of(&journal).await?;

    std::fs::remove_file(ballast)?;
    Ok(journal.commit(put(nic("new", "{}"))).await?)
}

#[tokio::test]
async fn on_a_full_disk_a_journal_is_opened_to_give_everything_up() -> Result<()> {
    let test = "on_a_full_disk_a_journal_is_opened_to_give_everything_up";
    on_a_small_disk(test, open_and_give_everything_up).await
}

async fn open_and_give_everything_up(directory: &Path) -> Result<()> {
    let path = directory.join("journal.db");
    let earlier = SqliteJournal::open(&path)?;
    earlier.commit(everything()).await?;
    drop(earlier);
    fill_up(&directory.join("ballast"))?;

    let journal = SqliteJournal::open(&path)?;

    give_up_all_of(&journal).await
}

fn names() -> impl Iterator<Item = String> {
    (0..1000).map(|number| format!("nic-{number:04}"))
}

fn everything() -> Batch {
    names().fold(Batch::default(), |batch, name| {
        batch.put(nic(&name, "in use"))
    })
}

/// More than the reserve could take, were the log not written over. Nothing new gets any of it.
async fn give_up_all_of(journal: &SqliteJournal) -> Result<()> {
    for name in names() {
        let refused = journal.commit(put(nic("new", "{}"))).await;
        assert!(matches!(refused, Err(CommitError::Full)), "{refused:?}");
        let leaving = put(nic(&name, "leaving")).in_room(Room::Reserve);
        journal.commit(leaving).await?;
        let gone = Batch::default().remove(RowKind::Nic, name);
        journal.commit(gone.in_room(Room::Reserve)).await?;
    }
    assert_eq!(journal.load()?, []);
    Ok(())
}

/// Leaves no block of a disk free.
fn fill_up(ballast: &Path) -> Result<()> {
    let mut file = std::fs::File::create(ballast)?;
    loop {
        match file.write(&[0; 4096]) {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::StorageFull => return Ok(()),
            Err(error) => bail!(error),
        }
    }
}

#[tokio::test]
async fn what_waits_together_is_committed_together() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("journal.db");
    let journal = SqliteJournal::open(&path)?;
    // While somebody else holds SQLite's write lock, the writer can end no transaction.
    let blocker = Connection::open(&path)?;
    blocker.execute_batch("BEGIN IMMEDIATE")?;
    let mut commits = (0..200)
        .map(|number| journal.commit(put(nic(&format!("nic-{}", number / 2), "{}"))))
        .collect::<Vec<_>>();
    for commit in &mut commits {
        assert!(poll!(commit).is_pending());
    }
    blocker.execute_batch("ROLLBACK")?;

    let verdicts = join_all(commits).await;

    assert!(verdicts.iter().all(Result::is_ok), "{verdicts:?}");
    assert_eq!(journal.load()?.len(), 100);
    let statistics = journal.statistics();
    assert_eq!(statistics.batches, 200);
    // The first may have been taken alone, before the others had come.
    assert!(statistics.transactions <= 2, "{statistics:?}");
    Ok(())
}

#[tokio::test]
async fn a_refusal_in_a_group_leaves_the_others_alone() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("journal.db");
    let journal = SqliteJournal::open(&path)?;
    let blocker = Connection::open(&path)?;
    blocker.execute_batch("BEGIN IMMEDIATE")?;
    let thief = Row {
        claims: vec![Claim::new("mac", "1"), Claim::new("mac", "free")],
        ..nic("thief", "{}")
    };
    let rows = [nic("0", "{}"), nic("1", "{}"), thief, nic("free", "{}")];
    let mut commits = rows.map(|row| journal.commit(put(row)));
    for commit in &mut commits {
        assert!(poll!(commit).is_pending());
    }
    blocker.execute_batch("ROLLBACK")?;

    let verdicts = join_all(commits).await;

    let refused = verdicts.iter().map(Result::is_err).collect::<Vec<_>>();
    assert_eq!(refused, [false, false, true, false]);
    assert_eq!(
        journal.load()?,
        [nic("0", "{}"), nic("1", "{}"), nic("free", "{}")]
    );
    Ok(())
}

#[tokio::test]
async fn after_a_failure_of_unknown_outcome_nothing_more_is_written() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("journal.db");
    let journal = SqliteJournal::open(&path)?;
    journal.commit(put(nic("a", "{}"))).await?;
    let saboteur = Connection::open(&path)?;
    saboteur.execute_batch("ALTER TABLE claim RENAME TO gone")?;

    let first = journal.commit(put(nic("b", "{}"))).await;
    saboteur.execute_batch("ALTER TABLE gone RENAME TO claim")?;
    let second = journal.commit(put(nic("c", "{}"))).await;

    assert!(matches!(first, Err(CommitError::Broken(_))), "{first:?}");
    assert!(matches!(second, Err(CommitError::Broken(_))), "{second:?}");
    assert_eq!(journal.load()?, [nic("a", "{}")]);
    Ok(())
}

#[tokio::test]
async fn a_damaged_row_is_named_with_its_file() -> Result<()> {
    for damage in [
        "UPDATE record SET body = '{\"mtu\":1}' WHERE key = 'bad'",
        "UPDATE record SET body = CAST(x'ff00ff' AS TEXT) WHERE key = 'bad'",
        "UPDATE record SET checksum = checksum + 1 WHERE key = 'bad'",
        "UPDATE claim SET value = 'other' WHERE key = 'bad'",
        "DELETE FROM claim WHERE key = 'bad'",
        "PRAGMA foreign_keys = OFF; UPDATE record SET kind = 'nix' WHERE key = 'bad'",
    ] {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("journal.db");
        let journal = SqliteJournal::open(&path)?;
        journal
            .commit(put(nic("good", "{}")).put(nic("bad", "{}")))
            .await?;
        Connection::open(&path)?.execute_batch(damage)?;

        let error = journal.load().expect_err(damage);

        assert!(
            matches!(error, LoadError::Damaged { .. }),
            "{damage}: {error}"
        );
        let message = error.to_string();
        assert!(message.contains("\"bad\""), "{message}");
        assert!(message.contains(&path.display().to_string()), "{message}");
    }
    Ok(())
}

#[test]
fn pages_that_are_no_database_are_refused() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("journal.db");
    std::fs::write(
        &path,
        "not a database, but long enough to hold a header\n".repeat(50),
    )?;

    let error = SqliteJournal::open(&path).expect_err("no database");

    assert!(matches!(error, OpenError::Database { .. }), "{error}");
    assert!(error.to_string().contains("journal.db"), "{error}");
    Ok(())
}

#[test]
fn a_newer_schema_is_refused_and_both_versions_are_named() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("journal.db");
    drop(SqliteJournal::open(&path)?);
    Connection::open(&path)?.pragma_update(None, "user_version", 7)?;

    let error = SqliteJournal::open(&path).expect_err("a newer schema");

    assert!(
        matches!(
            error,
            OpenError::NewerSchema {
                found: 7,
                supported: 1,
                ..
            }
        ),
        "{error}"
    );
    assert!(error.to_string().contains("schema version 7"), "{error}");
    Ok(())
}

#[test]
fn a_database_of_something_else_is_refused_and_left_alone() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("journal.db");
    Connection::open(&path)?.execute_batch("CREATE TABLE customer (name TEXT)")?;

    let error = SqliteJournal::open(&path).expect_err("a foreign database");

    assert!(matches!(error, OpenError::Foreign { .. }), "{error}");
    let tables: i64 =
        Connection::open(&path)?
            .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    assert_eq!(tables, 1);
    Ok(())
}

#[test]
fn a_second_opener_learns_who_holds_it() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("journal.db");
    let first = SqliteJournal::open(&path)?;

    let error = SqliteJournal::open(&path).expect_err("held");

    let held_by = format!("held by pid {}", std::process::id());
    assert!(error.to_string().ends_with(&held_by), "{error}");
    drop(first);
    SqliteJournal::open(&path)?;
    Ok(())
}

#[tokio::test]
async fn nobody_else_may_read_any_of_its_files() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("journal.db");
    std::fs::write(&path, "")?;
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644))?;

    let journal = SqliteJournal::open(&path)?;
    journal.commit(put(nic("a", "{}"))).await?;

    let mut names = Vec::new();
    for entry in std::fs::read_dir(&directory)? {
        let entry = entry?;
        let mode = entry.metadata()?.permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{:?} has mode {mode:o}", entry.file_name());
        names.push(entry.file_name());
    }
    assert!(
        names.iter().any(|name| name == "journal.db-wal"),
        "{names:?}"
    );
    Ok(())
}

#[test]
fn a_missing_directory_is_named() {
    let error = SqliteJournal::open("/nowhere/at/all/journal.db").expect_err("no directory");

    assert!(matches!(error, OpenError::File { .. }), "{error}");
    assert!(error.to_string().contains("/nowhere/at/all/"), "{error}");
}
