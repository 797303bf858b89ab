//! This crate against the running kernel, as root, each test in network namespaces of its own.

#[cfg(test)]
mod common;
#[cfg(test)]
mod netlink;
#[cfg(test)]
mod netns;
#[cfg(test)]
mod taps;
#[cfg(test)]
mod watch_and_announce;
