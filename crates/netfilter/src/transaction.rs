//! Steps that the kernel takes all together or not at all.

use std::net::{IpAddr, SocketAddr};

use crate::rule::{Action, AnonymousMap, Rule, goto_data, pair_value, service_value, target_value};
use crate::wire::{APPEND, CREATE, Header, REQUEST, Writer};
use crate::{FAMILY_INET, Family, Protocol};

pub(crate) const SUBSYSTEM: u16 = 10;

const NEW_TABLE: u16 = 0;
const DELETE_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const DELETE_CHAIN: u16 = 5;
const NEW_RULE: u16 = 6;
const DELETE_RULE: u16 = 8;
const NEW_SET: u16 = 9;
const NEW_ELEMENT: u16 = 12;
const DELETE_ELEMENT: u16 = 14;

const SET_ANONYMOUS: u32 = 1;
const SET_CONSTANT: u32 = 2;
const SET_MAP: u32 = 8;

const TYPE_INTEGER: u32 = 4;
const TYPE_ADDRESS_V4: u32 = 7;
const TYPE_ADDRESS_V6: u32 = 8;
const TYPE_PROTOCOL: u32 = 12;
const TYPE_PORT: u32 = 13;
const TYPE_VERDICT: u32 = 0xffff_ff00;

/// Where a base chain is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// Arriving packets, before routing.
    Prerouting,
    /// Packets for this host.
    Input,
    /// Packets passing through.
    Forward,
    /// Packets of this host.
    Output,
    /// Leaving packets, after routing.
    Postrouting,
}

impl Hook {
    pub(crate) fn keyword(self) -> &'static str {
        match self {
            Self::Prerouting => "prerouting",
            Self::Input => "input",
            Self::Forward => "forward",
            Self::Output => "output",
            Self::Postrouting => "postrouting",
        }
    }
}

/// Order among the chains of a hook; lower is earlier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Priority(pub i32);

impl Priority {
    /// Where destination addresses are translated.
    pub const DESTINATION_NAT: Self = Self(-100);
    /// Before that.
    pub const BEFORE_NAT: Self = Self(-110);
    /// Where source addresses are translated.
    pub const SOURCE_NAT: Self = Self(100);
}

/// What kind of chain: `nat` sees the first packet of a connection only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChainType {
    /// Address translation.
    Nat,
    /// Everything else.
    Filter,
}

impl ChainType {
    pub(crate) fn keyword(self) -> &'static str {
        match self {
            Self::Nat => "nat",
            Self::Filter => "filter",
        }
    }
}

/// What the elements of a named set are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetKind {
    /// Destination address, protocol, port, each with the chain to go to.
    ServiceMap(Family),
    /// Source and destination address.
    AddressPairs(Family),
}

/// A list of changes to one table.
#[derive(Debug, Clone)]
pub struct Transaction {
    table: String,
    steps: Vec<(String, Vec<u8>)>,
    anonymous: u32,
}

impl Transaction {
    /// An empty list for `table` (family `inet`).
    pub fn new(table: impl Into<String>) -> Self {
        Self { table: table.into(), steps: Vec::new(), anonymous: 0 }
    }

    /// Nothing to do.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// Forgets all steps.
    pub fn clear(&mut self) {
        self.steps.clear();
    }

    /// How many bytes the kernel will be sent.
    pub fn size(&self) -> usize {
        self.steps.iter().map(|(_, bytes)| bytes.len()).sum()
    }

    pub(crate) fn steps(&self) -> &[(String, Vec<u8>)] {
        &self.steps
    }

    /// Makes the table where it is missing.
    pub fn add_table(&mut self) -> &mut Self {
        self.step(format!("table `{}`", self.table), NEW_TABLE, CREATE, |_| {})
    }

    /// Removes the table and all in it; it must exist.
    pub fn delete_table(&mut self) -> &mut Self {
        self.step(format!("removal of table `{}`", self.table), DELETE_TABLE, 0, |_| {})
    }

    /// Makes the table anew, empty, whether it exists or not.
    pub fn replace_table(&mut self) -> &mut Self {
        self.add_table().delete_table().add_table()
    }

    /// A chain that other chains lead to.
    pub fn add_chain(&mut self, chain: &str) -> &mut Self {
        self.step(format!("chain `{chain}`"), NEW_CHAIN, CREATE, |out| out.text_attribute(3, chain))
    }

    /// A chain that packets enter by themselves; its policy is to accept.
    pub fn add_base_chain(
        &mut self,
        chain: &str,
        kind: ChainType,
        hook: Hook,
        priority: Priority,
    ) -> &mut Self {
        let what = format!("{} chain `{chain}` at hook {}", kind.keyword(), hook.keyword());
        self.step(what, NEW_CHAIN, CREATE, |out| {
            out.text_attribute(3, chain);
            out.nested(4, |out| {
                out.u32_attribute(1, hook as u32);
                out.u32_attribute(2, priority.0 as u32);
            });
            out.u32_attribute(5, 1);
            out.text_attribute(7, kind.keyword());
        })
    }

    /// Removes all rules of a chain.
    pub fn flush_chain(&mut self, chain: &str) -> &mut Self {
        self.step(format!("flush of chain `{chain}`"), DELETE_RULE, 0, |out| out.text_attribute(2, chain))
    }

    /// Removes a chain; nothing may refer to it.
    pub fn delete_chain(&mut self, chain: &str) -> &mut Self {
        self.step(format!("removal of chain `{chain}`"), DELETE_CHAIN, 0, |out| out.text_attribute(3, chain))
    }

    /// Appends a rule.
    pub fn add_rule(&mut self, chain: &str, rule: &Rule) -> &mut Self {
        let map = match &rule.action {
            Action::DestinationNat(targets) if targets.len() > 1 => Some(self.add_target_map(targets)),
            _ => None,
        };
        self.step(format!("rule `{rule}` of chain `{chain}`"), NEW_RULE, CREATE | APPEND, |out| {
            out.text_attribute(2, chain);
            out.nested(4, |out| rule.expressions(map.as_ref(), out));
            if let Some(comment) = rule.comment {
                // nft's own form of a comment: type 0, length, text with its zero.
                let mut data = vec![0, comment.len() as u8 + 1];
                data.extend_from_slice(comment.as_bytes());
                data.push(0);
                out.bytes_attribute(7, &data);
            }
        })
    }

    /// The map number -> address and port of one rule; it goes with the rule.
    fn add_target_map(&mut self, targets: &[SocketAddr]) -> AnonymousMap {
        const NAME: &str = "__map%d";
        self.anonymous += 1;
        let id = self.anonymous;
        let (address_type, length) = match Family::of(targets[0].ip()) {
            Family::V4 => (TYPE_ADDRESS_V4, 8),
            Family::V6 => (TYPE_ADDRESS_V6, 20),
        };
        self.step("map of addresses".to_owned(), NEW_SET, CREATE, |out| {
            out.text_attribute(2, NAME);
            out.u32_attribute(3, SET_ANONYMOUS | SET_CONSTANT | SET_MAP);
            out.u32_attribute(4, TYPE_INTEGER);
            out.u32_attribute(5, 4);
            out.u32_attribute(6, (address_type << 6) | TYPE_PORT);
            out.u32_attribute(7, length);
            out.u32_attribute(10, id);
        });
        // An attribute's length has 16 bits: a long list goes in parts.
        for (part, chunk) in targets.chunks(1000).enumerate() {
            self.step("elements of a map of addresses".to_owned(), NEW_ELEMENT, CREATE, |out| {
                out.text_attribute(2, NAME);
                out.u32_attribute(4, id);
                out.nested(3, |out| {
                    for (index, target) in chunk.iter().enumerate() {
                        let number = (part * 1000 + index) as u32;
                        element(out, &number.to_ne_bytes(), |out| {
                            out.nested(2, |out| out.bytes_attribute(1, &target_value(*target)));
                        });
                    }
                });
            });
        }
        AnonymousMap { name: NAME, id }
    }

    /// A named set or map, empty.
    pub fn add_set(&mut self, name: &str, kind: SetKind) -> &mut Self {
        let address = |family| match family {
            Family::V4 => (TYPE_ADDRESS_V4, 4),
            Family::V6 => (TYPE_ADDRESS_V6, 16),
        };
        let (key_type, key_length) = match kind {
            SetKind::ServiceMap(family) => {
                let (kind, length) = address(family);
                ((kind << 12) | (TYPE_PROTOCOL << 6) | TYPE_PORT, length + 8)
            }
            SetKind::AddressPairs(family) => {
                let (kind, length) = address(family);
                ((kind << 6) | kind, 2 * length)
            }
        };
        self.anonymous += 1;
        let id = self.anonymous;
        self.step(format!("set `{name}`"), NEW_SET, CREATE, |out| {
            out.text_attribute(2, name);
            let map = matches!(kind, SetKind::ServiceMap(_));
            out.u32_attribute(3, if map { SET_MAP } else { 0 });
            out.u32_attribute(4, key_type);
            out.u32_attribute(5, key_length);
            if map {
                out.u32_attribute(6, TYPE_VERDICT);
                out.u32_attribute(7, 0);
            }
            out.u32_attribute(10, id);
        })
    }

    /// Puts a service into a map, with the chain to go to.
    pub fn add_service(
        &mut self,
        map: &str,
        address: IpAddr,
        protocol: Protocol,
        port: u16,
        chain: &str,
    ) -> &mut Self {
        self.element_step(
            "new",
            NEW_ELEMENT,
            CREATE,
            map,
            &service_value(address, protocol, port),
            Some(chain),
        )
    }

    /// Takes a service out of a map.
    pub fn delete_service(&mut self, map: &str, address: IpAddr, protocol: Protocol, port: u16) -> &mut Self {
        self.element_step("removed", DELETE_ELEMENT, 0, map, &service_value(address, protocol, port), None)
    }

    /// Puts a pair of addresses into a set.
    pub fn add_pair(&mut self, set: &str, source: IpAddr, destination: IpAddr) -> &mut Self {
        self.element_step("new", NEW_ELEMENT, CREATE, set, &pair_value(source, destination), None)
    }

    /// Takes a pair of addresses out of a set.
    pub fn delete_pair(&mut self, set: &str, source: IpAddr, destination: IpAddr) -> &mut Self {
        self.element_step("removed", DELETE_ELEMENT, 0, set, &pair_value(source, destination), None)
    }

    fn element_step(
        &mut self,
        verb: &str,
        kind: u16,
        flags: u16,
        set: &str,
        key: &[u8],
        chain: Option<&str>,
    ) -> &mut Self {
        self.step(format!("{verb} element of set `{set}`"), kind, flags, |out| {
            out.text_attribute(2, set);
            out.nested(3, |out| {
                element(out, key, |out| {
                    if let Some(chain) = chain {
                        out.nested(2, |out| goto_data(out, chain));
                    }
                });
            });
        })
    }

    fn step(&mut self, what: String, kind: u16, flags: u16, body: impl FnOnce(&mut Writer)) -> &mut Self {
        let mut out = Writer::default();
        let header = Header {
            kind: (SUBSYSTEM << 8) | kind,
            flags: REQUEST | flags,
            sequence: 0, // numbered when sent
            family: FAMILY_INET,
            resource: 0,
        };
        out.message(header, |out| {
            // The table's name is attribute 1 of every message of nf_tables.
            out.text_attribute(1, &self.table);
            body(out);
        });
        self.steps.push((what, out.bytes().to_vec()));
        self
    }
}

fn element(out: &mut Writer, key: &[u8], data: impl FnOnce(&mut Writer)) {
    out.nested(1, |out| {
        out.nested(1, |out| out.bytes_attribute(1, key));
        data(out);
    });
}
