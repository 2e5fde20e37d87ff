//! The admin listener, with Envoy's paths.
//!
//! Who may ask and how is decided in `guard` before any page is looked at: a GET changes nothing, and a web page of
//! another site reaches nothing at all.

mod clusters;
mod config_dump;
mod guard;
mod listeners;
mod server;
mod stats;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use http::{Request, StatusCode};
use lateen_base::admin::{Handler, Reply, json, serve, serve_unix, text};
use lateen_base::drain;
use lateen_dataplane::access_log::AccessLog;
use lateen_dataplane::matcher::StringMatcher;
use lateen_envoy::envoy::config::bootstrap::v3::Bootstrap;
use lateen_envoy::envoy::config::core::v3 as core;
use tokio::sync::watch;

use crate::access_log::LogSink;
use crate::manager::SharedManager;
use crate::state::State;

/// What the admin listener shows.
#[derive(Debug)]
pub struct Admin {
    /// The configuration.
    pub manager: SharedManager,
    /// Whether the first configuration serves.
    pub ready: watch::Receiver<bool>,
    /// Told when the process is to end.
    pub quit: Arc<tokio::sync::Notify>,
    /// For the dump.
    pub bootstrap: Bootstrap,
    /// When the proxy started.
    pub started: Instant,
}

/// What `admin` of the bootstrap says besides the address.
#[derive(Debug, Default)]
pub struct Options {
    /// Where requests to the listener are logged.
    pub access_log: Vec<AccessLog>,
    /// Paths that are answered; none: all.
    pub allow_paths: Vec<StringMatcher>,
}

/// One page.
struct Page {
    path: &'static str,
    about: &'static str,
    /// Whether it changes something.
    changes: bool,
    answer: fn(&Served, &Query) -> Reply,
}

/// The parameters of a request, decoded.
type Query = HashMap<String, String>;

/// The listener at work.
struct Served {
    admin: Admin,
    state: Arc<State>,
    options: Options,
    log: Vec<LogSink>,
}

const PAGES: &[Page] = &[
    Page { path: "/", about: "Admin home page", changes: false, answer: Served::home },
    Page { path: "/certs", about: "print certs on machine", changes: false, answer: Served::certs },
    Page { path: "/clusters", about: "upstream cluster status", changes: false, answer: Served::clusters },
    Page { path: "/config_dump", about: "dump current configs", changes: false, answer: Served::config_dump },
    Page {
        path: "/drain_listeners",
        about: "drain listeners",
        changes: true,
        answer: Served::drain_listeners,
    },
    Page {
        path: "/healthcheck/fail",
        about: "cause the server to fail health checks",
        changes: true,
        answer: Served::healthcheck_fail,
    },
    Page {
        path: "/healthcheck/ok",
        about: "cause the server to pass health checks",
        changes: true,
        answer: Served::healthcheck_ok,
    },
    Page { path: "/help", about: "print out list of admin commands", changes: false, answer: Served::help },
    Page {
        path: "/hot_restart_version",
        about: "print the hot restart compatibility version",
        changes: false,
        answer: Served::hot_restart_version,
    },
    Page {
        path: "/init_dump",
        about: "print what is still waited for",
        changes: false,
        answer: Served::init_dump,
    },
    Page { path: "/listeners", about: "print listener info", changes: false, answer: Served::listeners },
    Page { path: "/logging", about: "query/change logging levels", changes: true, answer: Served::logging },
    Page {
        path: "/memory",
        about: "print current allocation/heap usage",
        changes: false,
        answer: Served::memory,
    },
    Page { path: "/quitquitquit", about: "exit the server", changes: true, answer: Served::quit },
    Page {
        path: "/ready",
        about: "print server state, return 200 if LIVE, otherwise return 503",
        changes: false,
        answer: Served::ready,
    },
    Page { path: "/reopen_logs", about: "reopen access logs", changes: true, answer: Served::reopen_logs },
    Page {
        path: "/reset_counters",
        about: "reset all counters to zero",
        changes: true,
        answer: Served::reset_counters,
    },
    Page { path: "/runtime", about: "print runtime values", changes: false, answer: Served::runtime },
    Page {
        path: "/runtime_modify",
        about: "adds or modifies runtime values",
        changes: true,
        answer: Served::runtime_modify,
    },
    Page {
        path: "/server_info",
        about: "print server version/status information",
        changes: false,
        answer: Served::server_info,
    },
    Page { path: "/stats", about: "print server stats", changes: false, answer: Served::stats },
    Page {
        path: "/stats/prometheus",
        about: "print server stats in prometheus format",
        changes: false,
        answer: Served::prometheus,
    },
    Page {
        path: "/warnings",
        about: "print fields of the configuration that have no effect",
        changes: false,
        answer: Served::warnings,
    },
];

/// Listens; gives back where, for a TCP address.
pub async fn start(
    address: &core::Address,
    admin: Admin,
    options: Options,
) -> std::io::Result<Option<SocketAddr>> {
    let state = Arc::clone(admin.manager.lock().state());
    let log = options.access_log.iter().map(|log| state.logs.sink(log)).collect();
    let served = Arc::new(Served { admin, state, options, log });
    let handler: Handler = Arc::new(move |request| {
        let served = Arc::clone(&served);
        Box::pin(async move { served.answer(&request) })
    });
    // Held for as long as the listener is: it ends with its runtime.
    let (trigger, watch) = drain::channel();
    let ended = |result: std::io::Result<()>| {
        if let Err(error) = result {
            tracing::error!(%error, "the admin listener ended");
        }
    };
    match &address.address {
        Some(core::address::Address::SocketAddress(socket)) => {
            let port = match socket.port_specifier {
                Some(core::socket_address::PortSpecifier::PortValue(port)) => port,
                _ => 0,
            };
            let port = u16::try_from(port).map_err(std::io::Error::other)?;
            let listener = tokio::net::TcpListener::bind((socket.address.clone(), port)).await?;
            let bound = listener.local_addr()?;
            tokio::spawn(async move {
                let _trigger = trigger;
                ended(serve(listener, handler, watch).await);
            });
            Ok(Some(bound))
        }
        Some(core::address::Address::Pipe(pipe)) => {
            // What a process before this one left behind. Anything that is not a socket stays.
            use std::os::unix::fs::FileTypeExt;
            if std::fs::symlink_metadata(&pipe.path).is_ok_and(|found| found.file_type().is_socket()) {
                std::fs::remove_file(&pipe.path)?;
            }
            let listener = tokio::net::UnixListener::bind(&pipe.path)?;
            tokio::spawn(async move {
                let _trigger = trigger;
                ended(serve_unix(listener, handler, watch).await);
            });
            Ok(None)
        }
        _ => Err(std::io::Error::other("admin.address: write a socket_address or a pipe")),
    }
}

impl Served {
    fn answer<B>(&self, request: &Request<B>) -> Reply {
        let begun = Instant::now();
        let path = request.uri().path();
        let page = PAGES.iter().find(|page| page.path == path);
        let reply = match guard::refuse(request, page, &self.options) {
            Some(refused) => refused,
            None => match page {
                Some(page) => (page.answer)(self, &query(request.uri().query().unwrap_or_default())),
                None => {
                    text(StatusCode::NOT_FOUND, format!("invalid path. admin commands are:\n{}", commands()))
                }
            },
        };
        self.log(request, &reply, begun);
        secured(reply)
    }

    fn log<B>(&self, request: &Request<B>, reply: &Reply, begun: Instant) {
        use lateen_dataplane::format::Source;
        use lateen_dataplane::head::{RequestHead, ResponseHead};
        use lateen_dataplane::stream_info::{Protocol, StreamInfo};
        if self.log.is_empty() {
            return;
        }
        let host = request.headers().get("host").map_or(&b""[..], http::HeaderValue::as_bytes);
        let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
        let mut head = RequestHead::new(request.method().as_str(), host, target);
        for (name, value) in request.headers().iter().filter(|(name, _)| *name != "host") {
            head.headers.append(name.as_str(), value.as_bytes());
        }
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let info = StreamInfo {
            start_time: now.saturating_sub(begun.elapsed()),
            protocol: Some(Protocol::Http11),
            response_code: reply.status().as_u16(),
            duration: Some(begun.elapsed()),
            bytes_sent: http_body_size(reply),
            response_code_details: Some("admin_filter_response"),
            ..StreamInfo::default()
        };
        let response = ResponseHead::new(reply.status().as_u16());
        let source = Source {
            info: &info,
            request: Some(&head),
            response: Some(&response),
            trailers: None,
            hostname: &self.state.hostname,
        };
        for sink in &self.log {
            sink.log(&source, 0);
        }
    }

    fn home(&self, _query: &Query) -> Reply {
        let rows: String = PAGES
            .iter()
            .filter(|page| page.path != "/")
            .map(|page| {
                let (path, about) = (page.path, page.about);
                if page.changes {
                    format!(
                        "<tr><td><form method=\"post\" action=\"{}\"><button>{}</button></form></td><td>{about}</td></tr>\n",
                        &path[1..],
                        &path[1..]
                    )
                } else {
                    format!("<tr><td><a href=\"{}\">{}</a></td><td>{about}</td></tr>\n", &path[1..], &path[1..])
                }
            })
            .collect();
        let page = format!(
            "<!DOCTYPE html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>Lateen proxy</title></head>\n\
             <body><h1>Lateen proxy</h1><table>\n{rows}</table></body></html>\n"
        );
        let mut reply = text(StatusCode::OK, page);
        let html = http::HeaderValue::from_static("text/html; charset=UTF-8");
        reply.headers_mut().insert(http::header::CONTENT_TYPE, html);
        reply
    }

    fn help(&self, _query: &Query) -> Reply {
        text(StatusCode::OK, format!("admin commands are:\n{}", commands()))
    }

    fn certs(&self, _query: &Query) -> Reply {
        let list = crate::tls::certificates(&self.state, std::time::SystemTime::now());
        pretty(&list)
    }

    fn warnings(&self, _query: &Query) -> Reply {
        let manager = self.admin.manager.lock();
        let lines: Vec<String> = manager.warnings.iter().map(|warning| format!("{warning}\n")).collect();
        text(StatusCode::OK, lines.concat())
    }

    /// `DRAINING` where health checks are to fail, too.
    fn state_name(&self) -> &'static str {
        if self.state.draining.load(Relaxed) || self.state.failing.load(Relaxed) {
            "DRAINING"
        } else if *self.admin.ready.borrow() {
            "LIVE"
        } else {
            "PRE_INITIALIZING"
        }
    }
}

fn http_body_size(reply: &Reply) -> u64 {
    http_body::Body::size_hint(reply.body()).exact().unwrap_or_default()
}

/// What every answer says: nothing is kept, and nothing is guessed about its type.
fn secured(mut reply: Reply) -> Reply {
    use http::HeaderValue;
    let headers = reply.headers_mut();
    headers.insert("cache-control", HeaderValue::from_static("no-cache, max-age=0"));
    headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    if headers.get("content-type").is_some_and(|kind| kind.as_bytes().starts_with(b"text/plain;")) {
        // As Envoy writes it.
        headers.insert("content-type", HeaderValue::from_static("text/plain; charset=UTF-8"));
    }
    reply
}

/// A page of JSON, indented as Envoy indents it.
fn pretty(value: &serde_json::Value) -> Reply {
    let mut out = String::new();
    for line in format!("{value:#}").lines() {
        // Texts have no line ends of their own: what a line begins with is its indentation.
        let indentation = line.len() - line.trim_start_matches(' ').len();
        out.push_str(&line[indentation / 2..]);
        out.push('\n');
    }
    json(out)
}

/// What is wrong with a request, as the pages of configuration say it.
fn plain_error(status: StatusCode, message: String) -> Reply {
    let mut reply = text(status, message);
    reply.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("text/plain"));
    reply
}

fn commands() -> String {
    PAGES
        .iter()
        .map(|page| {
            let post = if page.changes { " (POST)" } else { "" };
            format!("  {}{post}: {}\n", page.path, page.about)
        })
        .collect()
}

/// `a=1&b` with percent signs and pluses decoded.
fn query(text: &str) -> Query {
    text.split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decoded(name), decoded(value))
        })
        .collect()
}

fn decoded(text: &str) -> String {
    let digit = |byte: Option<&u8>| (*byte? as char).to_digit(16);
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        match (bytes[at], digit(bytes.get(at + 1)), digit(bytes.get(at + 2))) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                at += 3;
            }
            (byte, ..) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// A regular expression of a parameter; the answer says what is wrong with it.
fn pattern(query: &Query, name: &str) -> Result<Option<regex::Regex>, Reply> {
    let Some(text_of) = query.get(name).filter(|text| !text.is_empty()) else { return Ok(None) };
    match regex::Regex::new(text_of) {
        Ok(regex) => Ok(Some(regex)),
        Err(error) => Err(text(StatusCode::BAD_REQUEST, format!("Invalid re2 regex: {error}\n"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded() {
        let query = query("usedonly&filter=a%7Cb&x=%zz&y=a%20b=c");
        for (name, expect) in [("usedonly", ""), ("filter", "a|b"), ("x", "%zz"), ("y", "a b=c")] {
            assert_eq!(query.get(name).map(String::as_str), Some(expect), "{name}");
        }
    }

    #[test]
    fn pages_are_sorted() {
        assert!(PAGES.windows(2).all(|pair| pair[0].path < pair[1].path));
    }
}
