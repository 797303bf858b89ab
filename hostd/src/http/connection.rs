//! Connections: who is at the other end, and how long and how much they may keep us waiting.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::Request;
use axum::response::Response;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustix::process::{Resource, getrlimit};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;

use super::body::Lingering;

/// Connections at once: every request that may be worked on, every follower, and some that wait
/// for their next request. More of them wait in the socket's backlog.
const CONNECTIONS_MAX: usize = super::REQUESTS_MAX + super::STREAMS_MAX + 128;
/// Time for the head of a request to arrive, counted from when the connection waits for it.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Headers of one request; ours needs five.
const HEADERS_MAX: usize = 64;
/// Pause after a connection could not be accepted: out of descriptors, most likely.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// User id of the process at the other end.
#[derive(Debug, Clone, Copy)]
pub(super) struct PeerUid(pub(super) u32);

/// When a request came in.
#[derive(Debug, Clone, Copy)]
pub(super) struct ReceivedAt(pub(super) Instant);

/// How many connections there may be: half of this process's descriptors at most, so that taps and
/// hypervisors always find one.
fn connections_max() -> usize {
    let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(descriptors / 2).map_or(CONNECTIONS_MAX, |half| half.min(CONNECTIONS_MAX))
}

/// Serves every connection, each in a task of `tasks`, for ever.
pub(super) async fn accept_all(listener: &UnixListener, router: &Router, tasks: &mut JoinSet<()>) {
    let connections_max = connections_max();
    loop {
        let has_room = tasks.len() < connections_max;
        tokio::select! {
            Some(_ended) = tasks.join_next() => {}
            accepted = listener.accept(), if has_room => match accepted {
                Ok((stream, _)) => {
                    tasks.spawn(serve(stream, router.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
}

async fn serve(stream: UnixStream, router: Router) {
    let peer = match stream.peer_cred() {
        Ok(credentials) => PeerUid(credentials.uid()),
        Err(error) => return tracing::warn!(%error, "a connection without credentials is closed"),
    };
    let router = TowerToHyperService::new(router);
    let answer = service_fn(move |request| answer(router.clone(), peer, request));
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(stream), answer)
        .await;
    if let Err(error) = served {
        tracing::debug!(uid = peer.0, %error, "a connection ended early");
    }
}

async fn answer(
    router: TowerToHyperService<Router>,
    peer: PeerUid,
    request: hyper::Request<Incoming>,
) -> Result<Response, Infallible> {
    let mut request: Request = Lingering::wrap(request);
    request.extensions_mut().insert(peer);
    request.extensions_mut().insert(ReceivedAt(Instant::now()));
    router.call(request).await
}
