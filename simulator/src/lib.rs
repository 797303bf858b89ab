//! A cloud and its hypervisors on a laptop, in two worlds.
//!
//! ```text
//!   sim     everything in one process, in virtual time, from one seed
//!   netns   processes and namespaces of this machine: real hostd, real agents, real packets
//! ```

pub mod demo;
pub mod fleet;
pub mod netns;
pub mod sim;
pub mod soak;
