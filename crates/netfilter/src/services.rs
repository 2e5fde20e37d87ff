//! Cluster IPs of a node: the address of a Service becomes that of one of its endpoints.
//!
//! A map leads from (address, protocol, port) to a chain per Service, whose single rule picks an endpoint at random; so
//! a packet costs the same whatever the number of Services, and a changed Service costs its own chain alone. Only the
//! first packet of a connection comes here: established ones keep their endpoint by connection tracking.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use crate::rule::{Action, Match, Rule};
use crate::{
    Chain, ChainType, Connection, Error, Family, Hook, Priority, Protocol, Ruleset, SetKind, Transaction,
};

const MAPS: [(Family, &str, &str); 2] =
    [(Family::V4, "services4", "hairpin4"), (Family::V6, "services6", "hairpin6")];

/// A transaction of this size goes through a socket's default buffer even where it may not be enlarged.
const CHUNK_BYTES: usize = 150_000;

/// One port of one Service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServicePort {
    /// A cluster IP.
    pub address: IpAddr,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The Service's port.
    pub port: u16,
}

impl ServicePort {
    fn chain(&self) -> String {
        let address = self.address.to_string().replace(':', "_");
        format!("service/{address}/{}/{}", self.protocol.keyword(), self.port)
    }
}

/// Ready endpoints of every Service port.
pub type Services = BTreeMap<ServicePort, Vec<SocketAddr>>;

/// What the rules have to know about the node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NodeNetwork {
    /// Name of the table.
    pub table: String,
    /// Where cluster IPs are taken from; what has no endpoint there is rejected.
    pub cluster_networks: Vec<IpNet>,
    /// The node's own addresses: cluster IPs among them are served by its own sockets; the first of a family is the
    /// source of a Pod's connection to itself.
    pub node_addresses: Vec<IpAddr>,
    /// Where Pods' addresses are taken from.
    pub pod_networks: Vec<IpNet>,
    /// Interfaces that lead out: Pods' connections leave by them with the interface's address.
    pub uplinks: Vec<String>,
}

/// The node's table, kept in step with what it should say.
#[derive(Debug)]
pub struct ClusterServices {
    network: NodeNetwork,
    applied: Services,
    hairpins: BTreeSet<IpAddr>,
    installed: bool,
}

impl ClusterServices {
    /// Nothing is sent to the kernel yet.
    pub fn new(network: NodeNetwork) -> Self {
        Self { network, applied: Services::new(), hairpins: BTreeSet::new(), installed: false }
    }

    /// Makes the kernel's table say `wanted`; sends what changed only. Each Service changes in one step, and so do all
    /// of them unless there are hundreds of changes. After an error the next call replaces the whole table.
    pub fn apply(&mut self, connection: &mut Connection, wanted: Services) -> Result<(), Error> {
        let result = self.try_apply(connection, wanted);
        if result.is_err() {
            self.installed = false;
        }
        result
    }

    fn try_apply(&mut self, connection: &mut Connection, wanted: Services) -> Result<(), Error> {
        let wanted = usable(wanted);
        let mut transaction = Transaction::new(&self.network.table);
        if !self.installed {
            self.applied.clear();
            self.hairpins.clear();
            self.install(&mut transaction);
        }
        let targets: BTreeSet<IpAddr> = wanted.values().flatten().map(|target| target.ip()).collect();
        for address in targets.difference(&self.hairpins) {
            transaction.add_pair(hairpin_set(*address), *address, *address);
        }
        for (port, targets) in &wanted {
            let before = self.applied.get(port);
            if before != Some(targets) {
                change_service(&mut transaction, port, targets, before.is_none());
                send_if_long(connection, &mut transaction)?;
            }
        }
        for port in self.applied.keys().filter(|port| !wanted.contains_key(port)) {
            remove_service(&mut transaction, port);
            send_if_long(connection, &mut transaction)?;
        }
        for address in self.hairpins.difference(&targets) {
            transaction.delete_pair(hairpin_set(*address), *address, *address);
        }
        connection.commit(&transaction)?;
        self.installed = true;
        self.applied = wanted;
        self.hairpins = targets;
        Ok(())
    }

    /// The table without Services: sets first, since rules name them.
    fn install(&self, transaction: &mut Transaction) {
        transaction.replace_table();
        for (family, map, hairpin) in MAPS {
            transaction.add_set(map, SetKind::ServiceMap(family));
            transaction.add_set(hairpin, SetKind::AddressPairs(family));
        }
        let ruleset = self.network.ruleset();
        for chain in &ruleset.chains {
            if let Some((kind, hook, priority)) = chain.hook {
                transaction.add_base_chain(chain.name, kind, hook, priority);
            } else {
                transaction.add_chain(chain.name);
            }
        }
        for chain in &ruleset.chains {
            for rule in &chain.rules {
                transaction.add_rule(chain.name, rule);
            }
        }
    }
}

impl NodeNetwork {
    /// The rules that do not depend on Services (they refer to sets that do).
    pub fn ruleset(&self) -> Ruleset {
        let to_service = || {
            MAPS.map(|(family, map, _)| Rule::new([], Action::ServiceMap(family, map.to_owned()))).to_vec()
        };
        let chain =
            |name, kind, hook, priority, rules| Chain { name, hook: Some((kind, hook, priority)), rules };
        Ruleset {
            table: self.table.clone(),
            chains: vec![
                chain(
                    "prerouting",
                    ChainType::Nat,
                    Hook::Prerouting,
                    Priority::DESTINATION_NAT,
                    to_service(),
                ),
                chain("output", ChainType::Nat, Hook::Output, Priority::DESTINATION_NAT, to_service()),
                chain("postrouting", ChainType::Nat, Hook::Postrouting, Priority::SOURCE_NAT, self.leaving()),
                chain("forward-filter", ChainType::Filter, Hook::Forward, Priority(0), self.unserved()),
                chain("output-filter", ChainType::Filter, Hook::Output, Priority(0), self.unserved()),
            ],
        }
    }

    fn leaving(&self) -> Vec<Rule> {
        let mut rules = Vec::new();
        for (family, _, hairpin) in MAPS {
            let own = self.node_addresses.iter().find(|address| Family::of(**address) == family);
            if let Some(own) = own {
                let itself = Match::AddressPairIn(family, hairpin.to_owned());
                let rule = Rule::new([itself], Action::SourceNat(*own));
                rules.push(rule.comment("a Pod reaches itself through a Service"));
            }
        }
        for uplink in &self.uplinks {
            for network in &self.pod_networks {
                let conditions = [Match::OutInterface(uplink.clone()), Match::Source(*network)];
                rules.push(Rule::new(conditions, Action::Masquerade).comment("the way out of the node"));
            }
        }
        rules
    }

    /// A cluster IP that was not translated has no endpoint: the client hears of it at once.
    fn unserved(&self) -> Vec<Rule> {
        let mut rules = Vec::new();
        for network in &self.cluster_networks {
            for address in self.node_addresses.iter().filter(|address| network.contains(*address)) {
                rules.push(Rule::new([Match::Destination(IpNet::from(*address))], Action::Accept));
            }
            let destination = Match::Destination(*network);
            rules.push(Rule::new([destination.clone(), Match::Protocol(Protocol::Tcp)], Action::RejectTcp));
            rules.push(Rule::new([destination], Action::Reject));
        }
        rules
    }
}

/// Service ports that can be translated: endpoints of the same family, each once, in a stable order. A Service without
/// endpoints is left out.
fn usable(wanted: Services) -> Services {
    wanted
        .into_iter()
        .filter_map(|(port, mut targets)| {
            targets.retain(|target| target.is_ipv4() == port.address.is_ipv4());
            targets.sort_unstable();
            targets.dedup();
            (!targets.is_empty()).then_some((port, targets))
        })
        .collect()
}

fn hairpin_set(address: IpAddr) -> &'static str {
    let [(_, _, v4), (_, _, v6)] = MAPS;
    if address.is_ipv4() { v4 } else { v6 }
}

fn service_map(address: IpAddr) -> &'static str {
    let [(_, v4, _), (_, v6, _)] = MAPS;
    if address.is_ipv4() { v4 } else { v6 }
}

fn change_service(transaction: &mut Transaction, port: &ServicePort, targets: &[SocketAddr], new: bool) {
    let chain = port.chain();
    if new {
        transaction.add_chain(&chain);
    } else {
        transaction.flush_chain(&chain);
    }
    let protocol = Match::Protocol(port.protocol);
    transaction.add_rule(&chain, &Rule::new([protocol], Action::DestinationNat(targets.to_vec())));
    if new {
        transaction.add_service(service_map(port.address), port.address, port.protocol, port.port, &chain);
    }
}

fn remove_service(transaction: &mut Transaction, port: &ServicePort) {
    let chain = port.chain();
    transaction
        .delete_service(service_map(port.address), port.address, port.protocol, port.port)
        .flush_chain(&chain)
        .delete_chain(&chain);
}

/// Sends what has been collected once it is long, and starts anew.
fn send_if_long(connection: &mut Connection, transaction: &mut Transaction) -> Result<(), Error> {
    if transaction.size() > CHUNK_BYTES {
        connection.commit(transaction)?;
        transaction.clear();
    }
    Ok(())
}
