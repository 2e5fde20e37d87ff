//! Addresses as services write them: one, or a range (CIDR, RFC 4632).

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Serialize, Serializer};

/// An address, or all addresses that begin with the same bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AddressRange {
    address: IpAddr,
    length: u8,
}

/// A text that is neither an address nor a range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither an IP address nor a range such as 10.1.0.0/16")]
pub struct AddressRangeError(String);

impl AddressRange {
    /// The addresses that share the first `length` bits of `address`; bits after them are cleared. `None` where the
    /// family has fewer bits.
    pub fn new(address: IpAddr, length: u8) -> Option<Self> {
        let address = match address {
            IpAddr::V4(address) => {
                let rest = 32_u32.checked_sub(length.into())?;
                let mask = u32::MAX.checked_shl(rest).unwrap_or(0);
                IpAddr::V4((address.to_bits() & mask).into())
            }
            IpAddr::V6(address) => {
                let rest = 128_u32.checked_sub(length.into())?;
                let mask = u128::MAX.checked_shl(rest).unwrap_or(0);
                IpAddr::V6((address.to_bits() & mask).into())
            }
        };
        Some(Self { address, length })
    }

    /// The first address of the range, which is the only one of a single address.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// How many bits the addresses share.
    pub fn prefix_length(&self) -> u8 {
        self.length
    }

    /// The address, unless it is a range of several.
    pub fn single(&self) -> Option<IpAddr> {
        let all = if self.address.is_ipv4() { 32 } else { 128 };
        (self.length == all).then_some(self.address)
    }

    /// Whether the address is in the range.
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.address.is_ipv4()
            && Self::new(address, self.length).is_some_and(|range| range == *self)
    }
}

impl From<IpAddr> for AddressRange {
    fn from(address: IpAddr) -> Self {
        Self { address, length: if address.is_ipv4() { 32 } else { 128 } }
    }
}

impl FromStr for AddressRange {
    type Err = AddressRangeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || AddressRangeError(text.to_owned());
        match text.split_once('/') {
            None => text.parse::<IpAddr>().map(Self::from).map_err(|_| error()),
            Some((address, length)) => {
                let address = address.parse().map_err(|_| error())?;
                let length = length.parse().map_err(|_| error())?;
                Self::new(address, length).ok_or_else(error)
            }
        }
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.single() {
            Some(address) => write!(formatter, "{address}"),
            None => write!(formatter, "{}/{}", self.address, self.length),
        }
    }
}

impl Serialize for AddressRange {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts() {
        for (name, text, shown, single) in [
            ("address", "10.0.0.1", Some("10.0.0.1"), true),
            ("address with its length", "10.0.0.1/32", Some("10.0.0.1"), true),
            ("range", "10.1.0.0/16", Some("10.1.0.0/16"), false),
            ("range with more bits", "10.1.2.3/16", Some("10.1.0.0/16"), false),
            ("everything", "0.0.0.0/0", Some("0.0.0.0/0"), false),
            ("other family", "2001:2::/48", Some("2001:2::/48"), false),
            ("other family's address", "fd00::1/128", Some("fd00::1"), true),
            ("too long", "10.0.0.0/33", None, false),
            ("no length", "10.0.0.0/", None, false),
            ("no address", "example.com", None, false),
        ] {
            let range = text.parse::<AddressRange>().ok();
            assert_eq!(range.map(|range| range.to_string()).as_deref(), shown, "{name}");
            assert_eq!(range.is_some_and(|range| range.single().is_some()), single, "{name}");
        }
    }

    #[test]
    fn members() {
        for (range, address, expected) in [
            ("10.1.0.0/16", "10.1.255.1", true),
            ("10.1.0.0/16", "10.2.0.1", false),
            ("0.0.0.0/0", "192.0.2.1", true),
            ("0.0.0.0/0", "::1", false),
            ("2001:2::/48", "2001:2:0:1::9", true),
            ("10.0.0.1", "10.0.0.1", true),
        ] {
            let contains = range.parse::<AddressRange>().unwrap().contains(address.parse().unwrap());
            assert_eq!(contains, expected, "{address} in {range}");
        }
    }
}
