//! The host end of a real guest's shell: many scripts at once over one virtio-serial port.
//!
//! ```text
//!   connect ──► (guest boots) ──► ready ──► run ⇄ answer, any number at once
//!                                   └── repeated whenever the guest was reset
//! ```
//!
//! The wire format is described in `image/shell.sh`. Answers are matched by id, so a slow script
//! never delays another; each has its deadline in the guest, and a little more here.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use async_trait::async_trait;
use futures::future::LocalBoxFuture;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Mutex, oneshot, watch};
use tokio::task::JoinHandle;

use super::{Output, Shell};

/// What the guest may send of either stream; it cuts at 256 KiB and 64 KiB itself.
const STREAM_MAX_BYTES: u64 = 512 * 1024;
/// The guest kills a script at its deadline; the answer then has this long to arrive. Emulated and
/// sharing two cores with others, a guest may not run for seconds.
const GRACE: Duration = Duration::from_secs(20);
/// QEMU makes its sockets right after it starts.
const CONNECT_DEADLINE: Duration = Duration::from_secs(20);

/// Who waits for which answer; nothing once the guest's QEMU has ended.
type Waiting = Arc<std::sync::Mutex<Option<HashMap<u64, oneshot::Sender<Output>>>>>;

/// A shell into one guest.
pub struct SerialShell {
    socket: PathBuf,
    writer: Mutex<OwnedWriteHalf>,
    waiting: Waiting,
    next_id: AtomicU64,
    /// How often the guest's end has started.
    starts: watch::Receiver<u32>,
    reader: JoinHandle<()>,
}

impl fmt::Debug for SerialShell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SerialShell")
            .field("socket", &self.socket)
            .finish_non_exhaustive()
    }
}

impl Drop for SerialShell {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl SerialShell {
    /// Connects to the host end of the port; the guest need not run yet.
    ///
    /// # Errors
    /// When nobody listens at `socket` in time.
    pub async fn connect(socket: &Path) -> Result<Self> {
        let stream = connected(socket).await?;
        let (from_guest, to_guest) = stream.into_split();
        let waiting = Waiting::new(std::sync::Mutex::new(Some(HashMap::new())));
        let (started, starts) = watch::channel(0);
        let reader = tokio::spawn(read_answers(from_guest, Arc::clone(&waiting), started));
        Ok(Self {
            socket: socket.to_owned(),
            writer: Mutex::new(to_guest),
            waiting,
            next_id: AtomicU64::new(1),
            starts,
            reader,
        })
    }
}

#[async_trait(?Send)]
impl Shell for SerialShell {
    async fn ready(&self, deadline: Duration) -> Result<()> {
        let mut starts = self.starts.clone();
        let wait = starts.wait_for(|starts| *starts > 0);
        match tokio::time::timeout(deadline, wait).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => bail!("the guest's QEMU ended before the guest was up"),
            Err(_) => bail!("the guest was not up within {deadline:?}"),
        }
    }

    async fn over_reset(
        &self,
        reset: LocalBoxFuture<'_, Result<()>>,
        deadline: Duration,
    ) -> Result<()> {
        let mut starts = self.starts.clone();
        let before = *starts.borrow();
        reset.await?;
        let booted = starts.wait_for(|starts| *starts > before);
        match tokio::time::timeout(deadline, booted).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => bail!("the guest's QEMU ended with its reset"),
            Err(_) => bail!("the guest was not up again within {deadline:?}"),
        }
    }

    async fn run(&self, script: &str, deadline: Duration) -> Result<Output> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        if let Some(waiting) = lock(&self.waiting).as_mut() {
            waiting.insert(id, answer);
        }
        // busybox's `timeout` takes whole seconds.
        let seconds = deadline.as_secs().max(1);
        let line = format!("{id} {seconds} {}\n", escaped(script));
        let exchange = async {
            self.writer.lock().await.write_all(line.as_bytes()).await?;
            answered.await.context("the guest's QEMU ended")
        };
        let result = tokio::time::timeout(deadline + GRACE, exchange).await;
        forget(&self.waiting, id);
        match result {
            Ok(output) => output,
            Err(_) => bail!("the guest did not answer within {:?}", deadline + GRACE),
        }
        .with_context(|| format!("running in the guest: {script}"))
    }
}

fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Connects once somebody listens: between QEMU's start and its `listen` there is no event to wait
/// for, so it tries again, often.
pub(crate) async fn connected(socket: &Path) -> Result<UnixStream> {
    let attempts = async {
        loop {
            match UnixStream::connect(socket).await {
                Ok(stream) => return stream,
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    };
    tokio::time::timeout(CONNECT_DEADLINE, attempts)
        .await
        .with_context(|| format!("nobody listens at {}", socket.display()))
}

/// One line that `printf '%b'` turns back into `script`.
fn escaped(script: &str) -> String {
    script.replace('\\', "\\\\").replace('\n', "\\n")
}

async fn read_answers(from_guest: OwnedReadHalf, waiting: Waiting, started: watch::Sender<u32>) {
    let mut from_guest = BufReader::new(from_guest);
    while let Ok(Some(line)) = header(&mut from_guest).await {
        if line == "ready" {
            started.send_modify(|starts| *starts += 1);
        } else if let Ok((id, output)) = answer(&line, &mut from_guest).await
            && let Some(waiter) = forget(&waiting, id)
        {
            // Nobody waits any more when the deadline has passed: the answer is of no use then.
            drop(waiter.send(output));
        }
    }
    lock(&waiting).take();
}

fn forget(waiting: &Waiting, id: u64) -> Option<oneshot::Sender<Output>> {
    lock(waiting).as_mut()?.remove(&id)
}

async fn header(from_guest: &mut BufReader<OwnedReadHalf>) -> Result<Option<String>> {
    let mut line = Vec::new();
    from_guest.take(200).read_until(b'\n', &mut line).await?;
    if line.pop() != Some(b'\n') {
        return Ok(None);
    }
    Ok(Some(String::from_utf8_lossy(&line).into_owned()))
}

async fn answer(line: &str, from_guest: &mut BufReader<OwnedReadHalf>) -> Result<(u64, Output)> {
    let numbers: Vec<u64> = line.split(' ').map(str::parse).collect::<Result<_, _>>()?;
    let &[id, status, out_len, err_len] = numbers.as_slice() else {
        bail!("the guest shell said {line:?}");
    };
    if out_len > STREAM_MAX_BYTES || err_len > STREAM_MAX_BYTES {
        bail!("the guest shell announced {out_len} and {err_len} bytes");
    }
    let stdout = text(from_guest, out_len).await?;
    let stderr = text(from_guest, err_len).await?;
    let status = i32::try_from(status)?;
    Ok((
        id,
        Output {
            status,
            stdout,
            stderr,
        },
    ))
}

async fn text(from_guest: &mut BufReader<OwnedReadHalf>, len: u64) -> Result<String> {
    let mut bytes = vec![0; usize::try_from(len)?];
    from_guest.read_exact(&mut bytes).await?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixListener;

    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    /// A shell, and the guest's end of it.
    async fn shell_and_guest() -> (SerialShell, BufReader<UnixStream>) {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("shell");
        let listener = UnixListener::bind(&socket).unwrap();
        let (shell, guest) = tokio::join!(SerialShell::connect(&socket), listener.accept());
        (shell.unwrap(), BufReader::new(guest.unwrap().0))
    }

    async fn request(guest: &mut BufReader<UnixStream>) -> String {
        let mut line = String::new();
        guest.read_line(&mut line).await.unwrap();
        line
    }

    #[tokio::test]
    async fn answers_find_their_request_whatever_their_order() {
        let (shell, mut guest) = shell_and_guest().await;
        let (slow, fast) = (shell.run("sleep 9", SOON), shell.run("true", SOON));
        let serve = async {
            assert_eq!(request(&mut guest).await, "1 10 sleep 9\n");
            assert_eq!(request(&mut guest).await, "2 10 true\n");
            guest
                .write_all(b"2 0 4 0\nfast1 1 0 4\nslow")
                .await
                .unwrap();
        };

        let (slow, fast, ()) = tokio::join!(slow, fast, serve);

        assert_eq!(fast.unwrap().stdout, "fast");
        assert_eq!(slow.unwrap().stderr, "slow");
    }

    #[tokio::test]
    async fn a_script_of_many_lines_travels_as_one() {
        let (shell, mut guest) = shell_and_guest().await;
        let run = shell.run("echo a\necho 'b\\c'", SOON);
        let serve = async {
            assert_eq!(request(&mut guest).await, "1 10 echo a\\necho 'b\\\\c'\n");
            guest.write_all(b"1 0 0 0\n").await.unwrap();
        };

        let (output, ()) = tokio::join!(run, serve);

        assert_eq!(output.unwrap().status, 0);
    }

    #[tokio::test]
    async fn the_end_of_qemu_ends_every_wait() {
        let (shell, guest) = shell_and_guest().await;
        let serve = async { drop(guest) };

        let (ready, output, ()) = tokio::join!(shell.ready(SOON), shell.run("true", SOON), serve);

        let ready = ready.unwrap_err().to_string();
        assert_eq!(ready, "the guest's QEMU ended before the guest was up");
        assert!(output.is_err());
    }
}
