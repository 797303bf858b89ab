//! A disk with a journal on it: what is written is lost with the power until it has been synced.
//!
//! ```text
//!   commit ──► written (the kernel has it) ── sync, shared by all that wait ──► durable ──► told
//!                 │                                │
//!                 │ kill -9: kept                  │ fsync fails: nobody knows; hostd has to die
//!                 └ power loss: some of it, from the first on, is lost
//! ```
//!
//! Claims are what SQLite's unique index makes of them: a batch that takes what another row holds
//! is refused whole. Rows bear a checksum, so that a torn one is found when it is loaded.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use journal::{Batch, Change, Claim, CommitError, Journal, LoadError, Room, Row, RowKind};
use misbehaviour::{Chance, Effect, Side};
use oracle::{JournalClaim, JournalRow, JournalView};
use tokio::time::{Instant, sleep, sleep_until};

use super::life::Life;
use super::stage::{Stage, lock};

/// How long a sync takes: about what an SSD needs, and the least that tokio's timers tell apart.
const SYNC: Duration = Duration::from_millis(1);

/// A disk. Clones are of the same one.
#[derive(Debug, Clone)]
pub struct Disk(Arc<Mutex<Content>>);

#[derive(Debug)]
struct Content {
    /// Both by hash, since there are thousands, each is found by its name, and whoever wants all of
    /// them wants them in order: [`in_order`].
    rows: HashMap<Address, Stored>,
    claims: HashMap<Claim, Address>,
    /// Batches that are written and not synced, oldest first, each with what it replaced.
    unsynced: VecDeque<Written>,
    sync_ends: Option<Instant>,
    chance: Chance,
    commits: u64,
    syncs: u64,
}

type Address = (RowKind, String);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Stored {
    body: Arc<str>,
    claims: Arc<[Claim]>,
    health: Health,
}

/// Whether a row is what was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Health {
    Whole,
    Torn,
}

#[derive(Debug)]
struct Written {
    durable_at: Instant,
    before: Vec<(Address, Option<Stored>)>,
}

/// What became of a batch that fits.
type Changes = BTreeMap<Address, Option<Stored>>;

impl Disk {
    /// An empty one, whose accidents are drawn from `chance`.
    #[must_use]
    pub fn new(chance: Chance) -> Self {
        Self(Arc::new(Mutex::new(Content {
            rows: HashMap::new(),
            claims: HashMap::new(),
            unsynced: VecDeque::new(),
            sync_ends: None,
            chance,
            commits: 0,
            syncs: 0,
        })))
    }

    /// The journal on it, for one life of one hostd.
    #[must_use]
    pub fn journal(&self, stage: &Stage, life: &Life, host: &str) -> DiskJournal {
        DiskJournal {
            disk: self.clone(),
            stage: stage.clone(),
            life: life.clone(),
            host: host.to_owned(),
        }
    }

    /// The power is lost: of what was not synced a part from its beginning on is kept.
    pub fn lose_power(&self) {
        let mut content = lock(&self.0);
        content.settle();
        let count = content.unsynced.len() as u64;
        let kept = content.chance.below(count + 1);
        while content.unsynced.len() as u64 > kept {
            if let Some(written) = content.unsynced.pop_back() {
                content.undo(written);
            }
        }
        content.end_syncs();
    }

    /// Tears the row of `key`, as a sector written by half does; `false` when there is none.
    pub fn tear(&self, kind: RowKind, key: &str) -> bool {
        let mut content = lock(&self.0);
        let row = content.rows.get_mut(&(kind, key.to_owned()));
        row.map(|row| row.health = Health::Torn).is_some()
    }

    /// How many batches were committed, and by how many syncs.
    #[must_use]
    pub fn commits(&self) -> (u64, u64) {
        let content = lock(&self.0);
        (content.commits, content.syncs)
    }

    /// Everything that is written, synced or not.
    #[must_use]
    pub fn view(&self) -> JournalView {
        let content = lock(&self.0);
        let rows = in_order(&content.rows).map(|((kind, key), row)| JournalRow {
            kind: kind.to_string(),
            key: key.clone(),
            body: serde_json::from_str(&row.body).ok(),
        });
        let claims = in_order(&content.claims).map(|(claim, (kind, key))| JournalClaim {
            owner: (kind.to_string(), key.clone()),
            scope: claim.scope.clone(),
            value: claim.value.clone(),
        });
        JournalView {
            rows: rows.collect(),
            claims: claims.collect(),
        }
    }

    /// Puts rows and claims there, past whoever has the journal open. Those of a kind that no
    /// journal has are left out.
    pub fn plant(&self, planted: &JournalView) {
        let mut content = lock(&self.0);
        for row in &planted.rows {
            let Some(address) = address(&row.kind, &row.key) else {
                continue;
            };
            let body = row.body.as_ref().map(ToString::to_string);
            let stored = Stored {
                body: body.unwrap_or_default().into(),
                claims: [].into(),
                health: Health::Whole,
            };
            content.rows.insert(address, stored);
        }
        for claim in &planted.claims {
            let owner = address(&claim.owner.0, &claim.owner.1);
            let claim = Claim::new(claim.scope.clone(), claim.value.clone());
            content.claims.extend(owner.map(|owner| (claim, owner)));
        }
    }

    /// Ends [`Self::plant`].
    pub fn take_away(&self, planted: &JournalView) {
        let mut content = lock(&self.0);
        for row in &planted.rows {
            let address = address(&row.kind, &row.key);
            address.map(|address| content.rows.remove(&address));
        }
        for claim in &planted.claims {
            let claim = Claim::new(claim.scope.clone(), claim.value.clone());
            content.claims.remove(&claim);
        }
    }

    fn load(&self) -> Result<Vec<Row>, LoadError> {
        let content = lock(&self.0);
        let rows = in_order(&content.rows).map(|((kind, key), row)| {
            if row.health == Health::Torn {
                return Err(LoadError::Damaged {
                    kind: kind.to_string(),
                    key: key.clone(),
                    file: PathBuf::from("journal"),
                });
            }
            Ok(Row {
                kind: *kind,
                key: key.clone(),
                body: row.body.to_string(),
                claims: row.claims.to_vec(),
            })
        });
        rows.collect()
    }
}

impl Content {
    /// Writes a batch; gives when it will be durable.
    fn write(&mut self, batch: Batch) -> Result<Instant, CommitError> {
        self.settle();
        let changes = checked(batch)?;
        self.refuse_taken(&changes)?;
        let before = changes
            .into_iter()
            .map(|(address, row)| {
                let before = self.put(address.clone(), row);
                (address, before)
            })
            .collect();
        let durable_at = self.next_sync();
        self.unsynced.push_back(Written { durable_at, before });
        self.commits += 1;
        Ok(durable_at)
    }

    /// The sync that is under way began before this batch was written; the next one takes it.
    fn next_sync(&mut self) -> Instant {
        let now = Instant::now();
        let running = self.sync_ends.filter(|end| *end > now);
        let end = running.unwrap_or(now) + SYNC;
        match self.unsynced.back().map(|last| last.durable_at) {
            Some(last) if last > running.unwrap_or(now) => last,
            _ => {
                if running.is_none() {
                    self.sync_ends = Some(end);
                }
                self.syncs += 1;
                end
            }
        }
    }

    fn refuse_taken(&self, changes: &Changes) -> Result<(), CommitError> {
        let mut taken: BTreeSet<&Claim> = BTreeSet::new();
        if self.keep_their_claims(changes) {
            return Ok(());
        }
        for row in changes.values().flatten() {
            for claim in row.claims.iter() {
                let other = self.claims.get(claim);
                let other = other.filter(|owner| !changes.contains_key(*owner));
                if other.is_some() || !taken.insert(claim) {
                    return Err(CommitError::ClaimTaken {
                        claim: claim.clone(),
                        by: other.map(|(_, key)| key.clone()).unwrap_or_default(),
                    });
                }
            }
        }
        Ok(())
    }

    /// Whether a batch is one row in place of another with the same claims, as most are.
    fn keep_their_claims(&self, changes: &Changes) -> bool {
        let mut changed = changes.iter();
        let (Some((address, Some(row))), None) = (changed.next(), changed.next()) else {
            return false;
        };
        let before = self.rows.get(address);
        before.is_some_and(|before| before.claims == row.claims)
    }

    fn put(&mut self, address: Address, row: Option<Stored>) -> Option<Stored> {
        let before = match &row {
            Some(row) => self.rows.insert(address.clone(), row.clone()),
            None => self.rows.remove(&address),
        };
        if let (Some(before_it), Some(row)) = (&before, &row)
            && before_it.claims == row.claims
        {
            return before;
        }
        for claim in before.iter().flat_map(|row| row.claims.iter()) {
            if self.claims.get(claim) == Some(&address) {
                self.claims.remove(claim);
            }
        }
        for claim in row.iter().flat_map(|row| row.claims.iter()) {
            self.claims.insert(claim.clone(), address.clone());
        }
        before
    }

    fn undo(&mut self, written: Written) {
        for (address, before) in written.before.into_iter().rev() {
            self.put(address, before);
        }
    }

    /// What has been synced by now is durable.
    fn settle(&mut self) {
        let now = Instant::now();
        while self
            .unsynced
            .front()
            .is_some_and(|written| written.durable_at <= now)
        {
            self.unsynced.pop_front();
        }
        if let (Some(end), Some(next)) = (self.sync_ends, self.unsynced.front())
            && end <= now
        {
            self.sync_ends = Some(next.durable_at);
        }
    }

    fn end_syncs(&mut self) {
        self.unsynced.clear();
        self.sync_ends = None;
    }
}

/// What a map holds, so that nothing depends on how it hashes.
fn in_order<K: Ord, V>(map: &HashMap<K, V>) -> impl Iterator<Item = (&K, &V)> {
    let mut all: Vec<_> = map.iter().collect();
    all.sort_unstable_by_key(|(key, _)| *key);
    all.into_iter()
}

fn address(kind: &str, key: &str) -> Option<Address> {
    let kinds = [RowKind::Nic, RowKind::Token, RowKind::Meta];
    let kind = kinds.into_iter().find(|known| known.to_string() == kind)?;
    Some((kind, key.to_owned()))
}

fn checked(batch: Batch) -> Result<Changes, CommitError> {
    let mut changes = Changes::new();
    for change in batch.changes {
        match change {
            Change::Put(row) if row.body.len() > Row::BODY_MAX_BYTES => {
                return Err(CommitError::TooLarge {
                    kind: row.kind,
                    key: row.key,
                    bytes: row.body.len(),
                });
            }
            Change::Put(mut row) => {
                row.claims.sort_unstable();
                row.claims.dedup();
                let stored = Stored {
                    body: row.body.into(),
                    claims: row.claims.into(),
                    health: Health::Whole,
                };
                changes.insert((row.kind, row.key), Some(stored));
            }
            Change::Remove { kind, key } => {
                changes.insert((kind, key), None);
            }
        }
    }
    Ok(changes)
}

/// Which rows a batch puts, where a rule wants something of them later.
fn rows_of(batch: &Batch, later: Option<&Effect>) -> Vec<Address> {
    let put = |change: &Change| match change {
        Change::Put(row) => Some((row.kind, row.key.clone())),
        Change::Remove { .. } => None,
    };
    let changes = batch.changes.iter().filter(|_| later.is_some());
    changes.filter_map(put).collect()
}

/// The journal on a [`Disk`], as one life of hostd has it open.
#[derive(Debug)]
pub struct DiskJournal {
    disk: Disk,
    stage: Stage,
    life: Life,
    host: String,
}

impl DiskJournal {
    /// What a rule has in store for this commit; `Ok` when it goes on, with what is left of the
    /// rule for when it is durable.
    async fn misbehave(&self, batch: &Batch) -> Result<Option<Effect>, CommitError> {
        match self.stage.consult("journal.commit", None, None) {
            Some(Effect::Delay(span)) => sleep(span.0).await,
            // What is kept back is for batches that give something up.
            Some(Effect::DiskFull) if batch.room == Room::Free => return Err(CommitError::Full),
            Some(Effect::Crash(Side::Before)) => self.die("crash before commit").await,
            later @ Some(Effect::Crash(Side::After) | Effect::Corrupt) => return Ok(later),
            Some(Effect::FsyncError) => {
                self.write_perhaps(batch);
                return Err(CommitError::Broken(Arc::new(std::io::Error::other(
                    "the disk could not be synced",
                ))));
            }
            Some(_) | None => {}
        }
        Ok(None)
    }

    /// What is left of a rule, once the batch is durable.
    async fn misbehave_later(&self, later: Option<Effect>, written: &[Address]) {
        match later {
            Some(Effect::Corrupt) => {
                for (kind, key) in written {
                    self.disk.tear(*kind, key);
                }
            }
            Some(_) => self.die("crash after commit").await,
            None => {}
        }
    }

    /// After a sync that has failed nobody knows what is on the disk.
    fn write_perhaps(&self, batch: &Batch) {
        let mut content = lock(&self.disk.0);
        if content.chance.happens(0.5) {
            self.note(batch);
            let written = content.write(batch.clone());
            // What could not be written has not been.
            drop(written);
        }
    }

    async fn die(&self, why: &str) {
        self.life.end(why);
        std::future::pending::<()>().await;
    }

    fn note(&self, batch: &Batch) {
        for change in &batch.changes {
            match change {
                Change::Put(row) => self.stage.note(&self.host, "commit", row.body.as_bytes()),
                Change::Remove { key, .. } => {
                    self.stage.note(&self.host, "remove", key.as_bytes());
                }
            }
        }
    }
}

#[async_trait]
impl Journal for DiskJournal {
    fn load(&self) -> Result<Vec<Row>, LoadError> {
        self.disk.load()
    }

    async fn commit(&self, batch: Batch) -> Result<(), CommitError> {
        let number = self.life.may_begin("commit").await;
        let later = self.misbehave(&batch).await?;
        let rows = rows_of(&batch, later.as_ref());
        self.life.or_never(true).await;
        self.note(&batch);
        let written = lock(&self.disk.0).write(batch);
        let durable_at = match written {
            Ok(durable_at) => durable_at,
            Err(refused) => {
                let text = refused.to_string();
                self.stage.note(&self.host, "refused", text.as_bytes());
                return Err(refused);
            }
        };
        sleep_until(durable_at).await;
        self.misbehave_later(later, &rows).await;
        self.life
            .or_never(self.life.ends_effect(number, "commit"))
            .await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use misbehaviour::Rulebook;

    use super::*;
    use crate::sim::trace::Keeping;

    fn journal() -> (Disk, DiskJournal) {
        let stage = Stage::new(7, Rulebook::new(1), Keeping::Hash);
        let disk = Disk::new(Chance::new(7));
        let life = Life::begin("host1", &stage);
        let journal = disk.journal(&stage, &life, "host1");
        (disk, journal)
    }

    fn put(key: &str, claim: &str) -> Batch {
        Batch::default().put(Row {
            kind: RowKind::Nic,
            key: key.to_owned(),
            body: "{}".to_owned(),
            claims: vec![Claim::new("mac", claim)],
        })
    }

    fn keys(disk: &Disk) -> Vec<String> {
        disk.view().rows.into_iter().map(|row| row.key).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_told_to_be_durable_survives_the_power() {
        let (disk, journal) = journal();
        journal.commit(put("a", "1")).await.unwrap();
        let mut second = std::pin::pin!(journal.commit(put("b", "2")));
        assert!(second.as_mut().now_or_never().is_none());
        assert_eq!(keys(&disk), ["a", "b"]);

        disk.lose_power();

        assert!(["a", "a b"].contains(&keys(&disk).join(" ").as_str()));
    }

    #[tokio::test(start_paused = true)]
    async fn power_loss_takes_the_end_of_what_was_not_synced() {
        let mut kept = BTreeSet::new();
        for seed in 0..50 {
            let (_, journal) = journal();
            let disk = Disk::new(Chance::new(seed));
            let journal = DiskJournal {
                disk: disk.clone(),
                ..journal
            };
            for (key, claim) in [("a", "1"), ("b", "2"), ("c", "3")] {
                assert!(journal.commit(put(key, claim)).now_or_never().is_none());
            }
            disk.lose_power();
            kept.insert(keys(&disk).join(""));
            assert_eq!(disk.view().claims.len(), keys(&disk).len());
        }

        assert_eq!(kept.into_iter().collect::<Vec<_>>(), ["", "a", "ab", "abc"]);
    }

    #[tokio::test(start_paused = true)]
    async fn commits_that_come_together_share_a_sync() {
        let (disk, journal) = journal();
        let names: Vec<String> = (0..100).map(|number| format!("nic{number}")).collect();
        let commits = names.iter().map(|name| journal.commit(put(name, name)));

        let began = Instant::now();
        futures::future::join_all(commits).await;

        assert_eq!(disk.commits(), (100, 2));
        assert!(began.elapsed() <= 2 * SYNC);
    }

    #[tokio::test(start_paused = true)]
    async fn a_claim_is_one_rows_at_a_time_and_passes_within_one_batch() {
        let (disk, journal) = journal();
        journal.commit(put("a", "1")).await.unwrap();

        let refused = journal.commit(put("b", "1")).await;
        let mut handed_over = put("b", "1").remove(RowKind::Nic, "a");
        handed_over.changes.reverse();
        let passed = journal.commit(handed_over).await;

        assert!(matches!(refused, Err(CommitError::ClaimTaken { by, .. }) if by == "a"));
        passed.unwrap();
        assert_eq!(keys(&disk), ["b"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_torn_row_is_found_when_it_is_loaded() {
        let (disk, journal) = journal();
        journal.commit(put("a", "1")).await.unwrap();

        assert!(disk.tear(RowKind::Nic, "a"));

        assert!(matches!(journal.load(), Err(LoadError::Damaged { key, .. }) if key == "a"));
    }
}
