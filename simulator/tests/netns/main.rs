//! Clouds of real processes on this machine, as root and as nobody in particular: they come up, do
//! what hostd asks of them, misbehave when told to, and leave nothing.

#[cfg(test)]
mod boots;
#[cfg(test)]
#[path = "../rules/cells.rs"]
mod cells;
#[cfg(test)]
mod control;
#[cfg(test)]
mod ends;
#[cfg(test)]
mod files;
#[cfg(test)]
mod first_steps;
#[cfg(test)]
mod guests;
#[cfg(test)]
mod hardware;
#[cfg(test)]
mod life;
#[cfg(test)]
mod misbehaving;
#[cfg(test)]
mod rules;
#[cfg(test)]
mod snapshots;
#[cfg(test)]
mod support;
