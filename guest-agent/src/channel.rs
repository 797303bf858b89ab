//! The agent's end of the pipe to the host.
//!
//! A task of its own reads and writes, so that neither waits while the agent works on a link. What
//! goes through is bytes in both directions over bounded queues; sessions, losses and repetitions
//! are the protocol's business.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::ready;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf, split};
use tokio::sync::mpsc;

use crate::task::Task;

/// Bytes read at once: one page of ring buffer, four typical messages.
pub(crate) const READ_SIZE: usize = 4096;

/// Frames and pieces that wait on either side of the task: a few, since the protocol has queues of
/// its own in which newer messages replace older ones.
const QUEUE_LENGTH: usize = 8;

/// A pipe to the host.
#[derive(Debug)]
pub struct Channel {
    /// What the host sent.
    pub(crate) received: mpsc::Receiver<Vec<u8>>,
    /// Frames for the host.
    pub(crate) to_send: mpsc::Sender<Vec<u8>>,
    _carrier: Task,
}

/// The carrier's end of the queues.
pub(crate) struct Queues {
    pub(crate) received: mpsc::Sender<Vec<u8>>,
    pub(crate) to_send: mpsc::Receiver<Vec<u8>>,
}

impl Channel {
    /// A pipe over one stream, for as long as that lasts: an agent whose channel has ended keeps
    /// what it has bound and hears of nothing more.
    pub fn over<S: AsyncRead + AsyncWrite + Send + 'static>(stream: S) -> Self {
        Self::served(|queues| async move {
            if let Err(error) = carry(stream, queues).await {
                tracing::warn!(%error, "lost the channel to the host");
            }
        })
    }

    /// A pipe that `serve` carries bytes for.
    pub(crate) fn served<F: Future<Output = ()> + Send + 'static>(
        serve: impl FnOnce(Queues) -> F,
    ) -> Self {
        let (received_sender, received) = mpsc::channel(QUEUE_LENGTH);
        let (to_send, to_send_receiver) = mpsc::channel(QUEUE_LENGTH);
        let queues = Queues {
            received: received_sender,
            to_send: to_send_receiver,
        };
        Self {
            received,
            to_send,
            _carrier: Task::spawn(serve(queues)),
        }
    }
}

async fn carry(stream: impl AsyncRead + AsyncWrite, queues: Queues) -> io::Result<()> {
    let (mut reader, mut writer) = split(stream);
    let Queues {
        received,
        mut to_send,
    } = queues;
    let read = async {
        loop {
            let piece = read(&mut reader).await?;
            if piece.is_empty() || received.send(piece).await.is_err() {
                return Ok(());
            }
        }
    };
    let write = async {
        while let Some(frame) = to_send.recv().await {
            writer.write_all(&frame).await?;
        }
        Ok(())
    };
    tokio::select! {
        biased;
        ended = read => ended,
        ended = write => ended,
    }
}

/// The next bytes; none at the end. The buffer is there only while there is something to read: a
/// channel is quiet for most of its life, and a simulator has ten thousand of them.
async fn read(reader: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    poll_fn(|context| {
        let mut buffer = [MaybeUninit::uninit(); READ_SIZE];
        let mut read = ReadBuf::uninit(&mut buffer);
        ready!(Pin::new(&mut *reader).poll_read(context, &mut read))?;
        Ok(read.filled().to_vec()).into()
    })
    .await
}
