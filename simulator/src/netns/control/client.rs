//! The other end of [`super`]: orders from a command line or a test.

use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::{BODY_MAX, Refusal};
use crate::netns::site::Site;
use crate::netns::trouble::{Doing, Trouble};

/// A reset starts everything anew.
const DEADLINE: Duration = Duration::from_secs(60);
/// Its launcher kills what has not ended by itself within half of this.
const END_DEADLINE: Duration = Duration::from_secs(10);

/// A cloud that takes orders.
#[derive(Debug, Clone)]
pub struct ControlClient {
    socket: PathBuf,
}

/// What the cloud had against it.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("{0}")]
    Told(String),
    #[error("it answers with status {0}")]
    Status(StatusCode),
}

impl ControlClient {
    /// The cloud that takes orders at a socket.
    #[must_use]
    pub const fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// Asks for something.
    ///
    /// # Errors
    /// When the cloud refuses or does not answer.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Trouble> {
        let body = self.exchange(Method::GET, path, Bytes::new()).await?;
        serde_json::from_slice(&body).doing(format_args!("understand the answer to {path}"))
    }

    /// Orders something.
    ///
    /// # Errors
    /// When the cloud refuses or does not answer.
    pub async fn post<T: Serialize + Sync>(&self, path: &str, order: &T) -> Result<(), Trouble> {
        self.send(path, order).await.map(drop)
    }

    /// Orders something that has a result.
    ///
    /// # Errors
    /// When the cloud refuses or does not answer.
    pub async fn order<R: DeserializeOwned>(&self, path: &str) -> Result<R, Trouble> {
        let body = self.send(path, &()).await?;
        serde_json::from_slice(&body).doing(format_args!("understand the answer to {path}"))
    }

    async fn send<T: Serialize + Sync>(&self, path: &str, order: &T) -> Result<Bytes, Trouble> {
        let body = serde_json::to_vec(order).doing(format_args!("write an order to {path}"))?;
        self.exchange(Method::POST, path, body.into()).await
    }

    /// Takes something away.
    ///
    /// # Errors
    /// When the cloud refuses or does not answer.
    pub async fn delete(&self, path: &str) -> Result<(), Trouble> {
        self.exchange(Method::DELETE, path, Bytes::new())
            .await
            .map(drop)
    }

    /// Ends the cloud, and waits until nothing of it is left, whoever has launched it.
    ///
    /// # Errors
    /// When it does not take orders, or does not end.
    pub async fn down(&self) -> Result<(), Trouble> {
        let doing = format!("end the cloud at {}", self.socket.display());
        let directory = self.socket.parent().unwrap_or(Path::new("/"));
        let held = Site::at(directory.to_owned()).held().doing(&doing)?;
        let ended = self.post("/v1/down", &()).await;
        // The answer never comes; that nobody takes orders any more is the answer.
        if UnixStream::connect(&self.socket).await.is_ok() {
            return ended;
        }
        match held {
            Some(held) => held.until_free(END_DEADLINE).await.doing(doing),
            None => Ok(()),
        }
    }

    async fn exchange(&self, method: Method, path: &str, body: Bytes) -> Result<Bytes, Trouble> {
        let doing = format!("{method} {path} at {}", self.socket.display());
        let exchanged = tokio::time::timeout(DEADLINE, self.try_exchange(method, path, body)).await;
        let (status, body) = exchanged.doing(&doing)?.doing(&doing)?;
        if status.is_success() {
            return Ok(body);
        }
        let refused = match serde_json::from_slice::<Refusal>(&body) {
            Ok(refusal) => Refused::Told(refusal.error),
            Err(_) if !body.is_empty() => {
                Refused::Told(String::from_utf8_lossy(&body).into_owned())
            }
            Err(_) => Refused::Status(status),
        };
        Err(refused).doing(doing)
    }

    async fn try_exchange(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), Box<dyn std::error::Error + Send + Sync>> {
        let stream = UnixStream::connect(&self.socket).await?;
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream));
        let (mut sender, connection) = handshake.await?;
        // It ends with the exchange; what is wrong with it shows there.
        let connection = tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "simulator")
            .header("content-type", "application/json")
            .body(Full::new(body))?;
        let answered = sender.send_request(request).await;
        let outcome = match answered {
            Ok(response) => {
                let status = response.status();
                let body = Limited::new(response.into_body(), BODY_MAX)
                    .collect()
                    .await?;
                Ok((status, body.to_bytes()))
            }
            Err(error) => Err(error.into()),
        };
        connection.abort();
        outcome
    }
}
