//! Operations, and the state they leave, in words that fit both systems.

use guest_agent::kernel::Errno;

/// Which of the three namespaces.
pub(crate) type Space = usize;
pub(crate) const A: Space = 0;
pub(crate) const B: Space = 1;
pub(crate) const C: Space = 2;

/// One request. Links are named by what they are called at that moment.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Step {
    /// Changes a link, as one message: moved, address, MTU, name, alias, up or down.
    Set(Space, &'static str, Change),
    AddAddress(Space, &'static str, &'static str),
    RemoveAddress(Space, &'static str, &'static str),
    /// Destination, gateway, metric.
    AddRoute(Space, &'static str, Way),
    /// Switches IPv6 off (`true`) or on for one link.
    DisableIpv6(Space, &'static str, bool),
    /// The same for all links there and to come.
    DisableIpv6InAll(Space, bool),
}

#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Change {
    pub(crate) to: Option<Space>,
    pub(crate) mac: Option<&'static str>,
    pub(crate) mtu: Option<u32>,
    pub(crate) name: Option<&'static str>,
    pub(crate) alias: Option<&'static str>,
    pub(crate) up: Option<bool>,
}

#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Way {
    pub(crate) to: &'static str,
    pub(crate) by: Option<&'static str>,
    pub(crate) metric: Option<u32>,
}

/// A link nobody has, for requests that must fail.
pub(crate) const NO_SUCH_LINK: &str = "none";

/// A link as both systems tell of it: sorted, so that order does not matter.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Seen {
    pub(crate) space: Space,
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) mac: String,
    pub(crate) mtu: u32,
    pub(crate) admin: String,
    pub(crate) alias: Option<String>,
    pub(crate) addresses: Vec<String>,
    pub(crate) routes: Vec<String>,
}

/// One of the two.
pub(crate) trait System {
    async fn act(&mut self, step: &Step) -> Result<(), Option<Errno>>;
    async fn state(&mut self) -> Vec<Seen>;
}
