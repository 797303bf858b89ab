//! A cloud and its hypervisors on a laptop, in two worlds.
//!
//! ```text
//!   netns   processes and namespaces of this machine: real hostd, real agents, real packets
//! ```

pub mod netns;
