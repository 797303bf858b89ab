//! Ethernet addresses of NICs.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The address of one NIC: unicast and not all zero, since neither the kernel nor a switch accepts
/// anything else as a station's own address (IEEE 802-2014 §8.2).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MacAddr([u8; 6]);

impl MacAddr {
    /// Checks `octets` and makes an address of them.
    ///
    /// # Errors
    /// When the group bit is set or all octets are zero.
    pub fn new(octets: [u8; 6]) -> Result<Self, InvalidMac> {
        if octets[0] & 1 != 0 {
            return Err(InvalidMac::Multicast);
        }
        if octets == [0; 6] {
            return Err(InvalidMac::Zero);
        }
        Ok(Self(octets))
    }

    /// A locally administered address made of 40 given bits, in the range `52:…` that KVM's own
    /// tools do not use for generated addresses (they use `52:54:00`): the first octet is `5a`.
    #[must_use]
    pub fn local(bits: [u8; 5]) -> Self {
        Self([0x5a, bits[0], bits[1], bits[2], bits[3], bits[4]])
    }

    /// The six octets in transmission order.
    #[must_use]
    pub fn octets(self) -> [u8; 6] {
        self.0
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MacAddr({self})")
    }
}

impl FromStr for MacAddr {
    type Err = InvalidMac;

    fn from_str(text: &str) -> Result<Self, InvalidMac> {
        let mut octets = [0_u8; 6];
        let mut parts = text.split(':');
        for octet in &mut octets {
            let part = parts
                .next()
                .filter(|part| part.len() == 2)
                .ok_or(InvalidMac::Syntax)?;
            *octet = u8::from_str_radix(part, 16).map_err(|_| InvalidMac::Syntax)?;
        }
        if parts.next().is_some() {
            return Err(InvalidMac::Syntax);
        }
        Self::new(octets)
    }
}

impl TryFrom<String> for MacAddr {
    type Error = InvalidMac;

    fn try_from(text: String) -> Result<Self, InvalidMac> {
        text.parse()
    }
}

impl From<MacAddr> for String {
    fn from(mac: MacAddr) -> Self {
        mac.to_string()
    }
}

/// Why a text or six octets are not the address of a NIC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidMac {
    /// Not six pairs of hexadecimal digits with colons between them.
    #[error("a MAC address is six pairs of hex digits with colons between them")]
    Syntax,
    /// The group bit is set: a multicast or broadcast address belongs to no station.
    #[error("a NIC's MAC address must be unicast, this one is multicast")]
    Multicast,
    /// All zero.
    #[error("a NIC's MAC address must not be all zero")]
    Zero,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unicast_address_survives_text_and_back() {
        let mac: MacAddr = "5a:00:12:AB:cd:ef".parse().unwrap();

        assert_eq!(mac.to_string(), "5a:00:12:ab:cd:ef");
    }

    #[test]
    fn addresses_no_station_may_have_are_refused() {
        let cases = [
            ("01:00:5e:00:00:01", InvalidMac::Multicast),
            ("ff:ff:ff:ff:ff:ff", InvalidMac::Multicast),
            ("00:00:00:00:00:00", InvalidMac::Zero),
            ("5a:00:12:ab:cd", InvalidMac::Syntax),
            ("5a:00:12:ab:cd:ef:00", InvalidMac::Syntax),
            ("5a-00-12-ab-cd-ef", InvalidMac::Syntax),
            ("5a:0:12:ab:cd:+f", InvalidMac::Syntax),
            ("", InvalidMac::Syntax),
        ];
        for (text, why) in cases {
            assert_eq!(text.parse::<MacAddr>(), Err(why), "{text:?}");
        }
    }
}
