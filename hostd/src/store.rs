//! The store: ledger and journal as one.
//!
//! ```text
//!   admit:  decide and reserve in memory (one lock) ──► commit durably ──► tell
//!              └── refused: nothing            └── failed: give the reservation back
//!   settle: change a copy ──► commit durably ──► take it over in memory ──► tell
//! ```
//!
//! What a change takes is taken in memory before it is durable, what it gives back is given back
//! after: so neither a limit nor a MAC nor an address is ever held twice, on disk or in memory, and
//! nobody is told of anything that a crash could undo. Changes of one NIC follow one another;
//! changes of different NICs share the journal's group commits.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard};

use journal::{Batch, Claim, CommitError, Journal, LoadError, Room, Row, RowKind};
use nic_lifecycle::{InvalidTransition, Ledger, NicRecord, NicState, Refusal, Site};
use nic_model::{ClientToken, NicId, TenantId, VmId};
use tokio::sync::watch;

use crate::board::Board;
use crate::sabotage::{self, Sabotage};
use crate::tokens::{Inserted, TokenBook};
pub use crate::tokens::{RememberedUse, TOKENS_PER_TENANT, TokenUse};

/// Client tokens forgotten in one commit: so many that none piles up, so few that nobody waits.
const FORGOTTEN_AT_ONCE: usize = 1024;
/// Locks that keep the changes of one NIC in order; NICs share them by hash.
const ORDER_LOCKS: usize = 64;

/// How this process ends at once.
pub type Abort = Arc<dyn Fn() + Send + Sync>;

/// Ledger and journal as one.
pub struct Store {
    books: Mutex<Books>,
    journal: Arc<dyn Journal>,
    order: Vec<tokio::sync::Mutex<()>>,
    board: Arc<Board>,
    vacated: watch::Sender<()>,
    abort: Abort,
}

struct Books {
    ledger: Ledger,
    /// NICs whose newest record is not durable yet: nobody may act on it.
    pending: BTreeSet<NicId>,
    tokens: TokenBook,
}

/// What came of a request to admit something.
#[derive(Debug)]
pub enum Admitted {
    /// It was admitted now, and is durable.
    Fresh(Arc<NicRecord>),
    /// The same request had been admitted before.
    Repeated(Box<RememberedUse>),
}

/// Why nothing was admitted.
#[derive(Debug, thiserror::Error)]
pub enum AdmitError {
    /// For a reason.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The token was used for another request.
    #[error("client token {token} was used for another request")]
    TokenReused {
        /// The token.
        token: ClientToken,
    },
    /// It could not be made durable.
    #[error("the request could not be journalled")]
    Journal(#[source] CommitError),
}

/// Why a record was not taken to its next state.
#[derive(Debug, thiserror::Error)]
pub enum SettleError {
    /// There is no such record.
    #[error("there is no NIC {0}")]
    NoSuchNic(NicId),
    /// It is not in a state in which that happens.
    #[error("NIC {nic} was not changed")]
    Transition {
        /// Which.
        nic: NicId,
        /// Why.
        #[source]
        cause: InvalidTransition,
    },
    /// It could not be made durable.
    #[error("the change of {nic} could not be journalled")]
    Journal {
        /// Which.
        nic: NicId,
        /// Why.
        #[source]
        cause: CommitError,
    },
}

/// Why the store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenStoreError {
    /// The journal cannot be read.
    #[error("failed to read the journal")]
    Load(#[from] LoadError),
    /// A row is not what this version writes.
    #[error("failed to understand {kind} row {key} of the journal")]
    Row {
        /// What it is about.
        kind: RowKind,
        /// Its key.
        key: String,
        /// Why.
        #[source]
        cause: serde_json::Error,
    },
}

impl Store {
    /// Reads everything that was journalled.
    ///
    /// # Errors
    /// When the journal cannot be read or understood: better no start than a wrong one.
    pub fn open(
        site: Site,
        journal: Arc<dyn Journal>,
        board: Arc<Board>,
    ) -> Result<Self, OpenStoreError> {
        let mut books = Books {
            ledger: Ledger::new(site),
            pending: BTreeSet::new(),
            tokens: TokenBook::default(),
        };
        let mut tokens = Vec::new();
        for row in journal.load()? {
            match row.kind {
                RowKind::Nic => {
                    let record: NicRecord = parse(&row)?;
                    board.nic_known(&record.id);
                    books.ledger.put(record);
                }
                RowKind::Token => tokens.push(parse(&row)?),
                RowKind::Meta => {}
            }
        }
        books.tokens = TokenBook::of(tokens);
        let order = std::iter::repeat_with(Default::default)
            .take(ORDER_LOCKS)
            .collect();
        Ok(Self {
            books: Mutex::new(books),
            journal,
            order,
            board,
            vacated: watch::Sender::new(()),
            abort: Arc::new(|| std::process::abort()),
        })
    }

    /// The same, ending in another way where its process is not to be ended alone.
    #[must_use]
    pub fn aborting_by(self, abort: Abort) -> Self {
        Self { abort, ..self }
    }

    /// Looks at the ledger. Keep it short: everybody waits.
    pub fn read<T>(&self, look: impl FnOnce(&Ledger) -> T) -> T {
        look(&self.books().ledger)
    }

    /// Changes what the ledger knows of the world, which is not journalled.
    pub fn observe<T>(&self, change: impl FnOnce(&mut Ledger) -> T) -> T {
        change(&mut self.books().ledger)
    }

    /// Rings when the last place reserved in a VM is free.
    #[must_use]
    pub fn vacated(&self) -> watch::Receiver<()> {
        self.vacated.subscribe()
    }

    /// One record as it is now.
    #[must_use]
    pub fn nic(&self, id: &NicId) -> Option<NicRecord> {
        self.read(|ledger| ledger.nic(id).cloned())
    }

    /// The same, shared with the ledger.
    #[must_use]
    pub fn shared(&self, id: &NicId) -> Option<Arc<NicRecord>> {
        self.read(|ledger| ledger.shared(id).cloned())
    }

    /// One record, unless its newest form is not durable yet: what a worker may act on.
    #[must_use]
    pub fn durable_nic(&self, id: &NicId) -> Option<Arc<NicRecord>> {
        let books = self.books();
        let durable = !books.pending.contains(id);
        books.ledger.shared(id).filter(|_| durable).cloned()
    }

    /// The NICs whose present place is in a VM and whose records are durable, in the order of their
    /// ids: those that its worker may act on.
    #[must_use]
    pub fn durable_nics_at(&self, vm: &VmId) -> Vec<Arc<NicRecord>> {
        let books = self.books();
        let here = |record: &&Arc<NicRecord>| {
            record
                .placement
                .as_ref()
                .is_some_and(|placement| placement.vm == *vm)
        };
        let durable = |record: &&Arc<NicRecord>| !books.pending.contains(&record.id);
        books
            .ledger
            .shared_at(vm)
            .filter(here)
            .filter(durable)
            .cloned()
            .collect()
    }

    /// Admits a change of `nic`: `decide` sees the ledger and gives the new record or a reason.
    /// With a token, the same request again is recognised and changes nothing, for 24 hours or
    /// until the tenant has used [`TOKENS_PER_TENANT`] newer tokens.
    ///
    /// # Errors
    /// When it is refused or cannot be journalled; nothing has changed then.
    pub async fn admit(
        &self,
        nic: &NicId,
        token: Option<TokenUse>,
        decide: impl FnOnce(&Ledger) -> Result<NicRecord, Refusal>,
    ) -> Result<Admitted, AdmitError> {
        let order = self.order_of(nic).lock().await;
        let reserved = self.reserve(token.map(RememberedUse::of), decide)?;
        let (record, undo) = match reserved {
            Reserved::Now { record, undo } => (record, undo),
            Reserved::Before(first) => {
                drop(order);
                return Ok(Admitted::Repeated(self.wait_until_durable(first).await));
            }
        };
        let mut batch = Batch::default().put(nic_row(&record));
        batch = batch.in_room(room_for(&record));
        if let Some(Inserted { used, displaced }) = &undo.token {
            batch = batch.put(token_row(used));
            if let Some(displaced) = displaced {
                batch = batch.remove(RowKind::Token, displaced.key());
            }
        }
        let journalled = if sabotage::is(Sabotage::AnswerBeforeDurable) {
            self.commit_later(batch);
            Ok(())
        } else {
            self.commit(batch).await
        };
        match journalled {
            Ok(()) => {
                if sabotage::is(Sabotage::AdmitOnStaleLedger) {
                    self.books().ledger.put(Arc::clone(&record));
                }
                self.board.nic_changed(&record);
                self.books().pending.remove(nic);
                Ok(Admitted::Fresh(record))
            }
            Err(cause) => {
                self.give_back(nic, *undo);
                Err(AdmitError::Journal(cause))
            }
        }
    }

    fn reserve(
        &self,
        token: Option<RememberedUse>,
        decide: impl FnOnce(&Ledger) -> Result<NicRecord, Refusal>,
    ) -> Result<Reserved, AdmitError> {
        let mut books = self.books();
        let token = token.filter(|_| !sabotage::is(Sabotage::ForgetTokens));
        if let Some(token) = &token {
            match books.tokens.before(token) {
                Some(used) if used.is_of_request(token) => {
                    return Ok(Reserved::Before(Box::new(used.clone())));
                }
                Some(_) => {
                    return Err(AdmitError::TokenReused {
                        token: token.token().clone(),
                    });
                }
                None => {}
            }
        }
        let record = Arc::new(decide(&books.ledger)?);
        let undo = Undo {
            token: token.map(|token| books.tokens.insert(token)),
            before: if sabotage::is(Sabotage::AdmitOnStaleLedger) {
                books.ledger.shared(&record.id).cloned()
            } else {
                books.ledger.put(Arc::clone(&record))
            },
        };
        books.pending.insert(record.id.clone());
        Ok(Reserved::Now {
            record,
            undo: Box::new(undo),
        })
    }

    /// Whoever made the reservation holds the NIC's order lock until it is durable.
    async fn wait_until_durable(&self, used: Box<RememberedUse>) -> Box<RememberedUse> {
        drop(self.order_of(&used.nic).lock().await);
        used
    }

    fn give_back(&self, nic: &NicId, undo: Undo) {
        let mut books = self.books();
        books.pending.remove(nic);
        self.replace(&mut books, nic, undo.before);
        if let Some(inserted) = undo.token {
            books.tokens.give_back(inserted);
        }
    }

    /// Puts another record, or none, in the place of one, and tells who waits for a VM to be empty.
    fn replace(&self, books: &mut Books, nic: &NicId, record: Option<Arc<NicRecord>>) {
        let ledger = &mut books.ledger;
        let before = match record {
            Some(record) => ledger.put(record),
            None => ledger.remove(nic),
        };
        let mut left = before.iter().flat_map(|record| record.reserved());
        if left.any(|place| ledger.nics_at(&place.vm).next().is_none()) {
            self.vacated.send_replace(());
        }
    }

    /// Takes a record to its next state: durable first, then known.
    ///
    /// # Errors
    /// When there is no such record, `change` does not apply to it, or it cannot be journalled.
    pub async fn settle(
        &self,
        nic: &NicId,
        change: impl FnOnce(&mut NicRecord) -> Result<(), InvalidTransition>,
    ) -> Result<Arc<NicRecord>, SettleError> {
        let _order = self.order_of(nic).lock().await;
        let mut record = self
            .nic(nic)
            .ok_or_else(|| SettleError::NoSuchNic(nic.clone()))?;
        change(&mut record).map_err(|cause| SettleError::Transition {
            nic: nic.clone(),
            cause,
        })?;
        let batch = if sabotage::is(Sabotage::SkipJournalWrite) {
            Batch::default()
        } else {
            Batch::default().put(nic_row(&record))
        };
        self.commit(batch.in_room(Room::Reserve))
            .await
            .map_err(|cause| SettleError::Journal {
                nic: nic.clone(),
                cause,
            })?;
        let record = Arc::new(record);
        self.replace(&mut self.books(), nic, Some(Arc::clone(&record)));
        self.board.nic_changed(&record);
        Ok(record)
    }

    /// Removes a record: durable first, then its MAC and addresses are free.
    ///
    /// # Errors
    /// When it cannot be journalled; the record stays then.
    pub async fn remove(&self, nic: &NicId) -> Result<(), SettleError> {
        let _order = self.order_of(nic).lock().await;
        if self.read(|ledger| ledger.nic(nic).is_none()) {
            return Ok(());
        }
        let batch = Batch::default().remove(RowKind::Nic, nic.as_str());
        self.commit(batch.in_room(Room::Reserve))
            .await
            .map_err(|cause| SettleError::Journal {
                nic: nic.clone(),
                cause,
            })?;
        self.replace(&mut self.books(), nic, None);
        self.board.nic_deleted(nic);
        Ok(())
    }

    /// Whose token was used for a request, when nothing else tells any more.
    #[must_use]
    pub fn user_of_token(&self, token: &ClientToken, request: &str) -> Option<TenantId> {
        self.books().tokens.user_of(token, request).cloned()
    }

    /// Forgets client tokens that nobody will send again.
    ///
    /// # Errors
    /// When that cannot be journalled; they are kept then.
    pub async fn expire_tokens(&self, now_ms: u64) -> Result<usize, CommitError> {
        let expired = self.books().tokens.expired(now_ms, FORGOTTEN_AT_ONCE);
        if expired.is_empty() {
            return Ok(0);
        }
        let batch = expired.iter().fold(Batch::default(), |batch, used| {
            batch.remove(RowKind::Token, used.key())
        });
        self.commit(batch.in_room(Room::Reserve)).await?;
        let mut books = self.books();
        for used in &expired {
            books.tokens.remove(used);
        }
        Ok(expired.len())
    }

    fn commit_later(&self, batch: Batch) {
        let journal = Arc::clone(&self.journal);
        tokio::spawn(async move { journal.commit(batch).await });
    }

    /// A journal that can no longer say what is durable leaves only one honest way: to die and be
    /// started again from what is on disk.
    async fn commit(&self, batch: Batch) -> Result<(), CommitError> {
        let outcome = self.journal.commit(batch).await;
        if let Err(error @ CommitError::Broken(_)) = &outcome {
            tracing::error!(
                error = error as &dyn std::error::Error,
                "the journal is broken"
            );
            (self.abort)();
            // Nothing is done or told any more.
            std::future::pending::<()>().await;
        }
        outcome
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn order_of(&self, nic: &NicId) -> &tokio::sync::Mutex<()> {
        let mut hasher = DefaultHasher::new();
        nic.hash(&mut hasher);
        let index = hasher.finish() % (ORDER_LOCKS as u64);
        &self.order[usize::try_from(index).unwrap_or(0)]
    }
}

enum Reserved {
    Now {
        record: Arc<NicRecord>,
        undo: Box<Undo>,
    },
    Before(Box<RememberedUse>),
}

/// What a reservation took the place of, and the token that came with it.
struct Undo {
    before: Option<Arc<NicRecord>>,
    token: Option<Inserted>,
}

/// On a disk that is all but full nothing new is begun. What gives something up goes on, and so
/// does whatever was begun before.
fn room_for(admitted: &NicRecord) -> Room {
    match admitted.state {
        NicState::Deleting => Room::Reserve,
        NicState::Detaching if admitted.next_placement().is_none() => Room::Reserve,
        NicState::Available | NicState::Attaching | NicState::InUse | NicState::Detaching => {
            Room::Free
        }
    }
}

fn parse<T: serde::de::DeserializeOwned>(row: &Row) -> Result<T, OpenStoreError> {
    serde_json::from_str(&row.body).map_err(|cause| OpenStoreError::Row {
        kind: row.kind,
        key: row.key.clone(),
        cause,
    })
}

fn nic_row(record: &NicRecord) -> Row {
    let addresses = record.addressing.addresses().iter().map(|address| {
        Claim::new(
            format!("address/{}", record.network),
            address.addr().to_string(),
        )
    });
    let slots = record
        .reserved()
        .map(|place| Claim::new(format!("slot/{}", place.vm), place.slot.to_string()));
    let mac = Claim::new("mac", record.mac.to_string());
    Row {
        kind: RowKind::Nic,
        key: record.id.to_string(),
        body: serde_json::to_string(record).expect("a record is made of plain values"),
        claims: std::iter::once(mac).chain(addresses).chain(slots).collect(),
    }
}

fn token_row(used: &RememberedUse) -> Row {
    Row {
        kind: RowKind::Token,
        key: used.key(),
        body: serde_json::to_string(used).expect("a token's use is made of plain values"),
        claims: Vec::new(),
    }
}
