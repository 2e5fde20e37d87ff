//! Discovery on demand: what a sidecar calls is sent to it when it calls it for the first time, and kept up to date from
//! then on; the rest of the mesh is not sent at all.
//!
//! It is on where the mesh says so (`MeshConfig.onDemandDiscovery`), the proxy says that it can
//! (`LATEEN_ON_DEMAND`), no `Sidecar` says which services are called, and no EnvoyFilter changes routes, which it knows as
//! whole tables only. Then the tables of outbound listeners have no virtual hosts but a source for them (`vhds`), and
//! filters in front of routes and TCP proxies fetch what is missing (`envoy.filters.http.on_demand`,
//! `TcpProxy.on_demand`).
//!
//! A virtual host is asked for by what a client called, `TABLE/HOST` (Envoy's documentation, "Virtual Host Discovery
//! Service", section "Virtual Host Resource Naming Convention"). The answer is the host that would serve it in the whole
//! table, cut down to this one domain: so no two answers have a domain in common, whatever a service may be called, and
//! what nobody knows gets the host of unknown destinations, for the mesh's policy is the table's last host.
//!
//! What a class holds stays the same whatever its proxies ask for: what one of them was sent is up to its stream.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use lateen_envoy::type_urls::{CLUSTER, VIRTUAL_HOST};
use lateen_model::{ConfigKey, Snapshot};
use prost::encoding::{WireType, encode_key, encode_varint};

use crate::encoded::{Cache, Encoded};
use crate::index::Index;
use crate::patch::SelectedFilter;
use crate::proto::{self, core, ext, route};
use crate::route::{RouteKey, VirtualHostKey};
use crate::view::View;
use crate::{ProxyNode, Role};

/// How long a request or a connection waits.
const TIMEOUT: Duration = Duration::from_secs(5);

/// How long Envoy waits for virtual hosts before anybody called for one: it asks for the table's own name then, and no
/// answer to that counts for it.
const FIRST: Duration = Duration::from_millis(100);

/// Whether a proxy gets what it calls, and no more.
pub(crate) fn is_for(
    snapshot: &Snapshot,
    index: &Index,
    node: &ProxyNode,
    sidecar: Option<&ConfigKey>,
    filters: &[SelectedFilter],
) -> bool {
    let sidecar = sidecar.and_then(|key| snapshot.configs().sidecars.get(key));
    snapshot.mesh().on_demand_discovery
        && node.on_demand
        && node.role == Role::Sidecar
        && sidecar.is_none_or(|config| config.spec.egress.is_empty())
        && !index.patches.change_routes(filters)
}

/// Whether a cluster is one that is asked for: those of services. All others are needed by listeners as such.
pub(crate) fn is_asked_for(cluster: &str) -> bool {
    cluster.starts_with("outbound|")
}

/// Where the virtual hosts of a table come from.
pub(crate) fn virtual_hosts() -> route::Vhds {
    let source = core::ConfigSource { initial_fetch_timeout: Some(proto::duration(FIRST)), ..proto::ads() };
    route::Vhds { config_source: Some(source) }
}

/// The HTTP filter that fetches virtual hosts and clusters.
pub(crate) fn http_filter() -> ext::filters::http::on_demand::v3::OnDemand {
    use ext::filters::http::on_demand::v3::{OnDemand, OnDemandCds};
    let odcds = OnDemandCds {
        source: Some(proto::ads()),
        timeout: Some(proto::duration(TIMEOUT)),
        ..Default::default()
    };
    OnDemand { odcds: Some(odcds) }
}

/// What a TCP proxy says that leads to these clusters.
pub(crate) fn connections<'a>(
    on: bool,
    mut clusters: impl Iterator<Item = &'a str>,
) -> Option<ext::filters::network::tcp_proxy::v3::tcp_proxy::OnDemand> {
    (on && clusters.any(is_asked_for)).then(|| ext::filters::network::tcp_proxy::v3::tcp_proxy::OnDemand {
        odcds_config: Some(proto::ads()),
        timeout: Some(proto::duration(TIMEOUT)),
        ..Default::default()
    })
}

/// The virtual hosts of a table, found by what a client calls in Envoy's order of domains.
#[derive(Debug, Default)]
pub(crate) struct HostTable {
    exact: HashMap<Box<str>, usize>,
    /// What follows a `*`, longest first.
    suffixes: Vec<(Box<str>, usize)>,
    /// What a `*` follows, longest first.
    prefixes: Vec<(Box<str>, usize)>,
    default: Option<usize>,
    /// Without name and domains.
    hosts: Vec<Arc<Encoded>>,
}

impl HostTable {
    pub(crate) fn new(key: &RouteKey, cache: &mut Cache<Arc<VirtualHostKey>>) -> Self {
        let mut table = Self::default();
        for (at, host) in key.hosts.iter().enumerate() {
            for domain in &host.domains {
                table.insert(&domain.to_ascii_lowercase(), at);
            }
            table.hosts.push(
                cache.get(&Arc::new(VirtualHostKey { domains: Vec::new(), ..VirtualHostKey::clone(host) })),
            );
        }
        let longest_first = |list: &mut Vec<(Box<str>, usize)>| {
            list.sort_by_key(|(part, _)| std::cmp::Reverse(part.len()));
        };
        longest_first(&mut table.suffixes);
        longest_first(&mut table.prefixes);
        table
    }

    fn insert(&mut self, domain: &str, at: usize) {
        if domain == "*" {
            self.default.get_or_insert(at);
        } else if let Some(suffix) = domain.strip_prefix('*') {
            self.suffixes.push((suffix.into(), at));
        } else if let Some(prefix) = domain.strip_suffix('*') {
            self.prefixes.push((prefix.into(), at));
        } else {
            self.exact.entry(domain.into()).or_insert(at);
        }
    }

    fn find(&self, host: &str) -> Option<usize> {
        let longer = |part: &str| host.len() > part.len();
        let suffix = || self.suffixes.iter().find(|(part, _)| longer(part) && host.ends_with(&**part));
        let prefix = || self.prefixes.iter().find(|(part, _)| longer(part) && host.starts_with(&**part));
        let pattern = || suffix().or_else(prefix).map(|(_, at)| *at);
        self.exact.get(host).copied().or_else(pattern).or(self.default)
    }

    /// The virtual host for a name, as a resource of that name which is for this host alone.
    fn answer(&self, name: &str, host: &str) -> Option<Encoded> {
        /// `VirtualHost.name` and `.domains`
        const FIELDS: [u32; 2] = [1, 2];
        let part = self.hosts.get(self.find(host)?)?;
        let mut bytes = part.bytes.to_vec();
        // In protobuf's encoding the last value of a field counts, so the name is replaced.
        for (field, text) in FIELDS.into_iter().zip([name, host]) {
            encode_key(field, WireType::LengthDelimited, &mut bytes);
            encode_varint(text.len() as u64, &mut bytes);
            bytes.extend_from_slice(text.as_bytes());
        }
        Some(Encoded::resource_bytes(VIRTUAL_HOST, name, &bytes))
    }
}

/// The table and the host in the name of a virtual host. Hosts have no slash, names of tables may.
pub fn table_and_host(name: &str) -> Option<(&str, &str)> {
    name.rsplit_once('/').filter(|(_, host)| !host.is_empty())
}

/// What one stream asked for by name. Noted for every class: it may come to be on demand.
#[derive(Debug, Default)]
pub struct Asked {
    clusters: BTreeSet<Arc<str>>,
    /// By the route table.
    hosts: BTreeMap<Box<str>, BTreeSet<Arc<str>>>,
}

impl Asked {
    /// Takes note of what a proxy says it wants, and wants no more.
    pub fn note(&mut self, type_url: &str, added: &[Arc<str>], removed: &[Arc<str>]) {
        match type_url {
            CLUSTER => {
                self.clusters.extend(added.iter().cloned());
                self.clusters.retain(|name| !removed.contains(name));
            }
            VIRTUAL_HOST => {
                for name in added {
                    if let Some((table, _)) = table_and_host(name) {
                        self.hosts.entry(table.into()).or_default().insert(Arc::clone(name));
                    }
                }
                for name in removed {
                    let table = table_and_host(name).map(|(table, _)| table);
                    if let Some(names) = table.and_then(|table| self.hosts.get_mut(table)) {
                        names.remove(name);
                    }
                }
                self.hosts.retain(|_, names| !names.is_empty());
            }
            _ => {}
        }
    }

    /// What a stream gets of a view.
    pub fn get(&self, view: &View, type_url: &str, name: &str) -> Option<Arc<Encoded>> {
        if type_url == VIRTUAL_HOST {
            return view.virtual_host(name).map(Arc::new);
        }
        view.get(type_url, name).filter(|_| self.gets(view, type_url, name)).cloned()
    }

    /// Whether a stream is sent the resource of this name.
    pub fn gets(&self, view: &View, type_url: &str, name: &str) -> bool {
        !view.is_asked_for(type_url, name) || type_url == CLUSTER && self.clusters.contains(name)
    }

    /// The virtual hosts of a table that were asked for.
    pub fn hosts(&self, table: &str) -> Vec<Arc<str>> {
        self.hosts.get(table).into_iter().flatten().cloned().collect()
    }
}

impl View {
    /// Whether a stream holds only those resources of this name and type that it asked for by name.
    pub fn is_asked_for(&self, type_url: &str, name: &str) -> bool {
        self.shared.on_demand && (type_url == VIRTUAL_HOST || type_url == CLUSTER && is_asked_for(name))
    }

    /// Whether there is anything that is sent only to who asks.
    pub fn is_on_demand(&self) -> bool {
        self.shared.on_demand
    }

    /// The virtual host that serves `TABLE/HOST`.
    fn virtual_host(&self, name: &str) -> Option<Encoded> {
        let (table, host) = table_and_host(name)?;
        self.shared.tables.get(table)?.answer(name, host)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_particular_domain_serves() {
        let mut table = HostTable::default();
        let domains = ["shop", "shop:80", "*.example.com", "*.b.example.com", "www.*", "*"];
        for (at, domain) in domains.iter().enumerate() {
            table.insert(domain, at);
        }
        table.suffixes.sort_by_key(|(part, _)| std::cmp::Reverse(part.len()));
        for (host, expected) in [
            ("shop", "shop"),
            ("shop:80", "shop:80"),
            ("shop:81", "*"),
            ("a.example.com", "*.example.com"),
            ("a.b.example.com", "*.b.example.com"),
            (".example.com", "*"),
            ("www.shop", "www.*"),
            ("other", "*"),
        ] {
            assert_eq!(table.find(host).map(|at| domains[at]), Some(expected), "{host}");
        }
        assert_eq!(HostTable::default().find("shop"), None);
    }

    #[test]
    fn what_was_asked_for() {
        let names = |names: &[&str]| names.iter().map(|name| Arc::from(*name)).collect::<Vec<Arc<str>>>();
        let mut asked = Asked::default();
        asked.note(VIRTUAL_HOST, &names(&["80/a", "80/b", "9080/a", "80"]), &[]);
        asked.note(VIRTUAL_HOST, &[], &names(&["80/b", "9080/a", "x/y"]));
        asked.note(CLUSTER, &names(&["outbound|80||a", "outbound|80||b"]), &names(&["outbound|80||b"]));
        assert_eq!((asked.hosts("80"), asked.hosts("9080")), (names(&["80/a"]), Vec::new()));
        let mut view = View::default();
        for (name, on_demand, cluster, expected) in [
            ("asked for", true, "outbound|80||a", true),
            ("given up", true, "outbound|80||b", false),
            ("needed by listeners", true, "BlackHoleCluster", true),
            ("of a class that gets all", false, "outbound|80||b", true),
        ] {
            view.shared.on_demand = on_demand;
            assert_eq!(asked.gets(&view, CLUSTER, cluster), expected, "{name}");
        }
    }

    #[test]
    fn names() {
        for (name, expected) in [
            ("80/shop:80", Some(("80", "shop:80"))),
            ("/run/x.sock/shop", Some(("/run/x.sock", "shop"))),
            ("80", None),
            ("80/", None),
        ] {
            assert_eq!(table_and_host(name), expected, "{name}");
        }
    }
}
