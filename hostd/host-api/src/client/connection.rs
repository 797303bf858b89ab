//! One request over one connection.

use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::ClientError;
use super::dial::Dialer;

/// Longest answer in bytes: ten thousand NICs with every list at its cap.
const ANSWER_MAX_BYTES: usize = 64 * 1024 * 1024;

/// A request that is not sent yet.
#[derive(Debug)]
pub(super) struct Call {
    dialer: Arc<dyn Dialer>,
    socket: PathBuf,
    method: Method,
    pub(super) path_and_query: String,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

/// A whole answer.
#[derive(Debug)]
pub(super) struct Answered {
    pub(super) status: StatusCode,
    body: Bytes,
}

/// An answer whose body is still to come, and the connection it comes over.
#[derive(Debug)]
pub(super) struct Opened {
    response: Response<Incoming>,
    _driver: Driver,
}

/// The task that moves a connection's bytes, ended with the value.
#[derive(Debug)]
struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Call {
    pub(super) fn new(dialer: Arc<dyn Dialer>, socket: &Path, method: Method, path: &str) -> Self {
        Self {
            dialer,
            socket: socket.to_owned(),
            method,
            path_and_query: path.to_owned(),
            headers: Vec::new(),
            body: Vec::new(),
        }
    }

    pub(super) fn header(mut self, name: &'static str, value: String) -> Self {
        self.headers.push((name, value));
        self
    }

    pub(super) fn json(mut self, body: &impl Serialize) -> Result<Self, ClientError> {
        self.body = serde_json::to_vec(body).map_err(|error| protocol(&error))?;
        Ok(self.header(CONTENT_TYPE.as_str(), "application/json".to_owned()))
    }

    /// Sends it and reads the whole answer, all within `deadline`.
    pub(super) async fn answer(self, deadline: Duration) -> Result<Answered, ClientError> {
        within(deadline, async {
            let opened = self.send().await?;
            opened.collect().await
        })
        .await
    }

    /// Sends it and reads the head of the answer within `deadline`.
    pub(super) async fn open(self, deadline: Duration) -> Result<Opened, ClientError> {
        within(deadline, self.send()).await
    }

    async fn send(self) -> Result<Opened, ClientError> {
        let stream = self.dialer.dial(&self.socket).await;
        let stream = stream.map_err(|source| self.not_reachable(source))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(ClientError::Interrupted)?;
        let driver = Driver(tokio::spawn(async move {
            // Its error reaches the caller through the answer, which then fails too.
            drop(connection.await);
        }));
        let response = sender
            .send_request(self.into_request()?)
            .await
            .map_err(ClientError::Interrupted)?;
        Ok(Opened {
            response,
            _driver: driver,
        })
    }

    fn not_reachable(&self, source: io::Error) -> ClientError {
        ClientError::NotReachable {
            path: self.socket.clone(),
            source,
        }
    }

    fn into_request(self) -> Result<Request<Full<Bytes>>, ClientError> {
        let mut request = Request::builder()
            .method(self.method)
            .uri(self.path_and_query)
            .header(HOST, "localhost");
        for (name, value) in self.headers {
            request = request.header(name, value);
        }
        request
            .body(Full::new(self.body.into()))
            .map_err(|error| protocol(&error))
    }
}

impl Opened {
    pub(super) fn status(&self) -> StatusCode {
        self.response.status()
    }

    /// The next bytes of the body, `None` at its end.
    pub(super) async fn next_bytes(
        &mut self,
        deadline: Duration,
    ) -> Option<Result<Bytes, ClientError>> {
        let frame = within(deadline, async { Ok(self.response.frame().await) }).await;
        match frame {
            Err(late) => Some(Err(late)),
            Ok(None) => None,
            Ok(Some(Err(broken))) => Some(Err(ClientError::Interrupted(broken))),
            // Trailers carry nothing of ours.
            Ok(Some(Ok(frame))) => Some(Ok(frame.into_data().unwrap_or_default())),
        }
    }

    /// The rest of the answer within `deadline`.
    pub(super) async fn read_whole(self, deadline: Duration) -> Result<Answered, ClientError> {
        within(deadline, self.collect()).await
    }

    async fn collect(self) -> Result<Answered, ClientError> {
        let Self { response, _driver } = self;
        let status = response.status();
        let collected = Limited::new(response.into_body(), ANSWER_MAX_BYTES)
            .collect()
            .await;
        match collected {
            Ok(body) => Ok(Answered {
                status,
                body: body.to_bytes(),
            }),
            Err(error) => Err(match error.downcast::<hyper::Error>() {
                Ok(broken) => ClientError::Interrupted(*broken),
                Err(too_long) => protocol(&too_long),
            }),
        }
    }
}

impl Answered {
    pub(super) fn read<T: DeserializeOwned>(&self) -> Result<T, ClientError> {
        serde_json::from_slice(&self.body).map_err(|error| protocol(&error))
    }
}

pub(super) fn protocol(error: &dyn std::fmt::Display) -> ClientError {
    ClientError::Protocol {
        message: error.to_string(),
    }
}

async fn within<T>(
    deadline: Duration,
    work: impl Future<Output = Result<T, ClientError>>,
) -> Result<T, ClientError> {
    timeout(deadline, work)
        .await
        .unwrap_or(Err(ClientError::TimedOut {
            waited_ms: deadline.as_millis(),
        }))
}
