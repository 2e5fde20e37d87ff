//! Addresses that the mesh makes up for the hosts of ServiceEntries that have none: 240.240.0.0/16 and 2001:2::/48,
//! ranges that nobody routes (Istio's documentation, "DNS Proxying", automatic address allocation).
//!
//! A host keeps its addresses as long as it wants any: clients remember them. A new host begins to look for a free one
//! at a place that follows from its name, so that a mesh made anew from the same objects mostly has the same addresses.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lateen_api::networking::{ServiceEntry, ServiceEntryResolution};
use lateen_model::{AddressRange, Config, ConfigKey, Hostname, Snapshot};

/// The label by which an entry declines.
const ENABLED: &str = "networking.istio.io/enable-autoallocate-ip";
/// Usable addresses of the smaller range: all but the first and the last.
const IPV4_SIZE: u64 = (1 << 16) - 2;
const IPV4_BASE: u32 = 0xf0f0_0000;
const IPV6_BASE: u128 = 0x2001_0002 << 96;

/// What the status of a ServiceEntry should say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allocation {
    /// The entry.
    pub entry: ConfigKey,
    /// Addresses by host, one of each family; none where the entry wants none.
    pub addresses: Vec<(String, IpAddr)>,
}

/// The entries whose status must change, oldest first.
pub fn allocations(snapshot: &Snapshot) -> Vec<Allocation> {
    let mut entries: Vec<_> = snapshot.configs().service_entries.values().collect();
    entries.sort_by(|left, right| left.age_order().cmp(&right.age_order()));
    // What is given stays given, so it is taken note of before anything new is. Of two that were given the same, the
    // older keeps it.
    let mut taken = HashSet::new();
    let kept: Vec<Vec<(String, IpAddr)>> = entries.iter().map(|entry| keep(entry, &mut taken)).collect();
    let mut changed = Vec::new();
    for (entry, mut addresses) in entries.into_iter().zip(kept) {
        let has: HashSet<(String, bool)> =
            addresses.iter().map(|(host, address)| (host.clone(), address.is_ipv4())).collect();
        for host in wanted(entry) {
            for ipv4 in [true, false] {
                if !has.contains(&(host.to_owned(), ipv4))
                    && let Some(address) = find(entry, host, ipv4, &mut taken)
                {
                    addresses.push((host.to_owned(), address));
                }
            }
        }
        if addresses != entry.meta.reported.addresses {
            changed.push(Allocation { entry: entry.key(), addresses });
        }
    }
    changed
}

/// The hosts that get addresses. Connections that pass through cannot be given any, and a wildcard is no name to ask
/// for.
fn wanted(entry: &Config<ServiceEntry>) -> impl Iterator<Item = &str> {
    let declined = entry.meta.labels.get(ENABLED).is_some_and(|value| value.eq_ignore_ascii_case("false"));
    let wants =
        !declined && entry.spec.addresses.is_empty() && entry.spec.resolution != ServiceEntryResolution::None;
    let hosts = entry.spec.hosts.iter().filter(move |_| wants);
    hosts.map(String::as_str).filter(|host| !Hostname::from(*host).is_wildcard())
}

fn keep(entry: &Config<ServiceEntry>, taken: &mut HashSet<IpAddr>) -> Vec<(String, IpAddr)> {
    let hosts: HashSet<&str> = wanted(entry).collect();
    let mut families = HashSet::new();
    let given = entry.meta.reported.addresses.iter();
    given
        .filter(|(host, address)| {
            hosts.contains(host.as_str())
                && is_ours(*address)
                && families.insert((host.clone(), address.is_ipv4()))
                && taken.insert(*address)
        })
        .cloned()
        .collect()
}

fn is_ours(address: IpAddr) -> bool {
    let range = match address {
        IpAddr::V4(_) => AddressRange::new(Ipv4Addr::from(IPV4_BASE).into(), 16),
        IpAddr::V6(_) => AddressRange::new(Ipv6Addr::from(IPV6_BASE).into(), 48),
    };
    range.is_some_and(|range| range.contains(address))
}

/// The first free address from the host's own place on; none where all are taken.
fn find(entry: &Config<ServiceEntry>, host: &str, ipv4: bool, taken: &mut HashSet<IpAddr>) -> Option<IpAddr> {
    let place = hash(&[entry.meta.namespace.as_str(), &entry.meta.name, host]);
    let address = |step: u64| -> IpAddr {
        match ipv4 {
            true => {
                let index = 1 + place.wrapping_add(step) % IPV4_SIZE;
                Ipv4Addr::from(IPV4_BASE + u32::try_from(index).unwrap_or_default()).into()
            }
            false => Ipv6Addr::from(IPV6_BASE + u128::from(place.wrapping_add(step).max(1))).into(),
        }
    };
    (0..IPV4_SIZE).map(address).find(|address| taken.insert(*address))
}

/// FNV-1a: the same on every replica and in every version of ours.
fn hash(parts: &[&str]) -> u64 {
    let bytes = parts.iter().flat_map(|part| part.bytes().chain([b'/']));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;
    use lateen_model::{ConfigKind, ConfigObject, Meta, Reported};
    use serde_json::{Value, json};

    fn entry(name: &str, created: i64, labels: Value, spec: Value, given: &[(&str, &str)]) -> ConfigObject {
        let addresses = given.iter().map(|(host, ip)| ((*host).to_owned(), ip.parse().unwrap())).collect();
        let meta = Meta {
            namespace: "ns".into(),
            name: name.into(),
            created,
            labels: serde_json::from_value(labels).unwrap(),
            reported: Reported { addresses, healthy: None },
            ..Meta::default()
        };
        ConfigObject::from_json(ConfigKind::ServiceEntry, meta, spec).unwrap()
    }

    fn run(objects: Vec<ConfigObject>) -> Vec<Allocation> {
        let mut edit = Snapshot::default().edit();
        for object in objects {
            edit.put_config(object);
        }
        allocations(&edit.finish().0)
    }

    #[test]
    fn who_gets_addresses() {
        for (name, labels, spec, expected) in [
            ("by DNS", json!({}), json!({"hosts": ["a.b"], "resolution": "DNS"}), 2),
            ("static", json!({}), json!({"hosts": ["a.b", "c.d"], "resolution": "STATIC"}), 4),
            (
                "own ones",
                json!({}),
                json!({"hosts": ["a.b"], "resolution": "DNS", "addresses": ["192.0.2.1"]}),
                0,
            ),
            ("passing through", json!({}), json!({"hosts": ["a.b"], "resolution": "NONE"}), 0),
            ("wildcard", json!({}), json!({"hosts": ["*.b"], "resolution": "DYNAMIC_DNS"}), 0),
            ("declined", json!({ENABLED: "False"}), json!({"hosts": ["a.b"], "resolution": "DNS"}), 0),
        ] {
            let made = run(vec![entry("e", 1, labels, spec, &[])]);
            let addresses: Vec<IpAddr> =
                made.iter().flat_map(|one| &one.addresses).map(|(_, address)| *address).collect();
            assert_eq!(addresses.len(), expected, "{name}");
            assert!(addresses.iter().all(|address| is_ours(*address)), "{name}: {addresses:?}");
        }
    }

    #[test]
    fn what_is_given_stays_and_the_older_keeps_what_two_were_given() {
        let spec = json!({"hosts": ["a.b"], "resolution": "DNS"});
        let given = [("a.b", "240.240.9.9"), ("a.b", "2001:2::99")];
        let old = || entry("old", 1, json!({}), spec.clone(), &given);
        assert_eq!(run(vec![old()]), []);
        let made = run(vec![old(), entry("young", 2, json!({}), spec.clone(), &given)]);
        assert_eq!(made.len(), 1);
        assert_eq!(made[0].entry.name, "young");
        assert!(
            made[0]
                .addresses
                .iter()
                .all(|(_, address)| !given.iter().any(|(_, ip)| *ip == address.to_string()))
        );
        // What is no longer wanted is taken back, and so is what is none of ours.
        let none = json!({"hosts": ["a.b"], "resolution": "NONE"});
        let made = run(vec![entry("e", 1, json!({}), none, &given)]);
        assert!(made[0].addresses.is_empty());
        let made = run(vec![entry("e", 1, json!({}), spec.clone(), &[("a.b", "10.0.0.1")])]);
        assert!(made[0].addresses.iter().all(|(_, address)| is_ours(*address)));
    }

    #[test]
    fn a_full_range_gives_nothing_and_a_nearly_full_one_the_last() {
        let ConfigObject::ServiceEntry(config) = entry("e", 1, json!({}), json!({"hosts": ["a.b"]}), &[])
        else {
            panic!("a ServiceEntry")
        };
        let all =
            (1..=u32::try_from(IPV4_SIZE).unwrap()).map(|index| Ipv4Addr::from(IPV4_BASE + index).into());
        let mut taken: HashSet<IpAddr> = all.collect();
        assert_eq!(find(&config, "a.b", true, &mut taken), None);
        let last = "240.240.1.1".parse().unwrap();
        taken.remove(&last);
        assert_eq!(find(&config, "a.b", true, &mut taken), Some(last));
        assert!(find(&config, "a.b", false, &mut taken).is_some(), "the other family has room");
    }
}
