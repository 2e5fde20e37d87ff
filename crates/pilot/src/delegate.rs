//! Delegates: a VirtualService whose routes live in others (Istio's reference, "Delegate"). What the root says of a
//! route and what the delegate says are merged into one object before anything else looks at it.

use std::collections::BTreeMap;
use std::sync::Arc;

use lateen_api::networking::{Destination, HttpMatchRequest, HttpRoute, StringMatch, VirtualService};
use lateen_model::{Config, ConfigKey, Namespace, Snapshot};

use crate::rules::full_host;
use crate::visibility::reach;

/// The object with the routes of its delegates in the place of the routes that name them; the object itself where it has
/// no delegates.
pub(crate) fn resolve(
    snapshot: &Snapshot,
    config: &Arc<Config<VirtualService>>,
) -> Arc<Config<VirtualService>> {
    if config.spec.http.iter().all(|route| route.delegate.is_none()) {
        return Arc::clone(config);
    }
    let mut spec = (*config.spec).clone();
    spec.http = config.spec.http.iter().flat_map(|route| expand(snapshot, config, route)).collect();
    Arc::new(Config { meta: config.meta.clone(), spec: Arc::new(spec) })
}

fn expand(snapshot: &Snapshot, root: &Config<VirtualService>, route: &HttpRoute) -> Vec<HttpRoute> {
    let Some(named) = &route.delegate else { return vec![route.clone()] };
    let namespace: Namespace = match named.namespace.as_str() {
        "" => root.meta.namespace.clone(),
        named => named.into(),
    };
    let key = ConfigKey { namespace, name: named.name.clone() };
    let defaults = &snapshot.mesh().default_virtual_service_export_to;
    let found = snapshot.configs().virtual_services.get(&key).filter(|delegate| {
        reach(&delegate.spec.export_to, defaults, &key.namespace, &root.meta.namespace).is_some()
    });
    let Some(delegate) = found else { return Vec::new() };
    // One level only: a delegate that delegates has no route of its own there.
    let routes = delegate.spec.http.iter().filter(|route| route.delegate.is_none());
    routes.filter_map(|leaf| merge(route, &with_full_hosts(leaf, &key.namespace))).collect()
}

/// Short names mean services of the delegate's namespace, not of the root's.
fn with_full_hosts(route: &HttpRoute, namespace: &Namespace) -> HttpRoute {
    let mut route = route.clone();
    let full = |destination: &mut Destination| {
        destination.host = full_host(&destination.host, namespace).to_string();
    };
    route.route.iter_mut().for_each(|one| full(&mut one.destination));
    route.mirror.iter_mut().for_each(full);
    route.mirrors.iter_mut().for_each(|mirror| full(&mut mirror.destination));
    route
}

/// A delegate's route under the conditions of the root's; `None` where they exclude each other.
fn merge(root: &HttpRoute, leaf: &HttpRoute) -> Option<HttpRoute> {
    let mut merged = leaf.clone();
    merged.r#match = merge_conditions(&root.r#match, &leaf.r#match)?;
    merged.name = join(&root.name, &leaf.name);
    macro_rules! inherit {
        ($($field:ident),*) => { $(
            if merged.$field.is_none() {
                merged.$field.clone_from(&root.$field);
            }
        )* };
    }
    inherit!(
        redirect,
        direct_response,
        rewrite,
        timeout,
        retries,
        fault,
        mirror,
        mirror_percent,
        mirror_percentage,
        cors_policy,
        headers
    );
    if merged.mirrors.is_empty() {
        merged.mirrors.clone_from(&root.mirrors);
    }
    Some(merged)
}

/// Every condition of the delegate must lie within one of the root's.
fn merge_conditions(root: &[HttpMatchRequest], leaf: &[HttpMatchRequest]) -> Option<Vec<HttpMatchRequest>> {
    if root.is_empty() {
        return Some(leaf.to_vec());
    }
    if leaf.is_empty() {
        return Some(root.to_vec());
    }
    let mut merged = Vec::new();
    for one in leaf {
        let before = merged.len();
        let agreeing = root.iter().filter(|above| !conflict(above, one));
        merged.extend(agreeing.map(|above| merge_condition(above, one)));
        if merged.len() == before {
            return None;
        }
    }
    Some(merged)
}

fn merge_condition(root: &HttpMatchRequest, leaf: &HttpMatchRequest) -> HttpMatchRequest {
    fn both<T: Clone>(root: &BTreeMap<String, T>, leaf: &BTreeMap<String, T>) -> BTreeMap<String, T> {
        let mut merged = root.clone();
        merged.extend(leaf.iter().map(|(key, value)| (key.clone(), value.clone())));
        merged
    }
    let text = |leaf: &str, root: &str| if leaf.is_empty() { root.to_owned() } else { leaf.to_owned() };
    HttpMatchRequest {
        name: join(&root.name, &leaf.name),
        uri: leaf.uri.clone().or_else(|| root.uri.clone()),
        scheme: leaf.scheme.clone().or_else(|| root.scheme.clone()),
        method: leaf.method.clone().or_else(|| root.method.clone()),
        authority: leaf.authority.clone().or_else(|| root.authority.clone()),
        headers: both(&root.headers, &leaf.headers),
        without_headers: both(&root.without_headers, &leaf.without_headers),
        query_params: both(&root.query_params, &leaf.query_params),
        ignore_uri_case: leaf.ignore_uri_case,
        port: if leaf.port == 0 { root.port } else { leaf.port },
        source_labels: both(&root.source_labels, &leaf.source_labels),
        source_namespace: text(&leaf.source_namespace, &root.source_namespace),
        gateways: if leaf.gateways.is_empty() { root.gateways.clone() } else { leaf.gateways.clone() },
        stat_prefix: text(&leaf.stat_prefix, &root.stat_prefix),
    }
}

fn join(root: &str, leaf: &str) -> String {
    match (root, leaf) {
        ("", one) | (one, "") => one.to_owned(),
        (root, leaf) => format!("{root}-{leaf}"),
    }
}

fn conflict(root: &HttpMatchRequest, leaf: &HttpMatchRequest) -> bool {
    let texts = [
        (&root.uri, &leaf.uri),
        (&root.scheme, &leaf.scheme),
        (&root.method, &leaf.method),
        (&root.authority, &leaf.authority),
    ];
    let maps = [
        (&root.headers, &leaf.headers),
        (&root.without_headers, &leaf.without_headers),
        (&root.query_params, &leaf.query_params),
    ];
    let differ = |root: &str, leaf: &str| !root.is_empty() && !leaf.is_empty() && root != leaf;
    texts.iter().any(|(root, leaf)| excludes(root.as_ref(), leaf.as_ref()))
        || maps
            .iter()
            .any(|(root, leaf)| leaf.iter().any(|(name, value)| excludes(root.get(name), Some(value))))
        || root.ignore_uri_case != leaf.ignore_uri_case
        || (root.port != 0 && leaf.port != 0 && root.port != leaf.port)
        || differ(&root.source_namespace, &leaf.source_namespace)
        || leaf
            .source_labels
            .iter()
            .any(|(key, value)| root.source_labels.get(key).is_some_and(|wanted| wanted != value))
        || (!root.gateways.is_empty() && leaf.gateways.iter().any(|name| !root.gateways.contains(name)))
}

/// Whether the delegate's condition on a text does not lie within the root's. Regular expressions are not compared.
fn excludes(root: Option<&StringMatch>, leaf: Option<&StringMatch>) -> bool {
    let (Some(root), Some(leaf)) = (root, leaf) else { return false };
    let says = |one: &StringMatch| one.exact.is_some() || one.prefix.is_some() || one.regex.is_some();
    if root.regex.is_some() || leaf.regex.is_some() {
        return says(root) && says(leaf);
    }
    match (&root.exact, &root.prefix, &leaf.exact, &leaf.prefix) {
        (Some(root), _, Some(leaf), _) => root != leaf,
        (Some(_), _, None, Some(_)) => true,
        (None, Some(prefix), Some(leaf), _) | (None, Some(prefix), None, Some(leaf)) => {
            !leaf.starts_with(prefix.as_str())
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn conditions_lie_within_each_other() {
        let table: Vec<(&str, Value, Value, Option<Value>)> = vec![
            ("no condition", json!([]), json!([{"port": 1}]), Some(json!([{"port": 1}]))),
            ("the root's", json!([{"port": 1}]), json!([]), Some(json!([{"port": 1}]))),
            (
                "narrower prefix",
                json!([{"uri": {"prefix": "/a"}}]),
                json!([{"uri": {"prefix": "/a/b"}}]),
                Some(json!([{"uri": {"prefix": "/a/b"}}])),
            ),
            ("wider prefix", json!([{"uri": {"prefix": "/a/b"}}]), json!([{"uri": {"prefix": "/a"}}]), None),
            ("exact within", json!([{"uri": {"prefix": "/a"}}]), json!([{"uri": {"exact": "/b"}}]), None),
            ("expressions", json!([{"uri": {"regex": "a"}}]), json!([{"uri": {"regex": "a"}}]), None),
            (
                "headers of both",
                json!([{"headers": {"a": {"exact": "1"}}}]),
                json!([{"headers": {"b": {"exact": "2"}}}]),
                Some(json!([{"headers": {"a": {"exact": "1"}, "b": {"exact": "2"}}}])),
            ),
            ("ports", json!([{"port": 1}]), json!([{"port": 2}]), None),
            (
                "one of several",
                json!([{"port": 1}, {"port": 2}]),
                json!([{"port": 2, "name": "n"}]),
                Some(json!([{"port": 2, "name": "n"}])),
            ),
        ];
        for (name, root, leaf, expected) in table {
            let read = |value| serde_json::from_value::<Vec<HttpMatchRequest>>(value).unwrap();
            let merged = merge_conditions(&read(root), &read(leaf));
            assert_eq!(merged, expected.map(read), "{name}");
        }
    }

    #[test]
    fn what_the_delegate_does_not_say_is_the_roots() {
        let read = |value| serde_json::from_value::<HttpRoute>(value).unwrap();
        let root = read(json!({"name": "r", "timeout": "1s", "retries": {"attempts": 1}}));
        let leaf = read(json!({"name": "l", "timeout": "2s", "route": [{"destination": {"host": "a"}}]}));
        let merged = merge(&root, &leaf).unwrap();
        assert_eq!(merged.name, "r-l");
        assert_eq!((merged.timeout, merged.retries), (leaf.timeout, root.retries));
    }
}
