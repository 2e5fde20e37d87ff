//! Packet rules by netlink: redirection for a Pod, cluster IPs and masquerade for a node. No external program is run.
//!
//! The crate speaks nf_tables, the kernel's packet filter, over a netlink socket, so it needs neither `nft` nor
//! `iptables` to be installed. Three layers: [`wire`] knows attributes and bytes, [`rule`] knows what a rule says (and
//! how `nft` would write it), [`Connection`] sends a [`Transaction`], which the kernel applies as a whole or not at all.
//! On top sit the two rule sets of the mesh: [`redirect`] for a Pod with a sidecar and [`services`] for the node.
//!
//! A socket belongs to the network namespace of the thread that opens it, and to it alone: whoever wants rules in
//! another namespace opens the [`Connection`] on a thread that has entered it. CAP_NET_ADMIN in the user namespace that
//! owns the network namespace is enough.

mod connection;
mod error;
pub mod redirect;
pub mod rule;
mod ruleset;
pub mod services;
mod transaction;
pub mod wire;

pub use connection::{Connection, RuleInfo};
pub use error::Error;
pub use ruleset::{Chain, Ruleset};
pub use transaction::{ChainType, Hook, Priority, SetKind, Transaction};

/// The family of all our tables: one table sees IPv4 and IPv6.
pub const FAMILY_INET: u8 = 1;

/// Layer 3 protocol of a packet, as `meta nfproto` has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    pub fn of(address: std::net::IpAddr) -> Self {
        match address {
            std::net::IpAddr::V4(_) => Self::V4,
            std::net::IpAddr::V6(_) => Self::V6,
        }
    }

    /// The kernel's number (NFPROTO_IPV4, NFPROTO_IPV6).
    pub fn number(self) -> u8 {
        match self {
            Self::V4 => 2,
            Self::V6 => 10,
        }
    }

    pub(crate) fn keyword(self) -> &'static str {
        match self {
            Self::V4 => "ip",
            Self::V6 => "ip6",
        }
    }
}

/// Layer 4 protocol of a packet, as `meta l4proto` has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// The number in the IP header.
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }

    pub(crate) fn keyword(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}
