//! The guest's end of a channel in the hands of an attacker.

use std::io;
use std::path::Path;

use agent_protocol::{
    AgentMessage, FrameDecoder, HostMessage, MISSED_PONGS, PING_INTERVAL, SessionNonce,
    VersionRange, encode_frame,
};
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::guest::boot_id;
use super::within;

/// Paused time stands still under an attack that never rests, and deadlines with it.
const MOST_ROUNDS: usize = 50;

/// Attacks each connection that hostd makes, one after the other, until dropped.
pub(crate) struct Attacker {
    rounds: watch::Receiver<usize>,
    serving: JoinHandle<()>,
}

impl Drop for Attacker {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Attacker {
    /// An attack ends when hostd hangs up or it has nothing more to do.
    pub(crate) fn start<A, F>(channel: &Path, attack: A) -> Self
    where
        A: Fn(Line) -> F + Send + 'static,
        F: Future<Output = io::Result<()>> + Send,
    {
        let _none_before = std::fs::remove_file(channel);
        let listener = UnixListener::bind(channel).unwrap();
        let (done, rounds) = watch::channel(0);
        let serving = tokio::spawn(async move {
            for _ in 0..MOST_ROUNDS {
                let (stream, _) = listener.accept().await.unwrap();
                let _hung_up = attack(Line { stream, nonce: 0 }).await;
                done.send_modify(|rounds| *rounds += 1);
            }
            std::future::pending().await
        });
        Self { rounds, serving }
    }

    /// Waits until so many attacks are over.
    pub(crate) async fn until_rounds(&self, count: usize) {
        let mut rounds = self.rounds.clone();
        let enough = rounds.wait_for(|rounds| *rounds >= count);
        within("an attack", enough).await.unwrap();
    }
}

/// One connection.
pub(crate) struct Line {
    stream: UnixStream,
    nonce: u64,
}

impl Line {
    /// Opens a session as an honest agent does; gives its nonce.
    pub(crate) async fn open(&mut self) -> io::Result<u64> {
        self.open_as("hostile", &boot_id().to_string()).await
    }

    pub(crate) async fn open_as(&mut self, agent: &str, boot_id: &str) -> io::Result<u64> {
        self.until_greeted().await?;
        let version = VersionRange::CURRENT.newest;
        let welcome = serde_json::json!({
            "type": "welcome", "version": version, "agent": agent, "boot_id": boot_id,
        });
        self.send(&welcome).await?;
        Ok(self.nonce)
    }

    /// Reads hostd's greeting, and answers nothing.
    pub(crate) async fn until_greeted(&mut self) -> io::Result<()> {
        let mut decoder = FrameDecoder::default();
        let mut byte = [0];
        self.nonce = loop {
            self.stream.read_exact(&mut byte).await?;
            if let Some(frame) = decoder.next_frame(&mut byte.as_slice()) {
                let hello = serde_json::from_slice(&frame.payload).unwrap();
                assert!(matches!(hello, HostMessage::Hello { .. }));
                break frame.nonce.0;
            }
        };
        Ok(())
    }

    pub(crate) async fn send(&mut self, message: &impl Serialize) -> io::Result<()> {
        let payload = serde_json::to_vec(message).unwrap();
        let frame = encode_frame(SessionNonce(self.nonce), &payload).unwrap();
        self.write(&frame).await
    }

    /// Sends a message very often.
    pub(crate) async fn flood(&mut self, message: &AgentMessage, times: usize) -> io::Result<()> {
        const AT_ONCE: usize = 500;
        let payload = serde_json::to_vec(message).unwrap();
        let frame = encode_frame(SessionNonce(self.nonce), &payload).unwrap();
        let frames = frame.repeat(AT_ONCE);
        for _ in 0..times / AT_ONCE {
            self.write(&frames).await?;
        }
        Ok(())
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// Reads, and answers nothing, until hostd hangs up.
    pub(crate) async fn until_closed(&mut self) -> io::Result<()> {
        let mut buffer = vec![0; 64 * 1024];
        while self.stream.read(&mut buffer).await? > 0 {}
        Ok(())
    }

    /// Reads nothing for longer than hostd waits for a sign of life; gives how many bytes it had
    /// written by then.
    pub(crate) async fn ignore(&mut self) -> io::Result<usize> {
        // tidy: sleep because paused time passes at once
        tokio::time::sleep(2 * PING_INTERVAL * u32::try_from(MISSED_PONGS).unwrap()).await;
        let mut unread = Vec::new();
        self.stream.read_to_end(&mut unread).await
    }
}

/// A frame whose fields say what they like.
#[derive(Debug)]
pub(crate) struct RawFrame {
    pub(crate) length: u32,
    pub(crate) whole: Vec<u8>,
}

impl RawFrame {
    pub(crate) fn honest(nonce: u64, payload: &[u8]) -> Self {
        Self {
            length: u32::try_from(payload.len()).unwrap(),
            whole: encode_frame(SessionNonce(nonce), payload).unwrap(),
        }
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.whole.clone();
        bytes[12..16].copy_from_slice(&self.length.to_be_bytes());
        bytes
    }
}
