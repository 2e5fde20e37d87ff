//! ServiceAccount tokens: signed with the server's own key, bound to live objects.
//!
//! The claims are those of Kubernetes' bound tokens ("Managing Service Accounts", section on bound tokens).

use crate::object::meta;
use crate::seam::{Objects, Resource, UserInfo};
use crate::store::{Store, StoreError};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};

/// The issuer of every token.
pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
/// Where the store keeps the signing key.
const KEY_SETTING: &str = "serviceaccount-signing-key";
/// Tolerance of clocks.
const LEEWAY_SECONDS: u64 = 10;

/// Issues and verifies tokens.
pub struct Tokens {
    encoding: EncodingKey,
    decoding: DecodingKey,
    key_id: String,
}

/// Why a token is not accepted, or the key not usable.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The signing key cannot be kept.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The signing key cannot be made or read.
    #[error("the key that signs ServiceAccount tokens is not usable: {0}")]
    Key(String),
    /// The token is not ours, or has expired.
    #[error("invalid bearer token: {0}")]
    Invalid(#[from] jsonwebtoken::errors::Error),
    /// What the token is bound to has gone.
    #[error("invalid bearer token: {0}")]
    Unbound(String),
    /// The token is for others.
    #[error("invalid bearer token: it is for the audiences {0:?}")]
    Audience(Vec<String>),
}

/// The claims of a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// Audiences.
    pub aud: Vec<String>,
    /// Expiry, in seconds since 1970.
    pub exp: i64,
    /// Time of issue.
    pub iat: i64,
    /// Issuer.
    pub iss: String,
    /// Identifier of the token.
    pub jti: String,
    /// What it is bound to.
    #[serde(rename = "kubernetes.io")]
    pub bound: Bound,
    /// Not before.
    pub nbf: i64,
    /// `system:serviceaccount:NAMESPACE:NAME`.
    pub sub: String,
}

/// The objects a token is bound to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bound {
    /// Namespace.
    pub namespace: String,
    /// Node of the Pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Reference>,
    /// Pod, where the token is bound to one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Reference>,
    /// ServiceAccount.
    pub serviceaccount: Reference,
}

/// An object by name and uid.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reference {
    /// Name.
    pub name: String,
    /// Uid.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
}

impl Tokens {
    /// Reads the signing key from the store; makes one where there is none.
    pub async fn open(store: &Store) -> Result<Tokens, TokenError> {
        let pem = match store.setting(KEY_SETTING).await? {
            Some(pem) => String::from_utf8(pem).map_err(|error| TokenError::Key(error.to_string()))?,
            None => {
                let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)
                    .map_err(|error| TokenError::Key(error.to_string()))?;
                let pem = key.serialize_pem();
                store.set_setting(KEY_SETTING, pem.clone().into_bytes()).await?;
                pem
            }
        };
        let key = rcgen::KeyPair::from_pem(&pem).map_err(|error| TokenError::Key(error.to_string()))?;
        let public = key.public_key_pem();
        Ok(Tokens {
            encoding: EncodingKey::from_ec_pem(pem.as_bytes())?,
            decoding: DecodingKey::from_ec_pem(public.as_bytes())?,
            key_id: key_id(key.public_key_raw()),
        })
    }

    /// Signs claims.
    pub fn issue(&self, claims: &Claims) -> Result<String, TokenError> {
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some(self.key_id.clone());
        Ok(jsonwebtoken::encode(&header, claims, &self.encoding)?)
    }

    /// Verifies a token: signature, issuer, time, one of `audiences`, and that all it is bound to still lives.
    /// Returns the user and the audiences that token and question share.
    pub fn verify(
        &self,
        token: &str,
        audiences: &[String],
        objects: &dyn Objects,
    ) -> Result<(UserInfo, Vec<String>), TokenError> {
        let mut validation = Validation::new(Algorithm::ES256);
        validation.set_issuer(&[ISSUER]);
        validation.set_required_spec_claims(&["exp", "iss", "aud"]);
        validation.validate_nbf = true;
        validation.validate_aud = false;
        validation.leeway = LEEWAY_SECONDS;
        let claims = jsonwebtoken::decode::<Claims>(token, &self.decoding, &validation)?.claims;
        let shared: Vec<String> =
            claims.aud.iter().filter(|audience| audiences.contains(audience)).cloned().collect();
        if shared.is_empty() {
            return Err(TokenError::Audience(claims.aud));
        }
        check_alive(&claims.bound, objects)?;
        Ok((user_of(&claims), shared))
    }
}

fn check_alive(bound: &Bound, objects: &dyn Objects) -> Result<(), TokenError> {
    let check = |what: &str, plural: &str, reference: &Reference| match objects.get(
        Resource::new("", plural),
        &bound.namespace,
        &reference.name,
    ) {
        Some(object) if meta(&object, "uid") == reference.uid => Ok(()),
        Some(_) => Err(TokenError::Unbound(format!("the {what} {} has been replaced", reference.name))),
        None => Err(TokenError::Unbound(format!("the {what} {} has been removed", reference.name))),
    };
    check("service account", "serviceaccounts", &bound.serviceaccount)?;
    bound.pod.as_ref().map_or(Ok(()), |pod| check("pod", "pods", pod))
}

fn user_of(claims: &Claims) -> UserInfo {
    let bound = &claims.bound;
    let mut extra =
        vec![("authentication.kubernetes.io/credential-id".to_owned(), vec![format!("JTI={}", claims.jti)])];
    if let Some(node) = &bound.node {
        extra.push(("authentication.kubernetes.io/node-name".to_owned(), vec![node.name.clone()]));
    }
    if let Some(pod) = &bound.pod {
        extra.push(("authentication.kubernetes.io/pod-name".to_owned(), vec![pod.name.clone()]));
        extra.push(("authentication.kubernetes.io/pod-uid".to_owned(), vec![pod.uid.clone()]));
    }
    UserInfo {
        name: claims.sub.clone(),
        uid: bound.serviceaccount.uid.clone(),
        groups: vec![
            "system:serviceaccounts".to_owned(),
            format!("system:serviceaccounts:{}", bound.namespace),
            "system:authenticated".to_owned(),
        ],
        extra,
    }
}

/// A name for the key that follows from it.
fn key_id(public: &[u8]) -> String {
    use base64::Engine as _;
    let tail = &public[public.len().saturating_sub(24)..];
    base64::prelude::BASE64_URL_SAFE_NO_PAD.encode(tail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::faults::Machine;
    use crate::store::{Expect, Write, table_name};
    use serde_json::json;

    async fn put(store: &Store, plural: &str, name: &str, uid: &str) -> u64 {
        let object = json!({"apiVersion": "v1", "metadata": {"name": name, "namespace": "a", "uid": uid}});
        let table = table_name(Resource::new("", plural));
        let expect = match store.read(&table, "a", name) {
            Some(stored) => Expect::Revision(stored.revision),
            None => Expect::Absent,
        };
        let write = Write { table, namespace: "a".into(), name: name.into(), object: Some(object), expect };
        store.write(write).await.unwrap().revision
    }

    fn claims(exp: i64) -> Claims {
        let now = jiff::Timestamp::now().as_second();
        let reference = |name: &str, uid: &str| Reference { name: name.into(), uid: uid.into() };
        Claims {
            aud: vec!["istio-ca".into()],
            exp: now + exp,
            iat: now,
            iss: ISSUER.into(),
            jti: "1".into(),
            bound: Bound {
                namespace: "a".into(),
                node: None,
                pod: Some(reference("p", "pu")),
                serviceaccount: reference("s", "su"),
            },
            nbf: now,
            sub: "system:serviceaccount:a:s".into(),
        }
    }

    #[tokio::test]
    async fn tokens_are_bound_to_live_objects() {
        let store = Store::open(Machine::new(1).medium()).unwrap();
        let tokens = Tokens::open(&store).await.unwrap();
        put(&store, "serviceaccounts", "s", "su").await;
        put(&store, "pods", "p", "pu").await;
        let token = tokens.issue(&claims(600)).unwrap();
        let istio = ["istio-ca".to_owned()];
        let (user, audiences) = tokens.verify(&token, &istio, &store).unwrap();
        assert_eq!((user.name.as_str(), audiences), ("system:serviceaccount:a:s", istio.to_vec()));
        assert!(matches!(tokens.verify(&token, &["other".into()], &store), Err(TokenError::Audience(_))));
        let expired = tokens.issue(&claims(-600)).unwrap();
        assert!(matches!(tokens.verify(&expired, &istio, &store), Err(TokenError::Invalid(_))));
        // The key is kept in the store, so another start accepts the token; another store does not.
        assert!(Tokens::open(&store).await.unwrap().verify(&token, &istio, &store).is_ok());
        let other = Store::open(Machine::new(1).medium()).unwrap();
        assert!(Tokens::open(&other).await.unwrap().verify(&token, &istio, &store).is_err());
        put(&store, "pods", "p", "another").await;
        assert!(matches!(tokens.verify(&token, &istio, &store), Err(TokenError::Unbound(_))));
    }
}
