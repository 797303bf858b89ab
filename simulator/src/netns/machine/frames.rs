//! Frames between two taps: the one that hostd has passed on, and the one that is the guest's NIC.
//!
//! ```text
//!   bridge ── nf-X ◄─ queue ─► this program ◄─ queue ─► eth0   in the guest, wherever it goes
//! ```
//!
//! Each direction is a task that reads one frame and writes it, as QEMU's main loop does without
//! vhost. A frame keeps its virtio-net header, so that what the sender left to be done (checksums,
//! segmentation) is done by the receiver or by its kernel.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::Errno;
use tokio::io::Interest;
use tokio::net::unix::pipe::{Receiver, Sender};
use tokio::task::JoinHandle;

/// The largest frame: 64 KiB of a packet that has yet to be segmented, and its headers.
const FRAME_MAX: usize = 65_536 + 128;

/// Frames that are carried both ways until this is dropped.
#[derive(Debug)]
pub(super) struct Carrying {
    open: Arc<AtomicBool>,
    tasks: [JoinHandle<()>; 2],
}

impl Carrying {
    /// Between `host` and `guest`; `gone` is called when the guest's link is no more.
    ///
    /// # Errors
    /// When the queues cannot be waited for.
    pub(super) fn start(
        host: &OwnedFd,
        guest: &OwnedFd,
        gone: impl FnOnce() + Send + 'static,
    ) -> io::Result<Self> {
        let open = Arc::new(AtomicBool::new(true));
        let inwards = carry(receiver(host)?, sender(guest)?, open.clone());
        let outwards = carry(receiver(guest)?, sender(host)?, open.clone());
        let told = async move {
            outwards.await;
            gone();
        };
        Ok(Self {
            open,
            tasks: [tokio::spawn(inwards), tokio::spawn(told)],
        })
    }

    /// Stops, and waits until the queues have been let go of.
    pub(super) async fn end(mut self) {
        for task in &mut self.tasks {
            task.abort();
            // Its having been aborted is what is waited for.
            drop(task.await);
        }
    }

    /// Lets frames through, or drops them.
    pub(super) fn set_open(&self, open: bool) {
        self.open.store(open, Ordering::Relaxed);
    }
}

impl Drop for Carrying {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// tokio's ends of a pipe are what it has for a device file that can be polled.
fn receiver(queue: &OwnedFd) -> io::Result<Receiver> {
    Receiver::from_owned_fd_unchecked(queue.try_clone()?)
}

fn sender(queue: &OwnedFd) -> io::Result<Sender> {
    Sender::from_owned_fd_unchecked(queue.try_clone()?)
}

/// Until the link that is read from is gone.
async fn carry(from: Receiver, to: Sender, open: Arc<AtomicBool>) {
    // A tap whose link goes away is in error from then on (`tun_chr_poll`), and need not be
    // readable once more.
    let news = Interest::READABLE | Interest::ERROR;
    let mut frame = vec![0; FRAME_MAX];
    while let Ok(ready) = from.ready(news).await {
        match from.try_read(&mut frame) {
            Ok(length) if open.load(Ordering::Relaxed) => write(&to, &frame[..length]).await,
            // Without a carrier nothing is delivered.
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && !ready.is_error() => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(error) if is_end(&error) => return,
            Err(error) => tracing::debug!(%error, "a frame was not read"),
        }
    }
}

/// The link is gone (`tun_chr_read_iter` and `tun_do_read` in Linux' drivers/net/tun.c).
fn is_end(error: &io::Error) -> bool {
    let ends = [Errno::BADFD, Errno::FAULT, Errno::IO];
    ends.iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// Waits until there is room. A link that is down takes nothing: the frame is lost, as on a wire
/// that ends nowhere.
async fn write(to: &Sender, frame: &[u8]) {
    while to.writable().await.is_ok() {
        match to.try_write(frame) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Ok(_) | Err(_) => return,
        }
    }
}
