//! The table of handled fields, `docs/fields.md`: made by asking the compiler, one field at a time.
//!
//! For every field of the messages that are compiled, a message is made that has this field (and what the message needs
//! to be valid), and compiled. `LATEEN_BLESS=1` writes the table; without it the test says when it is not current.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::Path;

use lateen_dataplane::Warning;
use lateen_dataplane::compile;
use lateen_envoy::fields::{FieldKind, FieldType, field_types};
use lateen_envoy::json::from_json;
use serde_json::{Value, json};

#[path = "fields/repair.rs"]
mod repair;

const EXTENSIONS: &str = "type.googleapis.com/envoy.extensions";

/// What the compiler says of a document: warnings, or why it is refused.
type Verdict = Result<Vec<Warning>, String>;

/// A message to look into: where its value goes, and who compiles it.
struct Root {
    /// Its full name.
    message: &'static str,
    /// What it needs to be valid.
    base: Value,
    /// The whole document around a value, and where in it the value is.
    wrap: Box<dyn Fn(Value) -> Value>,
    path: String,
    compile: fn(&Value) -> Verdict,
}

macro_rules! compiler {
    ($compile:expr) => {
        |document| {
            let message = from_json(document).map_err(|error| error.to_string())?;
            $compile(message).map(|compiled| compiled.warnings).map_err(|error| error.to_string())
        }
    };
}

fn listener(document: &Value) -> Verdict {
    compiler!(compile::compile_listener)(document)
}

fn routes(document: &Value) -> Verdict {
    compiler!(compile::compile_routes)(document)
}

fn cluster(document: &Value) -> Verdict {
    compiler!(compile::compile_cluster)(document)
}

fn assignment(document: &Value) -> Verdict {
    compiler!(compile::compile_assignment)(document)
}

fn bootstrap(document: &Value) -> Verdict {
    let message = from_json(document).map_err(|error| error.to_string())?;
    lateen_proxy::bootstrap::warnings(&message).map_err(|error| error.to_string())
}

fn typed(name: &str, mut config: Value) -> Value {
    config["@type"] = json!(format!("{EXTENSIONS}.{name}"));
    config
}

fn address() -> Value {
    json!({"socket_address": {"address": "127.0.0.1", "port_value": 1}})
}

fn listener_of(filters: Value) -> Value {
    json!({"name": "l", "address": address(), "filter_chains": [{"filters": filters}]})
}

fn echo() -> Value {
    json!({"name": "e", "typed_config": typed("filters.network.echo.v3.Echo", json!({}))})
}

fn table() -> Value {
    json!({"name": "r", "virtual_hosts": [{"name": "v", "domains": ["*"], "routes": [route()]}]})
}

fn route() -> Value {
    json!({"match": {"prefix": "/"}, "route": {"cluster": "c"}})
}

fn manager() -> Value {
    let router = json!({"name": "envoy.filters.http.router", "typed_config": typed("filters.http.router.v3.Router", json!({}))});
    json!({"stat_prefix": "s", "route_config": table(), "http_filters": [router]})
}

fn network(name: &'static str, message: &'static str, base: Value, terminal: bool) -> Root {
    let wrap = move |value| {
        let filter = json!({"name": "f", "typed_config": typed(name, value)});
        listener_of(if terminal { json!([filter]) } else { json!([filter, echo()]) })
    };
    Root {
        message,
        base,
        wrap: Box::new(wrap),
        path: "filter_chains[0].filters[0].typed_config".into(),
        compile: listener,
    }
}

fn http(name: &'static str, message: &'static str, base: Value) -> Root {
    let wrap = move |value| {
        let filter = json!({"name": message, "typed_config": typed(name, value)});
        let mut manager = manager();
        let filters = manager["http_filters"].as_array_mut().unwrap();
        if name.contains(".router.") {
            filters[0] = filter
        } else {
            filters.insert(0, filter)
        }
        listener_of(json!([{"name": "h", "typed_config": typed(HTTP_MANAGER, manager)}]))
    };
    let path = "filter_chains[0].filters[0].typed_config.http_filters[0].typed_config";
    Root { message, base, wrap: Box::new(wrap), path: path.into(), compile: listener }
}

fn inspector(name: &'static str, message: &'static str) -> Root {
    let wrap = move |value| {
        let mut listener = listener_of(json!([echo()]));
        listener["listener_filters"] = json!([{"name": "f", "typed_config": typed(name, value)}]);
        listener
    };
    Root {
        message,
        base: json!({}),
        wrap: Box::new(wrap),
        path: "listener_filters[0].typed_config".into(),
        compile: listener,
    }
}

const HTTP_MANAGER: &str = "filters.network.http_connection_manager.v3.HttpConnectionManager";

fn roots() -> Vec<Root> {
    let whole = |message, base, compile| Root {
        message,
        base,
        wrap: Box::new(|value| value),
        path: String::new(),
        compile,
    };
    let socket = |name: &'static str, message, listens: bool| {
        let wrap = move |value| {
            let socket = json!({"name": "tls", "transport_socket": {"name": "tls", "typed_config": typed(name, value)}});
            if listens {
                let mut document = listener_of(json!([echo()]));
                document["filter_chains"][0]["transport_socket"] = socket["transport_socket"].clone();
                document
            } else {
                json!({"name": "c", "transport_socket": socket["transport_socket"]})
            }
        };
        let path = if listens {
            "filter_chains[0].transport_socket.typed_config"
        } else {
            "transport_socket.typed_config"
        };
        let certificate =
            json!({"tls_certificate_sds_secret_configs": [{"name": "s", "sds_config": {"ads": {}}}]});
        Root {
            message,
            base: if listens { json!({"common_tls_context": certificate}) } else { json!({}) },
            wrap: Box::new(wrap),
            path: path.into(),
            compile: if listens { listener } else { cluster },
        }
    };
    let bucket = json!({"max_tokens": 1, "fill_interval": "1s"});
    let mut roots = vec![
        whole("envoy.config.listener.v3.Listener", listener_of(json!([echo()])), listener),
        inspector(
            "filters.listener.proxy_protocol.v3.ProxyProtocol",
            "envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol",
        ),
        inspector(
            "filters.listener.tls_inspector.v3.TlsInspector",
            "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector",
        ),
        network(
            HTTP_MANAGER,
            "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            manager(),
            true,
        ),
        network(
            "filters.network.tcp_proxy.v3.TcpProxy",
            "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
            json!({"stat_prefix": "s", "cluster": "c"}),
            true,
        ),
        network(
            "filters.network.direct_response.v3.Config",
            "envoy.extensions.filters.network.direct_response.v3.Config",
            json!({}),
            true,
        ),
        network(
            "filters.network.local_ratelimit.v3.LocalRateLimit",
            "envoy.extensions.filters.network.local_ratelimit.v3.LocalRateLimit",
            json!({"stat_prefix": "s", "token_bucket": bucket}),
            false,
        ),
        network(
            "filters.network.connection_limit.v3.ConnectionLimit",
            "envoy.extensions.filters.network.connection_limit.v3.ConnectionLimit",
            json!({"stat_prefix": "s", "max_connections": 1}),
            false,
        ),
        network(
            "filters.network.set_filter_state.v3.Config",
            "envoy.extensions.filters.network.set_filter_state.v3.Config",
            json!({}),
            false,
        ),
    ];
    for (name, message, base) in [
        ("filters.http.router.v3.Router", "envoy.extensions.filters.http.router.v3.Router", json!({})),
        ("filters.http.fault.v3.HTTPFault", "envoy.extensions.filters.http.fault.v3.HTTPFault", json!({})),
        ("filters.http.cors.v3.CorsPolicy", "envoy.extensions.filters.http.cors.v3.CorsPolicy", json!({})),
        (
            "filters.http.buffer.v3.Buffer",
            "envoy.extensions.filters.http.buffer.v3.Buffer",
            json!({"max_request_bytes": 1}),
        ),
        (
            "filters.http.compressor.v3.Compressor",
            "envoy.extensions.filters.http.compressor.v3.Compressor",
            json!({"compressor_library": {"name": "gzip", "typed_config": typed("compression.gzip.compressor.v3.Gzip", json!({}))}}),
        ),
        (
            "filters.http.local_ratelimit.v3.LocalRateLimit",
            "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
            json!({"stat_prefix": "s", "token_bucket": bucket}),
        ),
        (
            "filters.http.header_mutation.v3.HeaderMutation",
            "envoy.extensions.filters.http.header_mutation.v3.HeaderMutation",
            json!({}),
        ),
    ] {
        if message.ends_with("CorsPolicy") {
            let wrap = |value| {
                let mut table = table();
                table["virtual_hosts"][0]["typed_per_filter_config"] =
                    json!({"envoy.filters.http.cors": typed("filters.http.cors.v3.CorsPolicy", value)});
                table
            };
            let path = "virtual_hosts[0].typed_per_filter_config[\"envoy.filters.http.cors\"]";
            roots.push(Root { message, base, wrap: Box::new(wrap), path: path.into(), compile: routes });
        } else {
            roots.push(http(name, message, base));
        }
    }
    roots.extend([
        whole("envoy.config.route.v3.RouteConfiguration", table(), routes),
        whole("envoy.config.cluster.v3.Cluster", json!({"name": "c"}), cluster),
        whole("envoy.config.endpoint.v3.ClusterLoadAssignment", json!({"cluster_name": "c"}), assignment),
        Root {
            message: "envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            base: json!({"explicit_http_config": {"http_protocol_options": {}}}),
            wrap: Box::new(|value| {
                let name = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
                json!({"name": "c", "typed_extension_protocol_options": {name: typed("upstreams.http.v3.HttpProtocolOptions", value)}})
            }),
            path: "typed_extension_protocol_options[\"envoy.extensions.upstreams.http.v3.HttpProtocolOptions\"]".into(),
            compile: cluster,
        },
        socket("transport_sockets.tls.v3.DownstreamTlsContext", "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext", true),
        socket("transport_sockets.tls.v3.UpstreamTlsContext", "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext", false),
    ]);
    // Last: what is in its resources is looked into where it is compiled.
    roots.push(whole("envoy.config.bootstrap.v3.Bootstrap", json!({}), bootstrap));
    roots
}

/// What a message needs to be valid, where an empty one is not.
fn needed(message: &str) -> Value {
    match message.rsplit('.').next().unwrap() {
        "VirtualHost" => json!({"name": "v", "domains": ["*"]}),
        "Route" => route(),
        "RouteMatch" => json!({"prefix": "/"}),
        "RouteAction" => json!({"cluster": "c"}),
        "RedirectAction" => json!({"host_redirect": "h"}),
        "DirectResponseAction" => json!({"status": 200}),
        "HeaderMatcher" => json!({"name": "h"}),
        "QueryParameterMatcher" => json!({"name": "q"}),
        "StringMatcher" => json!({"exact": "x"}),
        "RegexMatcher" => json!({"regex": "x"}),
        "RegexMatchAndSubstitute" => json!({"pattern": {"regex": "x"}, "substitution": "y"}),
        "HeaderValueOption" => json!({"header": {"key": "k", "value": "v"}}),
        "HeaderValue" => json!({"key": "k", "value": "v"}),
        "Address" => address(),
        "SocketAddress" => json!({"address": "127.0.0.1", "port_value": 1}),
        "CidrRange" => json!({"address_prefix": "10.0.0.0", "prefix_len": 8}),
        "ClusterWeight" => json!({"name": "c", "weight": 1}),
        "WeightedCluster" => json!({"clusters": [{"name": "c", "weight": 1}]}),
        "TokenBucket" => json!({"max_tokens": 1, "fill_interval": "1s"}),
        "AccessLogFilter" => json!({"header_filter": {"header": {"name": "h"}}}),
        "ListenerFilter" => {
            let inspector = typed("filters.listener.tls_inspector.v3.TlsInspector", json!({}));
            json!({"name": "i", "typed_config": inspector})
        }
        "ExplicitHttpConfig" => json!({"http_protocol_options": {}}),
        "FilterChain" => json!({"filters": [echo()]}),
        "Filter" => echo(),
        "HealthCheck" => {
            json!({"timeout": "1s", "interval": "1s", "unhealthy_threshold": 1, "healthy_threshold": 1, "tcp_health_check": {}})
        }
        "HttpHealthCheck" => json!({"path": "/"}),
        "ConfigSource" => json!({"ads": {}}),
        "Rds" => json!({"route_config_name": "r", "config_source": {"ads": {}}}),
        "RouteConfiguration" => table(),
        "ClusterLoadAssignment" => json!({"cluster_name": "c"}),
        "LbEndpoint" => json!({"endpoint": {"address": address()}}),
        "Endpoint" => json!({"address": address()}),
        "FilterStateValue" => {
            json!({"object_key": "k", "format_string": {"text_format_source": {"inline_string": "x"}}})
        }
        "BackoffStrategy" => json!({"base_interval": "1s"}),
        "RetryBackOff" => json!({"base_interval": "1s"}),
        "SdsSecretConfig" => json!({"name": "s", "sds_config": {"ads": {}}}),
        "UpgradeConfig" => json!({"upgrade_type": "websocket"}),
        "RequestMirrorPolicy" => json!({"cluster": "c"}),
        "KeyValuePair" => json!({"key": "k"}),
        "RuntimeFractionalPercent" => json!({"default_value": {"numerator": 1}}),
        "RuntimeFeatureFlag" => json!({"default_value": true}),
        "HashPolicy" => json!({}),
        "Header" => json!({"header_name": "h"}),
        "Cookie" => json!({"name": "c"}),
        "EnvoyGrpc" => json!({"cluster_name": "c"}),
        "DataSource" => json!({"inline_string": "x"}),
        "LbSubsetConfig" => json!({"subset_selectors": [{"keys": ["k"]}]}),
        _ => json!({}),
    }
}

/// A value that is not the one that counts when nothing is said.
fn value_of(kind: &FieldKind, name: &str) -> Option<Value> {
    Some(match kind {
        FieldKind::Bool => json!(true),
        FieldKind::Number => json!(1),
        FieldKind::Text => json!(match name {
            "address_prefix" => "10.0.0.0",
            "address" => "127.0.0.1",
            _ => "x",
        }),
        FieldKind::Bytes => json!("eA=="),
        FieldKind::Enum(names) => json!(names.get(1).or(names.first())?),
        FieldKind::Message(message) => match message.strip_prefix("google.protobuf.") {
            Some("Duration") => json!("1s"),
            Some("Timestamp") => json!("2026-01-01T00:00:00Z"),
            Some("BoolValue") => json!(true),
            Some("StringValue" | "BytesValue") => json!("eA=="),
            Some("Struct") => json!({"k": "v"}),
            Some("Value") => json!("v"),
            Some("Any") => return None,
            Some("Empty") => json!({}),
            Some(_) => json!(1),
            None => needed(message),
        },
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    Handled,
    Partly,
    Reported,
    Refused,
    Extension,
}

impl State {
    fn text(self) -> &'static str {
        match self {
            Self::Handled => "handled",
            Self::Partly => "handled in part",
            Self::Reported => "reported, no effect",
            Self::Refused => "refused",
            Self::Extension => "an extension",
        }
    }
}

/// A message, one of its fields, and how that fared.
type Rows = BTreeMap<String, Vec<(String, State)>>;

/// The base with a field set; what excludes it is left out.
fn with_field(base: &Value, fields: &[FieldType], field: &FieldType, value: Value) -> Value {
    let mut object = base.clone();
    let map = object.as_object_mut().unwrap();
    for other in fields {
        if field.oneof.is_some() && other.oneof == field.oneof {
            map.remove(other.name);
        }
    }
    map.insert(field.name.to_owned(), value);
    object
}

fn look_into(root: &Root, rows: &mut Rows, seen: &mut BTreeSet<String>) {
    // Otherwise every field would look as if it were obeyed.
    let verdict = repair::verdict(&(root.wrap)(root.base.clone()), root.compile);
    assert_eq!(verdict, Ok(Vec::new()), "{}: without any field", root.message);
    look(root.message, &root.base, &*root.wrap, &root.path, root.compile, rows, seen, 0);
}

#[allow(clippy::too_many_arguments)]
fn look(
    message: &str,
    base: &Value,
    wrap: &dyn Fn(Value) -> Value,
    path: &str,
    compile: fn(&Value) -> Verdict,
    rows: &mut Rows,
    seen: &mut BTreeSet<String>,
    depth: usize,
) {
    if depth > 6 || !seen.insert(message.to_owned()) {
        return;
    }
    let Some(fields) = field_types(message) else { return };
    for field in &fields {
        let one = match &field.kind {
            // An entry is a message with a key and a value; only its value is of interest.
            FieldKind::Message(entry) if field.map => {
                let of = field_types(entry).and_then(|fields| value_of(&fields.get(1)?.kind, "value"));
                of.map(|value| json!({"k": value}))
            }
            kind => value_of(kind, field.name),
        };
        let at = if path.is_empty() { field.name.to_owned() } else { format!("{path}.{}", field.name) };
        // A library that compresses stands for what it is.
        let Some(one) = one.filter(|_| field.name != "compressor_library") else {
            rows.entry(message.to_owned()).or_default().push((field.name.to_owned(), State::Extension));
            continue;
        };
        let inside = |value: Value| {
            with_field(base, &fields, field, if field.repeated { json!([value]) } else { value })
        };
        let state = judge(&wrap(inside(one.clone())), &at, compile);
        rows.entry(message.to_owned()).or_default().push((field.name.to_owned(), state));
        if let (FieldKind::Message(inner), State::Handled | State::Partly, false) =
            (&field.kind, state, field.map)
            && inner.starts_with("envoy.")
        {
            let at = if field.repeated { format!("{at}[0]") } else { at };
            look(inner, &one, &|value| wrap(inside(value)), &at, compile, rows, seen, depth + 1);
        }
    }
}

/// What the compiler makes of a document with this field.
fn judge(document: &Value, path: &str, compile: fn(&Value) -> Verdict) -> State {
    match repair::verdict(document, compile) {
        Ok(warnings) => {
            if warnings
                .iter()
                .any(|warning| warning.path == path || path.starts_with(&format!("{}.", warning.path)))
            {
                State::Reported
            } else if warnings.iter().any(|warning| warning.path.starts_with(path)) {
                State::Partly
            } else {
                State::Handled
            }
        }
        Err(error) if error.contains("not supported") || error.contains("only TCP") => State::Refused,
        // Somebody looked at it closely enough to find fault with its value.
        Err(_) => State::Handled,
    }
}

fn table_text() -> String {
    let mut rows = Rows::new();
    let mut seen = BTreeSet::new();
    for root in roots() {
        look_into(&root, &mut rows, &mut seen);
    }
    let mut counts: BTreeMap<State, usize> = BTreeMap::new();
    rows.values().flatten().for_each(|(_, state)| *counts.entry(*state).or_default() += 1);
    let mut out = String::from(
        "# Fields of Envoy's configuration\n\n\
         What `lateen-proxy` does with every field of the messages that it compiles. This file is made by a test that\n\
         compiles a message for each field (`LATEEN_BLESS=1 cargo test -p lateen-proxy --test fields`); do not edit it.\n\n\
         - *handled*: it has an effect, or a wrong value is refused;\n\
         - *handled in part*: some of what is inside has no effect, see there;\n\
         - *reported, no effect*: a warning names its path in the log, on the admin page `/warnings` and in `--mode validate`;\n\
         - *refused*: the resource is rejected, because serving without it would be something else than was asked for;\n\
         - *an extension*: what is in it decides.\n\n",
    );
    for (state, count) in counts {
        let _ = writeln!(out, "- {}: {count}", state.text());
    }
    for (message, fields) in &rows {
        let _ = writeln!(out, "\n## {message}\n\n| field | |\n|---|---|");
        for (field, state) in fields {
            let _ = writeln!(out, "| `{field}` | {} |", state.text());
        }
    }
    out
}

#[test]
fn the_table_of_handled_fields_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/fields.md");
    let text = table_text();
    if std::env::var_os("LATEEN_BLESS").is_some() {
        std::fs::write(&path, text).unwrap();
        return;
    }
    let current = std::fs::read_to_string(&path).unwrap_or_default();
    let differs = text.lines().zip(current.lines()).find(|(new, old)| new != old);
    assert!(
        text == current,
        "docs/fields.md is not current ({differs:?}): LATEEN_BLESS=1 cargo test -p lateen-proxy --test fields"
    );
}

#[test]
fn what_is_known_to_be_so_is_found() {
    let mut rows = Rows::new();
    let mut seen = BTreeSet::new();
    roots().iter().for_each(|root| look_into(root, &mut rows, &mut seen));
    let state = |message: &str, field: &str| {
        let fields = rows.iter().find(|(name, _)| name.ends_with(message)).map(|(_, fields)| fields).unwrap();
        fields.iter().find(|(name, _)| name == field).unwrap().1
    };
    assert_eq!(state(".Listener", "tcp_backlog_size"), State::Handled);
    assert_eq!(state(".Listener", "stats_matcher"), State::Reported);
    assert_eq!(state(".Listener", "filter_chain_matcher"), State::Refused);
    assert_eq!(state(".TcpProxy", "tunneling_config"), State::Handled);
    assert_eq!(state(".TcpProxy", "idle_timeout"), State::Handled);
    assert_eq!(state(".RouteMatch", "path"), State::Handled);
    assert_eq!(state(".Bootstrap", "node"), State::Handled);
    assert_eq!(state(".Bootstrap", "header_prefix"), State::Reported);
}
