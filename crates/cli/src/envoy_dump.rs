//! What a proxy's `/config_dump` says, as rows of tables. Works on the JSON form, so it reads a dump of our proxy and
//! of Envoy alike; fields are those of Envoy's `envoy.admin.v3` messages.

use serde_json::Value;

/// Whether a section is of this message; `ScopedRoutesConfigDump` is not `RoutesConfigDump`.
fn is_message(section: &Value, message: &str) -> bool {
    section["@type"].as_str().and_then(|url| url.rsplit('.').next()) == Some(message)
}

/// The resources of one kind in a dump: static, dynamic active, and endpoint configurations.
fn resources<'a>(dump: &'a Value, message: &str, field: &str) -> Vec<&'a Value> {
    let section = dump["configs"].as_array().into_iter().flatten().find(|config| is_message(config, message));
    let Some(section) = section else { return Vec::new() };
    let lists = section.as_object().into_iter().flatten().filter_map(|(_, value)| value.as_array());
    lists
        .flatten()
        .filter_map(|entry| {
            entry.get(field).or_else(|| entry.get("active_state").and_then(|state| state.get(field)))
        })
        .collect()
}

/// The bootstrap section.
pub(crate) fn bootstrap(dump: &Value) -> Option<&Value> {
    let configs = dump["configs"].as_array()?;
    configs.iter().find(|config| is_message(config, "BootstrapConfigDump"))
}

/// The clusters.
pub(crate) fn clusters(dump: &Value) -> Vec<&Value> {
    resources(dump, "ClustersConfigDump", "cluster")
}

/// The listeners.
pub(crate) fn listeners(dump: &Value) -> Vec<&Value> {
    resources(dump, "ListenersConfigDump", "listener")
}

/// The route configurations.
pub(crate) fn routes(dump: &Value) -> Vec<&Value> {
    resources(dump, "RoutesConfigDump", "route_config")
}

/// The endpoint assignments; needs a dump made with `include_eds`.
pub(crate) fn endpoints(dump: &Value) -> Vec<&Value> {
    resources(dump, "EndpointsConfigDump", "endpoint_config")
}

/// The parts of an Istio cluster name, `outbound|9080|v1|reviews.default.svc.cluster.local`.
struct ClusterName<'a> {
    direction: &'a str,
    port: &'a str,
    subset: &'a str,
    host: &'a str,
}

impl<'a> ClusterName<'a> {
    fn parse(name: &'a str) -> Self {
        let parts: Vec<&str> = name.split('|').collect();
        match parts[..] {
            [direction, port, subset, host] => Self { direction, port, subset, host },
            _ => Self { direction: "-", port: "-", subset: "-", host: name },
        }
    }
}

fn or_dash(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { text.to_owned() }
}

/// SERVICE FQDN, PORT, SUBSET, DIRECTION, TYPE, DESTINATION RULE.
pub(crate) fn cluster_rows(dump: &Value) -> Vec<Vec<String>> {
    let mut rows: Vec<Vec<String>> = clusters(dump)
        .into_iter()
        .map(|cluster| {
            let name = ClusterName::parse(cluster["name"].as_str().unwrap_or_default());
            let kind =
                cluster["type"].as_str().or(cluster["cluster_type"]["name"].as_str()).unwrap_or("STATIC");
            vec![
                or_dash(name.host),
                or_dash(name.port),
                or_dash(name.subset),
                or_dash(name.direction),
                kind.to_owned(),
                config_source(&cluster["metadata"], "destination-rule").unwrap_or_default(),
            ]
        })
        .collect();
    rows.sort();
    rows
}

/// `name.namespace` of the object in Istio's metadata (`filter_metadata.istio.config`,
/// `/apis/networking.istio.io/v1/namespaces/NAMESPACE/KIND/NAME`), where it is of `kind`.
fn config_source(metadata: &Value, kind: &str) -> Option<String> {
    let path = metadata["filter_metadata"]["istio"]["config"].as_str()?;
    let parts: Vec<&str> = path.rsplit('/').take(4).collect();
    match parts[..] {
        [name, found, namespace, "namespaces"] if found == kind => Some(format!("{name}.{namespace}")),
        _ => None,
    }
}

/// NAME, VHOST NAME, DOMAINS, MATCH, VIRTUAL SERVICE.
pub(crate) fn route_rows(dump: &Value) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    for configuration in routes(dump) {
        let name = configuration["name"].as_str().unwrap_or_default();
        for host in configuration["virtual_hosts"].as_array().into_iter().flatten() {
            for route in host["routes"].as_array().into_iter().flatten() {
                rows.push(vec![
                    name.to_owned(),
                    host["name"].as_str().unwrap_or_default().to_owned(),
                    domains(host),
                    route_match(&route["match"]),
                    virtual_service(route),
                ]);
            }
        }
    }
    // Routes of one virtual host stay in the order in which they are tried.
    rows.sort_by(|one, other| one[..2].cmp(&other[..2]));
    rows
}

fn virtual_service(route: &Value) -> String {
    let redirect = if route.get("redirect").is_some() { " (redirect)" } else { "" };
    config_source(&route["metadata"], "virtual-service").map_or_else(String::new, |name| name + redirect)
}

/// The first domain without a port, and how many more there are.
fn domains(host: &Value) -> String {
    let all: Vec<&str> = host["domains"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let plain: Vec<&&str> = all.iter().filter(|domain| !domain.contains(':')).collect();
    match plain[..] {
        [] => all.first().map(ToString::to_string).unwrap_or_default(),
        [one] => one.to_string(),
        [first, second] => format!("{first}, {second}"),
        [first, ..] => format!("{first}, {} + {} more...", plain[1], plain.len() - 2),
    }
}

fn route_match(matched: &Value) -> String {
    let path = if let Some(exact) = matched["path"].as_str() {
        exact.to_owned()
    } else if let Some(prefix) = matched["prefix"].as_str() {
        format!("{prefix}*")
    } else if let Some(prefix) = matched["path_separated_prefix"].as_str() {
        format!("PathPrefix:{prefix}")
    } else if let Some(regex) = matched["safe_regex"]["regex"].as_str() {
        format!("regex {regex}")
    } else {
        String::new()
    };
    let headers: Vec<&str> = matched["headers"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|header| header["name"].as_str())
        .collect();
    match headers.is_empty() {
        true => path,
        false => format!("{path} ({})", headers.join(", ")),
    }
}

/// ADDRESSES, PORT, MATCH, DESTINATION: a row a filter chain.
pub(crate) fn listener_rows(dump: &Value) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    for listener in listeners(dump) {
        let socket = &listener["address"]["socket_address"];
        let address =
            socket["address"].as_str().or(listener["address"]["pipe"]["path"].as_str()).unwrap_or("-");
        let port = socket["port_value"].as_u64().map_or_else(|| "0".to_owned(), |port| port.to_string());
        let chains = listener["filter_chains"].as_array().into_iter().flatten();
        for chain in chains.chain(listener.get("default_filter_chain")) {
            rows.push(vec![
                address.to_owned(),
                port.clone(),
                chain_match(&chain["filter_chain_match"]),
                destination(chain),
            ]);
        }
    }
    rows.sort_by(|one, other| {
        let port = |row: &[String]| row[1].parse::<u32>().unwrap_or_default();
        (port(one), &one[0]).cmp(&(port(other), &other[0]))
    });
    rows
}

fn chain_match(matched: &Value) -> String {
    let list = |field: &str| -> String {
        let values = matched[field].as_array().into_iter().flatten();
        values
            .map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned))
            .collect::<Vec<_>>()
            .join(",")
    };
    let mut parts = Vec::new();
    for (field, label) in
        [("server_names", "SNI"), ("transport_protocol", "Trans"), ("application_protocols", "App")]
    {
        match &matched[field] {
            Value::String(text) => parts.push(format!("{label}: {text}")),
            Value::Array(_) => parts.push(format!("{label}: {}", list(field))),
            _ => {}
        }
    }
    let ranges = matched["prefix_ranges"].as_array().into_iter().flatten();
    let addresses: Vec<String> = ranges
        .filter_map(|range| {
            Some(format!("{}/{}", range["address_prefix"].as_str()?, range["prefix_len"].as_u64()?))
        })
        .collect();
    if !addresses.is_empty() {
        parts.push(format!("Addr: {}", addresses.join(",")));
    }
    if let Some(port) = matched["destination_port"].as_u64() {
        parts.push(format!("Port: {port}"));
    }
    if parts.is_empty() { "ALL".to_owned() } else { parts.join("; ") }
}

fn destination(chain: &Value) -> String {
    for filter in chain["filters"].as_array().into_iter().flatten() {
        let config = &filter["typed_config"];
        let kind = config["@type"].as_str().unwrap_or_default();
        if kind.ends_with("HttpConnectionManager") {
            return match config["rds"]["route_config_name"].as_str() {
                Some(name) => format!("Route: {name}"),
                None => format!("Inline Route: {}", inline_clusters(&config["route_config"]).join(", ")),
            };
        }
        if kind.ends_with("TcpProxy") {
            if let Some(cluster) = config["cluster"].as_str() {
                return format!("Cluster: {cluster}");
            }
            let weighted = config["weighted_clusters"]["clusters"].as_array().into_iter().flatten();
            let clusters: Vec<&str> = weighted.filter_map(|cluster| cluster["name"].as_str()).collect();
            return format!("Clusters: {}", clusters.join(", "));
        }
    }
    "Non-HTTP/Non-TCP".to_owned()
}

fn inline_clusters(configuration: &Value) -> Vec<String> {
    let hosts = configuration["virtual_hosts"].as_array().into_iter().flatten();
    let routes = hosts.flat_map(|host| host["routes"].as_array().into_iter().flatten());
    let mut names: Vec<String> =
        routes.filter_map(|route| route["route"]["cluster"].as_str()).map(str::to_owned).collect();
    names.sort();
    names.dedup();
    names
}

/// ENDPOINT, STATUS, CLUSTER.
pub(crate) fn endpoint_rows(dump: &Value) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    for assignment in endpoints(dump) {
        let cluster = assignment["cluster_name"].as_str().unwrap_or_default();
        for locality in assignment["endpoints"].as_array().into_iter().flatten() {
            for endpoint in locality["lb_endpoints"].as_array().into_iter().flatten() {
                let status = endpoint["health_status"].as_str().unwrap_or("UNKNOWN");
                rows.push(vec![
                    address(&endpoint["endpoint"]["address"]),
                    status.to_owned(),
                    cluster.to_owned(),
                ]);
            }
        }
    }
    rows.sort();
    rows
}

fn address(address: &Value) -> String {
    let socket = &address["socket_address"];
    match (socket["address"].as_str(), socket["port_value"].as_u64()) {
        (Some(host), Some(port)) if host.contains(':') => format!("[{host}]:{port}"),
        (Some(host), Some(port)) => format!("{host}:{port}"),
        _ => address["pipe"]["path"].as_str().map_or_else(|| "-".to_owned(), |path| format!("unix://{path}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn dump(message: &str, list: &str, entry: Value) -> Value {
        json!({"configs": [{"@type": format!("type.googleapis.com/envoy.admin.v3.{message}"), list: [entry]}]})
    }

    #[test]
    fn clusters_are_split_into_the_parts_of_their_name() {
        let check = |name: &str, expect: [&str; 4]| {
            let dump = dump(
                "ClustersConfigDump",
                "dynamic_active_clusters",
                json!({"cluster": {"name": name, "type": "EDS"}}),
            );
            assert_eq!(cluster_rows(&dump)[0][..4], expect.map(str::to_owned), "{name}");
        };
        check(
            "outbound|9080|v1|reviews.default.svc.cluster.local",
            ["reviews.default.svc.cluster.local", "9080", "v1", "outbound"],
        );
        check("inbound|9080||", ["-", "9080", "-", "inbound"]);
        check("PassthroughCluster", ["PassthroughCluster", "-", "-", "-"]);
    }

    #[test]
    fn routes_name_the_virtual_service_they_come_from() {
        let route = json!({
            "match": {"prefix": "/", "headers": [{"name": "end-user"}]},
            "metadata": {"filter_metadata": {"istio": {"config": "/apis/networking.istio.io/v1/namespaces/default/virtual-service/reviews"}}},
        });
        let host = json!({"name": "reviews:9080", "domains": ["a", "a:1", "b", "c"], "routes": [route]});
        let mut dump = dump(
            "RoutesConfigDump",
            "dynamic_route_configs",
            json!({"route_config": {"name": "9080", "virtual_hosts": [host]}}),
        );
        // Envoy puts this section before the one that is asked for.
        let scoped = json!({"@type": "type.googleapis.com/envoy.admin.v3.ScopedRoutesConfigDump"});
        dump["configs"].as_array_mut().unwrap().insert(0, scoped);
        assert_eq!(
            route_rows(&dump),
            [["9080", "reviews:9080", "a, b + 1 more...", "/* (end-user)", "reviews.default"]
                .map(str::to_owned)]
        );
    }

    #[test]
    fn listeners_show_match_and_destination_of_each_chain() {
        let manager = json!({"typed_config": {"@type": "x/HttpConnectionManager", "rds": {"route_config_name": "9080"}}});
        let tcp = json!({"typed_config": {"@type": "x/TcpProxy", "cluster": "PassthroughCluster"}});
        let listener = json!({
            "address": {"socket_address": {"address": "0.0.0.0", "port_value": 9080}},
            "filter_chains": [{"filter_chain_match": {"transport_protocol": "raw_buffer", "application_protocols": ["http/1.1", "h2c"]}, "filters": [manager]}],
            "default_filter_chain": {"filters": [tcp]},
        });
        let dump =
            dump("ListenersConfigDump", "dynamic_listeners", json!({"active_state": {"listener": listener}}));
        let expect = [
            ["0.0.0.0", "9080", "Trans: raw_buffer; App: http/1.1,h2c", "Route: 9080"],
            ["0.0.0.0", "9080", "ALL", "Cluster: PassthroughCluster"],
        ];
        assert_eq!(listener_rows(&dump), expect.map(|row| row.map(str::to_owned)));
    }
}
