//! The format of a case; `README.md` explains it by example.

use indexmap::IndexMap;
use serde::Deserialize;
use serde_json::Value;

use crate::http1::Fields;

/// A file of cases about one area.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Area {
    /// What the area is about.
    #[serde(default)]
    pub about: String,
    /// The cases.
    pub cases: Vec<Case>,
}

/// A bootstrap, what upstreams answer, and what a client does.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Case {
    /// Unique within its area.
    pub name: String,
    /// What the case shows, where its name does not say.
    pub why: String,
    /// Servers by name; without any there is one, `a`.
    pub upstreams: IndexMap<String, Upstream>,
    /// Clusters by name, merged over the standard one. Each upstream that has no cluster named after it gets one.
    pub clusters: IndexMap<String, Value>,
    /// Whether upstreams get clusters of their own.
    pub no_clusters: bool,
    /// The routes of the only virtual host.
    pub routes: Option<Value>,
    /// Or the virtual hosts.
    pub virtual_hosts: Option<Value>,
    /// Merged over the route configuration.
    pub route_config: Option<Value>,
    /// Merged over the connection manager.
    pub manager: Option<Value>,
    /// Filters before the router.
    pub http_filters: Vec<Value>,
    /// Network filters in place of the connection manager.
    pub filters: Option<Value>,
    /// Merged over the listener `main`.
    pub listener: Option<Value>,
    /// Further listeners by name, each merged over the standard one.
    pub listeners: IndexMap<String, Value>,
    /// Merged over the whole bootstrap.
    pub bootstrap: Option<Value>,
    /// The access log's format in place of the standard one.
    pub log_format: Option<String>,
    /// Further files below `$dir`: their content by name.
    pub files: IndexMap<String, String>,
    /// Names of statistics that are compared besides the standard ones; `*` stands for anything.
    pub stats: Vec<String>,
    /// Regular expressions, each of which must be found in a line of Envoy's access log.
    pub log: Vec<String>,
    /// Both proxies must refuse this configuration.
    pub refused: bool,
    /// What the client does.
    pub steps: Vec<Step>,
}

/// A server of the runner.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Upstream {
    /// What it speaks.
    pub kind: UpstreamKind,
    /// Answers in order of preference: the first that fits and is not used up.
    pub responses: Vec<Response>,
    /// Served over TLS.
    pub tls: Option<UpstreamTls>,
    /// A PROXY protocol header comes first on each connection.
    pub proxy_protocol: bool,
    /// Bytes that a TCP server sends at once.
    pub greeting: Option<String>,
    /// A TCP server closes after so many bytes.
    pub close_after: Option<usize>,
}

/// What an upstream speaks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UpstreamKind {
    /// HTTP/1, or HTTP/2 where the client begins so.
    #[default]
    Http,
    /// Bytes come back as they came.
    Echo,
    /// Nothing listens.
    Refuses,
    /// Connections are accepted and nothing ever answers.
    Silent,
    /// Connections are accepted and closed at once.
    Closes,
    /// Connections are accepted and reset at once.
    Resets,
}

/// The server's side of TLS.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UpstreamTls {
    /// One of the runner's certificates; `server` if not given.
    pub certificate: Option<String>,
    /// Whether a client certificate of the runner's authority is required.
    pub client_certificate: bool,
    /// Protocols offered.
    pub alpn: Vec<String>,
}

/// What an upstream answers.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Response {
    /// Only for this path, the query left out.
    pub path: Option<String>,
    /// Only so many times.
    pub times: Option<usize>,
    /// 200 if not given.
    pub status: Option<u16>,
    /// Header fields.
    pub headers: FieldList,
    /// The upstream's name if not given.
    pub body: Option<Content>,
    /// Trailers; HTTP/1 then sends chunks.
    pub trailers: FieldList,
    /// Interim responses before.
    pub interim: Vec<Interim>,
    /// HTTP/1: chunks in place of a length.
    pub chunked: bool,
    /// HTTP/1: neither length nor chunks; the end of the connection ends the body.
    pub until_close: bool,
    /// HTTP/1: these bytes and nothing else.
    pub raw: Option<String>,
    /// Closes the connection after the response (HTTP/2: GOAWAY).
    pub close: bool,
    /// Answers before the request's body was read.
    pub early: bool,
    /// Waits before the head.
    pub delay_ms: u64,
    /// Waits between head and body.
    pub body_delay_ms: u64,
    /// Breaks the connection (HTTP/2: the stream) at this place.
    pub reset: Option<ResetAt>,
    /// HTTP/2: the code of that reset, by number.
    pub reset_code: Option<u32>,
    /// The request's body comes back.
    pub echo: bool,
    /// Answers 101 (HTTP/2, CONNECT: 200), then bytes come back as they came.
    pub tunnel: bool,
}

/// An interim response.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Interim {
    /// Its status.
    pub status: u16,
    /// Header fields.
    pub headers: FieldList,
}

/// Where a response breaks off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResetAt {
    /// Before anything of it was sent.
    Head,
    /// After the head and a part of the body.
    Body,
}

/// A body.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum Content {
    /// This text.
    Text(String),
    /// So many bytes.
    Size {
        /// How many.
        size: usize,
    },
    /// These bytes.
    Hex {
        /// In hexadecimal digits.
        hex: String,
    },
}

impl Content {
    /// The bytes.
    pub fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Text(text) => text.clone().into_bytes(),
            Self::Size { size } => b"0123456789abcdef".iter().copied().cycle().take(*size).collect(),
            Self::Hex { hex } => hex
                .replace(' ', "")
                .as_bytes()
                .chunks(2)
                .filter_map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
                .collect(),
        }
    }
}

/// Header fields: a map, where a list of values repeats the field, or a list of single-entry maps.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(try_from = "Value")]
pub struct FieldList(pub Fields);

impl TryFrom<Value> for FieldList {
    type Error = String;

    fn try_from(value: Value) -> Result<Self, String> {
        let text = |value: &Value| match value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let of_map = |map: &serde_json::Map<String, Value>| -> Fields {
            let pairs = map.iter().flat_map(|(name, value)| match value {
                Value::Array(values) => values.iter().map(|value| (name.clone(), text(value))).collect(),
                value => vec![(name.clone(), text(value))],
            });
            pairs.collect()
        };
        match value {
            Value::Null => Ok(Self::default()),
            Value::Object(map) => Ok(Self(of_map(&map))),
            Value::Array(maps) => {
                let fields = maps.iter().filter_map(Value::as_object).flat_map(of_map);
                Ok(Self(fields.collect()))
            }
            other => Err(format!("header fields are a map or a list of maps, not {other}")),
        }
    }
}

/// One thing that a client does.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Step {
    // What: one of these.
    /// A GET for this path; `post`, `put`, `head`, `delete`, `options`, `connect` likewise.
    pub get: Option<String>,
    /// See `get`.
    pub post: Option<String>,
    /// See `get`.
    pub put: Option<String>,
    /// See `get`.
    pub head: Option<String>,
    /// See `get`.
    pub delete: Option<String>,
    /// See `get`.
    pub options: Option<String>,
    /// See `get`.
    pub connect: Option<String>,
    /// Any other method and path, with a blank between.
    pub request: Option<String>,
    /// These bytes; then reads as `read` says.
    pub raw: Option<String>,
    /// As `raw`, in hexadecimal digits.
    pub raw_hex: Option<String>,
    /// A GET to the admin listener. What is compared of the answer: see `lines` and `json`.
    pub admin: Option<String>,
    /// The same with POST.
    pub admin_post: Option<String>,
    /// Waits until upstreams have seen so many requests.
    pub await_requests: Option<IndexMap<String, usize>>,
    /// Waits until statistics have at least these values.
    pub await_stats: Option<IndexMap<String, u64>>,
    /// Closes a connection.
    pub close: Option<String>,
    /// Waits.
    pub sleep_ms: Option<u64>,
    /// Sends SIGTERM to the proxy.
    pub terminate: bool,

    // How.
    /// The listener; `main` if not given.
    pub listener: Option<String>,
    /// The Host; `test` if not given.
    pub host: Option<String>,
    /// Header fields.
    pub headers: FieldList,
    /// A body.
    pub body: Option<Content>,
    /// Trailers.
    pub trailers: FieldList,
    /// HTTP/1: chunks in place of a length.
    pub chunked: bool,
    /// HTTP/2 by prior knowledge, or by ALPN over TLS.
    pub http2: bool,
    /// HTTP/2: an extended CONNECT that asks for this protocol (RFC 8441), in place of the method.
    pub protocol: Option<String>,
    /// The client's side of TLS.
    pub tls: Option<ClientTls>,
    /// Bytes that come first on a new connection, such as a PROXY protocol header.
    pub prelude: Option<String>,
    /// As `prelude`, in hexadecimal digits.
    pub prelude_hex: Option<String>,
    /// A connection that steps share, by any name. Without, a step has one of its own.
    pub on: Option<String>,
    /// The next step begins without waiting for the end of this one.
    pub background: bool,
    /// Repeats the step.
    pub times: Option<usize>,
    /// Gives up after so long: the connection (HTTP/2: the stream) is reset.
    pub cancel_after_ms: Option<u64>,
    /// `raw`: what is read. HTTP/2: after so many bytes (`bytes`) of the answer the stream is given up; the request's
    /// own end is not sent then.
    pub read: Option<Read>,
    /// Afterwards waits (for 3 s) for the proxy to close the connection, and compares whether it does.
    pub closes: bool,
    /// `admin`: compares lines that match this regular expression; without, only the status.
    pub lines: Option<String>,
    /// `admin`: compares what these JSON pointers show.
    pub json: Vec<String>,
    /// `request`: the order of the counts does not matter, only how many of each body (or else status) there were.
    pub tally: bool,
    /// What Envoy must be seen to do: guards against a case that shows something else than it means to.
    pub expect: Expect,
}

/// What `raw` reads.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Read {
    /// So many responses.
    Responses(usize),
    /// So many bytes.
    Bytes(usize),
    /// To the end of the connection, at most 3 s.
    Closed,
    /// Nothing.
    Nothing,
}

/// The client's side of TLS.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClientTls {
    /// The server's name; none if not given.
    pub sni: Option<String>,
    /// Protocols offered.
    pub alpn: Vec<String>,
    /// One of the runner's certificates.
    pub certificate: Option<String>,
    /// `1.2` or `1.3` only.
    pub version: Option<String>,
}

/// What must be seen of Envoy.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Expect {
    /// The status.
    pub status: Option<u16>,
    /// The body; without a script it is the upstream's name.
    pub body: Option<String>,
    /// Header fields of the response; `null`: there is none of that name.
    pub headers: IndexMap<String, Option<String>>,
    /// How it ended: `complete`, `closed`, `reset`, `timeout`, `refused`.
    pub end: Option<String>,
    /// The connection's end, for `closes`.
    pub closed: Option<bool>,
}

impl Step {
    /// Method and target, if it is a request.
    pub fn request_line(&self) -> Option<(String, String)> {
        let simple = [
            ("GET", &self.get),
            ("POST", &self.post),
            ("PUT", &self.put),
            ("HEAD", &self.head),
            ("DELETE", &self.delete),
            ("OPTIONS", &self.options),
            ("CONNECT", &self.connect),
        ];
        if let Some((method, path)) = simple.iter().find_map(|(method, path)| Some((method, path.as_ref()?)))
        {
            return Some(((*method).to_owned(), path.clone()));
        }
        let (method, target) = self.request.as_ref()?.split_once(' ')?;
        Some((method.to_owned(), target.to_owned()))
    }
}
