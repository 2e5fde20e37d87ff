use super::*;

fn lines(stats: &Stats) -> Vec<String> {
    let config = stats.config();
    text::text(&stats.samples(), text::Buckets::Summary, &config).lines().map(str::to_owned).collect()
}

#[test]
fn shards_are_summed() {
    let stats = Stats::default();
    let cluster = ClusterStats::new(&stats, "outbound|80||a");
    let (one, two) = (stats.shard(), stats.shard());
    one.increment(cluster.upstream_cx_active);
    two.increment(cluster.upstream_rq_total);
    // The other worker may be the one that takes off.
    two.decrement(cluster.upstream_cx_active);
    one.add(cluster.upstream_rq_total, 2);
    assert_eq!(stats.value("cluster.outbound|80||a.upstream_rq_total"), Some(3));
    assert_eq!(stats.value("cluster.outbound|80||a.upstream_cx_active"), Some(0));
    assert!(
        stats
            .prometheus()
            .contains("envoy_cluster_upstream_rq_total{envoy_cluster_name=\"outbound|80||a\"} 3\n")
    );
}

#[test]
fn names_made_by_need_appear_with_their_first_use() {
    let stats = Stats::default();
    let cluster = ClusterStats::new(&stats, "a");
    let shard = stats.shard();
    assert!(!lines(&stats).iter().any(|line| line.contains("upstream_rq_5")));
    shard.code(cluster.upstream_rq, 503);
    shard.increment(cluster.upstream_rq_5xx);
    shard.record(cluster.upstream_rq_time, 12);
    // Not a status: nothing to count.
    shard.code(cluster.upstream_rq, 0);
    let lines = lines(&stats);
    for expect in [
        "cluster.a.upstream_rq_503: 1",
        "cluster.a.upstream_rq_5xx: 1",
        "cluster.a.upstream_cx_connect_ms: No recorded values",
    ] {
        assert!(lines.iter().any(|line| line == expect), "{expect}");
    }
    assert!(lines.iter().any(|line| line.starts_with("cluster.a.upstream_rq_time: P0(nan,12.5)")));
    let prometheus = stats.prometheus();
    for expect in [
        "envoy_cluster_upstream_rq{envoy_response_code=\"503\",envoy_cluster_name=\"a\"} 1\n",
        "envoy_cluster_upstream_rq_time_bucket{envoy_cluster_name=\"a\",le=\"10\"} 0\n",
        "envoy_cluster_upstream_rq_time_bucket{envoy_cluster_name=\"a\",le=\"25\"} 1\n",
        "envoy_cluster_upstream_rq_time_sum{envoy_cluster_name=\"a\"} 12\n",
    ] {
        assert!(prometheus.contains(expect), "{expect}");
    }
    assert!(!prometheus.contains("upstream_cx_connect_ms"), "no values, no histogram");
}

#[test]
fn names_go_with_their_last_holder() {
    let stats = Stats::default();
    let prefix = prefix("cluster", "a");
    let first = stats.hold(&prefix);
    let cluster = ClusterStats::new(&stats, "a");
    let shard = stats.shard();
    shard.increment(cluster.upstream_rq_total);
    let second = stats.hold(&prefix);
    drop(first);
    // A new version of the cluster counts on.
    shard.increment(ClusterStats::new(&stats, "a").upstream_rq_total);
    assert_eq!(stats.value("cluster.a.upstream_rq_total"), Some(2));
    drop(second);
    assert_eq!(stats.value("cluster.a.upstream_rq_total"), None);
    // Late words of connections that were still open harm nobody.
    shard.increment(cluster.upstream_rq_total);
    let _hold = stats.hold(&prefix);
    ClusterStats::new(&stats, "a");
    assert_eq!(
        stats.value("cluster.a.upstream_rq_total"),
        Some(0),
        "another cluster of that name begins anew"
    );
}

#[test]
fn gauges_are_set_and_counters_reset() {
    let stats = Stats::default();
    let common = stats.common();
    let members = MembershipStats::new(&stats, "a");
    let cluster = ClusterStats::new(&stats, "a");
    common.set(members.membership_total, 7);
    common.set(members.membership_healthy, 0);
    common.add(cluster.upstream_rq_total, 5);
    common.code(cluster.upstream_rq, 200);
    assert_eq!(stats.value("cluster.a.membership_total"), Some(7));
    let used: Vec<String> =
        stats.samples().into_iter().filter(|sample| sample.used).map(|sample| sample.name).collect();
    assert!(used.contains(&"cluster.a.membership_healthy".to_owned()), "{used:?}");
    stats.reset_counters();
    assert_eq!(stats.value("cluster.a.upstream_rq_total"), Some(0));
    assert_eq!(stats.value("cluster.a.upstream_rq_200"), Some(0));
    assert_eq!(stats.value("cluster.a.membership_total"), Some(7));
    common.increment(cluster.upstream_rq_total);
    assert_eq!(stats.value("cluster.a.upstream_rq_total"), Some(1));
}

#[test]
fn groups_below_a_name() {
    let stats = Stats::default();
    let breakers = CircuitBreakerStats::within(&stats, "a", "circuit_breakers.default.");
    stats.common().set(breakers.rq_open, 1);
    assert_eq!(stats.value("cluster.a.circuit_breakers.default.rq_open"), Some(1));
    let inner = UpstreamCodeStats::within(&stats, "a", "zone.z1.z2.".to_owned());
    stats.common().code(inner.upstream_rq, 404);
    assert_eq!(stats.value("cluster.a.zone.z1.z2.upstream_rq_404"), Some(1));
    ServerStats::new(&stats, "");
    assert_eq!(stats.value("server.live"), Some(0));
}

#[test]
fn many_clusters_without_traffic_cost_little() {
    let stats = Stats::default();
    let _shard = stats.shard();
    for index in 0..3000 {
        let name = format!("outbound|80||service-{index}.example");
        ClusterStats::new(&stats, &name);
        stats.common().set(MembershipStats::new(&stats, &name).membership_total, 1);
    }
    assert_eq!(stats.value("cluster.outbound|80||service-2999.example.membership_total"), Some(1));
}
