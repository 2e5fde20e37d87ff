//! A Pod's traffic through its sidecar: the rules that Istio's `istio-iptables` makes, as one nf_tables table.
//!
//! Outbound TCP goes to the proxy's outbound port, inbound TCP to its inbound port. What the proxy itself sends is left
//! alone; it is known by its user, its group, or a mark on its sockets (where no user of its own can exist). See
//! "Traffic redirection" in Istio's documentation of the sidecar's life; the chains keep Istio's names.

use ipnet::IpNet;

use crate::rule::{Action, Match, Rule};
use crate::{Chain, ChainType, Family, Hook, Priority, Protocol, Ruleset};

/// The table in the Pod's network namespace.
pub const TABLE: &str = "istio-redirect";

const INBOUND: &str = "ISTIO_INBOUND";
const OUTPUT: &str = "ISTIO_OUTPUT";
const REDIRECT: &str = "ISTIO_REDIRECT";
const IN_REDIRECT: &str = "ISTIO_IN_REDIRECT";

/// All, or some of them (none: an empty list).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection<T> {
    /// Istio's `*`.
    All,
    /// These only.
    Only(Vec<T>),
}

/// What is redirected; the defaults are Istio's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redirect {
    /// Where outbound TCP goes (`-p`).
    pub outbound_port: u16,
    /// Where inbound TCP goes (`-z`).
    pub inbound_port: u16,
    /// HBONE's port, never redirected (`-e`).
    pub tunnel_port: u16,
    /// Users of the proxy (`-u`).
    pub proxy_users: Vec<u32>,
    /// Groups of the proxy (`-g`).
    pub proxy_groups: Vec<u32>,
    /// Mark of the proxy's sockets.
    pub proxy_mark: u32,
    /// Inbound ports to redirect (`-b`).
    pub inbound_ports: Selection<u16>,
    /// Inbound ports to leave alone where all are redirected (`-d`).
    pub excluded_inbound_ports: Vec<u16>,
    /// Destinations to redirect (`-i`).
    pub outbound_networks: Selection<IpNet>,
    /// Destinations to leave alone (`-x`).
    pub excluded_outbound_networks: Vec<IpNet>,
    /// Ports to redirect whatever the destination (`-q`).
    pub outbound_ports: Vec<u16>,
    /// Ports to leave alone (`-o`).
    pub excluded_outbound_ports: Vec<u16>,
    /// Interfaces whose inbound traffic counts as outbound, as that of virtual machines (`-k`).
    pub virtual_interfaces: Vec<String>,
    /// Interfaces to leave alone (`-c`).
    pub excluded_interfaces: Vec<String>,
}

impl Default for Redirect {
    fn default() -> Self {
        Self {
            outbound_port: 15001,
            inbound_port: 15006,
            tunnel_port: 15008,
            proxy_users: vec![1337],
            proxy_groups: vec![1337],
            proxy_mark: 1337,
            inbound_ports: Selection::All,
            excluded_inbound_ports: vec![15090, 15021, 15020],
            outbound_networks: Selection::All,
            excluded_outbound_networks: Vec::new(),
            outbound_ports: Vec::new(),
            excluded_outbound_ports: Vec::new(),
            virtual_interfaces: Vec::new(),
            excluded_interfaces: Vec::new(),
        }
    }
}

impl Redirect {
    /// The table that does it.
    pub fn ruleset(&self) -> Ruleset {
        let nat = |hook| Some((ChainType::Nat, hook, Priority::DESTINATION_NAT));
        let chain = |name, hook, rules| Chain { name, hook, rules };
        Ruleset {
            table: TABLE.to_owned(),
            chains: vec![
                chain(REDIRECT, None, vec![Rule::new([tcp()], Action::Redirect(self.outbound_port))]),
                chain(IN_REDIRECT, None, vec![Rule::new([tcp()], Action::Redirect(self.inbound_port))]),
                chain(INBOUND, None, self.inbound()),
                chain(OUTPUT, None, self.outbound()),
                chain("prerouting", nat(Hook::Prerouting), self.prerouting()),
                chain("output", nat(Hook::Output), self.output()),
            ],
        }
    }

    fn prerouting(&self) -> Vec<Rule> {
        let mut rules = Vec::new();
        for interface in &self.excluded_interfaces {
            rules.push(Rule::new([Match::InInterface(interface.clone())], Action::Return));
        }
        for interface in &self.virtual_interfaces {
            let inside = || Match::InInterface(interface.clone());
            match &self.outbound_networks {
                Selection::All => rules.push(Rule::new([tcp(), inside()], Action::Goto(REDIRECT.into()))),
                Selection::Only(networks) => rules.extend(networks.iter().map(|network| {
                    Rule::new([tcp(), inside(), Match::Destination(*network)], Action::Goto(REDIRECT.into()))
                })),
            }
            rules.push(Rule::new([inside()], Action::Return));
        }
        rules.push(Rule::new([tcp()], Action::Jump(INBOUND.into())));
        rules
    }

    fn inbound(&self) -> Vec<Rule> {
        let redirect = || Action::Goto(IN_REDIRECT.into());
        let mut rules = vec![Rule::new([tcp(), Match::DestinationPort(self.tunnel_port)], Action::Return)];
        match &self.inbound_ports {
            Selection::All => {
                rules.extend(ports(&self.excluded_inbound_ports, || Action::Return));
                rules.push(Rule::new([tcp()], redirect()));
            }
            Selection::Only(only) => rules.extend(ports(only, redirect)),
        }
        rules
    }

    fn output(&self) -> Vec<Rule> {
        let mut rules: Vec<Rule> = self
            .excluded_interfaces
            .iter()
            .map(|interface| Rule::new([Match::OutInterface(interface.clone())], Action::Return))
            .collect();
        rules.push(Rule::new([tcp()], Action::Jump(OUTPUT.into())));
        rules
    }

    fn outbound(&self) -> Vec<Rule> {
        let loopback = || Match::OutInterface("lo".into());
        let mut rules: Vec<Rule> = ports(&self.excluded_outbound_ports, || Action::Return).collect();
        for family in [Family::V4, Family::V6] {
            let rule = Rule::new([loopback(), Match::Source(passthrough_source(family))], Action::Return);
            rules.push(rule.comment("the proxy passes inbound connections on from this address"));
        }
        // The application calls its own Pod through a Service: the way back in is inbound like any other.
        for proxy in self.proxy() {
            for family in [Family::V4, Family::V6] {
                let conditions = [
                    tcp(),
                    loopback(),
                    proxy.clone(),
                    Match::Destination(localhost(family)).negated(),
                    Match::DestinationPort(self.tunnel_port).negated(),
                ];
                rules.push(Rule::new(conditions, Action::Goto(IN_REDIRECT.into())));
            }
        }
        rules.push(Rule::new([loopback()], Action::Return).comment("the application talks to itself"));
        for proxy in self.proxy() {
            rules.push(Rule::new([proxy], Action::Return).comment("what the proxy sends"));
        }
        for family in [Family::V4, Family::V6] {
            rules.push(Rule::new([Match::Destination(localhost(family))], Action::Return));
        }
        let redirect = || Action::Goto(REDIRECT.into());
        for network in &self.excluded_outbound_networks {
            rules.push(Rule::new([Match::Destination(*network)], Action::Return));
        }
        rules.extend(ports(&self.outbound_ports, redirect));
        match &self.outbound_networks {
            Selection::All => rules.push(Rule::new([tcp()], redirect())),
            Selection::Only(networks) => rules.extend(
                networks.iter().map(|network| Rule::new([tcp(), Match::Destination(*network)], redirect())),
            ),
        }
        rules
    }

    /// Each way to know the proxy.
    fn proxy(&self) -> impl Iterator<Item = Match> + '_ {
        let users = self.proxy_users.iter().map(|user| Match::SocketUser(*user));
        let groups = self.proxy_groups.iter().map(|group| Match::SocketGroup(*group));
        users.chain(groups).chain([Match::Mark(self.proxy_mark)])
    }
}

fn tcp() -> Match {
    Match::Protocol(Protocol::Tcp)
}

fn ports(ports: &[u16], action: impl Fn() -> Action) -> impl Iterator<Item = Rule> {
    ports.iter().map(move |port| Rule::new([tcp(), Match::DestinationPort(*port)], action()))
}

fn localhost(family: Family) -> IpNet {
    match family {
        Family::V4 => std::net::IpAddr::from([127, 0, 0, 1]).into(),
        Family::V6 => IpNet::from(std::net::IpAddr::V6(std::net::Ipv6Addr::LOCALHOST)),
    }
}

/// Istio's passthrough addresses, 127.0.0.6 and ::6.
fn passthrough_source(family: Family) -> IpNet {
    match family {
        Family::V4 => std::net::IpAddr::from([127, 0, 0, 6]).into(),
        Family::V6 => std::net::IpAddr::from([0, 0, 0, 0, 0, 0, 0, 6u16]).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(redirect: &Redirect, chain: &str) -> Vec<String> {
        let ruleset = redirect.ruleset();
        let chain = ruleset.chains.iter().find(|candidate| candidate.name == chain).unwrap();
        chain.rules.iter().map(|rule| rule.to_string().replace(" counter", "")).collect()
    }

    #[test]
    fn inbound() {
        let check = |name: &str, redirect: Redirect, expected: &[&str]| {
            assert_eq!(lines(&redirect, INBOUND), expected, "{name}");
        };
        let tcp = |rest: &str| format!("meta l4proto tcp {rest}");
        check(
            "defaults",
            Redirect::default(),
            &[
                &tcp("th dport 15008 return"),
                &tcp("th dport 15090 return"),
                &tcp("th dport 15021 return"),
                &tcp("th dport 15020 return"),
                &tcp("goto ISTIO_IN_REDIRECT"),
            ],
        );
        check(
            "listed ports only",
            Redirect { inbound_ports: Selection::Only(vec![80, 443]), ..Redirect::default() },
            &[
                &tcp("th dport 15008 return"),
                &tcp("th dport 80 goto ISTIO_IN_REDIRECT"),
                &tcp("th dport 443 goto ISTIO_IN_REDIRECT"),
            ],
        );
        check(
            "no inbound",
            Redirect { inbound_ports: Selection::Only(vec![]), ..Redirect::default() },
            &[&tcp("th dport 15008 return")],
        );
    }

    #[test]
    fn outbound_lists() {
        let network = |text: &str| text.parse::<IpNet>().unwrap();
        let redirect = Redirect {
            outbound_networks: Selection::Only(vec![network("10.0.0.0/8"), network("fd00::/8")]),
            excluded_outbound_networks: vec![network("10.9.0.0/16")],
            outbound_ports: vec![8443],
            excluded_outbound_ports: vec![25],
            ..Redirect::default()
        };
        let lines = lines(&redirect, OUTPUT);
        assert_eq!(lines[0], "meta l4proto tcp th dport 25 return");
        assert_eq!(
            lines[lines.len() - 4..],
            [
                "ip daddr 10.9.0.0/16 return",
                "meta l4proto tcp th dport 8443 goto ISTIO_REDIRECT",
                "meta l4proto tcp ip daddr 10.0.0.0/8 goto ISTIO_REDIRECT",
                "meta l4proto tcp ip6 daddr fd00::/8 goto ISTIO_REDIRECT",
            ]
        );
        assert!(lines.iter().any(|line| line.starts_with("meta mark 0x539 return")), "{lines:#?}");
        assert!(lines.iter().any(|line| line.starts_with("meta skuid 1337 return")), "{lines:#?}");
    }
}
