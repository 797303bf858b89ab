//! The truth test: the same words to a real QEMU and to fake-qemu, and the same answers back.
//!
//! ```text
//!   transcripts/*.qmp ─► a session with qemu-system-x86_64 ─► messages ─┐
//!   (what is sent;       a session with fake-qemu ──────────► messages ─┴► masks ─► compare
//!    never an answer)                                                        │
//!                                          what may differ, each with its reason
//! ```
//!
//! Whoever develops against fake-qemu relies on it being what the real one is. So a transcript
//! holds only what is said to a monitor; what is expected is what the real one answers, in the same
//! run. Where the two differ, the real one is right.
//!
//! What fake-qemu knows of devices and schema comes from the same source: [`record`] asks a real
//! QEMU and writes it down.

mod compare;
mod difference;
mod mask;
mod peer;
pub mod python;
pub mod record;
mod report;
mod run;
mod session;
mod tap;
pub mod transcript;

pub use report::{GroupReport, Report};
pub use run::{compare_all, compare_group};
