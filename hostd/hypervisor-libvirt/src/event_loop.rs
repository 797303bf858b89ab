//! libvirt's event loop: one thread for the whole process, for as long as it lives.
//!
//! ```text
//!   first connect ──► registered ──► thread "libvirt-events" runs it ──► the process ends
//! ```
//!
//! The loop must be registered before the first connection is opened, once (`virEventRegister…`),
//! and everything that libvirt does unasked happens on it: events, keepalives, noticing that a
//! connection is gone.

use std::sync::OnceLock;

static STARTED: OnceLock<Result<(), String>> = OnceLock::new();

/// Starts the loop unless it runs.
pub(crate) fn start() -> Result<(), String> {
    STARTED.get_or_init(register_and_run).clone()
}

fn register_and_run() -> Result<(), String> {
    // Without this libvirt prints every error to standard error, besides returning it.
    virt::error::clear_error_callback();
    virt::event::event_register_default_impl().map_err(|error| error.to_string())?;
    std::thread::Builder::new()
        .name("libvirt-events".to_owned())
        .spawn(run)
        .map(drop)
        .map_err(|error| error.to_string())
}

fn run() {
    loop {
        if let Err(error) = virt::event::event_run_default_impl() {
            // glib's loop, on which libvirt runs since 6.1, never fails; should it, a busy loop
            // must not follow.
            tracing::error!(%error, "libvirt's event loop failed");
            return;
        }
    }
}
