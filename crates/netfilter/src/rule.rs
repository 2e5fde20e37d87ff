//! What a rule says, as the kernel's expressions and as `nft` would write it.
//!
//! A rule is a list of conditions and one action. The kernel runs it as a small program over registers; everything here
//! uses the sixteen registers of 32 bits (NFT_REG32_00 = 8 and on), where a shorter value fills a register with zeros.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use crate::wire::{Writer, attributes, text};
use crate::{Family, Protocol};

/// A condition; a rule applies to a packet for which all of its conditions hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Match {
    /// `meta nfproto`
    Family(Family),
    /// `meta l4proto`
    Protocol(Protocol),
    /// `iifname`
    InInterface(String),
    /// `oifname`
    OutInterface(String),
    /// `meta mark`
    Mark(u32),
    /// `meta skuid`: the user of the socket that sent the packet.
    SocketUser(u32),
    /// `meta skgid`
    SocketGroup(u32),
    /// `ip saddr`, `ip6 saddr`
    Source(IpNet),
    /// `ip daddr`, `ip6 daddr`
    Destination(IpNet),
    /// `th dport`: of TCP and UDP alike.
    DestinationPort(u16),
    /// Source and destination address are an element of the named set.
    AddressPairIn(Family, String),
    /// The condition does not hold (of an address: within the same family).
    Not(Box<Match>),
}

impl Match {
    /// The opposite condition.
    pub fn negated(self) -> Self {
        match self {
            Self::Not(inner) => *inner,
            other => Self::Not(Box::new(other)),
        }
    }
}

/// What happens to the packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Goes on after the hook.
    Accept,
    /// Ends here silently.
    Drop,
    /// Back to the calling chain, or the policy in a base chain.
    Return,
    /// Continues in the chain and comes back.
    Jump(String),
    /// Continues in the chain and does not come back.
    Goto(String),
    /// Continues in the chain that the named map has for destination address, protocol and port.
    ServiceMap(Family, String),
    /// To a port of this host.
    Redirect(u16),
    /// To one of these addresses, each with equal chance; all of one family.
    DestinationNat(Vec<SocketAddr>),
    /// From this address.
    SourceNat(IpAddr),
    /// From the address of the interface it leaves by.
    Masquerade,
    /// Refused with a TCP reset.
    RejectTcp,
    /// Refused with ICMP port unreachable.
    Reject,
}

/// Conditions, an action, and a comment that `nft list` shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// All must hold.
    pub matches: Vec<Match>,
    /// What is done then.
    pub action: Action,
    /// For people who look at the rules.
    pub comment: Option<&'static str>,
}

impl Rule {
    /// A rule without comment.
    pub fn new(matches: impl IntoIterator<Item = Match>, action: Action) -> Self {
        Self { matches: matches.into_iter().collect(), action, comment: None }
    }

    /// Adds a comment.
    pub fn comment(mut self, comment: &'static str) -> Self {
        self.comment = Some(comment);
        self
    }
}

/// The map that a rule's [`Action::DestinationNat`] chooses from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AnonymousMap {
    pub(crate) name: &'static str,
    pub(crate) id: u32,
}

const REGISTER: u32 = 8;

const META_MARK: u32 = 3;
const META_IN_INTERFACE: u32 = 6;
const META_OUT_INTERFACE: u32 = 7;
const META_SOCKET_USER: u32 = 10;
const META_SOCKET_GROUP: u32 = 11;
const META_FAMILY: u32 = 15;
const META_PROTOCOL: u32 = 16;

const VERDICT_JUMP: i32 = -3;
const VERDICT_GOTO: i32 = -4;
const VERDICT_RETURN: i32 = -5;

/// Length of an interface name with its terminating zero.
const INTERFACE_NAME: usize = 16;

impl Rule {
    /// Writes the kernel's expressions (the body of NFTA_RULE_EXPRESSIONS). `map` is the anonymous map for a choice
    /// among several addresses.
    pub(crate) fn expressions(&self, map: Option<&AnonymousMap>, out: &mut Writer) {
        for condition in &self.matches {
            condition.expressions(out);
        }
        expression(out, "counter", |_| {});
        self.action.expressions(map, out);
    }
}

impl Rule {
    /// Names of the expressions, as a listing by the kernel has them.
    pub(crate) fn expression_names(&self) -> Vec<String> {
        let mut out = Writer::default();
        self.expressions(None, &mut out);
        attributes(out.bytes())
            .filter_map(|(_, expression)| attributes(expression).find(|(kind, _)| *kind == 1))
            .map(|(_, name)| text(name))
            .collect()
    }
}

impl Match {
    fn expressions(&self, out: &mut Writer) {
        let (condition, negate) = match self {
            Self::Not(inner) => (inner.as_ref(), true),
            other => (other, false),
        };
        let word = |out: &mut Writer, key: u32, value: u32| {
            meta(out, key, REGISTER);
            compare(out, REGISTER, negate, &value.to_ne_bytes());
        };
        let name = |out: &mut Writer, key: u32, name: &str| {
            let mut padded = [0u8; INTERFACE_NAME];
            let length = name.len().min(INTERFACE_NAME - 1);
            padded[..length].copy_from_slice(&name.as_bytes()[..length]);
            meta(out, key, REGISTER);
            compare(out, REGISTER, negate, &padded);
        };
        match condition {
            Self::Family(family) => {
                meta(out, META_FAMILY, REGISTER);
                compare(out, REGISTER, negate, &[family.number()]);
            }
            Self::Protocol(protocol) => {
                meta(out, META_PROTOCOL, REGISTER);
                compare(out, REGISTER, negate, &[protocol.number()]);
            }
            Self::InInterface(interface) => name(out, META_IN_INTERFACE, interface),
            Self::OutInterface(interface) => name(out, META_OUT_INTERFACE, interface),
            Self::Mark(mark) => word(out, META_MARK, *mark),
            Self::SocketUser(user) => word(out, META_SOCKET_USER, *user),
            Self::SocketGroup(group) => word(out, META_SOCKET_GROUP, *group),
            Self::Source(network) => address_in(out, *network, false, negate),
            Self::Destination(network) => address_in(out, *network, true, negate),
            Self::DestinationPort(port) => {
                payload(out, BASE_TRANSPORT, 2, 2, REGISTER);
                compare(out, REGISTER, negate, &port.to_be_bytes());
            }
            Self::AddressPairIn(family, set) => {
                require_family(out, *family);
                let width = load_address(out, *family, false, REGISTER);
                load_address(out, *family, true, REGISTER + width);
                lookup(out, set, None, None, negate);
            }
            // `negated` never nests; a hand-made double negation means what it says.
            Self::Not(inner) => inner.expressions(out),
        }
    }
}

impl Action {
    fn expressions(&self, map: Option<&AnonymousMap>, out: &mut Writer) {
        match self {
            Self::Accept => verdict(out, 1, None),
            Self::Drop => verdict(out, 0, None),
            Self::Return => verdict(out, VERDICT_RETURN, None),
            Self::Jump(chain) => verdict(out, VERDICT_JUMP, Some(chain)),
            Self::Goto(chain) => verdict(out, VERDICT_GOTO, Some(chain)),
            Self::ServiceMap(family, set) => {
                load_service(out, *family);
                // Register 0 is the verdict.
                lookup(out, set, None, Some(0), false);
            }
            Self::Redirect(port) => {
                immediate(out, REGISTER, &port.to_be_bytes());
                expression(out, "redir", |out| {
                    out.u32_attribute(1, REGISTER);
                    out.u32_attribute(2, REGISTER);
                });
            }
            Self::DestinationNat(targets) => {
                let Some(first) = targets.first() else { return verdict(out, 0, None) };
                let family = Family::of(first.ip());
                if let Some(map) = map {
                    expression(out, "numgen", |out| {
                        out.u32_attribute(1, REGISTER);
                        out.u32_attribute(2, targets.len() as u32);
                        out.u32_attribute(3, 1); // NFT_NG_RANDOM
                        out.u32_attribute(4, 0);
                    });
                    lookup(out, map.name, Some(map.id), Some(REGISTER), false);
                } else {
                    // An immediate value has 16 bytes at most: address and port go separately.
                    immediate(out, REGISTER, &address_bytes(first.ip()));
                    immediate(out, REGISTER + address_registers(family), &first.port().to_be_bytes());
                }
                nat(out, 1, family, Some(REGISTER + address_registers(family)));
            }
            Self::SourceNat(address) => {
                immediate(out, REGISTER, &address_bytes(*address));
                nat(out, 0, Family::of(*address), None);
            }
            Self::Masquerade => expression(out, "masq", |_| {}),
            Self::RejectTcp => reject(out, 1, 0),
            // NFT_REJECT_ICMPX_UNREACH with NFT_REJECT_ICMPX_PORT_UNREACH.
            Self::Reject => reject(out, 2, 1),
        }
    }
}

const BASE_NETWORK: u32 = 1;
const BASE_TRANSPORT: u32 = 2;

fn expression(out: &mut Writer, name: &str, data: impl FnOnce(&mut Writer)) {
    out.nested(1, |out| {
        out.text_attribute(1, name);
        out.nested(2, data);
    });
}

fn meta(out: &mut Writer, key: u32, register: u32) {
    expression(out, "meta", |out| {
        out.u32_attribute(1, register);
        out.u32_attribute(2, key);
    });
}

fn payload(out: &mut Writer, base: u32, offset: u32, length: u32, register: u32) {
    expression(out, "payload", |out| {
        out.u32_attribute(1, register);
        out.u32_attribute(2, base);
        out.u32_attribute(3, offset);
        out.u32_attribute(4, length);
    });
}

fn compare(out: &mut Writer, register: u32, negate: bool, value: &[u8]) {
    expression(out, "cmp", |out| {
        out.u32_attribute(1, register);
        out.u32_attribute(2, u32::from(negate));
        out.nested(3, |out| out.bytes_attribute(1, value));
    });
}

fn lookup(out: &mut Writer, set: &str, id: Option<u32>, destination: Option<u32>, invert: bool) {
    expression(out, "lookup", |out| {
        out.text_attribute(1, set);
        out.u32_attribute(2, REGISTER);
        if let Some(register) = destination {
            out.u32_attribute(3, register);
        }
        if let Some(id) = id {
            out.u32_attribute(4, id);
        }
        if invert {
            out.u32_attribute(5, 1);
        }
    });
}

fn immediate(out: &mut Writer, register: u32, value: &[u8]) {
    expression(out, "immediate", |out| {
        out.u32_attribute(1, register);
        out.nested(2, |out| out.bytes_attribute(1, value));
    });
}

fn verdict(out: &mut Writer, code: i32, chain: Option<&str>) {
    expression(out, "immediate", |out| {
        out.u32_attribute(1, 0);
        out.nested(2, |out| verdict_data(out, code, chain));
    });
}

fn verdict_data(out: &mut Writer, code: i32, chain: Option<&str>) {
    out.nested(2, |out| {
        out.u32_attribute(1, code as u32);
        if let Some(chain) = chain {
            out.text_attribute(2, chain);
        }
    });
}

/// The value of a verdict map: "go to this chain".
pub(crate) fn goto_data(out: &mut Writer, chain: &str) {
    verdict_data(out, VERDICT_GOTO, Some(chain));
}

fn nat(out: &mut Writer, kind: u32, family: Family, port_register: Option<u32>) {
    expression(out, "nat", |out| {
        out.u32_attribute(1, kind);
        out.u32_attribute(2, u32::from(family.number()));
        out.u32_attribute(3, REGISTER);
        out.u32_attribute(4, REGISTER);
        if let Some(register) = port_register {
            out.u32_attribute(5, register);
            out.u32_attribute(6, register);
        }
    });
}

fn reject(out: &mut Writer, kind: u32, code: u8) {
    expression(out, "reject", |out| {
        out.u32_attribute(1, kind);
        if kind != 1 {
            out.bytes_attribute(2, &[code]);
        }
    });
}

fn require_family(out: &mut Writer, family: Family) {
    meta(out, META_FAMILY, REGISTER);
    compare(out, REGISTER, false, &[family.number()]);
}

fn address_registers(family: Family) -> u32 {
    match family {
        Family::V4 => 1,
        Family::V6 => 4,
    }
}

/// Loads an address of the IP header; returns how many registers it fills.
fn load_address(out: &mut Writer, family: Family, destination: bool, register: u32) -> u32 {
    let offset = match (family, destination) {
        (Family::V4, false) => 12,
        (Family::V4, true) => 16,
        (Family::V6, false) => 8,
        (Family::V6, true) => 24,
    };
    let registers = address_registers(family);
    payload(out, BASE_NETWORK, offset, registers * 4, register);
    registers
}

/// Destination address, protocol, destination port.
fn load_service(out: &mut Writer, family: Family) {
    require_family(out, family);
    let width = load_address(out, family, true, REGISTER);
    meta(out, META_PROTOCOL, REGISTER + width);
    payload(out, BASE_TRANSPORT, 2, 2, REGISTER + width + 1);
}

fn address_in(out: &mut Writer, network: IpNet, destination: bool, negate: bool) {
    let family = Family::of(network.addr());
    require_family(out, family);
    if network.prefix_len() == 0 && !negate {
        return;
    }
    load_address(out, family, destination, REGISTER);
    let length = address_registers(family) * 4;
    if network.prefix_len() < network.max_prefix_len() {
        expression(out, "bitwise", |out| {
            out.u32_attribute(1, REGISTER);
            out.u32_attribute(2, REGISTER);
            out.u32_attribute(3, length);
            out.nested(4, |out| out.bytes_attribute(1, &address_bytes(network.netmask())));
            out.nested(5, |out| out.bytes_attribute(1, &vec![0; length as usize]));
        });
    }
    compare(out, REGISTER, negate, &address_bytes(network.network()));
}

fn address_bytes(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// Address and port as they lie in registers.
pub(crate) fn target_value(target: SocketAddr) -> Vec<u8> {
    let mut value = address_bytes(target.ip());
    value.extend_from_slice(&target.port().to_be_bytes());
    value.extend_from_slice(&[0; 2]);
    value
}

/// Address, protocol and port as they lie in registers.
pub(crate) fn service_value(address: IpAddr, protocol: Protocol, port: u16) -> Vec<u8> {
    let mut value = address_bytes(address);
    value.extend_from_slice(&[protocol.number(), 0, 0, 0]);
    value.extend_from_slice(&port.to_be_bytes());
    value.extend_from_slice(&[0; 2]);
    value
}

/// Two addresses of one family as they lie in registers.
pub(crate) fn pair_value(source: IpAddr, destination: IpAddr) -> Vec<u8> {
    [address_bytes(source), address_bytes(destination)].concat()
}

// === nft syntax ===

impl std::fmt::Display for Rule {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for condition in &self.matches {
            write!(formatter, "{condition} ")?;
        }
        write!(formatter, "counter {}", self.action)?;
        match self.comment {
            Some(comment) => write!(formatter, " comment \"{comment}\""),
            None => Ok(()),
        }
    }
}

impl std::fmt::Display for Match {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (condition, not) = match self {
            Self::Not(inner) => (inner.as_ref(), "!= "),
            other => (other, ""),
        };
        match condition {
            Self::Family(Family::V4) => write!(out, "meta nfproto {not}ipv4"),
            Self::Family(Family::V6) => write!(out, "meta nfproto {not}ipv6"),
            Self::Protocol(protocol) => write!(out, "meta l4proto {not}{}", protocol.keyword()),
            Self::InInterface(name) => write!(out, "iifname {not}\"{name}\""),
            Self::OutInterface(name) => write!(out, "oifname {not}\"{name}\""),
            Self::Mark(mark) => write!(out, "meta mark {not}{mark:#x}"),
            Self::SocketUser(user) => write!(out, "meta skuid {not}{user}"),
            Self::SocketGroup(group) => write!(out, "meta skgid {not}{group}"),
            Self::Source(network) => {
                write!(out, "{} saddr {not}{network}", Family::of(network.addr()).keyword())
            }
            Self::Destination(network) => {
                write!(out, "{} daddr {not}{network}", Family::of(network.addr()).keyword())
            }
            Self::DestinationPort(port) => write!(out, "th dport {not}{port}"),
            Self::AddressPairIn(family, set) => {
                let family = family.keyword();
                write!(out, "{family} saddr . {family} daddr {not}@{set}")
            }
            Self::Not(inner) => write!(out, "{inner}"),
        }
    }
}

impl std::fmt::Display for Action {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Accept => write!(out, "accept"),
            Self::Drop => write!(out, "drop"),
            Self::Return => write!(out, "return"),
            Self::Jump(chain) => write!(out, "jump {chain}"),
            Self::Goto(chain) => write!(out, "goto {chain}"),
            Self::ServiceMap(family, map) => {
                write!(out, "{} daddr . meta l4proto . th dport vmap @{map}", family.keyword())
            }
            Self::Redirect(port) => write!(out, "redirect to :{port}"),
            Self::DestinationNat(targets) => destination_nat_text(targets, out),
            Self::SourceNat(address) => write!(out, "snat {} to {address}", Family::of(*address).keyword()),
            Self::Masquerade => write!(out, "masquerade"),
            Self::RejectTcp => write!(out, "reject with tcp reset"),
            Self::Reject => write!(out, "reject with icmpx type port-unreachable"),
        }
    }
}

fn destination_nat_text(targets: &[SocketAddr], out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
    match targets {
        [] => write!(out, "drop"),
        [target] => write!(out, "dnat {} to {target}", Family::of(target.ip()).keyword()),
        [first, ..] => {
            let family = Family::of(first.ip()).keyword();
            write!(out, "dnat {family} to numgen random mod {} map {{ ", targets.len())?;
            for (index, target) in targets.iter().enumerate() {
                let comma = if index == 0 { "" } else { ", " };
                write!(out, "{comma}{index} : {} . {}", target.ip(), target.port())?;
            }
            write!(out, " }}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn rules_as_text_and_as_program() {
        let check = |rule: Rule, text: &str, expected: &str| {
            assert_eq!(rule.to_string(), text);
            assert_eq!(rule.expression_names().join(" "), expected, "{text}");
        };
        check(
            Rule::new([Match::Protocol(Protocol::Tcp), Match::DestinationPort(15008)], Action::Return),
            "meta l4proto tcp th dport 15008 counter return",
            "meta cmp payload cmp counter immediate",
        );
        check(
            Rule::new([Match::Destination("10.0.0.0/8".parse().unwrap()).negated()], Action::Redirect(15001)),
            "ip daddr != 10.0.0.0/8 counter redirect to :15001",
            "meta cmp payload bitwise cmp counter immediate redir",
        );
        check(
            Rule::new([Match::Source("::6/128".parse().unwrap())], Action::Masquerade),
            "ip6 saddr ::6/128 counter masquerade",
            "meta cmp payload cmp counter masq",
        );
        check(
            Rule::new([Match::Destination("0.0.0.0/0".parse().unwrap())], Action::Goto("x".into())),
            "ip daddr 0.0.0.0/0 counter goto x",
            "meta cmp counter immediate",
        );
        let targets = vec!["10.0.0.1:80".parse().unwrap(), "10.0.0.2:81".parse().unwrap()];
        assert_eq!(
            Rule::new([], Action::DestinationNat(targets)).to_string(),
            "counter dnat ip to numgen random mod 2 map { 0 : 10.0.0.1 . 80, 1 : 10.0.0.2 . 81 }"
        );
    }
}
