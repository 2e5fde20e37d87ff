//! Names that key everything else: cheap to clone, ordered, comparable with plain strings.

use std::borrow::Borrow;
use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, LazyLock};

use serde::{Deserialize, Serialize};

/// The empty name: most endpoints have one or two, which take no room of their own.
fn nothing() -> Arc<str> {
    static NOTHING: LazyLock<Arc<str>> = LazyLock::new(|| Arc::from(""));
    Arc::clone(&NOTHING)
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(Self::normal(text))
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self(Self::normal(&text))
            }
        }

        impl Deref for $name {
            type Target = str;
            fn deref(&self) -> &str {
                &self.0
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl PartialEq<str> for $name {
            fn eq(&self, other: &str) -> bool {
                &*self.0 == other
            }
        }

        impl PartialEq<&str> for $name {
            fn eq(&self, other: &&str) -> bool {
                &*self.0 == *other
            }
        }

        impl Default for $name {
            fn default() -> Self {
                Self(nothing())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, formatter)
            }
        }
    };
}

name! {
    /// A host name as configuration and requests write it: `reviews.default.svc.cluster.local`, `*.example.com`.
    /// Kept in lower case and without a trailing dot, so that equal names are equal values (RFC 4343).
    Hostname
}
name! {
    /// A namespace of the mesh.
    Namespace
}
name! {
    /// A cluster of the mesh: where a registry's objects come from (`Kubernetes` for the only one).
    ClusterId
}
name! {
    /// A network: addresses are reachable from one another within it (`topology.istio.io/network`). Empty is the
    /// default network.
    NetworkId
}

impl Hostname {
    fn normal(text: &str) -> Arc<str> {
        let text = text.strip_suffix('.').unwrap_or(text);
        if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
            Arc::from(text.to_ascii_lowercase())
        } else {
            Arc::from(text)
        }
    }

    /// Whether the name stands for many: `*` or `*.example.com`.
    pub fn is_wildcard(&self) -> bool {
        self.starts_with('*')
    }

    /// Whether `self`, perhaps a wildcard, covers every name that `other` stands for.
    pub fn covers(&self, other: &Hostname) -> bool {
        match self.strip_prefix('*') {
            None => self == other,
            Some(suffix) => {
                let bare = other.strip_prefix('*').unwrap_or(other);
                bare.ends_with(suffix)
                    && (other.is_wildcard() || bare.len() > suffix.len() || suffix.is_empty())
            }
        }
    }

    /// Whether some name is covered by both.
    pub fn overlaps(&self, other: &Hostname) -> bool {
        self.covers(other) || other.covers(self)
    }
}

impl Namespace {
    fn normal(text: &str) -> Arc<str> {
        if text.is_empty() { nothing() } else { Arc::from(text) }
    }
}

impl ClusterId {
    fn normal(text: &str) -> Arc<str> {
        if text.is_empty() { nothing() } else { Arc::from(text) }
    }
}

impl NetworkId {
    fn normal(text: &str) -> Arc<str> {
        if text.is_empty() { nothing() } else { Arc::from(text) }
    }
}

/// Where a workload runs, in three levels; empty levels are unknown.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Locality {
    /// `topology.kubernetes.io/region`.
    pub region: String,
    /// `topology.kubernetes.io/zone`.
    pub zone: String,
    /// `topology.istio.io/subzone`.
    pub subzone: String,
}

impl Locality {
    /// Reads Istio's form `region/zone/subzone`, later levels optional.
    pub fn parse(text: &str) -> Self {
        let mut levels = text.splitn(3, '/').map(str::to_owned);
        Self {
            region: levels.next().unwrap_or_default(),
            zone: levels.next().unwrap_or_default(),
            subzone: levels.next().unwrap_or_default(),
        }
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.region.is_empty() && self.zone.is_empty() && self.subzone.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards() {
        for (name, pattern, host, covers) in [
            ("equal", "a.example.com", "a.example.com", true),
            ("case and dot", "A.Example.com.", "a.example.com", true),
            ("other", "a.example.com", "b.example.com", false),
            ("suffix", "*.example.com", "a.example.com", true),
            ("suffix deeper", "*.example.com", "a.b.example.com", true),
            ("suffix needs a label", "*.example.com", ".example.com", false),
            ("narrower wildcard", "*.example.com", "*.a.example.com", true),
            ("wider wildcard", "*.a.example.com", "*.example.com", false),
            ("all", "*", "a", true),
            ("all of all", "*", "*", true),
        ] {
            assert_eq!(Hostname::from(pattern).covers(&Hostname::from(host)), covers, "{name}");
        }
    }

    #[test]
    fn localities() {
        assert_eq!(Locality::parse("r/z/s").subzone, "s");
        assert_eq!(Locality::parse("r").zone, "");
        assert!(Locality::parse("").is_empty());
    }
}
