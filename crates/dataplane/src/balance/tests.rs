use super::*;
use crate::cluster::{Endpoint, HealthFlags, HostRules};
use crate::listener::Address;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;

pub(super) const HEALTHY: HealthFlags = HealthFlags(0);
const DEGRADED: HealthFlags = HealthFlags::DEGRADED_DISCOVERY;
const UNHEALTHY: HealthFlags = HealthFlags::FAILED_DISCOVERY;

pub(super) fn endpoint(port: u16, weight: u32, discovered: HealthFlags, priority: u32) -> Endpoint {
    Endpoint {
        additional: None,
        metadata: None,
        address: Address::Socket(([127, 0, 0, 1], port).into()),
        hostname: "".into(),
        weight,
        discovered,
        priority,
        locality: Arc::new(Locality::default()),
        locality_weight: None,
        transport: 0,
        labels: Default::default(),
        locality_labels: Default::default(),
        balancing_labels: Arc::default(),
        check: Arc::default(),
    }
}

pub(super) fn labelled(port: u16, labels: &[(&str, &str)]) -> Endpoint {
    let values = labels.iter().map(|(name, value)| ((*name).into(), ((*value).into(), Vec::new()))).collect();
    let labels = HostLabels { values, hash_key: None };
    Endpoint { balancing_labels: Arc::new(labels), ..endpoint(port, 1, HEALTHY, 0) }
}

fn zoned(port: u16, zone: &str, weight: Option<u32>, discovered: HealthFlags) -> Endpoint {
    Endpoint {
        locality: Arc::new(Locality { zone: zone.into(), ..Locality::default() }),
        locality_weight: weight,
        ..endpoint(port, 1, discovered, 0)
    }
}

pub(super) fn host_set(endpoints: &[Endpoint]) -> Arc<HostSet> {
    let rules = HostRules::default();
    Arc::new(HostSet::update(&HostSet::default(), endpoints, 0, rules, Duration::ZERO).0)
}

pub(super) fn with(policy: BalancePolicy) -> Balancing {
    Balancing { policy, panic_threshold: 50, ..Balancing::default() }
}

pub(super) fn ring() -> BalancePolicy {
    BalancePolicy::RingHash(RingHash {
        minimum: 8192,
        maximum: 1 << 23,
        murmur: false,
        hashing: Hashing::default(),
    })
}

pub(super) fn maglev() -> BalancePolicy {
    BalancePolicy::Maglev { table_size: 65_537, hashing: Hashing::default() }
}

pub(super) fn request<'a>(now: Duration, hash: Option<u64>) -> Request<'a> {
    Request { now, hash, criteria: None, attempts: 1, avoid: &|_| false, left_out: 0 }
}

fn port(host: &Host) -> u16 {
    match &host.address {
        Address::Socket(address) => address.port(),
        other => panic!("{other}"),
    }
}

/// The percentage of requests each port got; 0 is nobody.
fn shares_of(balancer: &mut Balancer, rounds: u32, hashed: bool, now: Duration) -> BTreeMap<u16, f64> {
    let mut random = SmallRng::seed_from_u64(7);
    let mut counts = BTreeMap::new();
    for _ in 0..rounds {
        let hash = hashed.then(|| random.random());
        let (host, _) = balancer.choose(&request(now, hash), &mut random);
        *counts.entry(host.map_or(0, |host| port(&host))).or_insert(0.0) += 100.0 / f64::from(rounds);
    }
    counts
}

pub(super) fn balancer(config: Balancing, hosts: &Arc<HostSet>) -> Balancer {
    let mut random = SmallRng::seed_from_u64(3);
    let around = Surroundings::default();
    Balancer::new(Arc::new(config), Arc::clone(hosts), around, Duration::ZERO, &mut random)
}

#[track_caller]
fn expect_shares(name: &str, shares: &BTreeMap<u16, f64>, expect: &[(u16, f64)], tolerance: f64) {
    for (port, share) in expect {
        let actual = shares.get(port).copied().unwrap_or(0.0);
        assert!((actual - share).abs() <= tolerance, "{name}: {port} in {shares:?}");
    }
}

#[test]
fn shares_follow_weights() {
    let check = |name: &str, policy: BalancePolicy, weights: [u32; 3], expect: [f64; 3], tolerance: f64| {
        let endpoints: Vec<Endpoint> =
            (1..).zip(weights).map(|(port, weight)| endpoint(port, weight, HEALTHY, 0)).collect();
        let mut balancer = balancer(with(policy), &host_set(&endpoints));
        let shares = shares_of(&mut balancer, 24_000, true, Duration::ZERO);
        let expect: Vec<(u16, f64)> = (1..).zip(expect).collect();
        expect_shares(name, &shares, &expect, tolerance);
    };
    let third = [33.3; 3];
    let weights = [1, 2, 5];
    let by_weight = [12.5, 25.0, 62.5];
    let least = |bias| BalancePolicy::LeastRequest(LeastRequest { bias, ..LeastRequest::default() });
    // Round robin is exact, not only on average.
    check("round robin", BalancePolicy::RoundRobin, [1; 3], third, 0.1);
    check("weighted round robin", BalancePolicy::RoundRobin, weights, by_weight, 0.1);
    check("least request", least(1.0), [1; 3], third, 1.5);
    check("weighted least request, idle", least(1.0), weights, by_weight, 0.1);
    check("weighted least request without bias", least(0.0), weights, by_weight, 0.1);
    check("random", BalancePolicy::Random, [1; 3], third, 1.5);
    check("random knows no weights", BalancePolicy::Random, weights, third, 1.5);
    check("ring hash", ring(), [1; 3], third, 4.0);
    check("weighted ring hash", ring(), weights, by_weight, 4.0);
    check("maglev", maglev(), [1; 3], third, 1.5);
    check("weighted maglev", maglev(), weights, by_weight, 1.5);
    check("first", BalancePolicy::PickFirst { shuffled: false }, [1; 3], [100.0, 0.0, 0.0], 0.01);
}

#[test]
fn least_request_avoids_busy_hosts() {
    let endpoints = [endpoint(1, 1, HEALTHY, 0), endpoint(2, 1, HEALTHY, 0), endpoint(3, 1, HEALTHY, 0)];
    let check = |name: &str, least: LeastRequest, weight: u32, expect: f64| {
        let mut endpoints = endpoints.clone();
        endpoints[1].weight = weight;
        let hosts = host_set(&endpoints);
        hosts.priorities[0][0].host.active.store(9, Relaxed);
        let mut balancer = balancer(with(BalancePolicy::LeastRequest(least)), &hosts);
        let shares = shares_of(&mut balancer, 20_000, false, Duration::ZERO);
        expect_shares(name, &shares, &[(1, expect)], 1.5);
    };
    let two = LeastRequest::default();
    check("only where both choices hit it", two.clone(), 1, 100.0 / 9.0);
    check("three choices", LeastRequest { choices: 3, ..two.clone() }, 1, 100.0 / 27.0);
    check("all are looked at", LeastRequest { full_scan: true, ..two.clone() }, 1, 0.0);
    // 1/10 against 2 and 1; with bias 2 1/100.
    check("weights, divided by requests", two.clone(), 2, 0.1 / 3.1 * 100.0);
    check("the square of requests", LeastRequest { bias: 2.0, ..two }, 2, 0.01 / 3.01 * 100.0);
}

#[test]
fn slow_start_grows() {
    let slow = SlowStart { window: Duration::from_secs(100), aggression: 1.0, minimum: 0.1 };
    assert_eq!(slow.factor(Duration::from_secs(5)), 0.1);
    assert_eq!(slow.factor(Duration::from_secs(50)), 0.5);
    assert_eq!(slow.factor(Duration::from_secs(100)), 1.0);
    let aggressive = SlowStart { aggression: 2.0, ..slow.clone() };
    assert!((aggressive.factor(Duration::from_secs(25)) - 0.5).abs() < 1e-9);
    let hosts = host_set(&[endpoint(1, 1, HEALTHY, 0), endpoint(2, 1, HEALTHY, 0)]);
    hosts.priorities[0][1].host.healthy_at(Duration::from_secs(1000));
    for policy in [
        BalancePolicy::RoundRobinSlowly(slow.clone()),
        BalancePolicy::LeastRequest(LeastRequest { slow_start: Some(slow), ..LeastRequest::default() }),
    ] {
        for (seconds, expect) in [(1001, 9.1), (1050, 33.3), (1200, 50.0)] {
            let mut balancer = balancer(with(policy.clone()), &hosts);
            let shares = shares_of(&mut balancer, 6000, false, Duration::from_secs(seconds));
            expect_shares(&format!("{policy:?} at {seconds}"), &shares, &[(2, expect)], 0.5);
        }
    }
}

#[test]
fn priorities_and_panic() {
    let check = |name: &str, endpoints: &[Endpoint], config: Balancing, expect: &[(u16, f64)]| {
        let mut balancer = balancer(config, &host_set(endpoints));
        expect_shares(name, &shares_of(&mut balancer, 20_000, false, Duration::ZERO), expect, 2.0);
    };
    let random = || with(BalancePolicy::Random);
    let of = |health: &[(HealthFlags, u32)]| -> Vec<Endpoint> {
        (1..).zip(health).map(|(port, (health, level))| endpoint(port, 1, *health, *level)).collect()
    };
    let (h, d, u) = (HEALTHY, DEGRADED, UNHEALTHY);
    check("the best level takes all", &of(&[(h, 0), (h, 1)]), random(), &[(1, 100.0)]);
    let half = of(&[(h, 0), (u, 0), (h, 1)]);
    check("70 percent with overprovisioning", &half, random(), &[(1, 70.0), (2, 0.0), (3, 30.0)]);
    let third = of(&[(h, 0), (u, 0), (u, 0)]);
    check("panic", &third, random(), &[(1, 33.3), (2, 33.3), (3, 33.3)]);
    check("no panic wanted", &third, Balancing { panic_threshold: 0, ..random() }, &[(1, 100.0)]);
    check("no host in panic", &third, Balancing { fail_in_panic: true, ..random() }, &[(0, 100.0)]);
    check("degraded counts against panic", &of(&[(d, 0), (u, 0)]), random(), &[(1, 100.0)]);
    check("healthy first", &of(&[(h, 0), (d, 0)]), random(), &[(1, 70.0), (2, 30.0)]);
    check("degraded after all healthy levels", &of(&[(d, 0), (h, 1)]), random(), &[(1, 0.0), (2, 100.0)]);
    check(
        "all levels in panic: by numbers of hosts",
        &of(&[(u, 0), (u, 0), (u, 0), (u, 1)]),
        random(),
        &[(1, 25.0), (4, 25.0)],
    );
    check(
        "nobody, and no panic",
        &of(&[(u, 0)]),
        Balancing { panic_threshold: 0, ..random() },
        &[(0, 100.0)],
    );
    check("nobody at all", &[], random(), &[(0, 100.0)]);
    check(
        "a second level in panic while the first is enough",
        &of(&[(h, 0), (u, 1), (u, 1)]),
        random(),
        &[(1, 100.0)],
    );
}

/// The rules of priorities for whatever hosts there are.
#[test]
fn properties_of_loads() {
    let mut random = SmallRng::seed_from_u64(11);
    for round in 0..3000 {
        let levels = random.random_range(1..5);
        let mut endpoints = Vec::new();
        for level in 0..levels {
            for _ in 0..random.random_range(0..6) {
                let health = [HEALTHY, DEGRADED, UNHEALTHY][random.random_range(0..3)];
                endpoints.push(endpoint(endpoints.len() as u16 + 1, 1, health, level));
            }
        }
        let threshold = [0, 50, 100][random.random_range(0..3)];
        let hosts = host_set(&endpoints);
        let loads = Loads::of(&hosts, threshold);
        if hosts.priorities.is_empty() {
            continue;
        }
        let sum: u32 = loads.healthy.iter().chain(&loads.degraded).sum();
        assert_eq!(sum, 100, "round {round}: {loads:?}");
        let available = hosts.members().any(|member| member.health != Health::Unhealthy);
        for (level, members) in hosts.priorities.iter().enumerate() {
            let count = |health| members.iter().filter(|member| member.health == health).count();
            if !loads.panic[level] && available {
                assert!(loads.healthy[level] == 0 || count(Health::Healthy) > 0, "round {round}: {loads:?}");
                assert!(
                    loads.degraded[level] == 0 || count(Health::Degraded) > 0,
                    "round {round}: {loads:?}"
                );
            }
            if loads.panic[level] {
                let usable = 100.0 * (count(Health::Healthy) + count(Health::Degraded)) as f64
                    / members.len().max(1) as f64;
                assert!(usable < f64::from(threshold), "round {round}: {loads:?}");
            }
        }
        // Whoever chooses by these gets a host wherever one may be used.
        let mut balancer =
            balancer(Balancing { panic_threshold: threshold, ..with(BalancePolicy::Random) }, &hosts);
        let shares = shares_of(&mut balancer, 50, false, Duration::ZERO);
        if available && threshold < 100 {
            assert!(!shares.contains_key(&0), "round {round}: nobody though somebody is there: {loads:?}");
        }
    }
}

#[test]
fn weighted_localities() {
    let check = |name: &str, policy: BalancePolicy, endpoints: &[Endpoint], expect: &[(u16, f64)]| {
        let config = Balancing { locality: LocalityPolicy::Weighted, ..with(policy) };
        let mut balancer = balancer(config, &host_set(endpoints));
        expect_shares(name, &shares_of(&mut balancer, 20_000, true, Duration::ZERO), expect, 3.5);
    };
    let (h, u) = (HEALTHY, UNHEALTHY);
    let whole = [zoned(1, "a", Some(1), h), zoned(2, "a", Some(1), h), zoned(3, "b", Some(3), h)];
    let by_weight = [(1, 12.5), (2, 12.5), (3, 75.0)];
    check("turns", BalancePolicy::RoundRobin, &whole, &by_weight);
    check("ring", ring(), &whole, &by_weight);
    check("maglev", maglev(), &whole, &by_weight);
    let mut ill: Vec<Endpoint> = (1..=4).map(|port| zoned(port, "a", Some(1), h)).collect();
    ill.extend((5..=8).map(|port| zoned(port, "b", Some(1), if port < 7 { h } else { u })));
    // The second has 70 percent of its weight left.
    check("health takes off", BalancePolicy::Random, &ill, &[(1, 14.7), (5, 20.6), (8, 0.0)]);
    let none = [zoned(1, "a", Some(0), h), zoned(2, "b", Some(1), h)];
    check("no weight, no requests", BalancePolicy::RoundRobin, &none, &[(1, 0.0), (2, 100.0)]);
}

#[test]
fn our_own_zone_first() {
    let zones = |numbers: &[(&str, u16)]| -> Vec<Endpoint> {
        let mut port = 0;
        let mut next = || {
            port += 1;
            port
        };
        let mut endpoints = Vec::new();
        for (zone, count) in numbers {
            endpoints.extend((0..*count).map(|_| zoned(next(), zone, None, HEALTHY)));
        }
        endpoints
    };
    let own = Locality { zone: "a".into(), ..Locality::default() };
    let check = |name: &str, local: &[(&str, u16)], upstream: &[(&str, u16)], expect: f64, note: Notes| {
        let (local, hosts) = (host_set(&zones(local)), host_set(&zones(upstream)));
        let config = Balancing {
            locality: LocalityPolicy::ZoneAware { enabled: 100.0, minimum: 6, force: false },
            ..with(BalancePolicy::RoundRobin)
        };
        let mut random = SmallRng::seed_from_u64(2);
        let around = Surroundings { locality: Some(&own), local_cluster: Some(&local) };
        let mut balancer =
            Balancer::new(Arc::new(config), Arc::clone(&hosts), around, Duration::ZERO, &mut random);
        let mut here = 0.0;
        let mut notes = zone_notes(&balancer.config, &hosts, &around);
        for _ in 0..10_000 {
            let (host, noted) = balancer.choose(&request(Duration::ZERO, None), &mut random);
            let host = host.unwrap();
            notes.add(noted);
            let member = hosts.members().find(|member| Arc::ptr_eq(&member.host, &host)).unwrap();
            here += if &*member.locality.zone == "a" { 0.01 } else { 0.0 };
        }
        assert!((here - expect).abs() < 1.5, "{name}: {here} percent stay");
        assert!(notes.has(note) || note == notes, "{name}: {notes:?}");
    };
    let even: &[(&str, u16)] = &[("a", 5), ("b", 5)];
    check("enough here", even, &[("a", 5), ("b", 5)], 100.0, Notes::ZONE_ALL_DIRECTLY);
    check("more here than clients", even, &[("a", 7), ("b", 3)], 100.0, Notes::ZONE_ALL_DIRECTLY);
    // 25 percent of the hosts for half of the clients: half of these stay.
    check("too few here", even, &[("a", 2), ("b", 6)], 50.0, Notes::ZONE_CROSS);
    check("nobody here", even, &[("b", 4), ("c", 4)], 0.0, Notes::ZONE_CROSS);
    check("too few at all", even, &[("a", 2), ("b", 3)], 40.0, Notes::ZONE_CLUSTER_TOO_SMALL);
    check("none of our own cluster here", &[("b", 4), ("c", 4)], even, 50.0, Notes::LOCAL_CLUSTER_NOT_OK);
    check("our own cluster in one zone", &[("a", 4)], even, 50.0, Notes::default());
}

#[test]
fn hashes_stay_with_their_hosts() {
    for policy in [ring(), maglev()] {
        let all: Vec<Endpoint> = (1..=10).map(|port| endpoint(port, 1, HEALTHY, 0)).collect();
        let mut whole = balancer(with(policy.clone()), &host_set(&all));
        let mut fewer = balancer(with(policy.clone()), &host_set(&all[..9]));
        let mut random = SmallRng::seed_from_u64(5);
        let (mut moved, mut lost) = (0, 0);
        for _ in 0..5000 {
            let request = request(Duration::ZERO, Some(random.random()));
            let before = whole.choose(&request, &mut random).0.unwrap();
            assert!(Arc::ptr_eq(&before, &whole.choose(&request, &mut random).0.unwrap()));
            let after = fewer.choose(&request, &mut random).0.unwrap();
            lost += u32::from(port(&before) == 10);
            moved += u32::from(port(&before) != 10 && port(&before) != port(&after));
        }
        assert!((300..700).contains(&lost), "{policy:?}: {lost} of 5000 were at the host that left");
        assert!(moved < 800, "{policy:?}: {moved} of 5000 moved without need");
        // Another attempt is another host, sooner or later.
        let avoid =
            Request { attempts: 50, avoid: &|host| port(host) != 4, ..request(Duration::ZERO, Some(1)) };
        assert_eq!(port(&whole.choose(&avoid, &mut random).0.unwrap()), 4);
    }
}

#[test]
fn a_loaded_host_gives_up_its_hashes() {
    let hashing = Hashing { use_hostname: false, balance_factor: Some(150) };
    let endpoints: Vec<Endpoint> = (1..=4).map(|port| endpoint(port, 1, HEALTHY, 0)).collect();
    let hosts = host_set(&endpoints);
    let policy = BalancePolicy::Maglev { table_size: 65_537, hashing };
    let mut balancer = balancer(with(policy), &hosts);
    let mut random = SmallRng::seed_from_u64(5);
    for _ in 0..100 {
        let host = balancer.choose(&request(Duration::ZERO, Some(77)), &mut random).0.unwrap();
        host.active.fetch_add(1, Relaxed);
    }
    // Never more than 150 percent of the mean, though all have the same hash.
    let most = hosts.members().map(|member| member.host.active.load(Relaxed)).max();
    assert!(most <= Some(38), "{most:?}");
}

#[test]
fn ring_sizes_and_keys() {
    let ring_of = |minimum, maximum, murmur, endpoints: &[Endpoint]| {
        let config = RingHash { minimum, maximum, murmur, hashing: Hashing::default() };
        balancer(with(BalancePolicy::RingHash(config)), &host_set(endpoints))
    };
    let endpoints = [endpoint(1, 1, HEALTHY, 0), endpoint(2, 1, HEALTHY, 0)];
    let choose = |balancer: &mut Balancer, hash| {
        let mut random = SmallRng::seed_from_u64(5);
        port(&balancer.choose(&request(Duration::ZERO, Some(hash)), &mut random).0.unwrap())
    };
    // A ring of two entries: the one at or after the hash, and around.
    let mut points = [(xx_hash(b"127.0.0.1:1_0", 0), 1), (xx_hash(b"127.0.0.1:2_0", 0), 2)];
    points.sort();
    let mut small = ring_of(1, 2, false, &endpoints);
    assert_eq!(choose(&mut small, points[0].0), points[0].1);
    assert_eq!(choose(&mut small, points[0].0 + 1), points[1].1);
    assert_eq!(choose(&mut small, points[1].0 + 1), points[0].1);
    // The other function makes another ring.
    let (mut one, mut other) =
        (ring_of(1024, 4096, false, &endpoints), ring_of(1024, 4096, true, &endpoints));
    let step = u64::MAX / 512;
    assert!((0..512).any(|at| choose(&mut one, at * step) != choose(&mut other, at * step)));
}

pub(super) fn subsets(fallback: Fallback, selectors: Vec<Selector>) -> Subsets {
    Subsets { fallback, default: criteria(&[("version", "1")]), selectors, ..Subsets::default() }
}

pub(super) fn selector(names: &[&str], fallback: Option<Fallback>) -> Selector {
    Selector { names: names.iter().map(|name| (*name).into()).collect(), fallback, single_host: false }
}

fn criteria(pairs: &[(&str, &str)]) -> Criteria {
    Criteria::new(pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect())
}

#[test]
fn subsets_and_their_fallbacks() {
    let endpoints = [
        labelled(1, &[("version", "1"), ("stage", "prod")]),
        labelled(2, &[("version", "2"), ("stage", "prod")]),
        labelled(3, &[("version", "2"), ("stage", "dev")]),
    ];
    let check = |name: &str, subsets: Subsets, asked: &[(&str, &str)], expect: &[u16]| {
        let config = Balancing { subsets: Some(Arc::new(subsets)), ..with(BalancePolicy::RoundRobin) };
        let mut balancer = balancer(config, &host_set(&endpoints));
        let asked = criteria(asked);
        let mut random = SmallRng::seed_from_u64(5);
        let mut found: Vec<u16> = (0..30)
            .filter_map(|_| {
                let request = Request { criteria: Some(&asked), ..request(Duration::ZERO, None) };
                balancer.choose(&request, &mut random).0.map(|host| port(&host))
            })
            .collect();
        found.sort_unstable();
        found.dedup();
        assert_eq!(found, expect, "{name}");
    };
    let by_version = || vec![selector(&["version"], None), selector(&["version", "stage"], None)];
    let none = || subsets(Fallback::None, by_version());
    check("one name", none(), &[("version", "2")], &[2, 3]);
    check("two names", none(), &[("stage", "dev"), ("version", "2")], &[3]);
    check("no such value", none(), &[("version", "3")], &[]);
    check("no such selector", none(), &[("stage", "dev")], &[]);
    check("nothing asked", none(), &[], &[]);
    check("any", subsets(Fallback::Any, by_version()), &[("version", "3")], &[1, 2, 3]);
    check("default", subsets(Fallback::Default, by_version()), &[], &[1]);
    let panic = Subsets { panic_mode_any: true, ..none() };
    check("rather any than none", panic, &[("version", "3")], &[1, 2, 3]);
    let own = |fallback| {
        subsets(
            Fallback::Any,
            vec![selector(&["version", "stage"], Some(fallback)), selector(&["version"], None)],
        )
    };
    let missing: &[(&str, &str)] = &[("version", "1"), ("stage", "dev")];
    check("the selector's: none", own(Fallback::None), missing, &[]);
    check("the selector's: default", own(Fallback::Default), missing, &[1]);
    let names = Fallback::Names(["version".into()].into());
    check("the selector's: fewer names", own(names.clone()), missing, &[1]);
    check("fewer names that exist not either", own(names), &[("version", "9"), ("stage", "x")], &[1, 2, 3]);
    let mut single = none();
    single.selectors[0].single_host = true;
    check("a single host", single, &[("version", "2")], &[2]);
}

#[test]
fn hosts_survive_an_update_and_wait_for_their_checks() {
    let both = [endpoint(1, 1, HEALTHY, 0), endpoint(2, 1, HEALTHY, 0)];
    let first = host_set(&both);
    let plain = HostRules::default();
    let (second, changes) = HostSet::update(&first, &[endpoint(2, 5, HEALTHY, 0)], 0, plain, Duration::ZERO);
    assert!(Arc::ptr_eq(&second.priorities[0][0].host, &first.priorities[0][1].host));
    assert_eq!((changes.added.len(), changes.removed.len()), (0, 1));
    assert!(changes.removed[0].is_removed() && !second.priorities[0][0].host.is_removed());

    let checked = HostRules { checked: true, ignore_unchecked: true, ..plain };
    let (first, _) = HostSet::update(&HostSet::default(), &both, 0, checked, Duration::ZERO);
    assert_eq!(first.membership(), [2, 0, 0, 2], "nothing is known yet, and nothing counts");
    for member in first.members() {
        member.host.set_flags(HealthFlags::FAILED_ACTIVE.and(HealthFlags::PENDING_ACTIVE), false);
    }
    let (first, _) = first.refresh();
    assert_eq!(first.membership(), [2, 2, 0, 0]);
    let (second, changes) =
        HostSet::update(&first, &[endpoint(2, 1, HEALTHY, 0)], 0, checked, Duration::ZERO);
    assert_eq!((second.members().count(), changes.removed.len()), (2, 0), "a healthy host stays");
    let left = &first.priorities[0][0].host;
    assert_eq!(left.flags().text(), "/pending_dynamic_removal");
    left.set_flags(HealthFlags::FAILED_ACTIVE, true);
    let (third, changes) = second.refresh();
    assert_eq!((third.members().count(), changes.removed.len()), (1, 1), "until its check fails");
    let at_once = HostRules { ignore_health_on_removal: true, ..checked };
    let (_, changes) = HostSet::update(&third, &[], 0, at_once, Duration::ZERO);
    assert_eq!(changes.removed.len(), 1);
}
