//! What statistics are made of: subsets, levels, tables, panic without hosts.

use super::tests::{
    HEALTHY, balancer, endpoint, host_set, labelled, maglev, request, ring, selector, subsets, with,
};
use super::*;
use crate::cluster::{Endpoint, HostRules};
use rand::SeedableRng;
use rand::rngs::SmallRng;

fn next(old: &HostSet, endpoints: &[Endpoint], rules: HostRules) -> (HostSet, u64) {
    let (set, changes) = HostSet::update(old, endpoints, 140, rules, Duration::ZERO);
    (set, changes.levels)
}

#[test]
fn levels_that_change() {
    let rules = HostRules::default();
    let at = |port, priority| endpoint(port, 1, HEALTHY, priority);
    let (first, levels) = next(&HostSet::default(), &[at(1, 0), at(2, 0), at(3, 2)], rules);
    assert_eq!(levels, 2, "hosts came to two levels, and none to the one between");
    let (second, levels) = next(&first, &[at(2, 0), at(1, 0), at(3, 2)], rules);
    assert_eq!(levels, 0, "another order is no change");
    assert!(!first.looks_like(&second), "but it is another order");
    let (third, levels) = next(&second, &[at(2, 0), at(1, 0), at(3, 1)], rules);
    assert_eq!(levels, 2, "a host moved from one level to another");
    let (_, levels) = next(&third, &[at(2, 0)], rules);
    assert_eq!(levels, 2, "hosts left two levels");
}

#[test]
fn the_same_address_twice() {
    let twice = [endpoint(1, 1, HEALTHY, 0), endpoint(2, 1, HEALTHY, 0), endpoint(1, 1, HEALTHY, 0)];
    for (keeps_duplicates, expect) in [(false, 2), (true, 3)] {
        let rules = HostRules { keeps_duplicates, ..HostRules::default() };
        let (set, _) = next(&HostSet::default(), &twice, rules);
        assert_eq!(set.members().count(), expect);
        let (again, levels) = next(&set, &twice, rules);
        assert_eq!((again.members().count(), levels), (expect, 0), "and they stay the same hosts");
        assert!(set.looks_like(&again));
    }
}

#[test]
fn subsets_that_hosts_make() {
    let check = |name: &str, selectors: Vec<Selector>, endpoints: &[Endpoint], expect: usize| {
        let subsets = subsets(Fallback::None, selectors);
        assert_eq!(subsets.keys_of(&host_set(endpoints)).len(), expect, "{name}");
    };
    let hosts = [
        labelled(1, &[("version", "v1"), ("stage", "prod")]),
        labelled(2, &[("version", "v1"), ("stage", "dev")]),
        labelled(3, &[("version", "v2")]),
        labelled(4, &[]),
    ];
    check("one key", vec![selector(&["version"], None)], &hosts, 2);
    check("two keys", vec![selector(&["version", "stage"], None)], &hosts, 2);
    check("several selectors", vec![selector(&["version"], None), selector(&["stage"], None)], &hosts, 4);
    check("a key that nobody has", vec![selector(&["color"], None)], &hosts, 0);
    check("no host", vec![selector(&["version"], None)], &[], 0);
}

#[test]
fn tables_tell_how_large_they_are() {
    for policy in [ring(), maglev()] {
        let hosts = host_set(&[endpoint(1, 1, HEALTHY, 0), endpoint(2, 3, HEALTHY, 0)]);
        let mut random = SmallRng::seed_from_u64(3);
        let mut balancer = balancer(with(policy.clone()), &hosts);
        assert_eq!(hosts.table_numbers(), None, "nobody needed it yet");
        balancer.choose(&request(Duration::ZERO, Some(1)), &mut random);
        let numbers = hosts.table_numbers().unwrap();
        assert_eq!(numbers.size, numbers.least + numbers.most, "{policy:?}");
        let share = numbers.most as f64 / numbers.size as f64;
        assert!((share - 0.75).abs() < 0.01, "{policy:?}: {numbers:?}");
    }
}

#[test]
fn panic_without_any_host() {
    let mut random = SmallRng::seed_from_u64(4);
    for policy in [BalancePolicy::RoundRobin, BalancePolicy::Random, ring(), maglev()] {
        for (threshold, expect) in [(50, true), (0, false)] {
            let config = Balancing { panic_threshold: threshold, ..with(policy.clone()) };
            let mut balancer = balancer(config, &host_set(&[]));
            let (host, notes) = balancer.choose(&request(Duration::ZERO, None), &mut random);
            assert!(host.is_none());
            assert_eq!(notes.has(Notes::PANIC), expect, "{policy:?} with a threshold of {threshold}");
        }
    }
}
