//! Where in the guest a NIC belongs.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A network namespace of the guest that a NIC is to live in.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Target {
    /// The namespace of a process, as a container runtime reports it.
    Pid {
        /// Process id in the guest's own pid namespace.
        pid: u32,
        /// The namespace the caller saw that process in. When given and different, the pid has
        /// been reused or the process has moved, and the NIC must not go there.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        netns_inode: Option<NetnsInode>,
    },
    /// A namespace with a name under `/run/netns`, as `ip netns add` makes it.
    Netns {
        /// Its name.
        name: NetnsName,
    },
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pid {
                pid,
                netns_inode: None,
            } => write!(f, "pid:{pid}"),
            Self::Pid {
                pid,
                netns_inode: Some(inode),
            } => write!(f, "pid:{pid}@{}", inode.0),
            Self::Netns { name } => write!(f, "netns:{name}"),
        }
    }
}

/// Why a text does not name a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a target is pid:NUMBER, pid:NUMBER@NETNS_INODE or netns:NAME")]
pub struct InvalidTarget;

impl FromStr for Target {
    type Err = InvalidTarget;

    fn from_str(text: &str) -> Result<Self, InvalidTarget> {
        let (kind, rest) = text.split_once(':').ok_or(InvalidTarget)?;
        match (kind, rest.split_once('@')) {
            ("pid", None) => {
                let pid = rest.parse().map_err(|_| InvalidTarget)?;
                Ok(Self::Pid {
                    pid,
                    netns_inode: None,
                })
            }
            ("pid", Some((pid, inode))) => {
                let pid = pid.parse().map_err(|_| InvalidTarget)?;
                let inode = inode.parse().map_err(|_| InvalidTarget)?;
                Ok(Self::Pid {
                    pid,
                    netns_inode: Some(NetnsInode(inode)),
                })
            }
            ("netns", _) => Ok(Self::Netns {
                name: rest.parse().map_err(|_| InvalidTarget)?,
            }),
            _ => Err(InvalidTarget),
        }
    }
}

/// The inode of a namespace in the kernel's nsfs: what tells two namespaces apart while both live.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NetnsInode(pub u64);

/// What a target was when a NIC was bound in it. A pid says less: it is used again, after a reboot
/// of the guest at the latest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TargetIdentity {
    /// In which boot of the guest.
    pub boot_id: BootId,
    /// Which namespace.
    pub netns_inode: NetnsInode,
    /// When the process started; none for a namespace with a name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process_started: Option<ProcessStart>,
}

/// When a process started, in clock ticks since the boot (`starttime` in proc_pid_stat(5)): with
/// its pid, what tells it from every other process of that boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ProcessStart(pub u64);

/// A kernel's `/proc/sys/kernel/random/boot_id`: made anew at each boot.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BootId(u128);

/// Where the hyphens of a UUID are (RFC 9562 §4).
const UUID_HYPHENS: [usize; 4] = [8, 13, 18, 23];

impl FromStr for BootId {
    type Err = InvalidBootId;

    fn from_str(text: &str) -> Result<Self, InvalidBootId> {
        let is_in_place = |(at, byte): (usize, u8)| match byte {
            b'-' => UUID_HYPHENS.contains(&at),
            other => other.is_ascii_hexdigit() && !UUID_HYPHENS.contains(&at),
        };
        if text.len() != 36 || !text.bytes().enumerate().all(is_in_place) {
            return Err(InvalidBootId);
        }
        let digits = text.replace('-', "");
        u128::from_str_radix(&digits, 16)
            .map(Self)
            .map_err(|_| InvalidBootId)
    }
}

impl TryFrom<String> for BootId {
    type Error = InvalidBootId;

    fn try_from(text: String) -> Result<Self, InvalidBootId> {
        text.parse()
    }
}

impl From<BootId> for String {
    fn from(id: BootId) -> Self {
        id.to_string()
    }
}

impl fmt::Display for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = format!("{:032x}", self.0);
        let (time, rest) = digits.split_at(8);
        write!(
            f,
            "{time}-{}-{}-{}-{}",
            &rest[..4],
            &rest[4..8],
            &rest[8..12],
            &rest[12..]
        )
    }
}

impl fmt::Debug for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BootId({self})")
    }
}

/// A text that is no UUID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a boot id is a UUID: 32 hexadecimal digits in groups of 8, 4, 4, 4 and 12")]
pub struct InvalidBootId;

/// A file name under `/run/netns`: it can never lead out of that directory.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NetnsName(String);

impl NetnsName {
    /// The text itself.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for NetnsName {
    type Error = InvalidNetnsName;

    fn try_from(text: String) -> Result<Self, InvalidNetnsName> {
        let clean = text
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && byte != b'/');
        if text.is_empty() || text.len() > 255 || text.starts_with('.') || !clean {
            return Err(InvalidNetnsName);
        }
        Ok(Self(text))
    }
}

impl FromStr for NetnsName {
    type Err = InvalidNetnsName;

    fn from_str(text: &str) -> Result<Self, InvalidNetnsName> {
        text.to_owned().try_into()
    }
}

impl From<NetnsName> for String {
    fn from(name: NetnsName) -> Self {
        name.0
    }
}

impl fmt::Display for NetnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for NetnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NetnsName({})", self.0)
    }
}

/// A name that is not a plain file name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a network namespace's name is 1 to 255 printable ASCII characters, no '/', the first not '.'"
)]
pub struct InvalidNetnsName;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_survive_text_and_back() {
        for text in ["pid:12", "pid:12@4026531840", "netns:blue"] {
            assert_eq!(text.parse::<Target>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn boot_ids_survive_text_and_back() {
        let text = "0b5a1f3e-9c4d-4e02-8a7b-00000000c0de";

        assert_eq!(text.parse::<BootId>().unwrap().to_string(), text);
    }

    #[test]
    fn a_text_that_is_no_uuid_is_no_boot_id() {
        for text in [
            "",
            "boot",
            "0b5a1f3e9c4d4e028a7b00000000c0de",
            "0b5a1f3e-9c4d-4e02-8a7b-00000000c0d",
            "0b5a1f3e-9c4d-4e02-8a7b-00000000c0dg",
            "0b5a1f3e-9c4d-4e02-8a7b_00000000c0de",
            "+b5a1f3e-9c4d-4e02-8a7b-00000000c0de",
            "0b5a1f3e-9c4d-4e02-8a7b-00000000c0\u{20ac}",
        ] {
            assert_eq!(text.parse::<BootId>(), Err(InvalidBootId), "{text}");
        }
    }

    #[test]
    fn a_name_that_leads_out_of_its_directory_is_refused() {
        for text in [
            "netns:../../etc/passwd",
            "netns:..",
            "netns:",
            "netns:a/b",
            "pid:-1",
            "pod:x",
            "pid",
        ] {
            assert_eq!(text.parse::<Target>(), Err(InvalidTarget), "{text}");
        }
    }
}
