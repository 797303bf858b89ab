//! Ports on the running kernel, as root, each test in a network namespace of its own. The test
//! holds the taps' descriptors, or the far ends of pairs, and so is the VM; iproute2 and the
//! kernel's event log are the judges.

#[cfg(test)]
mod common;
#[cfg(test)]
mod failures;
#[cfg(test)]
mod lifecycle;
#[cfg(test)]
mod pairs;
#[cfg(test)]
mod rates;
#[cfg(test)]
mod spoofing;
