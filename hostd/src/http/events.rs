//! `/v1/events`: what happens, as server-sent events.
//!
//! ```text
//!   Last-Event-ID ─► what is kept since then ─► what comes ─► …
//!                      └─ not all of it is kept, or it was another run: `missed` goes first
//!   too slow ─► `missed`, then on from what is still there
//! ```

use std::collections::{BTreeSet, VecDeque};
use std::convert::Infallible;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{FromRequestParts, State};
use axum::http::request::Parts;
use axum::response::sse;
use axum::response::{IntoResponse, Sse};
use futures::stream;
use host_api::{Event, EventKind, EventQuery, openapi, path};
use nic_lifecycle::NicState;
use nic_model::{NicId, VmId};
use tokio::sync::broadcast::{self, error::RecvError};

use super::connection::PeerUid;
use super::document::{self, Refusals};
use super::guard::overloaded;
use super::problem::{NoPeer, Refused, internal};
use super::shares::Share;
use super::{Api, fields, view};
use crate::board::{BoardEvent, Happening};
use crate::service::{Caller, Service};

/// A comment goes out after this long a silence.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Ids of events on the wire. The board counts from 1 in every run; on the wire ids go on growing
/// from run to run, since each run starts at its own first microsecond and no run has a million
/// events a second.
#[derive(Debug, Clone, Copy)]
pub(super) struct EventIds {
    base: u64,
}

impl EventIds {
    /// Those of a run that begins at `now_ms`.
    pub(super) fn of_run(now_ms: u64) -> Self {
        Self {
            base: now_ms.saturating_mul(1000),
        }
    }

    fn on_the_wire(self, id: u64) -> u64 {
        self.base.saturating_add(id)
    }

    /// Which event of this run it is; `None` for one of an earlier run.
    fn of_the_wire(self, id: u64) -> Option<u64> {
        id.checked_sub(self.base)
    }
}

/// What happens from now on, or since the event that the client saw last.
#[utoipa::path(
    get,
    path = path::EVENTS,
    operation_id = "follow_events",
    tag = document::OPERATING,
    params(EventQuery, openapi::FollowerHeaders),
    responses(
        (status = 200, description = "Server-sent events, each with an Event as its data.",
            body = Event, content_type = "text/event-stream"),
        Refusals,
    )
)]
pub(super) async fn follow(
    State(api): State<Arc<Api>>,
    caller: Caller,
    asked: Asked,
) -> Result<impl IntoResponse, Refused> {
    let share = api.streams.take(asked.uid);
    let share = share.map_err(|none| overloaded("followers", none))?;
    let feed = Feed::start(
        api,
        Filter::new(caller, asked.query),
        asked.last_seen,
        share,
    );
    let events = stream::unfold(feed, |mut feed| async {
        let event = feed.next().await?;
        Some((Ok::<_, Infallible>(on_the_wire(&event)), feed))
    });
    Ok(Sse::new(events).keep_alive(sse::KeepAlive::new().interval(KEEP_ALIVE).text("alive")))
}

/// What a follower asked for.
pub(super) struct Asked {
    query: EventQuery,
    last_seen: Option<u64>,
    uid: u32,
}

impl<S: Send + Sync> FromRequestParts<S> for Asked {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refused> {
        let last_seen = fields::header(&parts.headers, path::LAST_EVENT_ID_HEADER)?;
        let peer = parts.extensions.get().copied();
        let PeerUid(uid) = peer.ok_or_else(|| internal(&NoPeer))?;
        Ok(Self {
            query: fields::query(parts)?,
            uid,
            last_seen: last_seen.map(|LastSeen(id)| id),
        })
    }
}

/// The id of an event, as a client sends it back.
struct LastSeen(u64);

/// A text that is no id of an event.
#[derive(Debug, thiserror::Error)]
#[error("the id of an event is a whole number, as `id` of the event gave it")]
struct InvalidEventId;

impl FromStr for LastSeen {
    type Err = InvalidEventId;

    fn from_str(text: &str) -> Result<Self, InvalidEventId> {
        let has_sign = text.starts_with('+');
        let id = text.parse().ok().filter(|_| !has_sign);
        id.map(Self).ok_or(InvalidEventId)
    }
}

fn on_the_wire(event: &Event) -> sse::Event {
    let data = serde_json::to_string(event).expect("an event is made of plain values");
    sse::Event::default()
        .id(event.id.to_string())
        .event(event.kind.as_str())
        .data(data)
}

/// One follower's way through the events.
struct Feed {
    api: Arc<Api>,
    filter: Filter,
    missed_before: Option<u64>,
    past: VecDeque<BoardEvent>,
    future: broadcast::Receiver<BoardEvent>,
    last_id: u64,
    _share: Share,
}

impl Feed {
    fn start(api: Arc<Api>, mut filter: Filter, last_seen: Option<u64>, share: Share) -> Self {
        let subscription = api.service.board.subscribe(Some(0));
        let kept = subscription.past;
        let newest = kept.last().map_or(0, |event| event.id);
        let seen = last_seen.map_or(Some(newest), |id| api.event_ids.of_the_wire(id));
        let missed_before = first_after_gap(seen, kept.first().map(|event| event.id), newest);
        let (old, past): (Vec<_>, _) = kept
            .into_iter()
            .partition(|event| seen.is_some_and(|seen| event.id <= seen));
        for event in &old {
            filter.lets_through(&api.service, event);
        }
        let last_id = missed_before.map_or(newest, |first| first - 1);
        let future = subscription.future;
        Self {
            api,
            filter,
            missed_before,
            past: past.into(),
            future,
            last_id,
            _share: share,
        }
    }

    async fn next(&mut self) -> Option<Event> {
        if let Some(first) = self.missed_before.take() {
            return Some(self.missed(first - 1));
        }
        loop {
            let event = match self.past.pop_front() {
                Some(event) => event,
                None => match self.future.recv().await {
                    Ok(event) => event,
                    Err(RecvError::Lagged(count)) => {
                        self.api.metrics.count_missed(count);
                        return Some(self.missed(self.last_id + count));
                    }
                    Err(RecvError::Closed) => return None,
                },
            };
            self.last_id = event.id;
            if self.filter.lets_through(&self.api.service, &event) {
                let id = self.api.event_ids.on_the_wire(event.id);
                return Some(view::event(&self.api.service, id, &event));
            }
        }
    }

    /// A client that comes back with this event's id gets what followed it.
    fn missed(&mut self, last_missed: u64) -> Event {
        self.last_id = last_missed;
        Event {
            id: self.api.event_ids.on_the_wire(last_missed),
            at_ms: self.api.service.surroundings.unix_ms(),
            kind: EventKind::Missed,
            nic: None,
            vm: None,
            step: None,
            body: None,
            message: Some("events are lost, look at everything".to_owned()),
        }
    }
}

/// The first event that a client gets after a gap; `None` when there is no gap between what it has
/// `seen` (`None`: nothing of this run) and the kept events, `oldest` to `newest`.
fn first_after_gap(seen: Option<u64>, oldest: Option<u64>, newest: u64) -> Option<u64> {
    let first = oldest.unwrap_or(newest + 1);
    match seen {
        None => Some(first),
        Some(seen) if seen > newest => Some(newest + 1),
        Some(seen) if seen + 1 < first => Some(first),
        Some(_) => None,
    }
}

/// Which events concern a follower. It remembers what an event does not tell: where a NIC was that
/// is nowhere now, whose one was that is gone.
struct Filter {
    caller: Caller,
    nic: Option<NicId>,
    vm: Option<VmId>,
    at_the_vm: BTreeSet<NicId>,
    own_deleting: BTreeSet<NicId>,
}

impl Filter {
    fn new(caller: Caller, query: EventQuery) -> Self {
        Self {
            caller,
            nic: query.nic,
            vm: query.vm,
            at_the_vm: BTreeSet::new(),
            own_deleting: BTreeSet::new(),
        }
    }

    fn lets_through(&mut self, service: &Service, event: &BoardEvent) -> bool {
        let is_own = self.is_own(service, event);
        let is_there = self.is_at_the_vm(event);
        is_own && is_there && (self.nic.is_none() || self.nic == event.nic)
    }

    fn is_own(&mut self, service: &Service, event: &BoardEvent) -> bool {
        let may_see = |nic: &NicId| {
            service
                .store
                .nic(nic)
                .is_some_and(|record| self.caller.may_see(&record.tenant))
        };
        match (&event.what, &event.nic, &event.vm) {
            (Happening::NicChanged(record), ..) => {
                let is_own = self.caller.may_see(&record.tenant);
                if is_own && record.state == NicState::Deleting {
                    self.own_deleting.insert(record.id.clone());
                }
                is_own
            }
            (Happening::NicDeleted, Some(nic), _) => {
                self.own_deleting.remove(nic) || self.caller == Caller::Operator
            }
            (_, Some(nic), _) => self.caller == Caller::Operator || may_see(nic),
            (_, None, Some(vm)) => service
                .store
                .read(|ledger| view::may_use(ledger.site(), &self.caller, vm)),
            (_, None, None) => true,
        }
    }

    fn is_at_the_vm(&mut self, event: &BoardEvent) -> bool {
        let Some(wanted) = &self.vm else { return true };
        match (&event.nic, &event.vm) {
            (Some(nic), Some(vm)) if vm == wanted => {
                self.at_the_vm.insert(nic.clone());
                true
            }
            (Some(nic), None) => self.at_the_vm.remove(nic),
            (Some(nic), Some(_)) => {
                let was_there = self.at_the_vm.remove(nic);
                was_there && matches!(event.what, Happening::NicChanged(_))
            }
            (None, vm) => vm.as_ref() == Some(wanted),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_is_noticed_wherever_it_is() {
        let kept = |seen| first_after_gap(seen, Some(5), 9);

        assert_eq!(kept(Some(9)), None);
        assert_eq!(kept(Some(4)), None, "the next one is kept");
        assert_eq!(kept(Some(3)), Some(5), "4 is not kept any more");
        assert_eq!(kept(None), Some(5), "another run");
        assert_eq!(kept(Some(10)), Some(10), "an id from nowhere");
        assert_eq!(
            first_after_gap(Some(0), None, 0),
            None,
            "nothing has happened"
        );
        assert_eq!(first_after_gap(None, None, 0), Some(1));
    }

    #[test]
    fn ids_grow_from_run_to_run() {
        let earlier = EventIds { base: 1_000_000 };
        let later = EventIds { base: 2_000_000 };

        assert!(later.on_the_wire(1) > earlier.on_the_wire(500_000));
        assert_eq!(later.of_the_wire(earlier.on_the_wire(7)), None);
        assert_eq!(later.of_the_wire(later.on_the_wire(7)), Some(7));
    }
}
