//! The pipe to the host on Linux: a virtio-serial port or a unix socket, kept open for ever.
//!
//! ```text
//!   find port ──► open ──► bytes ⇄ queues ──► end or error ──► (pause) ──► find port …
//! ```

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use tokio::net::unix::pipe;
use tokio::net::{UnixListener, UnixStream};

use crate::channel::{Channel, Queues, READ_SIZE};

/// Name of the agent's port (`name=` of QEMU's virtserialport).
const PORT_NAME: &str = "org.nicferry.agent.0";

/// Pause before the port is opened again. A port whose host end is closed reads as ended at once,
/// and its hang-up cannot be waited out with tokio, which takes it to be final.
const REOPEN_PAUSE: Duration = Duration::from_millis(100);

/// How often a port is read although nothing says that there is something: once, under emulation
/// and load, what the host had sent was seen only when it closed its end (QEMU 7.2.22, Linux 6.1).
const READ_ANYWAY: Duration = Duration::from_secs(1);

/// Where the host is to be found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChannelKind {
    /// A virtio-serial port named `org.nicferry.agent.0`.
    VirtioSerial,
    /// A unix socket on which the agent listens. The newest connection counts.
    Unix(PathBuf),
}

/// A channel given as neither of its forms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a channel is virtio-serial or unix:PATH")]
pub struct InvalidChannel;

impl FromStr for ChannelKind {
    type Err = InvalidChannel;

    fn from_str(text: &str) -> Result<Self, InvalidChannel> {
        match (text, text.strip_prefix("unix:")) {
            ("virtio-serial", _) => Ok(Self::VirtioSerial),
            (_, Some(path)) if !path.is_empty() => Ok(Self::Unix(path.into())),
            _ => Err(InvalidChannel),
        }
    }
}

/// Opens the way to the host and keeps it open.
///
/// # Errors
/// When the socket cannot be listened on.
pub(crate) fn open_channel(kind: &ChannelKind) -> io::Result<Channel> {
    match kind {
        ChannelKind::VirtioSerial => Ok(Channel::served(serve_port)),
        ChannelKind::Unix(path) => {
            let listener = listen(path)?;
            Ok(Channel::served(|queues| serve_socket(listener, queues)))
        }
    }
}

/// An earlier life's socket is in the way of bind(2).
fn listen(path: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    UnixListener::bind(path)
}

async fn serve_port(mut queues: Queues) {
    let mut waiting_for = "";
    loop {
        match open_port() {
            Ok(port) => {
                waiting_for = "";
                if let Err(error) = carry(&port, &mut queues).await {
                    tracing::warn!(%error, "lost the port to the host");
                }
            }
            Err(error) if waiting_for != "port" => {
                waiting_for = "port";
                tracing::info!(%error, "waiting for the port {PORT_NAME}");
            }
            Err(_still) => {}
        }
        tokio::time::sleep(REOPEN_PAUSE).await;
    }
}

fn open_port() -> io::Result<Stream> {
    let device = find_port(Path::new("/sys/class/virtio-ports"))?;
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let port: OwnedFd = rustix::fs::open(Path::new("/dev").join(device), flags, Mode::empty())?;
    // tokio's ends of a pipe are what it has for a device file that can be polled.
    Ok(Stream::Port {
        receiver: pipe::Receiver::from_owned_fd_unchecked(port.try_clone()?)?,
        sender: pipe::Sender::from_owned_fd_unchecked(port)?,
    })
}

fn find_port(class: &Path) -> io::Result<PathBuf> {
    for entry in fs::read_dir(class)? {
        let entry = entry?;
        let name = fs::read_to_string(entry.path().join("name")).unwrap_or_default();
        if name.trim_end() == PORT_NAME {
            return Ok(entry.file_name().into());
        }
    }
    Err(io::Error::new(
        io::ErrorKind::NotFound,
        "no virtio port has that name",
    ))
}

async fn serve_socket(listener: UnixListener, mut queues: Queues) {
    let mut current: Option<UnixStream> = None;
    loop {
        let Some(stream) = current.take() else {
            current = accept(&listener).await;
            continue;
        };
        let stream = Stream::Socket(stream);
        tokio::select! {
            biased;
            newer = accept(&listener) => current = newer,
            ended = carry(&stream, &mut queues) => {
                if let Err(error) = ended {
                    tracing::warn!(%error, "lost the connection to the host");
                }
            }
        }
    }
}

async fn accept(listener: &UnixListener) -> Option<UnixStream> {
    match listener.accept().await {
        Ok((stream, _address)) => Some(stream),
        Err(error) => {
            tracing::warn!(%error, "failed to accept a connection");
            tokio::time::sleep(REOPEN_PAUSE).await;
            None
        }
    }
}

enum Stream {
    Port {
        receiver: pipe::Receiver,
        sender: pipe::Sender,
    },
    Socket(UnixStream),
}

/// Carries bytes both ways until the stream ends. A frame cut off by the end is not sent again: its
/// receiver has lost the session anyway.
async fn carry(stream: &Stream, queues: &mut Queues) -> io::Result<()> {
    let Queues { received, to_send } = queues;
    let read = async {
        let mut buffer = [0; READ_SIZE];
        loop {
            let length = stream.read(&mut buffer).await?;
            if length == 0 || received.send(buffer[..length].to_vec()).await.is_err() {
                return Ok(());
            }
        }
    };
    let write = async {
        while let Some(frame) = to_send.recv().await {
            stream.write_all(&frame).await?;
        }
        Ok(())
    };
    tokio::select! {
        biased;
        ended = read => ended,
        ended = write => ended,
    }
}

impl Stream {
    async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let result = match self {
                Self::Port { receiver, .. } => {
                    match tokio::time::timeout(READ_ANYWAY, receiver.readable()).await {
                        Ok(ready) => {
                            ready?;
                            receiver.try_read(buffer)
                        }
                        // tokio believes that there is nothing, and would not ask the kernel.
                        Err(_elapsed) => {
                            rustix::io::read(receiver, &mut *buffer).map_err(io::Error::from)
                        }
                    }
                }
                Self::Socket(socket) => {
                    socket.readable().await?;
                    socket.try_read(buffer)
                }
            };
            match result {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return result,
            }
        }
    }

    async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let written = self.write(bytes).await?;
            bytes = &bytes[written..];
        }
        Ok(())
    }

    async fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            let result = match self {
                Self::Port { sender, .. } => {
                    sender.writable().await?;
                    sender.try_write(bytes)
                }
                Self::Socket(socket) => {
                    socket.writable().await?;
                    socket.try_write(bytes)
                }
            };
            match result {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return result,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_is_one_of_two_forms() {
        assert_eq!("virtio-serial".parse(), Ok(ChannelKind::VirtioSerial));
        assert_eq!("unix:/a/b".parse(), Ok(ChannelKind::Unix("/a/b".into())));
        for text in ["", "unix:", "vsock:3", "/a/b"] {
            assert_eq!(text.parse::<ChannelKind>(), Err(InvalidChannel), "{text}");
        }
    }

    #[test]
    fn the_port_is_found_by_its_name() {
        let class = tempfile::tempdir().unwrap();
        for (port, name) in [("vport1p1", "com.redhat.spice.0"), ("vport1p2", PORT_NAME)] {
            fs::create_dir(class.path().join(port)).unwrap();
            fs::write(class.path().join(port).join("name"), format!("{name}\n")).unwrap();
        }

        assert_eq!(find_port(class.path()).unwrap(), Path::new("vport1p2"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_port_on_which_nothing_is_said_stays_open() {
        let (port, host) = std::os::unix::net::UnixStream::pair().unwrap();
        port.set_nonblocking(true).unwrap();
        let port = OwnedFd::from(port);
        let receiver = pipe::Receiver::from_owned_fd_unchecked(port.try_clone().unwrap()).unwrap();
        let sender = pipe::Sender::from_owned_fd_unchecked(port).unwrap();
        let port = Stream::Port { receiver, sender };
        let mut buffer = [0; 8];

        let nothing = tokio::time::timeout(READ_ANYWAY * 5, port.read(&mut buffer)).await;

        assert!(nothing.is_err(), "it ended: {nothing:?}");
        io::Write::write_all(&mut &host, b"word").unwrap();
        assert_eq!(port.read(&mut buffer).await.unwrap(), 4);
    }

    #[tokio::test]
    async fn the_newest_connection_counts_and_carries_both_ways() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.sock");
        let mut channel = open_channel(&ChannelKind::Unix(path.clone())).unwrap();
        let mut old = UnixStream::connect(&path).await.unwrap();
        old.write_all(b"old").await.unwrap();
        assert_eq!(channel.received.recv().await.unwrap(), b"old");

        let mut new = UnixStream::connect(&path).await.unwrap();
        new.write_all(b"new").await.unwrap();
        assert_eq!(channel.received.recv().await.unwrap(), b"new");
        channel.to_send.send(b"answer".to_vec()).await.unwrap();

        let mut answer = [0; 6];
        new.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"answer");
        assert_eq!(old.read(&mut answer).await.unwrap(), 0);
    }
}
