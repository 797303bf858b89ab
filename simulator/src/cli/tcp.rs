//! The orders' socket over TCP, for browsers and for what cannot speak over unix sockets. From the
//! loopback alone: whoever reaches it can do everything.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::Semaphore;

/// Connections at once: a browser has six, and there are not many browsers.
const CONNECTIONS_MAX: usize = 64;

/// An address that others could reach.
#[derive(Debug, thiserror::Error)]
#[error("{0} is not of the loopback: whoever reaches it can do everything")]
struct NotLoopback(SocketAddr);

/// An address of the loopback.
pub(crate) fn loopback(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr = text
        .parse()
        .map_err(|_| "it is not an ADDRESS:PORT such as 127.0.0.1:8080".to_owned())?;
    match address.ip().is_loopback() {
        true => Ok(address),
        false => Err(NotLoopback(address).to_string()),
    }
}

/// Passes connections on to the socket at `to`, for ever.
pub(crate) async fn pass_on(listener: TcpListener, to: PathBuf) -> std::io::Result<()> {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let place = room
            .clone()
            .acquire_owned()
            .await
            .map_err(std::io::Error::other)?;
        let (stream, _from) = listener.accept().await?;
        let to = to.clone();
        tokio::spawn(async move {
            // Either side's end is the end; nobody is left to be told.
            carry(stream, &to).await.unwrap_or_default();
            drop(place);
        });
    }
}

async fn carry(mut stream: TcpStream, to: &std::path::Path) -> std::io::Result<()> {
    let mut socket = UnixStream::connect(to).await?;
    copy_bidirectional(&mut stream, &mut socket).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_loopback_is_listened_on() {
        assert!(loopback("127.0.0.1:0").is_ok());
        assert!(loopback("[::1]:8080").is_ok());
        for text in ["0.0.0.0:80", "[::]:80", "10.0.0.1:80", "localhost:80", "80"] {
            assert!(loopback(text).is_err(), "{text}");
        }
    }
}
