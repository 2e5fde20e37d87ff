//! Listener filters: what looks at a connection's first bytes before a filter chain is chosen.

/// When a filter is left out (`ListenerFilterChainMatchPredicate`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Predicate {
    /// Always.
    Any,
    /// The destination port is in this range, whose end does not belong to it.
    Port(u16, u32),
    /// All hold.
    And(Vec<Predicate>),
    /// One holds.
    Or(Vec<Predicate>),
    /// It does not hold.
    Not(Box<Predicate>),
}

impl Predicate {
    /// Whether it holds for a connection to this port.
    pub fn holds(&self, port: u16) -> bool {
        match self {
            Self::Any => true,
            Self::Port(start, end) => (*start..).contains(&port) && u32::from(port) < *end,
            Self::And(all) => all.iter().all(|one| one.holds(port)),
            Self::Or(any) => any.iter().any(|one| one.holds(port)),
            Self::Not(one) => !one.holds(port),
        }
    }
}

/// An inspector: on, off, or off for some ports.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Inspect {
    /// Not configured.
    #[default]
    Never,
    /// Always.
    Always,
    /// Unless this holds.
    Unless(Predicate),
}

impl Inspect {
    /// Whether it looks at a connection to this port.
    pub fn at(&self, port: u16) -> bool {
        match self {
            Self::Never => false,
            Self::Always => true,
            Self::Unless(disabled) => !disabled.holds(port),
        }
    }
}

/// A compiled `envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProxyProtocol {
    /// Between `proxy_proto.` and the names of its counters.
    pub stat_prefix: Box<str>,
    /// Whether a connection without the header is served as it is.
    pub optional: bool,
    /// Versions that are refused.
    pub disallow_v1: bool,
    /// Versions that are refused.
    pub disallow_v2: bool,
    /// Values of the header that are set on the connection: type and name.
    pub values: Vec<(u8, Box<str>)>,
    /// Values that an upstream's header gets, too.
    pub pass_on: PassOn,
}

/// Which values of a PROXY protocol header are passed on (`ProxyProtocolPassThroughTLVs`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum PassOn {
    /// None.
    #[default]
    Nothing,
    /// All.
    All,
    /// Those of these types.
    Types(Vec<u8>),
}

impl PassOn {
    /// Whether values of a type are passed on.
    pub fn contains(&self, kind: u8) -> bool {
        match self {
            Self::Nothing => false,
            Self::All => true,
            Self::Types(types) => types.contains(&kind),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn predicates() {
        let port = |start, end| Predicate::Port(start, end);
        for (name, predicate, at, expect) in [
            ("start", port(80, 90), 80, true),
            ("end", port(80, 90), 90, false),
            ("the last port", port(80, 65_536), 65_535, true),
            ("not", Predicate::Not(Box::new(port(80, 90))), 80, false),
            ("or", Predicate::Or(vec![port(1, 2), port(80, 81)]), 80, true),
            ("and", Predicate::And(vec![Predicate::Any, port(1, 2)]), 80, false),
        ] {
            assert_eq!(predicate.holds(at), expect, "{name}");
            assert_eq!(Inspect::Unless(predicate).at(at), !expect, "{name}");
        }
        assert!(Inspect::Always.at(1) && !Inspect::Never.at(1));
    }
}
