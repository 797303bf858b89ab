//! The only code that calls rtnetlink, setns and TUN.
//!
//! A netlink socket belongs for life to the network namespace of the thread that made it, and so
//! does a packet socket, a tap and what `/proc/sys/net` shows. Code that forgets this configures
//! the wrong namespace and succeeds. Hence one rule: whatever depends on a namespace takes a
//! [`Netns`], and enters it on a thread of its own that ends there ([`Netns::run`]); no other
//! thread ever calls `setns`.
//!
//! ```text
//!   Netns ──run──► thread in that namespace ──► socket ──► Netlink   (ask, with a deadline)
//!                                                     ├──► LinkWatch (be told)
//!                                                     └──► Announcer (tell the segment)
//! ```
//!
//! Errors name the operation and its operand; the kernel's own verdict stays typed, see
//! [`NetlinkError::errno`].

pub mod announce;
pub mod bridge;
mod error;
mod every_link;
mod namespaces;
mod netlink;
mod netns;
pub mod sysctl;
pub mod tap;
pub mod traffic;
mod watch;

pub use error::{Errno, NetlinkError};
pub use every_link::{EveryLinkError, every_link};
pub use namespaces::{LeaveNamespacesError, NamespaceKind, leave_namespaces};
pub use netlink::address::{
    AddAddressError, AddressView, DuplicateDetection, ListAddressesError, RemoveAddressError,
};
pub use netlink::link::{DeleteLinkError, GetLinkError, LinkChange, ListLinksError, SetLinkError};
pub use netlink::link_view::{AdminState, Carrier, LinkIndex, LinkView};
pub use netlink::removal::{RemoveLinksError, remove_links};
pub use netlink::route::{AddRouteError, ListRoutesError, RouteView};
pub use netlink::veth::{AddVethError, PeerName, VethPeer, VethSpec};
pub use netlink::{ConnectNetlinkError, Netlink};
pub use netns::{Netns, OpenNetnsError, RemoveNetnsError, RunInNetnsError};
pub use watch::{LinkEvent, LinkWatch, WatchLinksError};
