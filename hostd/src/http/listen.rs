//! The socket: nobody can connect before its mode is set, and nobody's living socket is taken.
//!
//! ```text
//!   a file is there? ─► not a socket: refuse
//!                    ─► somebody answers: refuse
//!                    ─► nobody answers: a dead hostd's, removed
//!   socket ─► bind (no one can connect yet) ─► chmod ─► listen
//! ```
//!
//! A umask would do the same in one step less, but it is the whole process's.

use std::fs::{self, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixListener as BlockingListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::net::{UnixListener, UnixStream};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;
/// Whoever lets a connection wait this long is alive: a dead socket refuses at once.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// Why the API is not served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Another process serves on this socket.
    #[error("somebody answers on {} already", .0.display())]
    InUse(PathBuf),
    /// Something else than a socket is in its place.
    #[error("{} is there and is no socket", .0.display())]
    NotASocket(PathBuf),
    /// The socket could not be made.
    #[error("failed to listen on {}", path.display())]
    Listen {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        cause: io::Error,
    },
}

/// Listens on a socket of the given file mode; a dead one in its place is removed.
pub(super) async fn bind(path: &Path, mode: u32) -> Result<UnixListener, ServeError> {
    make_room(path).await?;
    listen(path, mode).map_err(|cause| failed(path, cause))
}

async fn make_room(path: &Path) -> Result<(), ServeError> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(cause) => return Err(failed(path, cause)),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(ServeError::NotASocket(path.to_owned()));
        }
        Ok(_) => {}
    }
    match tokio::time::timeout(PROBE_TIMEOUT, UnixStream::connect(path)).await {
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(|cause| failed(path, cause))
        }
        Ok(Err(cause)) => Err(failed(path, cause)),
        Ok(Ok(_)) | Err(_) => Err(ServeError::InUse(path.to_owned())),
    }
}

fn listen(path: &Path, mode: u32) -> io::Result<UnixListener> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket: OwnedFd =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    fs::set_permissions(path, Permissions::from_mode(mode))?;
    rustix::net::listen(&socket, BACKLOG)?;
    UnixListener::from_std(BlockingListener::from(socket))
}

fn failed(path: &Path, cause: io::Error) -> ServeError {
    ServeError::Listen {
        path: path.to_owned(),
        cause,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_dead_socket_is_replaced_under_the_given_mode() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("api.sock");
        drop(BlockingListener::bind(&path).unwrap());

        let listener = bind(&path, 0o620).await.unwrap();

        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o620);
        drop(listener);
    }

    #[tokio::test]
    async fn a_living_socket_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("api.sock");
        let living = bind(&path, 0o600).await.unwrap();

        let refused = bind(&path, 0o600).await;

        assert!(matches!(refused, Err(ServeError::InUse(_))), "{refused:?}");
        assert!(UnixStream::connect(&path).await.is_ok());
        drop(living);
    }

    #[tokio::test]
    async fn a_file_that_is_no_socket_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notes.txt");
        fs::write(&path, "precious").unwrap();

        let refused = bind(&path, 0o600).await;

        assert!(
            matches!(refused, Err(ServeError::NotASocket(_))),
            "{refused:?}"
        );
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }
}
