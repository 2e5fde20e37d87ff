//! From a case to a bootstrap file: what the case leaves out is filled in, `$names` become addresses.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use regex::Regex;
use serde_json::{Map, Value, json};

use crate::case::Case;
use crate::short_names;

/// The fields of the standard access log, a key and a value each, so that a difference names its field.
pub const LOG_FORMAT: &str = concat!(
    "method=%REQ(:METHOD)%\tpath=%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%\tauthority=%REQ(:AUTHORITY)%\tprotocol=%PROTOCOL%",
    "\tcode=%RESPONSE_CODE%\tflags=%RESPONSE_FLAGS%\tdetails=%RESPONSE_CODE_DETAILS%",
    "\ttermination=%CONNECTION_TERMINATION_DETAILS%\treceived=%BYTES_RECEIVED%\tsent=%BYTES_SENT%",
    "\tupstream=%UPSTREAM_HOST%\tcluster=%UPSTREAM_CLUSTER%\tfailure=%UPSTREAM_TRANSPORT_FAILURE_REASON%",
    "\troute=%ROUTE_NAME%\tattempts=%UPSTREAM_REQUEST_ATTEMPT_COUNT%\tsni=%REQUESTED_SERVER_NAME%",
    "\tlocal=%DOWNSTREAM_LOCAL_ADDRESS%\tremote=%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%\n"
);

/// What `$names` in a case stand for.
#[derive(Debug, Clone, Default)]
pub struct Names {
    /// Listeners and upstreams.
    pub addresses: BTreeMap<String, SocketAddr>,
    /// Paths.
    pub texts: BTreeMap<String, String>,
}

impl Names {
    /// Gives a name to an address.
    pub fn address(&mut self, name: &str, address: SocketAddr) {
        self.addresses.insert(name.to_owned(), address);
    }

    /// Gives a name to a path.
    pub fn path(&mut self, name: &str, path: &Path) {
        self.texts.insert(name.to_owned(), path.display().to_string());
    }

    /// Replaces `$name` (host and port of an address, or a path), `$name.port` and `$name.ip`.
    pub fn substitute(&self, text: &str) -> String {
        if !text.contains('$') {
            return text.to_owned();
        }
        let pattern = Regex::new(r"\$([a-z_][a-z0-9_]*)(\.port|\.ip)?").expect("a constant");
        let replaced = pattern.replace_all(text, |found: &regex::Captures<'_>| {
            if let Some(path) = self.texts.get(&found[1]) {
                return format!("{path}{}", found.get(2).map_or("", |rest| rest.as_str()));
            }
            match (self.addresses.get(&found[1]), found.get(2).map(|part| part.as_str())) {
                (Some(address), None) => address.to_string(),
                (Some(address), Some(".port")) => address.port().to_string(),
                (Some(address), Some(_)) => address.ip().to_string(),
                // An anchor of a regular expression, perhaps.
                (None, _) => found[0].to_owned(),
            }
        });
        replaced.into_owned()
    }

    /// The same in every string of a value. A string that is nothing but `$name` becomes a `socket_address`, one that is
    /// nothing but `$name.port` a number.
    pub fn substitute_value(&self, value: &mut Value) {
        match value {
            Value::String(text) => {
                let whole = text.strip_prefix('$');
                if let Some(address) = whole.and_then(|name| self.addresses.get(name)) {
                    *value = socket_address(*address);
                } else if let Some(address) =
                    whole.and_then(|name| self.addresses.get(name.strip_suffix(".port")?))
                {
                    *value = address.port().into();
                } else {
                    *text = self.substitute(text);
                }
            }
            Value::Array(items) => items.iter_mut().for_each(|item| self.substitute_value(item)),
            Value::Object(map) => map.values_mut().for_each(|value| self.substitute_value(value)),
            _ => {}
        }
    }
}

fn socket_address(address: SocketAddr) -> Value {
    json!({"socket_address": {"address": address.ip().to_string(), "port_value": address.port()}})
}

/// A port that nothing listens on. Below the ports that the kernel gives to clients, so that it stays free until it is used.
pub fn free_address() -> std::io::Result<SocketAddr> {
    const FIRST: u32 = 10_000;
    const COUNT: u32 = 22_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Two runs side by side begin at different places.
    let offset = std::process::id().wrapping_mul(613) % COUNT;
    for _ in 0..1000 {
        let port = FIRST + (offset + NEXT.fetch_add(1, Relaxed)) % COUNT;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port as u16));
        if TcpListener::bind(address).is_ok() {
            return Ok(address);
        }
    }
    Err(std::io::Error::other("a thousand ports in a row are taken"))
}

/// Merges as RFC 7386: `null` removes, lists are replaced.
pub fn merge(base: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *base = patch.clone();
        return;
    };
    if !base.is_object() {
        *base = json!({});
    }
    let Value::Object(base) = base else { return };
    for (key, value) in patch {
        if value.is_null() {
            base.shift_remove(key);
        } else {
            merge(base.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

/// The whole bootstrap of a case.
pub fn bootstrap(case: &Case, names: &Names) -> Value {
    let mut bootstrap = json!({
        "node": {"id": "node", "cluster": "service"},
        "admin": {"address": "$admin"},
        "static_resources": {"listeners": listeners(case), "clusters": clusters(case)},
    });
    if let Some(patch) = &case.bootstrap {
        merge(&mut bootstrap, patch);
    }
    short_names::expand(&mut bootstrap, &|manager| complete_manager(case, manager));
    names.substitute_value(&mut bootstrap);
    bootstrap
}

fn listeners(case: &Case) -> Value {
    let standard = |name: &str| {
        json!({"name": name, "address": format!("${name}"),
            "filter_chains": [{"filters": case.filters.clone().unwrap_or_else(|| json!([{"http": {}}]))}]})
    };
    let mut main = standard("main");
    if let Some(patch) = &case.listener {
        merge(&mut main, patch);
    }
    let mut all = vec![main];
    for (name, patch) in &case.listeners {
        let mut listener = standard(name);
        merge(&mut listener, patch);
        all.push(listener);
    }
    Value::Array(all)
}

fn clusters(case: &Case) -> Value {
    let mut wanted: Vec<(String, Value)> =
        case.clusters.iter().map(|(name, patch)| (name.clone(), patch.clone())).collect();
    if !case.no_clusters {
        let missing = case.upstreams.keys().filter(|name| !case.clusters.contains_key(*name));
        wanted.extend(missing.map(|name| (name.clone(), json!({}))));
    }
    wanted.into_iter().map(|(name, patch)| cluster(case, &name, patch)).collect()
}

fn cluster(case: &Case, name: &str, mut patch: Value) -> Value {
    // `hosts: [a, b]` stands for endpoints at these upstreams.
    let hosts = patch.as_object_mut().and_then(|patch| patch.shift_remove("hosts"));
    let hosts: Vec<Value> = match hosts {
        Some(Value::Array(hosts)) => hosts,
        _ if case.upstreams.contains_key(name) => vec![name.into()],
        _ => Vec::new(),
    };
    let mut cluster = json!({"name": name, "type": "STATIC", "connect_timeout": "5s"});
    if !hosts.is_empty() && patch.get("load_assignment").is_none() {
        cluster["load_assignment"] = json!({"endpoints": [{"lb_endpoints": hosts}]});
    }
    merge(&mut cluster, &patch);
    if let Some(assignment) = cluster.get_mut("load_assignment") {
        if let Some(assignment) = assignment.as_object_mut() {
            assignment.entry("cluster_name").or_insert_with(|| name.into());
        }
        for group in assignment["endpoints"].as_array_mut().into_iter().flatten() {
            group["lb_endpoints"].as_array_mut().into_iter().flatten().for_each(endpoint);
        }
    }
    cluster
}

/// `a` stands for an endpoint at that upstream, `{host: a, ...}` for one with further fields.
fn endpoint(value: &mut Value) {
    let host = match value {
        Value::String(host) => Some(std::mem::take(host)),
        Value::Object(map) => map.shift_remove("host").and_then(|host| host.as_str().map(str::to_owned)),
        _ => None,
    };
    let Some(host) = host else { return };
    if !value.is_object() {
        *value = json!({});
    }
    merge(value, &json!({"endpoint": {"address": format!("${host}")}}));
}

/// Fills in a connection manager; what it has stays.
fn complete_manager(case: &Case, manager: &mut Map<String, Value>) {
    let given = std::mem::take(manager);
    let mut filters = case.http_filters.clone();
    filters.push(json!({"router": {}}));
    let format = case.log_format.clone().unwrap_or_else(|| LOG_FORMAT.to_owned());
    let mut standard = json!({
        "stat_prefix": "test",
        "http_filters": filters,
        "access_log": [{"file_log": {"path": "$log", "log_format": {"text_format_source": {"inline_string": format}}}}],
    });
    if let Some(patch) = &case.manager {
        merge(&mut standard, patch);
    }
    let mut given = Value::Object(given);
    let hosts = virtual_hosts(&mut given, case);
    if let Some(hosts) = hosts
        && standard.get("rds").is_none()
        && given.get("rds").is_none()
    {
        standard["route_config"] = json!({"name": "routes", "virtual_hosts": hosts});
        if let Some(patch) = &case.route_config {
            merge(&mut standard["route_config"], patch);
        }
    }
    merge(&mut standard, &given);
    short_names::expand(&mut standard, &|_| {});
    if let Value::Object(standard) = standard {
        *manager = standard;
    }
}

/// `routes` or `virtual_hosts`, of the manager itself or else of the case.
fn virtual_hosts(given: &mut Value, case: &Case) -> Option<Value> {
    let mut take = |key: &str| given.as_object_mut().and_then(|given| given.shift_remove(key));
    let (routes, hosts) = (take("routes"), take("virtual_hosts"));
    let only = |routes: Value| json!([{"name": "all", "domains": ["*"], "routes": routes}]);
    hosts.or(routes.map(only)).or_else(|| case.virtual_hosts.clone()).or_else(|| {
        Some(only(
            case.routes
                .clone()
                .unwrap_or_else(|| json!([{"match": {"prefix": "/"}, "route": {"cluster": "a"}}])),
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(yaml: &str) -> Case {
        crate::yaml(yaml).unwrap()
    }

    #[test]
    fn what_a_case_leaves_out_is_filled_in() {
        let mut names = Names::default();
        for (name, port) in [("admin", 1), ("main", 2), ("a", 3)] {
            names.address(name, SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        }
        names.path("log", Path::new("/tmp/log"));
        let case = case(concat!(
            "name: n\nupstreams: {a: {}}\nclusters: {a: {lb_policy: RANDOM}}\n",
            "routes: [{match: {prefix: /x}, route: {cluster: a, host_rewrite_literal: '$a.ip:$a.port'}}]\n",
            "manager: {via: me}\nhttp_filters: [{fault: {}}]\n",
        ));
        let bootstrap = bootstrap(&case, &names);
        let cluster = &bootstrap["static_resources"]["clusters"][0];
        assert_eq!(cluster["lb_policy"], "RANDOM");
        assert_eq!(
            cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"]["socket_address"]
                ["port_value"],
            3
        );
        let listener = &bootstrap["static_resources"]["listeners"][0];
        assert_eq!(listener["address"]["socket_address"]["port_value"], 2);
        let manager = &listener["filter_chains"][0]["filters"][0]["typed_config"];
        assert_eq!(manager["via"], "me");
        assert_eq!(manager["http_filters"].as_array().unwrap().len(), 2);
        assert_eq!(manager["access_log"][0]["typed_config"]["path"], "/tmp/log");
        let route = &manager["route_config"]["virtual_hosts"][0]["routes"][0];
        assert_eq!(route["route"]["host_rewrite_literal"], "127.0.0.1:3");
    }

    #[test]
    fn unknown_names_stay() {
        let names = Names::default();
        for text in ["^/a$", "cost $1", "$unknown.port"] {
            assert_eq!(names.substitute(text), text);
        }
    }
}
