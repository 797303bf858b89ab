//! How hostd is reached: over its unix socket, unless somebody brings another way.

use std::fmt::Debug;
use std::io;
use std::path::Path;

use async_trait::async_trait;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;

/// Reaches a hostd. The client sets the deadline.
#[async_trait]
pub trait Dialer: Debug + Send + Sync + 'static {
    /// A new stream to the hostd that serves at `address`.
    ///
    /// # Errors
    /// When nobody serves there.
    async fn dial(&self, address: &Path) -> io::Result<Box<dyn ApiStream>>;
}

/// Bytes to and from one hostd.
pub trait ApiStream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static> ApiStream for Stream {}

/// Over unix sockets.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct UnixDialer;

#[async_trait]
impl Dialer for UnixDialer {
    async fn dial(&self, address: &Path) -> io::Result<Box<dyn ApiStream>> {
        Ok(Box::new(UnixStream::connect(address).await?))
    }
}
