//! World `sim`: hosts, VMs and guests in one process, on one thread, in virtual time, from one
//! seed.
//!
//! ```text
//!   Sim ─┬─ Host ─┬─ Life ── hostd's own core: admission, workers, QMP client, agent protocol
//!        │        ├─ Disk     its journal: written, synced, lost
//!        │        └─ HostLinks  taps, filters, bridges, holders
//!        └─ SimVm ─┬─ fake-qemu   behind a monitor's stream
//!                  └─ fake-guest  behind a channel's stream: the real agent's loop
//! ```
//!
//! hostd does not know that it is simulated: it is given a dialer, a journal, ports, a clock and
//! randomness, as in any other world. Time is tokio's paused clock, which moves on only when nobody
//! can go on without it. Every crossing of a boundary is noted in a [`Trace`]: two runs of one seed
//! have the same.

mod boundary;
mod direction;
mod disk;
mod host;
mod life;
mod look;
mod ports;
mod reach;
mod stage;
mod stream;
mod surroundings;
mod trace;
mod vm;
mod world;

pub use direction::Director;
pub use disk::{Disk, DiskJournal};
pub use host::Host;
pub use life::{Death, Life};
pub use ports::{HostLinks, SimPorts};
pub use stage::Stage;
pub use stream::{StreamEnd, pair};
pub use trace::{Entry, Keeping, Trace};
pub use vm::{MonitorDoor, SimVm, VmSettings};
pub use world::{BRIDGE, MakeError, NETWORK, Plan, Sim};
