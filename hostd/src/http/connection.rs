//! Connections: who is at the other end, and how long and how much they may keep us waiting.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::response::Response;
use futures::FutureExt;
use host_api::Problem;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustix::process::{Resource, getrlimit};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::body::Lingering;
use super::guard::overloaded;
use super::shares::{NoPlace, Shares};

/// Connections at once: every request that may be worked on, every follower, and some that wait
/// for their next request. One user gets half of them at most; more of others wait in the socket's
/// backlog.
const CONNECTIONS_MAX: usize = super::REQUESTS_MAX + super::STREAMS_MAX + 256;
/// Time for the head of a request to arrive, counted from when the connection waits for it.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Headers of one request; ours needs five.
const HEADERS_MAX: usize = 64;
/// Longest head of a request in bytes; ours has some hundred.
const HEAD_MAX_BYTES: usize = 64 * 1024;
/// Pause after a connection could not be accepted: out of descriptors, most likely.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Where connections come from.
pub trait Connections: Send {
    /// What each of them is.
    type Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static;

    /// The next connection, with the user id of the process at its other end. Dropping the future
    /// loses none.
    ///
    /// # Errors
    /// When it could not be taken; the next one may well be.
    fn accept(&mut self) -> impl Future<Output = io::Result<(Self::Stream, u32)>> + Send;
}

/// The kernel noted who connected; a connection of which it cannot tell is closed.
impl Connections for UnixListener {
    type Stream = UnixStream;

    async fn accept(&mut self) -> io::Result<(UnixStream, u32)> {
        loop {
            let (stream, _) = UnixListener::accept(self).await?;
            match stream.peer_cred() {
                Ok(credentials) => return Ok((stream, credentials.uid())),
                Err(error) => {
                    tracing::warn!(%error, "a connection without credentials is closed");
                }
            }
        }
    }
}

/// User id of the process at the other end.
#[derive(Debug, Clone, Copy)]
pub(super) struct PeerUid(pub(super) u32);

/// When a request came in.
#[derive(Debug, Clone, Copy)]
pub(super) struct ReceivedAt(pub(super) Instant);

/// How many connections there may be: three quarters of this process's descriptors at most, so that
/// taps and hypervisors always find one.
fn connections_max() -> usize {
    let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(descriptors / 4 * 3).map_or(CONNECTIONS_MAX, |most| most.min(CONNECTIONS_MAX))
}

/// Serves every connection, each in a task of `tasks`, for ever.
pub(super) async fn accept_all(
    connections: &mut impl Connections,
    router: &Router,
    tasks: &mut JoinSet<()>,
) {
    let connections_max = connections_max();
    let shares = Shares::new(connections_max);
    loop {
        let has_room = tasks.len() < connections_max;
        tokio::select! {
            biased;
            Some(_ended) = tasks.join_next() => {}
            accepted = connections.accept(), if has_room => match accepted {
                Ok((stream, uid)) => begin(stream, PeerUid(uid), &shares, router, tasks),
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
}

fn begin(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    peer: PeerUid,
    shares: &Arc<Shares>,
    router: &Router,
    tasks: &mut JoinSet<()>,
) {
    match shares.take(peer.0) {
        Ok(share) => {
            let serving = serve(stream, peer, router.clone());
            tasks.spawn(async move {
                serving.await;
                drop(share);
            });
        }
        Err(none) => turn_away(stream, none),
    }
}

/// Says why, and hangs up. A client that has not even room for this answer goes without.
fn turn_away(mut stream: impl AsyncWrite + Unpin, none: NoPlace) {
    let problem = overloaded("connections", none);
    let body = serde_json::to_string(&problem).expect("a problem is made of plain values");
    let answer = format!(
        "HTTP/1.1 429 Too Many Requests\r\ncontent-type: {}\r\ncontent-length: {}\r\n\
         retry-after: 1\r\nconnection: close\r\n\r\n{body}",
        Problem::MEDIA_TYPE,
        body.len()
    );
    // A fresh connection has room for far more than this, so it is written at once or never.
    let written = stream.write_all(answer.as_bytes()).now_or_never();
    if !matches!(written, Some(Ok(()))) {
        tracing::debug!(
            ?written,
            "a connection too many was not told why it is closed"
        );
    }
}

async fn serve(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    peer: PeerUid,
    router: Router,
) {
    let router = TowerToHyperService::new(router);
    let answer = service_fn(move |request| answer(router.clone(), peer, request));
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEAD_MAX_BYTES)
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
