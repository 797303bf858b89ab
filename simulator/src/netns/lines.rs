//! Requests and answers as lines of JSON over a unix socket, with caps and deadlines.

use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};

use super::trouble::{Doing, Trouble};

/// Connections served at once: more than people and tests have.
const CONNECTIONS_MAX: usize = 64;

/// How long a line may take to be taken in or given away.
const LINE_DEADLINE: Duration = Duration::from_secs(5);

/// The other side ended the connection, or said something else than a line.
#[derive(Debug, thiserror::Error)]
enum LineError {
    #[error("the connection was closed")]
    Closed,
    #[error("a line is longer than {0} bytes")]
    TooLong(usize),
}

/// One line of JSON; `None` at the end of the stream.
async fn read<T: DeserializeOwned>(
    stream: &mut BufReader<UnixStream>,
    line_max: usize,
) -> Result<Option<T>, Trouble> {
    let doing = "read a line";
    let mut line = Vec::new();
    let limit = u64::try_from(line_max).unwrap_or(u64::MAX);
    let length = stream.take(limit).read_until(b'\n', &mut line).await;
    if length.doing(doing)? == 0 {
        return Ok(None);
    }
    if line.last() != Some(&b'\n') {
        return Err(Trouble::new(doing, LineError::TooLong(line_max)));
    }
    serde_json::from_slice(&line)
        .map(Some)
        .doing("understand a line")
}

async fn write<T: Serialize + Sync>(
    stream: &mut BufReader<UnixStream>,
    message: &T,
) -> Result<(), Trouble> {
    let doing = "write a line";
    let mut line = serde_json::to_vec(message).doing(doing)?;
    line.push(b'\n');
    let written = tokio::time::timeout(LINE_DEADLINE, stream.get_mut().write_all(&line)).await;
    written.doing(doing)?.doing(doing)
}

/// Asks one thing.
///
/// # Errors
/// When nobody listens, or no answer comes within `deadline`.
pub(crate) async fn ask<Q: Serialize + Sync, A: DeserializeOwned>(
    socket: &Path,
    request: &Q,
    line_max: usize,
    deadline: Duration,
) -> Result<A, Trouble> {
    let doing = format!("ask {}", socket.display());
    let exchange = async {
        let stream = UnixStream::connect(socket).await.doing(&doing)?;
        let mut stream = BufReader::new(stream);
        write(&mut stream, request).await?;
        read(&mut stream, line_max)
            .await?
            .ok_or(LineError::Closed)
            .doing(&doing)
    };
    tokio::time::timeout(deadline, exchange)
        .await
        .doing(&doing)?
}

/// Listens at a path where nobody does.
///
/// # Errors
/// When the socket cannot be made.
pub(crate) fn listen(socket: &Path) -> Result<UnixListener, Trouble> {
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(Trouble::new(
                format_args!("remove {}", socket.display()),
                error,
            ));
        }
        _ => {}
    }
    UnixListener::bind(socket).doing(format_args!("listen at {}", socket.display()))
}

/// Answers every line that comes, each connection in its own task, for ever.
pub(crate) async fn serve<Q, A, F>(
    listener: UnixListener,
    line_max: usize,
    answer: impl Fn(Q) -> F + Clone + Send + 'static,
) where
    Q: DeserializeOwned + Send + 'static,
    A: Serialize + Send + Sync + 'static,
    F: Future<Output = A> + Send,
{
    let room = std::sync::Arc::new(tokio::sync::Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = room.clone().acquire_owned().await else {
            return;
        };
        let Ok((stream, _address)) = listener.accept().await else {
            // Out of descriptors, most likely: some will come back.
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let answer = answer.clone();
        tokio::spawn(async move {
            let mut stream = BufReader::new(stream);
            while let Ok(Some(request)) = read(&mut stream, line_max).await {
                let reply = answer(request).await;
                if write(&mut stream, &reply).await.is_err() {
                    break;
                }
            }
            drop(place);
        });
    }
}
