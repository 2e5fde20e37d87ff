//! What a request asks for: the path taken apart, and its query.

use crate::seam::{FieldValidation, UserInfo};
use crate::status::Status;
use bytes::Bytes;
use http::{HeaderMap, Method};
use hyper::upgrade::OnUpgrade;

/// A request, read in whole.
#[derive(Debug)]
pub struct Request {
    /// The method.
    pub method: Method,
    /// The path.
    pub path: String,
    /// The query.
    pub query: Query,
    /// The headers.
    pub headers: HeaderMap,
    /// Who asks.
    pub user: UserInfo,
    /// The body.
    pub body: Bytes,
    /// The connection itself, for what goes on in another protocol.
    pub upgrade: OnUpgrade,
}

impl Request {
    /// A header's value, empty where it is missing or not text.
    pub fn header(&self, name: http::header::HeaderName) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The media type of the body, without parameters.
    pub fn content_type(&self) -> &str {
        self.header(http::header::CONTENT_TYPE).split(';').next().unwrap_or_default().trim()
    }
}

/// A query string, decoded.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Query {
    raw: String,
    pairs: Vec<(String, String)>,
}

impl Query {
    /// Decodes a query string.
    pub fn parse(raw: &str) -> Query {
        let pairs = raw.split('&').filter(|part| !part.is_empty()).map(|part| {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            (decode(key), decode(value))
        });
        Query { raw: raw.to_owned(), pairs: pairs.collect() }
    }

    /// The query as it came.
    pub fn raw(&self) -> &str {
        &self.raw
    }

    /// The first value of a parameter, empty where it is missing.
    pub fn get(&self, key: &str) -> &str {
        self.pairs.iter().find(|(name, _)| name == key).map_or("", |(_, value)| value)
    }

    /// All values of a parameter.
    pub fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.pairs.iter().filter(move |(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// Whether a parameter is `true` or `1`.
    pub fn flag(&self, key: &str) -> bool {
        matches!(self.get(key), "true" | "1" | "True" | "t")
    }

    /// A number.
    pub fn number<T: std::str::FromStr>(&self, key: &str) -> Result<Option<T>, Status> {
        let text = self.get(key);
        if text.is_empty() {
            return Ok(None);
        }
        text.parse()
            .map(Some)
            .map_err(|_| Status::bad_request(format!("parameter {key}: {text:?} is not a number in range")))
    }

    /// The `dryRun` parameter.
    pub fn dry_run(&self) -> Result<bool, Status> {
        match self.get("dryRun") {
            "" => Ok(false),
            "All" => Ok(true),
            other => {
                Err(Status::bad_request(format!("parameter dryRun: {other:?} is not supported; use All")))
            }
        }
    }

    /// The `fieldValidation` parameter.
    pub fn field_validation(&self) -> Result<FieldValidation, Status> {
        match self.get("fieldValidation") {
            "" | "Warn" => Ok(FieldValidation::Warn),
            "Ignore" => Ok(FieldValidation::Ignore),
            "Strict" => Ok(FieldValidation::Strict),
            other => Err(Status::bad_request(format!(
                "parameter fieldValidation: {other:?} is not supported; use Strict, Warn or Ignore"
            ))),
        }
    }
}

/// Decodes percent escapes and `+`.
fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut index = 0;
    while index < bytes.len() {
        let hex = |at: usize| bytes.get(at).and_then(|byte| (*byte as char).to_digit(16));
        match (bytes[index], hex(index + 1), hex(index + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                index += 3;
            }
            (b'+', ..) => {
                out.push(b' ');
                index += 1;
            }
            (byte, ..) => {
                out.push(byte);
                index += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// A path below `/api/VERSION` or `/apis/GROUP/VERSION`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Target {
    /// API group, empty for the core group.
    pub group: String,
    /// Version.
    pub version: String,
    /// Namespace, where the path names one.
    pub namespace: Option<String>,
    /// Plural.
    pub plural: String,
    /// Name, where the path names one.
    pub name: Option<String>,
    /// Subresource.
    pub subresource: Option<String>,
    /// What follows `proxy` in the path, as it came: empty, or with a leading slash.
    pub proxied: Option<String>,
}

impl Target {
    /// Takes a path apart; `None` where it is not that of a resource.
    pub fn parse(path: &str) -> Option<Target> {
        if let Some((resource, proxied)) = split_proxied(path) {
            return Some(Target { proxied: Some(proxied.to_owned()), ..Target::parse_resource(resource)? });
        }
        Target::parse_resource(path)
    }

    fn parse_resource(path: &str) -> Option<Target> {
        let mut segments: Vec<String> = path.trim_matches('/').split('/').map(decode_segment).collect();
        if segments.iter().any(String::is_empty) {
            return None;
        }
        let head = match segments.first().map(String::as_str) {
            Some("api") => 2,
            Some("apis") => 3,
            _ => return None,
        };
        if segments.len() <= head {
            return None;
        }
        let mut rest = segments.split_off(head).into_iter().peekable();
        let mut target = Target { version: segments.pop()?, ..Target::default() };
        if head == 3 {
            target.group = segments.pop()?;
        }
        target.plural = rest.next()?;
        target.name = rest.next();
        let below = rest.next();
        // `namespaces/NAME/status` and `namespaces/NAME/finalize` are subresources of the namespace itself.
        let of_namespace = target.group.is_empty()
            && matches!(below.as_deref(), None | Some("status" | "finalize"))
            && rest.peek().is_none();
        if target.plural == "namespaces" && !of_namespace {
            target.namespace = target.name.take();
            target.plural = below?;
            target.name = rest.next();
            target.subresource = rest.next();
        } else {
            target.subresource = below;
        }
        rest.next().is_none().then_some(target)
    }
}

/// Splits `/api/v1/namespaces/NAMESPACE/services/NAME/proxy/PATH` behind `proxy`; the rest is another server's and must
/// not be interpreted.
fn split_proxied(path: &str) -> Option<(&str, &str)> {
    let parts: Vec<&str> = path.splitn(9, '/').collect();
    let ["", "api", _, "namespaces", _, "pods" | "services", _, "proxy", rest @ ..] = parts.as_slice() else {
        return None;
    };
    let length = rest.first().map_or(0, |rest| rest.len() + 1);
    Some(path.split_at(path.len() - length))
}

fn decode_segment(text: &str) -> String {
    decode(&text.replace('+', "%2B"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Group, version, namespace, plural, name, subresource.
    type Parts<'a> = (&'a str, &'a str, Option<&'a str>, &'a str, Option<&'a str>, Option<&'a str>);

    #[test]
    fn paths() {
        let check = |path: &str, expect: Option<Parts<'_>>| {
            let target = Target::parse(path);
            let got = target.as_ref().map(|target| {
                (
                    target.group.as_str(),
                    target.version.as_str(),
                    target.namespace.as_deref(),
                    target.plural.as_str(),
                    target.name.as_deref(),
                    target.subresource.as_deref(),
                )
            });
            assert_eq!(got, expect, "{path}");
        };
        check("/api/v1/pods", Some(("", "v1", None, "pods", None, None)));
        check("/api/v1/namespaces", Some(("", "v1", None, "namespaces", None, None)));
        check("/api/v1/namespaces/a", Some(("", "v1", None, "namespaces", Some("a"), None)));
        check("/api/v1/namespaces/a/status", Some(("", "v1", None, "namespaces", Some("a"), Some("status"))));
        check("/api/v1/namespaces/a/pods", Some(("", "v1", Some("a"), "pods", None, None)));
        check("/api/v1/namespaces/a/pods/p/log", Some(("", "v1", Some("a"), "pods", Some("p"), Some("log"))));
        check(
            "/apis/apps/v1/namespaces/a/deployments/d/scale",
            Some(("apps", "v1", Some("a"), "deployments", Some("d"), Some("scale"))),
        );
        check(
            "/apis/g.example.com/v1/things/t",
            Some(("g.example.com", "v1", None, "things", Some("t"), None)),
        );
        check("/api/v1", None);
        check("/apis/apps/v1", None);
        check("/version", None);
        check("/api/v1/namespaces/a/pods/p/log/x", None);
    }

    #[test]
    fn proxied_paths() {
        let check = |path: &str, expect: Option<(&str, &str)>| {
            let target = Target::parse(path);
            let got = target.as_ref().map(|target| {
                assert_eq!(target.subresource.as_deref(), Some("proxy"), "{path}");
                (target.name.as_deref().unwrap_or_default(), target.proxied.as_deref().unwrap_or("none"))
            });
            assert_eq!(got, expect, "{path}");
        };
        check("/api/v1/namespaces/a/services/s/proxy", Some(("s", "")));
        check("/api/v1/namespaces/a/services/s/proxy/", Some(("s", "/")));
        check("/api/v1/namespaces/a/services/http:s:80/proxy/x", Some(("http:s:80", "/x")));
        check("/api/v1/namespaces/a/pods/https%3Ap%3A80/proxy//x%2Fy//", Some(("https:p:80", "//x%2Fy//")));
        check("/api/v1/namespaces/a/services/s/proxy/namespaces/a/pods", Some(("s", "/namespaces/a/pods")));
        check("/api/v1/namespaces/a/services//proxy/x", None);
        check("/apis/apps/v1/namespaces/a/deployments/d/proxy/x", None);
    }

    #[test]
    fn queries() {
        let query = Query::parse("labelSelector=a%3Db%2Cc&watch=1&limit=500&x=a+b");
        assert_eq!(query.get("labelSelector"), "a=b,c");
        assert_eq!(query.get("x"), "a b");
        assert_eq!(Query::parse("p=1&q=2&p=3").all("p").collect::<Vec<_>>(), ["1", "3"]);
        assert!(query.flag("watch"));
        assert_eq!(query.number::<usize>("limit"), Ok(Some(500)));
        assert!(Query::parse("limit=x").number::<u64>("limit").is_err());
        assert_eq!(Query::parse("fieldValidation=Strict").field_validation(), Ok(FieldValidation::Strict));
        assert!(Query::parse("dryRun=Some").dry_run().is_err());
    }
}
