//! Where a device sits, in words that host and guest agree on.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Device and function numbers on one bus: `02.0`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PciSlot {
    device: u8,
    function: u8,
}

impl PciSlot {
    /// Device 0 to 31, function 0 to 7 (PCI Local Bus Specification 3.0 §3.2.2.3.2).
    ///
    /// # Errors
    /// When a number is out of range.
    pub fn new(device: u8, function: u8) -> Result<Self, InvalidPciPath> {
        if device < 32 && function < 8 {
            Ok(Self { device, function })
        } else {
            Err(InvalidPciPath)
        }
    }

    /// Device number, 0 to 31.
    #[must_use]
    pub fn device(self) -> u8 {
        self.device
    }

    /// Function number, 0 to 7.
    #[must_use]
    pub fn function(self) -> u8 {
        self.function
    }
}

impl fmt::Display for PciSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x}.{:x}", self.device, self.function)
    }
}

/// The way from the root bus to a device, bridge by bridge: `02.0/00.0` is what sits at device 0
/// behind the root port at `00:02.0`.
///
/// Bus numbers are left out on purpose: the guest assigns them, so the host cannot know them.
/// The path is what both sides see alike (Kata's agent finds devices the same way).
///
/// All of it lies in the value itself: a host of ten thousand NICs has each path several times.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PciPath {
    /// Those that are not there are all alike, so that paths compare as their slots do.
    slots: [PciSlot; PciPath::MAX_DEPTH],
    depth: u8,
}

impl PciPath {
    /// Deepest path accepted: no sane machine nests further, and a hostile text must end.
    pub const MAX_DEPTH: usize = 8;

    /// A path of one to [`Self::MAX_DEPTH`] slots, root bus first.
    ///
    /// # Errors
    /// When `slots` is empty or too deep.
    pub fn new(slots: Vec<PciSlot>) -> Result<Self, InvalidPciPath> {
        let depth = u8::try_from(slots.len()).map_err(|_| InvalidPciPath)?;
        let mut kept = [PciSlot::default(); Self::MAX_DEPTH];
        let room = kept.get_mut(..slots.len()).filter(|room| !room.is_empty());
        room.ok_or(InvalidPciPath)?.copy_from_slice(&slots);
        Ok(Self { slots: kept, depth })
    }

    /// The slots, root bus first.
    #[must_use]
    pub fn slots(&self) -> &[PciSlot] {
        &self.slots[..usize::from(self.depth)]
    }
}

impl fmt::Display for PciPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (depth, slot) in self.slots().iter().enumerate() {
            let separator = if depth == 0 { "" } else { "/" };
            write!(f, "{separator}{slot}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for PciPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PciPath({self})")
    }
}

impl FromStr for PciPath {
    type Err = InvalidPciPath;

    fn from_str(text: &str) -> Result<Self, InvalidPciPath> {
        let slot = |part: &str| {
            let (device, function) = part.split_once('.').ok_or(InvalidPciPath)?;
            let number = |digits| u8::from_str_radix(digits, 16).map_err(|_| InvalidPciPath);
            PciSlot::new(number(device)?, number(function)?)
        };
        Self::new(
            text.split('/')
                .take(Self::MAX_DEPTH + 1)
                .map(slot)
                .collect::<Result<_, _>>()?,
        )
    }
}

impl TryFrom<String> for PciPath {
    type Error = InvalidPciPath;

    fn try_from(text: String) -> Result<Self, InvalidPciPath> {
        text.parse()
    }
}

impl From<PciPath> for String {
    fn from(path: PciPath) -> Self {
        path.to_string()
    }
}

/// A text that is not a PCI path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a PCI path is 1 to 8 slots DEVICE.FUNCTION in hex with '/' between them")]
pub struct InvalidPciPath;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_survives_text_and_back() {
        assert_eq!(
            "02.0/1f.7".parse::<PciPath>().unwrap().to_string(),
            "02.0/1f.7"
        );
    }

    #[test]
    fn paths_compare_slot_by_slot_and_the_shorter_one_first() {
        let path = |text: &str| text.parse::<PciPath>().unwrap();

        let mut paths = ["02.0/01.0", "03.0", "02.0/00.0", "02.0", "02.0/00.0/00.0"].map(path);
        paths.sort();

        let sorted = ["02.0", "02.0/00.0", "02.0/00.0/00.0", "02.0/01.0", "03.0"];
        assert_eq!(paths, sorted.map(path));
    }

    #[test]
    fn slots_out_of_range_and_endless_paths_are_refused() {
        let endless = ["00.0"; 9].join("/");
        for text in ["", "20.0", "00.8", "0", "00.0/", endless.as_str()] {
            assert_eq!(text.parse::<PciPath>(), Err(InvalidPciPath), "{text:?}");
        }
    }
}
