//! A NIC's MAC as QEMU reads and prints it. QEMU takes any six bytes, also those that no NIC may
//! bear, so this is wider than the type the rest of the project uses.

use std::fmt;

/// Six bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HardwareAddress(pub [u8; 6]);

impl HardwareAddress {
    /// Six pairs of hexadecimal digits between colons or hyphens (`set_mac` in QEMU's
    /// `hw/core/qdev-properties-system.c`).
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        if bytes.len() != 17 {
            return None;
        }
        let mut address = [0; 6];
        for (index, byte) in address.iter_mut().enumerate() {
            let pair = &bytes[3 * index..3 * index + 2];
            let separated = bytes
                .get(3 * index + 2)
                .is_none_or(|separator| matches!(separator, b':' | b'-'));
            if !separated || !pair.iter().all(u8::is_ascii_hexdigit) {
                return None;
            }
            *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
        }
        Some(Self(address))
    }

    /// The `number`-th of those that QEMU gives to NICs without one
    /// (`qemu_macaddr_default_if_unset` in its `net/net.c`).
    pub(crate) fn default(number: u8) -> Self {
        Self([0x52, 0x54, 0x00, 0x12, 0x34, 0x56_u8.wrapping_add(number)])
    }
}

impl fmt::Display for HardwareAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_separators_are_understood_and_nothing_else() {
        let address = HardwareAddress([0x5a, 0, 0, 0, 0, 0xff]);
        for text in ["5a:00:00:00:00:ff", "5A-00-00-00-00-FF"] {
            assert_eq!(HardwareAddress::parse(text), Some(address), "{text}");
        }
        for text in [
            "",
            "5a:00:00:00:00",
            "5a:00:00:00:00:f",
            "5a:00:00:00:00:zz",
            "5a.00.00.00.00.ff",
        ] {
            assert_eq!(HardwareAddress::parse(text), None, "{text}");
        }
    }
}
