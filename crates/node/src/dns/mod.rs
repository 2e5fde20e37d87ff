//! The cluster's DNS: authoritative for `cluster.local`, from the Services that exist; other names come from the host's
//! resolvers where they can be reached.
//!
//! [`Records`] is the whole zone as a value, built off to the side and swapped in at once ([`Dns::update`]), so a query
//! sees one state of the cluster. The names are those of Kubernetes' DNS specification.

mod answer;
mod forward;
mod records;
mod server;

use std::net::{IpAddr, SocketAddr};

pub use records::{Endpoint, Records, Service, ServiceKind, ServicePort};
pub use server::{Dns, ServerError};

/// The zone that we are the authority for.
pub const CLUSTER_DOMAIN: &str = "cluster.local";

/// Seconds that clients may keep an answer: as short as Kubernetes' DNS has it, since endpoints come and go.
const TTL: u32 = 5;

/// The `resolv.conf` of a Pod in `namespace`.
pub fn resolv_conf(namespace: &str, server: IpAddr) -> String {
    format!(
        "search {namespace}.svc.{CLUSTER_DOMAIN} svc.{CLUSTER_DOMAIN} {CLUSTER_DOMAIN}\nnameserver {server}\n\
         options ndots:5\n"
    )
}

/// The resolvers that a `resolv.conf` names and that can be reached from another network namespace: those on the
/// host's loopback cannot.
pub fn resolvers(resolv_conf: &str) -> Vec<SocketAddr> {
    resolv_conf
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let address: IpAddr =
                words.next().filter(|word| *word == "nameserver").and(words.next())?.parse().ok()?;
            (!address.is_loopback() && !address.is_unspecified()).then_some(SocketAddr::new(address, 53))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_resolvers() {
        let check = |text: &str, expected: &[&str]| {
            let expected: Vec<SocketAddr> = expected.iter().map(|text| text.parse().unwrap()).collect();
            assert_eq!(resolvers(text), expected, "{text}");
        };
        check("# nameserver 9.9.9.9\nnameserver 192.0.2.1\nsearch x\n", &["192.0.2.1:53"]);
        check("nameserver 127.0.0.53\nnameserver ::1\nnameserver 2001:db8::1", &["[2001:db8::1]:53"]);
        check("nameserver\nnameserver fe80::1%eth0\n", &[]);
    }

    #[test]
    fn a_pods_resolv_conf() {
        let text = resolv_conf("books", IpAddr::from([10, 96, 0, 10]));
        assert!(
            text.starts_with("search books.svc.cluster.local svc.cluster.local cluster.local\n"),
            "{text}"
        );
        assert_eq!(resolvers(&text), ["10.96.0.10:53".parse().unwrap()]);
    }
}
