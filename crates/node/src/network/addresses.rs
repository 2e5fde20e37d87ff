//! Which Pod has which address.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

/// No address is left.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("all addresses of {0} are in use; delete some Pods")]
pub struct Exhausted(Ipv4Net);

/// Hands out addresses in turn: one that a Pod gave back comes again only after all others, so that nobody's
/// connections, cached names or log lines meet the wrong Pod.
#[derive(Debug)]
pub struct PodAddresses {
    network: Ipv4Net,
    reserved: BTreeSet<Ipv4Addr>,
    used: BTreeSet<Ipv4Addr>,
    last: u32,
}

impl PodAddresses {
    /// Addresses of `network` without `reserved`. `known` are those of Pods that exist or existed lately (whatever
    /// their state): counting goes on after the highest of them.
    pub fn new(
        network: Ipv4Net,
        reserved: impl IntoIterator<Item = Ipv4Addr>,
        known: impl IntoIterator<Item = Ipv4Addr>,
    ) -> Self {
        let highest = known.into_iter().filter(|address| network.contains(address)).max();
        let last = highest.unwrap_or(network.network());
        Self { network, reserved: reserved.into_iter().collect(), used: BTreeSet::new(), last: last.into() }
    }

    /// The next free address.
    pub fn allocate(&mut self) -> Result<Ipv4Addr, Exhausted> {
        let (first, end) = (u32::from(self.network.network()) + 1, u32::from(self.network.broadcast()));
        for _ in first..end {
            self.last = if self.last + 1 >= end || self.last < first { first } else { self.last + 1 };
            let candidate = Ipv4Addr::from(self.last);
            if !self.reserved.contains(&candidate) && self.used.insert(candidate) {
                return Ok(candidate);
            }
        }
        Err(Exhausted(self.network))
    }

    /// Marks an address as in use; false where it already was, or is none of ours.
    pub fn reserve(&mut self, address: Ipv4Addr) -> bool {
        self.network.contains(&address) && !self.reserved.contains(&address) && self.used.insert(address)
    }

    /// Gives an address back.
    pub fn release(&mut self, address: Ipv4Addr) {
        self.used.remove(&address);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Ipv4Addr {
        text.parse().unwrap()
    }

    fn addresses(network: &str, known: &[&str]) -> PodAddresses {
        let first = address("10.0.0.1");
        PodAddresses::new(network.parse().unwrap(), [first], known.iter().map(|text| address(text)))
    }

    #[test]
    fn the_next_address() {
        let check = |name: &str, network: &str, known: &[&str], expected: &[&str]| {
            let mut pods = addresses(network, known);
            let given: Vec<_> = expected.iter().map(|_| pods.allocate().unwrap().to_string()).collect();
            assert_eq!(given, expected, "{name}");
        };
        check("without network, node", "10.0.0.0/29", &[], &["10.0.0.2", "10.0.0.3"]);
        check(
            "after those known",
            "10.0.0.0/29",
            &["10.0.0.2", "10.0.0.4"],
            &["10.0.0.5", "10.0.0.6", "10.0.0.2"],
        );
        check("others do not count", "10.0.0.0/29", &["10.9.0.4"], &["10.0.0.2"]);
        check("from the end to the start", "10.0.0.0/29", &["10.0.0.6"], &["10.0.0.2"]);
    }

    #[test]
    fn an_address_given_back_comes_last() {
        let mut pods = addresses("10.0.0.0/29", &[]);
        let first = pods.allocate().unwrap();
        pods.release(first);
        let later: Vec<_> = (0..5).map(|_| pods.allocate().unwrap().to_string()).collect();
        assert_eq!(later, ["10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6", "10.0.0.2"]);
        assert!(pods.allocate().unwrap_err().to_string().contains("10.0.0.0/29"));
        pods.release(address("10.0.0.4"));
        assert!(pods.reserve(address("10.0.0.4")));
        assert!(!pods.reserve(address("10.0.0.4")));
        assert!(!pods.reserve(address("10.0.0.1")), "the node's");
    }
}
