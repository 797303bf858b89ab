//! A daemon that answers as a test tells it to, in this process, on a unix socket of its own.

use std::convert::Infallible;
use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::get;
use futures::StreamExt;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio::process::Command;
use tokio::sync::broadcast;
use tokio::time::timeout;
use tokio_stream::wrappers::BroadcastStream;

/// Events that may wait for a slow reader: more than any test sends.
const EVENTS: usize = 64;
/// Longest run of `nicctl` that is no hang: a hundred times what the longest takes.
pub(crate) const RUN_MAX: Duration = Duration::from_secs(30);

pub(crate) struct Daemon {
    _directory: TempDir,
    task: tokio::task::JoinHandle<()>,
    shared: Shared,
}

/// What handlers and tests both see.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) socket: PathBuf,
    requests: Arc<Mutex<Vec<Seen>>>,
    events: broadcast::Sender<String>,
}

/// A request other than for events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) line: String,
    pub(crate) token: Option<String>,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Daemon {
    /// Serves what `routes` makes, and a stream of events where it makes none.
    pub(crate) fn start(routes: impl FnOnce(Shared) -> Router) -> Self {
        let (events, _) = broadcast::channel(EVENTS);
        let directory = TempDir::new().expect("a directory can be made");
        let shared = Shared {
            socket: directory.path().join("socket"),
            requests: Arc::default(),
            events,
        };
        let router = routes(shared.clone());
        let noted = middleware::from_fn_with_state(shared.clone(), note);
        let listener = UnixListener::bind(&shared.socket).expect("nobody has this path");
        let task = tokio::spawn(async move {
            let serve = axum::serve(listener, router.layer(noted));
            serve.await.expect("serving never ends");
        });
        Self {
            _directory: directory,
            task,
            shared,
        }
    }

    /// `nicctl` with `words`, talking to this daemon.
    pub(crate) fn command(&self, words: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nicctl"));
        command
            .env_remove("NICFERRY_SOCKET")
            .arg("--socket")
            .arg(&self.shared.socket)
            .args(words.split_whitespace())
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    pub(crate) async fn run(&self, words: &str) -> Output {
        let output = timeout(RUN_MAX, self.command(words).output());
        let output = output.await.expect("nicctl ends by itself");
        output.expect("nicctl can be started")
    }

    pub(crate) fn requests(&self) -> Vec<Seen> {
        self.shared
            .requests
            .lock()
            .expect("no handler panics")
            .clone()
    }
}

impl Shared {
    /// The route of a stream of events sent with [`Shared::send`].
    pub(crate) fn with_events(&self, router: Router) -> Router {
        let events = self.events.clone();
        router.route(
            "/v1/events",
            get(move || async move {
                let lines = BroadcastStream::new(events.subscribe());
                Body::from_stream(lines.map(|line| Ok::<_, Infallible>(line.unwrap_or_default())))
            }),
        )
    }

    /// Sends an event to whoever listens, and tells how many do.
    pub(crate) fn send(&self, event: &Value) -> usize {
        self.events.send(as_sent(event)).unwrap_or(0)
    }
}

async fn note(State(shared): State<Shared>, request: Request, next: Next) -> Response {
    if request.uri().path() != "/v1/events" {
        let token = request.headers().get("client-token");
        let seen = Seen {
            line: format!("{} {}", request.method(), request.uri()),
            token: token.and_then(|token| Some(token.to_str().ok()?.to_owned())),
        };
        let mut requests = shared.requests.lock().expect("no handler panics");
        requests.push(seen);
    }
    next.run(request).await
}

pub(crate) fn as_sent(event: &Value) -> String {
    format!("id: {}\ndata: {event}\n\n", event["id"])
}

pub(crate) fn step(name: &str, at_ms: f64) -> Value {
    json!({"step": name, "at_ms": at_ms, "duration_ms": 1.5, "source": "host"})
}

/// A step of the agent's, whose beginning nobody on the host knows.
pub(crate) fn guest_step() -> Value {
    json!({"step": "guest-set-addresses", "duration_ms": 0.5, "source": "guest"})
}

pub(crate) fn step_event(id: u64, nic: &str, step: &Value) -> Value {
    json!({"id": id, "at_ms": 1000, "kind": "step_done", "nic": nic, "step": step})
}

/// `nic-abc0123xyz` in `state`, placed in `web-1`, with `timings`.
pub(crate) fn nic(state: &str, timings: &[Value]) -> Value {
    json!({
        "id": "nic-abc0123xyz", "tenant": "acme", "network": "blue", "mac": "5a:00:00:00:00:01",
        "addressing": {"mode": "static", "addresses": ["10.0.0.5/24"]},
        "addresses": ["10.0.0.5/24"], "mtu": 1500, "routes": [], "limits": {"in": {}, "out": {}},
        "queues": 1, "state": state, "generation": 1,
        "placement": {
            "vm": "web-1", "target": {"kind": "netns", "name": "blue"}, "link_name": "eth0",
            "slot": "rp1", "pci_path": "02.0/00.0",
        },
        "timings": timings, "created_at_ms": 1, "updated_at_ms": 2,
    })
}
