//! Workload identities: SPIFFE names in Istio's form.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

/// `spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Identity {
    /// The trust domain, `cluster.local` unless configured.
    pub trust_domain: String,
    /// The workload's namespace.
    pub namespace: String,
    /// Its service account.
    pub service_account: String,
}

/// A text that is no identity in Istio's form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("identity {0:?} is not of the form spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT")]
pub struct IdentityError(String);

impl fmt::Display for Identity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { trust_domain, namespace, service_account } = self;
        write!(formatter, "spiffe://{trust_domain}/ns/{namespace}/sa/{service_account}")
    }
}

impl FromStr for Identity {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || IdentityError(text.to_owned());
        let parts: Vec<&str> = text.strip_prefix("spiffe://").ok_or_else(error)?.split('/').collect();
        match parts[..] {
            [trust_domain, "ns", namespace, "sa", account]
                if !trust_domain.is_empty() && !namespace.is_empty() && !account.is_empty() =>
            {
                Ok(Self {
                    trust_domain: trust_domain.into(),
                    namespace: namespace.into(),
                    service_account: account.into(),
                })
            }
            _ => Err(error()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_and_refusals() {
        let identity: Identity = "spiffe://cluster.local/ns/default/sa/reviews".parse().unwrap();
        assert_eq!(identity.service_account, "reviews");
        assert_eq!(identity.to_string(), "spiffe://cluster.local/ns/default/sa/reviews");
        for text in ["", "spiffe://a", "https://a/ns/b/sa/c", "spiffe://a/ns//sa/c", "spiffe://a/ns/b/sa/c/d"]
        {
            assert!(text.parse::<Identity>().is_err(), "{text}");
        }
    }
}
