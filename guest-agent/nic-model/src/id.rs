//! Names and ids. Each kind is a type of its own, so that a VM can never stand
//! where a tenant should.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

/// Why a text is not an id of the wanted kind. The message states the rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} must be {rule}")]
pub struct InvalidId {
    kind: &'static str,
    rule: &'static str,
}

/// A newtype over checked text: `Display`, `FromStr`, serde and ordering included. The text lies in
/// the id itself up to 23 bytes, so that comparing two of them in a map follows no pointers, and a
/// copy is made without the allocator.
macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $check:path, $rule:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(SmolStr);

        impl $name {
            /// The text itself.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                if $check(text) {
                    Ok(Self(SmolStr::new(text)))
                } else {
                    Err(InvalidId { kind: $kind, rule: $rule })
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;

            fn try_from(text: String) -> Result<Self, InvalidId> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0.into()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }
    };
}

const NAME_RULE: &str = "1 to 64 letters, digits, '.', '_' or '-', the first a letter or digit";

fn is_name(text: &str) -> bool {
    let mut bytes = text.bytes();
    text.len() <= 64
        && bytes
            .next()
            .is_some_and(|first| first.is_ascii_alphanumeric())
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

fn is_token(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

fn is_nic_id(text: &str) -> bool {
    text.strip_prefix(NicId::PREFIX).is_some_and(|suffix| {
        suffix.len() == NicId::SUFFIX_LEN
            && suffix
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    })
}

text_id!(
    /// One virtual machine, by the name its hypervisor knows it by (libvirt's domain name).
    VmId, "a VM name", is_name, NAME_RULE
);
text_id!(
    /// Whose NIC it is: quotas and permissions go by tenant.
    TenantId, "a tenant name", is_name, NAME_RULE
);
text_id!(
    /// A network of hostd's configuration, on which ports are made.
    NetworkName, "a network name", is_name, NAME_RULE
);
text_id!(
    /// A class of VM in hostd's configuration, which carries the VM's limits.
    VmClassName, "a VM class name", is_name, NAME_RULE
);
text_id!(
    /// What a client chose to make its request recognisable when it sends it again.
    ClientToken, "a client token", is_token, "1 to 64 printable ASCII characters without spaces"
);
text_id!(
    /// One NIC, for as long as its record exists: `nic-` and ten characters of `[a-z0-9]`.
    ///
    /// Ten characters leave room for a prefix in the 15 bytes that the kernel gives an interface
    /// name (`IFNAMSIZ` in `include/uapi/linux/if.h`, less its terminator), so every host object
    /// of a NIC bears a name derived from its id and a re-run finds its own work.
    NicId, "a NIC id", is_nic_id, "'nic-' followed by ten characters of a-z and 0-9"
);

/// Where the randomness of a new [`NicId`] comes from: ten numbers, taken modulo 36.
pub type NicIdSource = [u8; NicId::SUFFIX_LEN];

impl NicId {
    const PREFIX: &'static str = "nic-";
    const SUFFIX_LEN: usize = 10;

    /// A NIC id made of given random numbers.
    #[must_use]
    pub fn from_random(source: NicIdSource) -> Self {
        const ALPHABET: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
        let suffix =
            source.map(|number| char::from(ALPHABET[usize::from(number) % ALPHABET.len()]));
        Self(Self::PREFIX.chars().chain(suffix).collect())
    }

    fn suffix(&self) -> &str {
        &self.0[Self::PREFIX.len()..]
    }

    /// Name of the NIC's tap on the host, 13 bytes.
    #[must_use]
    pub fn tap_name(&self) -> String {
        format!("{}{}", Self::TAP_PREFIX, self.suffix())
    }

    /// Name of the intermediate device that shapes what the NIC sends, 14 bytes.
    #[must_use]
    pub fn ifb_name(&self) -> String {
        format!("{}{}", Self::IFB_PREFIX, self.suffix())
    }

    /// Name of the far end of the NIC's port where that is a pair of virtual links, 14 bytes.
    #[must_use]
    pub fn peer_name(&self) -> String {
        format!("{}{}", Self::PEER_PREFIX, self.suffix())
    }

    /// Prefix of every tap of ours: objects that bear it are ours to adopt or to remove.
    pub const TAP_PREFIX: &'static str = "nf-";
    /// Prefix of every intermediate device of ours.
    pub const IFB_PREFIX: &'static str = "nfi-";
    /// Prefix of the far end of every pair of ours.
    pub const PEER_PREFIX: &'static str = "nfp-";

    /// The NIC whose tap, far end or intermediate device bears `name`, if it is one of ours.
    #[must_use]
    pub fn from_link_name(name: &str) -> Option<Self> {
        let prefixes = [Self::IFB_PREFIX, Self::PEER_PREFIX, Self::TAP_PREFIX];
        let mut suffixes = prefixes
            .iter()
            .filter_map(|prefix| name.strip_prefix(prefix));
        let suffix = suffixes.next()?;
        format!("{}{suffix}", Self::PREFIX).try_into().ok()
    }

    /// Device id in QEMU and alias in libvirt, which demands the prefix `ua-` of aliases it did
    /// not choose itself (libvirt's `formatdomain`, "User-defined aliases").
    #[must_use]
    pub fn device_id(&self) -> String {
        format!("ua-{}", self.0)
    }

    /// Id of the network backend in QEMU: libvirt's own rule, `host` and the alias.
    #[must_use]
    pub fn netdev_id(&self) -> String {
        format!("hostua-{}", self.0)
    }

    /// The NIC whose device in QEMU or alias in libvirt is `id`, if it is one of ours.
    #[must_use]
    pub fn from_device_id(id: &str) -> Option<Self> {
        id.strip_prefix("ua-")?.parse().ok()
    }

    /// The NIC whose network backend in QEMU is `id`, if it is one of ours.
    #[must_use]
    pub fn from_netdev_id(id: &str) -> Option<Self> {
        id.strip_prefix("hostua-")?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nic() -> NicId {
        "nic-abc0123xyz".parse().unwrap()
    }

    #[test]
    fn every_host_object_name_leads_back_to_the_nic() {
        assert_eq!(NicId::from_link_name(&nic().tap_name()), Some(nic()));
        assert_eq!(NicId::from_link_name(&nic().ifb_name()), Some(nic()));
        assert_eq!(NicId::from_link_name(&nic().peer_name()), Some(nic()));
        assert_eq!(NicId::from_device_id(&nic().device_id()), Some(nic()));
        assert_eq!(NicId::from_netdev_id(&nic().netdev_id()), Some(nic()));
    }

    #[test]
    fn host_link_names_fit_the_kernels_fifteen_bytes() {
        let names = [nic().tap_name(), nic().ifb_name(), nic().peer_name()];

        assert!(names.iter().all(|name| name.len() <= 15), "{names:?}");
    }

    #[test]
    fn foreign_objects_are_not_taken_for_ours() {
        for name in [
            "eth0",
            "nf-",
            "nf-ABC0123xyz",
            "nf-abc0123xyz0",
            "nfi-abc",
            "vnet0",
        ] {
            assert_eq!(NicId::from_link_name(name), None, "{name}");
        }
        for id in ["net0", "ua-other", "nic-abc0123xyz"] {
            assert_eq!(NicId::from_device_id(id), None, "{id}");
        }
    }

    #[test]
    fn random_numbers_make_a_valid_id() {
        let id = NicId::from_random([0, 35, 36, 255, 1, 2, 3, 4, 5, 6]);

        assert_eq!(id.as_str().parse(), Ok(id));
    }

    #[test]
    fn a_name_states_its_rule_when_refused() {
        let refusal = "../etc".parse::<VmId>().unwrap_err();

        assert!(
            refusal
                .to_string()
                .starts_with("a VM name must be 1 to 64 letters"),
            "{refusal}"
        );
    }
}
