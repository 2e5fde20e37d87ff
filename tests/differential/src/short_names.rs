//! Short names for extensions, so that a case need not spell `typed_config` and `@type`.
//!
//! An object with one of these names as a key, `{fault: {...}}`, stands for
//! `{name: envoy.filters.http.fault, typed_config: {"@type": ..., ...}}`; keys beside it stay beside it. Below
//! `typed_per_filter_config` the short name stands for the filter's name and its type for routes.

use serde_json::{Map, Value, json};

const EXTENSIONS: &str = "type.googleapis.com/envoy.extensions";

/// Short name, full name, type below `envoy.extensions`, type for routes where it differs.
const NAMES: &[(&str, &str, &str, &str)] = &[
    // HTTP filters.
    ("router", "envoy.filters.http.router", "filters.http.router.v3.Router", ""),
    ("fault", "envoy.filters.http.fault", "filters.http.fault.v3.HTTPFault", ""),
    ("cors", "envoy.filters.http.cors", "filters.http.cors.v3.Cors", "filters.http.cors.v3.CorsPolicy"),
    (
        "buffer",
        "envoy.filters.http.buffer",
        "filters.http.buffer.v3.Buffer",
        "filters.http.buffer.v3.BufferPerRoute",
    ),
    (
        "compressor",
        "envoy.filters.http.compressor",
        "filters.http.compressor.v3.Compressor",
        "filters.http.compressor.v3.CompressorPerRoute",
    ),
    ("gzip", "gzip", "compression.gzip.compressor.v3.Gzip", ""),
    ("brotli", "brotli", "compression.brotli.compressor.v3.Brotli", ""),
    ("zstd", "zstd", "compression.zstd.compressor.v3.Zstd", ""),
    (
        "local_ratelimit",
        "envoy.filters.http.local_ratelimit",
        "filters.http.local_ratelimit.v3.LocalRateLimit",
        "",
    ),
    (
        "header_mutation",
        "envoy.filters.http.header_mutation",
        "filters.http.header_mutation.v3.HeaderMutation",
        "filters.http.header_mutation.v3.HeaderMutationPerRoute",
    ),
    (
        "http_set_filter_state",
        "envoy.filters.http.set_filter_state",
        "filters.http.set_filter_state.v3.Config",
        "",
    ),
    (
        "upstream_codec",
        "envoy.filters.http.upstream_codec",
        "filters.http.upstream_codec.v3.UpstreamCodec",
        "",
    ),
    (
        "early_header_mutation",
        "envoy.http.early_header_mutation.header_mutation",
        "http.early_header_mutation.header_mutation.v3.HeaderMutation",
        "",
    ),
    ("uuid", "envoy.request_id.uuid", "request_id.uuid.v3.UuidRequestIdConfig", ""),
    ("xff", "envoy.http.original_ip_detection.xff", "http.original_ip_detection.xff.v3.XffConfig", ""),
    (
        "custom_header",
        "envoy.http.original_ip_detection.custom_header",
        "http.original_ip_detection.custom_header.v3.CustomHeaderConfig",
        "",
    ),
    (
        "preserve_case",
        "envoy.http.stateful_header_formatters.preserve_case",
        "http.header_formatters.preserve_case.v3.PreserveCaseFormatterConfig",
        "",
    ),
    // Network filters.
    (
        "http",
        "envoy.filters.network.http_connection_manager",
        "filters.network.http_connection_manager.v3.HttpConnectionManager",
        "",
    ),
    ("tcp_proxy", "envoy.filters.network.tcp_proxy", "filters.network.tcp_proxy.v3.TcpProxy", ""),
    ("echo", "envoy.filters.network.echo", "filters.network.echo.v3.Echo", ""),
    (
        "network_direct_response",
        "envoy.filters.network.direct_response",
        "filters.network.direct_response.v3.Config",
        "",
    ),
    (
        "connection_limit",
        "envoy.filters.network.connection_limit",
        "filters.network.connection_limit.v3.ConnectionLimit",
        "",
    ),
    (
        "network_local_ratelimit",
        "envoy.filters.network.local_ratelimit",
        "filters.network.local_ratelimit.v3.LocalRateLimit",
        "",
    ),
    ("sni_cluster", "envoy.filters.network.sni_cluster", "filters.network.sni_cluster.v3.SniCluster", ""),
    (
        "set_filter_state",
        "envoy.filters.network.set_filter_state",
        "filters.network.set_filter_state.v3.Config",
        "",
    ),
    // Listener filters.
    (
        "tls_inspector",
        "envoy.filters.listener.tls_inspector",
        "filters.listener.tls_inspector.v3.TlsInspector",
        "",
    ),
    (
        "http_inspector",
        "envoy.filters.listener.http_inspector",
        "filters.listener.http_inspector.v3.HttpInspector",
        "",
    ),
    (
        "proxy_protocol",
        "envoy.filters.listener.proxy_protocol",
        "filters.listener.proxy_protocol.v3.ProxyProtocol",
        "",
    ),
    (
        "original_dst",
        "envoy.filters.listener.original_dst",
        "filters.listener.original_dst.v3.OriginalDst",
        "",
    ),
    // Transport sockets.
    ("downstream_tls", "envoy.transport_sockets.tls", "transport_sockets.tls.v3.DownstreamTlsContext", ""),
    ("upstream_tls", "envoy.transport_sockets.tls", "transport_sockets.tls.v3.UpstreamTlsContext", ""),
    (
        "upstream_proxy_protocol",
        "envoy.transport_sockets.upstream_proxy_protocol",
        "transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport",
        "",
    ),
    ("raw_buffer", "envoy.transport_sockets.raw_buffer", "transport_sockets.raw_buffer.v3.RawBuffer", ""),
    // Access logs.
    ("file_log", "envoy.access_loggers.file", "access_loggers.file.v3.FileAccessLog", ""),
    ("stdout_log", "envoy.access_loggers.stdout", "access_loggers.stream.v3.StdoutAccessLog", ""),
    // Retries.
    (
        "previous_hosts",
        "envoy.retry_host_predicates.previous_hosts",
        "retry.host.previous_hosts.v3.PreviousHostsPredicate",
        "",
    ),
    (
        "omit_canary_hosts",
        "envoy.retry_host_predicates.omit_canary_hosts",
        "retry.host.omit_canary_hosts.v3.OmitCanaryHostsPredicate",
        "",
    ),
    (
        "omit_host_metadata",
        "envoy.retry_host_predicates.omit_host_metadata",
        "retry.host.omit_host_metadata.v3.OmitHostMetadataConfig",
        "",
    ),
    (
        "previous_priorities",
        "envoy.retry_priorities.previous_priorities",
        "retry.priority.previous_priorities.v3.PreviousPrioritiesConfig",
        "",
    ),
    // Balancers.
    (
        "round_robin",
        "envoy.load_balancing_policies.round_robin",
        "load_balancing_policies.round_robin.v3.RoundRobin",
        "",
    ),
    (
        "least_request",
        "envoy.load_balancing_policies.least_request",
        "load_balancing_policies.least_request.v3.LeastRequest",
        "",
    ),
    (
        "ring_hash",
        "envoy.load_balancing_policies.ring_hash",
        "load_balancing_policies.ring_hash.v3.RingHash",
        "",
    ),
    ("maglev", "envoy.load_balancing_policies.maglev", "load_balancing_policies.maglev.v3.Maglev", ""),
    ("random", "envoy.load_balancing_policies.random", "load_balancing_policies.random.v3.Random", ""),
    (
        "wrr_locality",
        "envoy.load_balancing_policies.wrr_locality",
        "load_balancing_policies.wrr_locality.v3.WrrLocality",
        "",
    ),
    // Matching.
    (
        "uri_template",
        "envoy.path.match.uri_template.uri_template_matcher",
        "path.match.uri_template.v3.UriTemplateMatchConfig",
        "",
    ),
    (
        "uri_template_rewrite",
        "envoy.path.rewrite.uri_template.uri_template_rewriter",
        "path.rewrite.uri_template.v3.UriTemplateRewriteConfig",
        "",
    ),
];

/// The type URL of what a short name stands for.
pub fn type_url(short: &str) -> Option<String> {
    NAMES.iter().find(|row| row.0 == short).map(|row| format!("{EXTENSIONS}.{}", row.2))
}

/// Writes all short names in `value` out. `manager` completes connection managers.
pub fn expand(value: &mut Value, manager: &dyn Fn(&mut Map<String, Value>)) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| {
            expand(item, manager);
            extension(item, manager);
        }),
        Value::Object(map) => {
            for (key, value) in map.iter_mut() {
                expand(value, manager);
                let extended = [
                    "transport_socket",
                    "compressor_library",
                    "early_header_mutation",
                    "typed_extension_config",
                    "request_id_extension",
                    "stateful_formatter",
                    "path_match_policy",
                    "path_rewrite_policy",
                    "retry_priority",
                    "endpoint_picking_policy",
                ];
                if extended.contains(&key.as_str()) {
                    extension(value, manager);
                }
                if key == "typed_per_filter_config"
                    && let Value::Object(filters) = value
                {
                    per_route(filters);
                }
            }
            protocol(map);
        }
        _ => {}
    }
}

fn extension(value: &mut Value, manager: &dyn Fn(&mut Map<String, Value>)) {
    let Value::Object(map) = value else { return };
    if map.contains_key("typed_config") || map.contains_key("@type") {
        return;
    }
    let Some(row) =
        NAMES.iter().find(|row| map.get(row.0).is_some_and(|value| value.is_object() || value.is_null()))
    else {
        return;
    };
    let mut config = match map.shift_remove(row.0) {
        Some(Value::Object(config)) => config,
        _ => Map::new(),
    };
    if row.0 == "http" {
        manager(&mut config);
    }
    if !config.contains_key("@type") {
        config.insert("@type".to_owned(), format!("{EXTENSIONS}.{}", row.2).into());
    }
    map.entry("name").or_insert_with(|| row.1.into());
    map.insert("typed_config".to_owned(), Value::Object(config));
}

fn per_route(filters: &mut Map<String, Value>) {
    for (short, full, kind, route_kind) in NAMES {
        if let Some(mut config) = filters.shift_remove(*short) {
            let kind = if route_kind.is_empty() { kind } else { route_kind };
            if let Value::Object(config) = &mut config {
                config.entry("@type").or_insert_with(|| format!("{EXTENSIONS}.{kind}").into());
            }
            filters.insert((*full).to_owned(), config);
        }
    }
}

/// `http_protocol: {...}` of a cluster stands for the extension of that purpose.
fn protocol(map: &mut Map<String, Value>) {
    if let Some(mut options) = map.shift_remove("http_protocol") {
        if let Value::Object(options) = &mut options {
            options.insert(
                "@type".to_owned(),
                format!("{EXTENSIONS}.upstreams.http.v3.HttpProtocolOptions").into(),
            );
        }
        map.insert(
            "typed_extension_protocol_options".to_owned(),
            json!({"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options}),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_are_written_out() {
        let mut value = json!({
            "http_filters": [{"fault": {"max_active_faults": 1}, "disabled": true}, {"router": {}}],
            "typed_per_filter_config": {"cors": {}},
            "route": {"cors": {}},
        });
        expand(&mut value, &|_| {});
        assert_eq!(value["http_filters"][0]["name"], "envoy.filters.http.fault");
        assert_eq!(value["http_filters"][0]["disabled"], true);
        assert_eq!(
            value["http_filters"][1]["typed_config"]["@type"],
            "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
        );
        assert_eq!(
            value["typed_per_filter_config"]["envoy.filters.http.cors"]["@type"],
            "type.googleapis.com/envoy.extensions.filters.http.cors.v3.CorsPolicy"
        );
        assert_eq!(value["route"], json!({"cors": {}}), "only where an extension is expected");
    }
}
