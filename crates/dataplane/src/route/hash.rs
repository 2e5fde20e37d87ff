//! The hash of a request, by which ring hash and Maglev choose hosts.
//!
//! Source: `envoy.config.route.v3.RouteAction.HashPolicy`; the numbers are those that Envoy computes.

use std::net::SocketAddr;
use std::time::Duration;

use regex::bytes::Regex;

use crate::balance::xx_hash;
use crate::head::{RequestHead, split_query};

/// One thing that is hashed.
#[derive(Debug, Clone)]
pub struct HashPolicy {
    /// What.
    pub source: HashSource,
    /// Whether the policies after it do not count where it has a value.
    pub terminal: bool,
}

/// What is hashed.
#[derive(Debug, Clone)]
pub enum HashSource {
    /// A header, and how its value is rewritten before.
    Header(Box<[u8]>, Option<(Regex, Box<[u8]>)>),
    /// A cookie.
    Cookie(HashCookie),
    /// The client's address.
    SourceAddress,
    /// A query parameter.
    Query(Box<[u8]>),
}

/// `HashPolicy.Cookie`.
#[derive(Debug, Clone)]
pub struct HashCookie {
    /// Its name.
    pub name: Box<str>,
    /// With a lifetime it is made where it is missing; without seconds it lives as long as the session.
    pub lifetime: Option<Duration>,
    /// Of a cookie that is made.
    pub path: Box<str>,
    /// Of a cookie that is made: names and values.
    pub attributes: Vec<(Box<str>, Box<str>)>,
}

/// Whose request it is.
#[derive(Debug, Clone, Copy, Default)]
pub struct HashClient {
    /// The client, as far as it is known.
    pub remote: Option<SocketAddr>,
    /// Our end.
    pub local: Option<SocketAddr>,
}

/// The hash of a request. Cookies that are made are added to `made`, as values of `set-cookie`.
pub fn hash(
    policies: &[HashPolicy],
    head: &RequestHead,
    client: HashClient,
    made: &mut Vec<String>,
) -> Option<u64> {
    let mut hash: Option<u64> = None;
    for policy in policies {
        if let Some(value) = policy.source.hash(head, client, made) {
            // The order counts, and equal values do not take each other out.
            hash = Some(hash.map_or(value, |hash| hash.rotate_left(1) ^ value));
        }
        if policy.terminal && hash.is_some() {
            break;
        }
    }
    hash
}

impl HashSource {
    fn hash(&self, head: &RequestHead, client: HashClient, made: &mut Vec<String>) -> Option<u64> {
        match self {
            Self::Header(name, rewrite) => header(head, name, rewrite.as_ref()),
            Self::Cookie(wanted) => match cookie(head, wanted.name.as_bytes()) {
                Some(value) => Some(xx_hash(value, 0)),
                None => {
                    let lifetime = wanted.lifetime?;
                    let value = made_value(client);
                    made.push(wanted.set_cookie(&value, lifetime));
                    Some(xx_hash(value.as_bytes(), 0))
                }
            },
            Self::SourceAddress => Some(xx_hash(client.remote?.ip().to_string().as_bytes(), 0)),
            Self::Query(name) => {
                let (_, query) = split_query(head.path());
                let value = query?.split(|byte| *byte == b'&').find_map(|pair| {
                    let at = pair.iter().position(|byte| *byte == b'=').unwrap_or(pair.len());
                    (pair[..at] == **name).then(|| pair.get(at + 1..).unwrap_or_default())
                })?;
                Some(xx_hash(value, 0))
            }
        }
    }
}

fn header(head: &RequestHead, name: &[u8], rewrite: Option<&(Regex, Box<[u8]>)>) -> Option<u64> {
    if name.starts_with(b":") || name == b"host" {
        let value = head.field(name)?;
        return Some(match rewrite {
            None => xx_hash(value, 0),
            Some((regex, text)) => xx_hash(&regex.replace_all(value, &text[..]), 0),
        });
    }
    let mut values = head.headers.get_all(name);
    let first = values.next()?;
    let Some(second) = values.next() else {
        return Some(match rewrite {
            None => xx_hash(first, 0),
            Some((regex, text)) => xx_hash(&regex.replace_all(first, &text[..]), 0),
        });
    };
    // Several values count in an order of their own, whatever the client sent.
    let mut all: Vec<Vec<u8>> = [first, second].into_iter().chain(values).map(<[u8]>::to_vec).collect();
    if let Some((regex, text)) = rewrite {
        for value in &mut all {
            *value = regex.replace_all(value, &text[..]).into_owned();
        }
    }
    all.sort();
    Some(all.iter().fold(0, |seed, value| xx_hash(value, seed)))
}

/// The value of a cookie, without quotes.
fn cookie<'a>(head: &'a RequestHead, name: &[u8]) -> Option<&'a [u8]> {
    head.headers.get_all(b"cookie").flat_map(|field| field.split(|byte| *byte == b';')).find_map(|pair| {
        let pair = pair.trim_ascii();
        let at = pair.iter().position(|byte| *byte == b'=')?;
        if pair[..at] != *name {
            return None;
        }
        let value = &pair[at + 1..];
        match value {
            [b'"', inner @ .., b'"'] => Some(inner),
            _ => Some(value),
        }
    })
}

/// The same for all requests of a connection, so that several at once get the same.
fn made_value(client: HashClient) -> String {
    let text = |address: Option<SocketAddr>| address.map_or_else(String::new, |address| address.to_string());
    format!("{:016x}", xx_hash((text(client.remote) + &text(client.local)).as_bytes(), 0))
}

impl HashCookie {
    fn set_cookie(&self, value: &str, lifetime: Duration) -> String {
        let mut out = format!("{}=\"{value}\"", self.name);
        if lifetime.as_secs() > 0 {
            out.push_str(&format!("; Max-Age={}", lifetime.as_secs()));
        }
        if !self.path.is_empty() {
            out.push_str(&format!("; Path={}", self.path));
        }
        for (name, value) in &self.attributes {
            out.push_str(&if value.is_empty() { format!("; {name}") } else { format!("; {name}={value}") });
        }
        out.push_str("; HttpOnly");
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client() -> HashClient {
        HashClient { remote: Some(([10, 0, 0, 1], 4000).into()), local: Some(([10, 0, 0, 2], 80).into()) }
    }

    fn request() -> RequestHead {
        let mut head = RequestHead::new("GET", b"shop", "/a?user=ann&empty=");
        head.headers.append("x-user", "bob");
        head.headers.append("x-list", "b");
        head.headers.append("x-list", "a");
        head.headers.append("cookie", "one=1; session=\"abc\"");
        head
    }

    fn plain(source: HashSource) -> HashPolicy {
        HashPolicy { source, terminal: false }
    }

    fn header(name: &str) -> HashSource {
        HashSource::Header(name.as_bytes().into(), None)
    }

    fn named(name: &str, lifetime: Option<u64>) -> HashSource {
        HashSource::Cookie(HashCookie {
            name: name.into(),
            lifetime: lifetime.map(Duration::from_secs),
            path: "/p".into(),
            attributes: vec![("SameSite".into(), "Strict".into())],
        })
    }

    #[test]
    fn what_is_hashed() {
        let check = |name: &str, policies: &[HashPolicy], expect: Option<u64>| {
            assert_eq!(hash(policies, &request(), client(), &mut Vec::new()), expect, "{name}");
        };
        let of = |text: &str| Some(xx_hash(text.as_bytes(), 0));
        check("nothing", &[], None);
        check("header", &[plain(header("x-user"))], of("bob"));
        check("no such header", &[plain(header("x-none"))], None);
        check("authority", &[plain(header(":authority"))], of("shop"));
        check("several values, sorted", &[plain(header("x-list"))], Some(xx_hash(b"b", xx_hash(b"a", 0))));
        check("cookie without quotes", &[plain(named("session", None))], of("abc"));
        check("no such cookie", &[plain(named("none", None))], None);
        check("address without port", &[plain(HashSource::SourceAddress)], of("10.0.0.1"));
        check("query", &[plain(HashSource::Query(b"user"[..].into()))], of("ann"));
        check("empty query", &[plain(HashSource::Query(b"empty"[..].into()))], of(""));
        let both = [plain(header("x-user")), plain(HashSource::SourceAddress)];
        let mixed = xx_hash(b"bob", 0).rotate_left(1) ^ xx_hash(b"10.0.0.1", 0);
        check("two", &both, Some(mixed));
        let mut first = both.clone();
        first[0].terminal = true;
        check("the first is terminal", &first, of("bob"));
        first[0].source = header("x-none");
        check("terminal without a value", &first, of("10.0.0.1"));
        let rewrite = (Regex::new("^b").unwrap(), b"B"[..].into());
        check("rewritten", &[plain(HashSource::Header(b"x-user"[..].into(), Some(rewrite)))], of("Bob"));
    }

    #[test]
    fn a_cookie_is_made() {
        let mut made = Vec::new();
        let first = hash(&[plain(named("new", Some(60)))], &request(), client(), &mut made);
        let [text] = &made[..] else { panic!("{made:?}") };
        let value = text.strip_prefix("new=\"").unwrap().split('"').next().unwrap();
        assert_eq!(*text, format!("new=\"{value}\"; Max-Age=60; Path=/p; SameSite=Strict; HttpOnly"));
        let mut again = request();
        again.headers.append("cookie", format!("new=\"{value}\""));
        let mut made = Vec::new();
        assert_eq!(hash(&[plain(named("new", Some(60)))], &again, HashClient::default(), &mut made), first);
        assert!(made.is_empty());
        hash(&[plain(named("new", Some(0)))], &request(), client(), &mut made);
        assert!(!made[0].contains("Max-Age"), "{made:?}");
    }
}
