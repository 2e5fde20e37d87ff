//! The names of Envoy's statistics, grouped by what has them.
//!
//! All names of a group are listed as soon as the group exists, those of [`Kind::Lazy`](super::Kind) from their first
//! use on; what is never counted here (HTTP/3, overload) is there with zero, as dashboards expect.

use std::borrow::Cow;

use super::registry::Names;
use super::{Codes, Counter, Histogram, Kind, Stats};

macro_rules! handle {
    (Histogram) => {
        Histogram
    };
    (Codes) => {
        Codes
    };
    ($other:ident) => {
        Counter
    };
}

macro_rules! take {
    ($handles:ident, Gauge) => {
        $handles.gauge()
    };
    ($handles:ident, Wide) => {
        $handles.gauge()
    };
    ($handles:ident, Histogram) => {
        $handles.histogram()
    };
    ($handles:ident, Codes) => {
        $handles.codes()
    };
    ($handles:ident, $other:ident) => {
        $handles.counter()
    };
}

/// Defines a group: its type, its family, the part between the name and each statistic, and the statistics.
macro_rules! counters {
    ($(#[$doc:meta])* $name:ident, $family:literal, $suffix:literal { $($field:ident: $kind:ident),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy)]
        #[allow(missing_docs)]
        pub struct $name { $(pub $field: handle!($kind)),* }

        impl $name {
            /// Resolves all names, for the cluster, listener, ... of that name (none for what exists once).
            pub fn new(stats: &Stats, name: &str) -> Self {
                Self::within(stats, name, $suffix)
            }

            /// As [`new`](Self::new), with a part of one's own between the name and each statistic; it ends with a
            /// dot (`circuit_breakers.default.`).
            pub fn within(stats: &Stats, name: &str, suffix: impl Into<Cow<'static, str>>) -> Self {
                static NAMES: Names = &[$((stringify!($field), Kind::$kind)),*];
                let mut handles = stats.group(&prefix($family, name), suffix.into(), NAMES);
                Self { $($field: take!(handles, $kind)),* }
            }
        }
    };
}

/// The counter of a response code's class: `class!(stats, upstream_rq, status)` is `stats.upstream_rq_2xx` or the like.
macro_rules! class {
    ($stats:expr, upstream_rq, $status:expr) => {
        match $status {
            100..=199 => $stats.upstream_rq_1xx,
            200..=299 => $stats.upstream_rq_2xx,
            300..=399 => $stats.upstream_rq_3xx,
            400..=499 => $stats.upstream_rq_4xx,
            _ => $stats.upstream_rq_5xx,
        }
    };
    ($stats:expr, downstream_rq, $status:expr) => {
        match $status {
            100..=199 => $stats.downstream_rq_1xx,
            200..=299 => $stats.downstream_rq_2xx,
            300..=399 => $stats.downstream_rq_3xx,
            400..=499 => $stats.downstream_rq_4xx,
            _ => $stats.downstream_rq_5xx,
        }
    };
}
pub(crate) use class;

/// The beginning of all names of a scope: `cluster.NAME.`. What [`Stats::hold`] takes.
pub fn prefix(family: &str, name: &str) -> String {
    match (family, name) {
        ("", "") => String::new(),
        ("", one) | (one, "") => format!("{one}."),
        (family, name) => format!("{family}.{name}."),
    }
}

counters! {
    /// `cluster.NAME.*`: connections and requests.
    ClusterStats, "cluster", "" {
        bind_errors: Counter, retry_or_shadow_abandoned: Counter, upstream_cx_active: Gauge,
        upstream_cx_close_notify: Counter, upstream_cx_connect_attempts_exceeded: Counter,
        upstream_cx_connect_fail: Counter, upstream_cx_connect_timeout: Counter,
        upstream_cx_connect_with_0_rtt: Counter, upstream_cx_destroy: Counter,
        upstream_cx_destroy_local: Counter, upstream_cx_destroy_local_with_active_rq: Counter,
        upstream_cx_destroy_remote: Counter, upstream_cx_destroy_remote_with_active_rq: Counter,
        upstream_cx_destroy_with_active_rq: Counter, upstream_cx_http1_total: Counter,
        upstream_cx_http2_total: Counter, upstream_cx_http3_total: Counter, upstream_cx_idle_timeout: Counter,
        upstream_cx_max_duration_reached: Counter, upstream_cx_max_requests: Counter,
        upstream_cx_none_healthy: Counter, upstream_cx_overflow: Counter, upstream_cx_pool_overflow: Counter,
        upstream_cx_preconnect_skipped: Counter, upstream_cx_protocol_error: Counter,
        upstream_cx_rx_bytes_buffered: Gauge, upstream_cx_rx_bytes_total: Counter, upstream_cx_total: Counter,
        upstream_cx_tx_bytes_buffered: Gauge, upstream_cx_tx_bytes_total: Counter,
        upstream_flow_control_backed_up_total: Counter, upstream_flow_control_drained_total: Counter,
        upstream_flow_control_paused_reading_total: Counter,
        upstream_flow_control_resumed_reading_total: Counter, upstream_http3_broken: Counter,
        upstream_internal_redirect_failed_total: Counter, upstream_internal_redirect_succeeded_total: Counter,
        upstream_queue_overloaded: Gauge, upstream_rq_0rtt: Counter, upstream_rq_active: Gauge,
        upstream_rq_active_overflow: Counter, upstream_rq_cancelled: Counter, upstream_rq_completed: Counter,
        upstream_rq_maintenance_mode: Counter, upstream_rq_max_duration_reached: Counter,
        upstream_rq_pending_active: Gauge, upstream_rq_pending_failure_eject: Counter,
        upstream_rq_pending_overflow: Counter, upstream_rq_pending_total: Counter,
        upstream_rq_per_try_idle_timeout: Counter, upstream_rq_per_try_timeout: Counter,
        upstream_rq_retry: Counter, upstream_rq_retry_backoff_exponential: Counter,
        upstream_rq_retry_backoff_ratelimited: Counter, upstream_rq_retry_limit_exceeded: Counter,
        upstream_rq_retry_overflow: Counter, upstream_rq_retry_success: Counter,
        upstream_rq_rx_reset: Counter, upstream_rq_rx_reset_no_error: Counter, upstream_rq_timeout: Counter,
        upstream_rq_total: Counter, upstream_rq_tx_reset: Counter, upstream_cx_connect_ms: Histogram,
        upstream_cx_length_ms: Histogram, upstream_rq_per_cx: Histogram, upstream_rq_1xx: Lazy,
        upstream_rq_2xx: Lazy, upstream_rq_3xx: Lazy, upstream_rq_4xx: Lazy, upstream_rq_5xx: Lazy,
        upstream_rq: Codes, upstream_rq_time: Histogram,
    }
}

counters! {
    /// `cluster.NAME.*`: hosts and their updates. Every cluster writes these, so the others are not among them.
    MembershipStats, "cluster", "" {
        max_host_weight: Gauge, membership_change: Counter, membership_degraded: Gauge,
        membership_excluded: Gauge, membership_healthy: Gauge, membership_total: Gauge,
        update_attempt: Counter, update_success: Counter, version: Gauge,
    }
}

counters! {
    /// `cluster.NAME.*`: updates and load balancing.
    BalanceStats, "cluster", "" {
        assignment_stale: Counter, assignment_timeout_received: Counter, assignment_use_cached: Counter,
        lb_healthy_panic: Counter, lb_local_cluster_not_ok: Counter, lb_recalculate_zone_structures: Counter,
        lb_subsets_active: Gauge, lb_subsets_created: Counter, lb_subsets_fallback: Counter,
        lb_subsets_fallback_panic: Counter, lb_subsets_removed: Counter, lb_subsets_selected: Counter,
        lb_zone_cluster_too_small: Counter, lb_zone_no_capacity_left: Counter,
        lb_zone_routing_all_directly: Counter, lb_zone_routing_cross_zone: Counter,
        lb_zone_routing_sampled: Counter, original_dst_host_invalid: Counter, update_empty: Counter,
        update_failure: Counter, update_no_rebuild: Counter, warming_state: Gauge,
    }
}

counters! {
    /// `cluster.NAME.ring_hash_lb.*`.
    RingHashStats, "cluster", "ring_hash_lb." {
        max_hashes_per_host: Gauge, min_hashes_per_host: Gauge, size: Gauge,
    }
}

counters! {
    /// `cluster.NAME.maglev_lb.*`.
    MaglevStats, "cluster", "maglev_lb." {
        max_entries_per_host: Gauge, min_entries_per_host: Gauge,
    }
}

counters! {
    /// `cluster.NAME.TRANSPORT_SOCKET_MATCH.*`.
    TransportMatchStats, "cluster", "" {
        total_match_count: Counter,
    }
}

counters! {
    /// `cluster.NAME.circuit_breakers.PRIORITY.*`.
    CircuitBreakerStats, "cluster", "" {
        cx_open: Gauge, cx_pool_open: Gauge, rq_open: Gauge, rq_pending_open: Gauge, rq_retry_open: Gauge,
    }
}

counters! {
    /// `cluster.NAME.circuit_breakers.PRIORITY.remaining_*`, where `track_remaining` is set.
    RemainingStats, "cluster", "" {
        remaining_cx: Gauge, remaining_cx_pools: Wide, remaining_pending: Gauge, remaining_retries: Gauge,
        remaining_rq: Gauge,
    }
}

counters! {
    /// `cluster.NAME.outlier_detection.*`.
    OutlierStats, "cluster", "outlier_detection." {
        ejections_active: Gauge, ejections_consecutive_5xx: Counter,
        ejections_detected_consecutive_5xx: Counter, ejections_detected_consecutive_gateway_failure: Counter,
        ejections_detected_consecutive_local_origin_failure: Counter, ejections_detected_degradation: Counter,
        ejections_detected_failure_percentage: Counter,
        ejections_detected_local_origin_failure_percentage: Counter,
        ejections_detected_local_origin_success_rate: Counter, ejections_detected_success_rate: Counter,
        ejections_enforced_consecutive_5xx: Counter, ejections_enforced_consecutive_gateway_failure: Counter,
        ejections_enforced_consecutive_local_origin_failure: Counter,
        ejections_enforced_failure_percentage: Counter,
        ejections_enforced_local_origin_failure_percentage: Counter,
        ejections_enforced_local_origin_success_rate: Counter, ejections_enforced_success_rate: Counter,
        ejections_enforced_total: Counter, ejections_overflow: Counter, ejections_success_rate: Counter,
        ejections_total: Counter,
    }
}

counters! {
    /// `cluster.NAME.health_check.*`.
    HealthCheckStats, "cluster", "health_check." {
        attempt: Counter, degraded: Gauge, failure: Counter, healthy: Gauge, network_failure: Counter,
        passive_failure: Counter, success: Counter, verify_cluster: Counter,
    }
}

counters! {
    /// `upstream_rq_*` of a part of the requests of a cluster: `external.`, `internal.`, `canary.`, `zone.FROM.TO.`.
    UpstreamCodeStats, "cluster", "" {
        upstream_rq_completed: Lazy, upstream_rq_1xx: Lazy, upstream_rq_2xx: Lazy, upstream_rq_3xx: Lazy,
        upstream_rq_4xx: Lazy, upstream_rq_5xx: Lazy, upstream_rq: Codes, upstream_rq_time: Histogram,
    }
}

counters! {
    /// `listener.ADDRESS.ssl.certificate.NAME.*`, and of clusters likewise.
    CertificateStats, "", "" { expiration_unix_time_seconds: Gauge }
}

counters! {
    /// `http.PREFIX.*`: the connection manager and its router.
    HttpStats, "http", "" {
        downstream_cx_active: Gauge, downstream_cx_delayed_close_timeout: Counter,
        downstream_cx_destroy: Counter, downstream_cx_destroy_active_rq: Counter,
        downstream_cx_destroy_local: Counter, downstream_cx_destroy_local_active_rq: Counter,
        downstream_cx_destroy_remote: Counter, downstream_cx_destroy_remote_active_rq: Counter,
        downstream_cx_drain_close: Counter, downstream_cx_http1_active: Gauge,
        downstream_cx_http1_soft_drain: Gauge, downstream_cx_http1_total: Counter,
        downstream_cx_http2_active: Gauge, downstream_cx_http2_total: Counter,
        downstream_cx_http3_active: Gauge, downstream_cx_http3_total: Counter,
        downstream_cx_idle_timeout: Counter, downstream_cx_max_duration_reached: Counter,
        downstream_cx_max_requests_reached: Counter, downstream_cx_overload_disable_keepalive: Counter,
        downstream_cx_protocol_error: Counter, downstream_cx_rx_bytes_buffered: Gauge,
        downstream_cx_rx_bytes_total: Counter, downstream_cx_ssl_active: Gauge,
        downstream_cx_ssl_total: Counter, downstream_cx_total: Counter,
        downstream_cx_tx_bytes_buffered: Gauge, downstream_cx_tx_bytes_total: Counter,
        downstream_cx_upgrades_active: Gauge, downstream_cx_upgrades_total: Counter,
        downstream_flow_control_paused_reading_total: Counter,
        downstream_flow_control_resumed_reading_total: Counter, downstream_rq_1xx: Counter,
        downstream_rq_2xx: Counter, downstream_rq_3xx: Counter, downstream_rq_4xx: Counter,
        downstream_rq_5xx: Counter, downstream_rq_active: Gauge, downstream_rq_completed: Counter,
        downstream_rq_failed_path_normalization: Counter, downstream_rq_header_timeout: Counter,
        downstream_rq_http1_total: Counter, downstream_rq_http2_total: Counter,
        downstream_rq_http3_total: Counter, downstream_rq_idle_timeout: Counter,
        downstream_rq_max_duration_reached: Counter, downstream_rq_non_relative_path: Counter,
        downstream_rq_overload_close: Counter, downstream_rq_redirected_with_normalized_path: Counter,
        downstream_rq_rejected_via_ip_detection: Counter, downstream_rq_response_before_rq_complete: Counter,
        downstream_rq_rx_reset: Counter, downstream_rq_timeout: Counter, downstream_rq_too_large: Counter,
        downstream_rq_too_many_premature_resets: Counter, downstream_rq_total: Counter,
        downstream_rq_tx_reset: Counter, downstream_rq_ws_on_non_ws_route: Counter, rs_too_large: Counter,
        downstream_cx_length_ms: Histogram, downstream_rq_time: Histogram,
        no_cluster: Counter, no_route: Counter, passthrough_internal_redirect_bad_location: Counter,
        passthrough_internal_redirect_no_route: Counter, passthrough_internal_redirect_predicate: Counter,
        passthrough_internal_redirect_too_many_redirects: Counter,
        passthrough_internal_redirect_unsafe_scheme: Counter, rq_direct_response: Counter,
        rq_overload_local_reply: Counter, rq_redirect: Counter,
        rq_reset_after_downstream_response_started: Counter, rq_total: Counter,
    }
}

counters! {
    /// `http.PREFIX.compressor.NAME.LIBRARY.DIRECTION.*`.
    CompressorStats, "http", "" {
        compressed: Counter, not_compressed: Counter, total_uncompressed_bytes: Counter,
        total_compressed_bytes: Counter, content_length_too_small: Counter,
    }
}

counters! {
    /// The same for responses alone: what `accept-encoding` led to.
    CompressorChoiceStats, "http", "" {
        no_accept_header: Counter, header_identity: Counter, header_compressor_used: Counter,
        header_compressor_overshadowed: Counter, header_wildcard: Counter, header_not_valid: Counter,
        not_compressed_etag: Counter,
    }
}

counters! {
    /// `http.PREFIX.cors.*`.
    CorsStats, "http", "cors." {
        origin_invalid: Counter, origin_valid: Counter,
    }
}

counters! {
    /// `http.PREFIX.fault.*`.
    FaultStats, "http", "fault." {
        aborts_injected: Counter, active_faults: Gauge, delays_injected: Counter, faults_overflow: Counter,
        response_rl_injected: Counter,
    }
}

counters! {
    /// `http.PREFIX.fault.CLUSTER.*`: by the downstream cluster.
    FaultClusterStats, "http", "" { aborts_injected: Counter, delays_injected: Counter }
}

counters! {
    /// `PREFIX.http_local_rate_limit.*`, of the HTTP filter.
    HttpRateLimitStats, "", "http_local_rate_limit." {
        enabled: Counter, enforced: Counter, ok: Counter, rate_limited: Counter,
    }
}

counters! {
    /// `http.PREFIX.tracing.*`.
    TracingStats, "http", "tracing." {
        client_enabled: Counter, health_check: Counter, not_traceable: Counter, random_sampling: Counter,
        service_forced: Counter,
    }
}

counters! {
    /// `listener.ADDRESS.*`.
    ListenerStats, "listener", "" {
        downstream_cx_active: Gauge, downstream_cx_destroy: Counter, downstream_cx_overflow: Counter,
        downstream_cx_overload_reject: Counter, downstream_cx_total: Counter,
        downstream_cx_transport_socket_connect_timeout: Counter, downstream_global_cx_overflow: Counter,
        downstream_listener_filter_error: Counter, downstream_listener_filter_remote_close: Counter,
        downstream_pre_cx_active: Gauge, downstream_pre_cx_timeout: Counter,
        extension_config_missing: Counter, network_extension_config_missing: Counter,
        no_filter_chain_match: Counter, connections_accepted_per_socket_event: Histogram,
        downstream_cx_length_ms: Histogram,
    }
}

counters! {
    /// `listener.ADDRESS.http.PREFIX.*`.
    ListenerHttpStats, "listener", "" {
        downstream_rq_1xx: Counter, downstream_rq_2xx: Counter, downstream_rq_3xx: Counter,
        downstream_rq_4xx: Counter, downstream_rq_5xx: Counter, downstream_rq_completed: Counter,
    }
}

counters! {
    /// `tcp.PREFIX.*`.
    TcpStats, "tcp", "" {
        downstream_cx_drain_close: Counter, downstream_cx_no_route: Counter,
        downstream_cx_overload_close: Counter, downstream_cx_rx_bytes_buffered: Gauge,
        downstream_cx_rx_bytes_total: Counter, downstream_cx_total: Counter,
        downstream_cx_tx_bytes_buffered: Gauge, downstream_cx_tx_bytes_total: Counter,
        downstream_flow_control_paused_reading_total: Counter,
        downstream_flow_control_resumed_reading_total: Counter, early_data_received_count_total: Counter,
        idle_timeout: Counter, max_downstream_connection_duration: Counter, route_delayed_total: Counter,
        upstream_flush_active: Gauge, upstream_flush_total: Counter,
    }
}

counters! {
    /// `local_rate_limit.PREFIX.*`, of the network filter.
    RateLimitStats, "local_rate_limit", "" {
        rate_limited: Counter,
    }
}

counters! {
    /// `connection_limit.PREFIX.*`.
    ConnectionLimitStats, "connection_limit", "" {
        active_connections: Gauge, limited_connections: Counter,
    }
}

counters! {
    /// `vhost.NAME.vcluster.NAME.*`.
    VirtualClusterStats, "vhost", "" {
        upstream_rq_completed: Counter, upstream_rq_retry: Counter, upstream_rq_retry_limit_exceeded: Counter,
        upstream_rq_retry_overflow: Counter, upstream_rq_retry_success: Counter, upstream_rq_timeout: Counter,
        upstream_rq_total: Counter, upstream_rq_time: Histogram, upstream_rq_1xx: Lazy, upstream_rq_2xx: Lazy,
        upstream_rq_3xx: Lazy, upstream_rq_4xx: Lazy, upstream_rq_5xx: Lazy, upstream_rq: Codes,
    }
}

counters! {
    /// `cluster_manager.*`.
    ClusterManagerStats, "cluster_manager", "" {
        active_clusters: Gauge, cluster_added: Counter, cluster_modified: Counter, cluster_removed: Counter,
        cluster_updated: Counter, cluster_updated_via_merge: Counter, update_merge_cancelled: Counter,
        update_out_of_merge_window: Counter, warming_clusters: Gauge,
    }
}

counters! {
    /// `listener_manager.*`.
    ListenerManagerStats, "listener_manager", "" {
        listener_added: Counter, listener_create_failure: Counter, listener_create_success: Counter,
        listener_in_place_updated: Counter, listener_modified: Counter, listener_removed: Counter,
        listener_stopped: Counter, total_filter_chains_draining: Gauge, total_listeners_active: Gauge,
        total_listeners_draining: Gauge, total_listeners_warming: Gauge, workers_pinned: Gauge,
        workers_started: Gauge,
    }
}

counters! {
    /// `filesystem.*`.
    FilesystemStats, "filesystem", "" {
        flushed_by_timer: Counter, reopen_failed: Counter, write_buffered: Counter, write_completed: Counter,
        write_failed: Counter, write_total_buffered: Gauge,
    }
}

counters! {
    /// `server.*`.
    ServerStats, "server", "" {
        concurrency: Gauge, days_until_first_cert_expiring: Gauge, debug_assertion_failures: Counter,
        dropped_stat_flushes: Counter, dynamic_unknown_fields: Counter, envoy_bug_failures: Counter,
        envoy_notifications: Counter, hot_restart_epoch: Gauge, live: Gauge, memory_allocated: Gauge,
        memory_heap_size: Gauge, memory_physical_size: Gauge, parent_connections: Gauge,
        seconds_until_first_ocsp_response_expiring: Gauge, state: Gauge, static_unknown_fields: Counter,
        stats_recent_lookups: Gauge, total_connections: Gauge, uptime: Gauge, version: Gauge,
        wip_protos: Counter, initialization_time_ms: Histogram,
    }
}

counters! {
    /// `runtime.*`.
    RuntimeStats, "runtime", "" {
        admin_overrides_active: Gauge, deprecated_feature_seen_since_process_start: Gauge,
        deprecated_feature_use: Counter, load_error: Counter, load_success: Counter, num_keys: Gauge,
        num_layers: Gauge, override_dir_exists: Counter, override_dir_not_exists: Counter,
    }
}

counters! {
    /// `http1.*`, of all connections of clients; `cluster.NAME.http1.*` of those to its hosts.
    Http1Stats, "", "" {
        dropped_headers_with_underscores: Counter, metadata_not_supported_error: Counter,
        requests_rejected_with_underscores_in_headers: Counter, response_flood: Counter,
    }
}

counters! {
    /// `tls_inspector.*`.
    TlsInspectorStats, "tls_inspector", "" {
        alpn_found: Counter, alpn_not_found: Counter, client_hello_too_large: Counter, sni_found: Counter,
        sni_not_found: Counter, tls_found: Counter, tls_not_found: Counter,
    }
}

counters! {
    /// `http_inspector.*`.
    HttpInspectorStats, "http_inspector", "" {
        http10_found: Counter, http11_found: Counter, http2_found: Counter, http_not_found: Counter,
        read_error: Counter,
    }
}

counters! {
    /// `proxy_proto.*`, with the filter's prefix.
    ProxyProtocolStats, "proxy_proto", "" {
        not_found_allowed: Counter, not_found_disallowed: Counter,
    }
}

counters! {
    /// `proxy_proto.versions.v1.*`.
    ProxyProtocolV1Stats, "proxy_proto", "versions.v1." {
        disallowed: Counter, error: Counter, found: Counter,
    }
}

counters! {
    /// `proxy_proto.versions.v2.*`.
    ProxyProtocolV2Stats, "proxy_proto", "versions.v2." {
        disallowed: Counter, error: Counter, found: Counter,
    }
}

counters! {
    /// What is counted of one subscription: `cluster_manager.cds.*`, `listener_manager.lds.*`.
    SubscriptionStats, "", "" {
        init_fetch_timeout: Counter, update_attempt: Counter, update_failure: Counter, update_rejected: Counter,
        update_success: Counter, update_time: Gauge, version: Gauge, update_duration: Histogram,
    }
}

counters! {
    /// `cluster_manager.cds.config_reload*`.
    ReloadStats, "", "" {
        config_reload: Counter, config_reload_time_ms: Gauge,
    }
}

counters! {
    /// `http.PREFIX.rds.NAME.*`: of a route table that a connection manager asks for.
    RouteUpdateStats, "http", "" {
        config_reload: Counter, config_reload_time_ms: Gauge, init_fetch_timeout: Counter,
        update_attempt: Counter, update_empty: Counter, update_failure: Counter, update_rejected: Counter,
        update_success: Counter, update_time: Gauge, version: Gauge, update_duration: Histogram,
    }
}

counters! {
    /// `cluster.NAME.*` of clusters whose endpoints are discovered, besides what all clusters have.
    EndpointUpdateStats, "cluster", "" {
        init_fetch_timeout: Counter, update_rejected: Counter, update_time: Gauge,
    }
}

counters! {
    /// `control_plane.*`.
    ControlPlaneStats, "control_plane", "" {
        connected_state: Gauge, pending_requests: Gauge, rate_limit_enforced: Counter,
    }
}

counters! {
    /// `http2.*`, likewise.
    Http2Stats, "", "" {
        deferred_stream_close: Gauge, dropped_headers_with_underscores: Counter, goaway_sent: Counter,
        header_overflow: Counter, headers_cb_no_stream: Counter, inbound_empty_frames_flood: Counter,
        inbound_priority_frames_flood: Counter, inbound_window_update_frames_flood: Counter,
        keepalive_timeout: Counter, metadata_empty_frames: Counter, outbound_control_flood: Counter,
        outbound_control_frames_active: Gauge, outbound_flood: Counter, outbound_frames_active: Gauge,
        pending_send_bytes: Gauge, requests_rejected_with_underscores_in_headers: Counter,
        rx_messaging_error: Counter, rx_reset: Counter, stream_refused_errors: Counter, streams_active: Gauge,
        trailers: Counter, tx_flush_timeout: Counter, tx_reset: Counter,
    }
}
