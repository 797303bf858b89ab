//! What the guest kernel calls a link, and how large its frames may be.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

/// Name of a link: 1 to 15 bytes, as the kernel's `dev_valid_name` wants it (net/core/dev.c):
/// not `.` or `..`, no `/`, no `:`, no white space. Non-ASCII is refused too: no tool
/// prints it well. All of it lies in the value itself.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LinkName(SmolStr);

impl LinkName {
    /// Longest name in bytes (`IFNAMSIZ` less the terminator).
    pub const MAX_LEN: usize = 15;

    /// The text itself.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for LinkName {
    type Err = InvalidLinkName;

    fn from_str(text: &str) -> Result<Self, InvalidLinkName> {
        if text.len() > Self::MAX_LEN {
            return Err(InvalidLinkName::TooLong { len: text.len() });
        }
        let clean = text
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && !b"/:%".contains(&byte));
        if text.is_empty() || text == "." || text == ".." || !clean {
            return Err(InvalidLinkName::Characters);
        }
        Ok(Self(SmolStr::new(text)))
    }
}

impl TryFrom<String> for LinkName {
    type Error = InvalidLinkName;

    fn try_from(text: String) -> Result<Self, InvalidLinkName> {
        text.parse()
    }
}

impl From<LinkName> for String {
    fn from(name: LinkName) -> Self {
        name.0.into()
    }
}

impl fmt::Display for LinkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for LinkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LinkName({})", self.0)
    }
}

/// Why a text cannot name a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidLinkName {
    /// The kernel has room for 15 bytes.
    #[error("a link name has at most 15 bytes, this one has {len}")]
    TooLong {
        /// Length of the refused name in bytes.
        len: usize,
    },
    /// A character the kernel refuses, or nothing at all.
    #[error(
        "a link name is printable ASCII without spaces, '/', ':' and '%', and not empty, '.', '..'"
    )]
    Characters,
}

/// Largest packet of a link in bytes, Ethernet header not counted: 1280 to 65535.
///
/// The lower bound is IPv6's minimum (RFC 8200 §5): below it the kernel switches IPv6 off on the
/// link. The upper bound is virtio-net's field (`mtu` of `virtio_net_config`, virtio 1.2 §5.1.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Mtu(u16);

impl Mtu {
    /// Ethernet's own, 1500 bytes.
    pub const ETHERNET: Self = Self(1500);

    /// Bytes.
    #[must_use]
    pub fn bytes(self) -> u16 {
        self.0
    }
}

impl TryFrom<u32> for Mtu {
    type Error = InvalidMtu;

    fn try_from(bytes: u32) -> Result<Self, InvalidMtu> {
        match u16::try_from(bytes) {
            Ok(fitting) if fitting >= 1280 => Ok(Self(fitting)),
            _ => Err(InvalidMtu { bytes }),
        }
    }
}

impl From<Mtu> for u32 {
    fn from(mtu: Mtu) -> Self {
        mtu.0.into()
    }
}

/// An MTU out of range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an MTU is 1280 to 65535 bytes, not {bytes}")]
pub struct InvalidMtu {
    bytes: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_kernel_would_refuse_are_refused() {
        let cases = [
            ("sixteen-bytes-16", InvalidLinkName::TooLong { len: 16 }),
            ("", InvalidLinkName::Characters),
            ("..", InvalidLinkName::Characters),
            ("a/b", InvalidLinkName::Characters),
            ("a:b", InvalidLinkName::Characters),
            ("a b", InvalidLinkName::Characters),
            ("eth%d", InvalidLinkName::Characters),
            ("eth\u{e9}", InvalidLinkName::Characters),
        ];
        for (text, why) in cases {
            assert_eq!(text.parse::<LinkName>(), Err(why), "{text:?}");
        }
        assert!("fifteen-bytes-1".parse::<LinkName>().is_ok());
    }

    #[test]
    fn an_mtu_outside_its_range_is_refused() {
        for bytes in [0, 1279, 65536] {
            assert_eq!(Mtu::try_from(bytes), Err(InvalidMtu { bytes }));
        }
        assert_eq!(Mtu::try_from(1280).map(Mtu::bytes), Ok(1280));
    }
}
