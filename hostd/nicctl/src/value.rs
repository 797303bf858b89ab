//! Texts of the command line that the shared nouns do not read themselves.

use nic_model::{BitRate, ClientToken, IpNet, Mtu, PacketRate, Route};

/// A rate that is not understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a rate is a whole number, with k, M or G for thousands, millions or billions")]
pub(crate) struct InvalidRate;

/// An address that is not understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an address comes with the prefix length of its subnet, e.g. 10.0.0.5/24 or fd00::5/64")]
pub(crate) struct InvalidAddress;

/// A route that is not understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a route is DESTINATION[,via=GATEWAY][,metric=NUMBER], the destination in CIDR form")]
pub(crate) struct InvalidRoute;

pub(crate) fn address(text: &str) -> Result<IpNet, InvalidAddress> {
    text.parse().map_err(|_| InvalidAddress)
}

/// `100M`, and as tc(8) writes it: `100Mbit`, `100mbit`.
pub(crate) fn bit_rate(text: &str) -> Result<BitRate, InvalidRate> {
    let number = text.strip_suffix("bit").unwrap_or(text);
    scaled(number).map(BitRate::from_bits_per_second)
}

/// `10k`, and as tc(8) writes it: `10kpps`.
pub(crate) fn packet_rate(text: &str) -> Result<PacketRate, InvalidRate> {
    let number = text.strip_suffix("pps").unwrap_or(text);
    scaled(number).map(PacketRate::from_packets_per_second)
}

fn scaled(text: &str) -> Result<u64, InvalidRate> {
    let scales = [('k', 1_000), ('m', 1_000_000), ('g', 1_000_000_000)];
    let (digits, scale) = scales
        .into_iter()
        .find_map(|(suffix, scale)| {
            let written = [suffix, suffix.to_ascii_uppercase()];
            Some((text.strip_suffix(written)?, scale))
        })
        .unwrap_or((text, 1));
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(InvalidRate);
    }
    let number: u64 = digits.parse().map_err(|_| InvalidRate)?;
    number.checked_mul(scale).ok_or(InvalidRate)
}

pub(crate) fn route(text: &str) -> Result<Route, InvalidRoute> {
    let mut parts = text.split(',');
    let destination = parts.next().and_then(|part| part.parse().ok());
    let mut route = Route {
        destination: destination.ok_or(InvalidRoute)?,
        gateway: None,
        metric: None,
    };
    for part in parts {
        match part.split_once('=') {
            Some(("via", gateway)) if route.gateway.is_none() => {
                route.gateway = Some(gateway.parse().map_err(|_| InvalidRoute)?);
            }
            Some(("metric", metric)) if route.metric.is_none() => {
                route.metric = Some(metric.parse().map_err(|_| InvalidRoute)?);
            }
            _ => return Err(InvalidRoute),
        }
    }
    Ok(route)
}

pub(crate) fn mtu(text: &str) -> Result<Mtu, String> {
    let bytes: u32 = text
        .parse()
        .map_err(|_| "an MTU is a number of bytes".to_owned())?;
    Mtu::try_from(bytes).map_err(|error| error.to_string())
}

/// A token that no other invocation has: 128 random bits.
pub(crate) fn random_token() -> ClientToken {
    format!("nicctl-{:032x}", rand::random::<u128>())
        .parse()
        .expect("39 printable characters are a token")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_with_their_scale() {
        let cases = [
            ("100", Ok(100)),
            ("10k", Ok(10_000)),
            ("100M", Ok(100_000_000)),
            ("100m", Ok(100_000_000)),
            ("1G", Ok(1_000_000_000)),
            ("", Err(InvalidRate)),
            ("M", Err(InvalidRate)),
            ("+1k", Err(InvalidRate)),
            ("1.5G", Err(InvalidRate)),
            ("99999999999G", Err(InvalidRate)),
        ];
        for (text, rate) in cases {
            assert_eq!(scaled(text), rate, "{text:?}");
        }
    }

    #[test]
    fn rates_are_read_as_tc_writes_them() {
        let megabits = bit_rate("100mbit").map(BitRate::bits_per_second);
        let packets = packet_rate("10kpps").map(PacketRate::packets_per_second);

        assert_eq!((megabits, packets), (Ok(100_000_000), Ok(10_000)));
        assert_eq!(bit_rate("100Mbyte"), Err(InvalidRate));
    }

    #[test]
    fn a_route_is_read_with_gateway_and_metric_in_any_order() {
        let read = route("10.0.0.0/8,metric=5,via=10.0.0.1").unwrap();

        assert_eq!(read.destination.to_string(), "10.0.0.0/8");
        assert_eq!(read.gateway, Some("10.0.0.1".parse().unwrap()));
        assert_eq!(read.metric, Some(5));
        for text in [
            "",
            "10.0.0.0",
            "10.0.0.0/8,via=x",
            "::/0,via=::1,via=::2",
            "::/0,dev=x",
        ] {
            assert_eq!(route(text), Err(InvalidRoute), "{text:?}");
        }
    }

    #[test]
    fn two_invocations_have_two_tokens() {
        assert_ne!(random_token(), random_token());
    }
}
