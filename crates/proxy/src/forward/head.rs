//! What a route changes of a request's head before it is sent.

use std::sync::Arc;

use lateen_dataplane::head::RequestHead;
use lateen_dataplane::route::{Forward, Found, HostRewrite, RouteTable, WeightedCluster};

use crate::router::Exchange;

/// What the route changes of the head.
pub(super) fn prepare_head(
    exchange: &mut Exchange,
    found: &Found,
    table: Option<&RouteTable>,
    action: &Forward,
) {
    let state = Arc::clone(&exchange.worker.state);
    let suppress = exchange.runtime.filters.router.suppress_envoy_headers;
    let entry = found.weighted();
    for mutations in table.into_iter().flat_map(|table| table.mutations_of(found)) {
        mutations.apply_to_request(&mut exchange.head, &exchange.info, &state.hostname);
    }
    let head = &mut exchange.head;
    rewrite_path(head, found, action, suppress);
    rewrite_host(head, action, entry, suppress);
}

fn rewrite_path(head: &mut RequestHead, found: &Found, action: &Forward, suppress: bool) {
    let Some(rewrite) = &action.path else { return };
    let path = rewrite.apply(&found.route.matcher, head.path());
    // Also where the rewrite leaves the path as it was: it is told that the route has one.
    if !suppress {
        let original = head.path().to_vec();
        head.headers.set("x-envoy-original-path", original);
    }
    if path != head.path() {
        head.set_path(path);
    }
}

/// The automatic rewrite is not here: it needs the host that is chosen.
fn rewrite_host(head: &mut RequestHead, action: &Forward, entry: Option<&WeightedCluster>, suppress: bool) {
    let literal = entry.and_then(|entry| entry.host_rewrite.as_deref());
    let host = match (literal, &action.host) {
        (Some(host), _) => Some(host.to_vec()),
        (None, Some(HostRewrite::Literal(host))) => Some(host.to_vec()),
        (None, Some(HostRewrite::Header(name))) => head.field(name).map(<[u8]>::to_vec),
        (None, Some(HostRewrite::PathRegex(regex, text))) => {
            Some(regex.replace_all(head.path_only(), &text[..]).into_owned())
        }
        _ => None,
    };
    if let Some(host) = host.filter(|host| !host.is_empty()) {
        if action.append_forwarded_host {
            let mut list = head.headers.get("x-forwarded-host").map(<[u8]>::to_vec).unwrap_or_default();
            if !list.is_empty() {
                list.push(b',');
            }
            list.extend_from_slice(head.authority());
            head.headers.set("x-forwarded-host", list);
        }
        if !suppress && host != head.authority() {
            let original = head.authority().to_vec();
            head.headers.set("x-envoy-original-host", original);
        }
        head.set_authority(host);
    }
}
