//! Which clusters a class has, each as its key.

use std::collections::BTreeSet;
use std::sync::Arc;

use lateen_model::{EndpointSet, Identity, Service};

use super::inbound::Target;
use super::outbound::{self, Client, Mutual};
use super::{ClusterKey, InboundKey, Marks, OutboundKey, discovery, goes_where_it_was_going};
use crate::mutual_tls::{Policies, is_capable};
use crate::policy::policy;
use crate::preference::Preference;
use crate::proto::cluster::cluster::DiscoveryType;
use crate::shared::Shared;
use crate::world::World;
use crate::{InboundPort, Role, rules};

/// The clusters that are of no service.
pub(crate) fn plan_fixed(world: &World<'_>) -> Vec<ClusterKey> {
    let mesh = world.snapshot.mesh();
    let mut keys = vec![ClusterKey::BlackHole(mesh.connect_timeout.get())];
    if world.class.role == Role::Sidecar {
        keys.push(ClusterKey::Passthrough(Shared::of(mesh)));
        keys.push(ClusterKey::InboundPassthrough(Shared::of(mesh), Marks(world.class.marks_sockets)));
    }
    keys
}

/// The clusters of a class's own application. Only here the class's own inputs are known (`Class::without_own`). Planned
/// anew when the mesh's settings, the `Sidecar`, one of its services or a rule for those changes.
pub(crate) fn plan_own(world: &World<'_>) -> Vec<ClusterKey> {
    let marks = Marks(world.class.marks_sockets);
    world.class.inbound.iter().map(|port| ClusterKey::Inbound(inbound(world, port, marks))).collect()
}

fn inbound(world: &World<'_>, port: &InboundPort, marks: Marks) -> InboundKey {
    let mesh = world.snapshot.mesh();
    let service = world.snapshot.services_in(&port.namespace).find(|one| one.key.hostname == port.service);
    let found = service.map(|service| world.rules.of(service, &world.class.namespace)).unwrap_or_default();
    // Who limits its clients to many connections must let them in: the service's own rule counts here too.
    let mut pool = policy(None, &found, None, port.service_port).connection_pool;
    let mut sources: Vec<String> = service
        .map(|service| &service.source)
        .map(|source| format!("{}/{}/{}", source.kind, source.namespace, source.name))
        .into_iter()
        .collect();
    if pool.is_some() {
        let rules = found.iter().take(1);
        sources
            .extend(rules.map(|rule| format!("DestinationRule/{}/{}", rule.meta.namespace, rule.meta.name)));
    }
    let mut target = Target::of_mesh(mesh, port.number);
    if let Some(sidecar) = world.sidecar() {
        let listener = port.ingress.and_then(|index| sidecar.spec.ingress.get(index));
        let asked = listener.and_then(|listener| listener.connection_pool.as_ref());
        if let Some(asked) = asked.or(sidecar.spec.inbound_connection_pool.as_ref()) {
            pool = Some(asked.clone());
        }
        if let Some(listener) = listener {
            target = Target::parse(&listener.default_endpoint).unwrap_or(target);
        }
        if listener.is_some() || sidecar.spec.inbound_connection_pool.is_some() {
            sources.push(format!("Sidecar/{}/{}", sidecar.meta.namespace, sidecar.meta.name));
        }
    }
    InboundKey {
        port: port.clone(),
        mesh: Shared::of(mesh),
        marks,
        pool: pool.map(Arc::new),
        sources,
        target,
    }
}

/// The clusters of one service; planned anew when the service, its endpoints or rules for it change.
pub(crate) fn plan_service(world: &World<'_>, service: &Arc<Service>) -> Vec<ClusterKey> {
    let (class, mesh) = (world.class, world.snapshot.mesh());
    let found = world.rules.of(service, &class.namespace);
    let set = world.snapshot.endpoints(&service.key);
    let client = Client { role: class.role, certificates: class.workload_certificates, passes_on: false };
    let at = At::new(world, service, set.map(|set| &**set), client);
    let resolves =
        matches!(discovery(service, class.role), DiscoveryType::StrictDns | DiscoveryType::LogicalDns);
    let mut keys = Vec::new();
    for index in outbound::ports(service) {
        let named = rules::subsets(&found);
        for subset in std::iter::once(None).chain(named.into_iter().map(Some)) {
            let number = service.ports[index].number;
            let policy = policy(mesh.default_traffic_policy.as_ref(), &found, subset, number);
            let ordered = resolves && Preference::new(mesh, &policy, service).is_some();
            let mutual = at.mutual(&policy, class.role);
            let uses = mutual != Mutual::No || policy.tls.is_some();
            keys.push(ClusterKey::Outbound(OutboundKey {
                service: Shared::of(service),
                port: index,
                subset: subset.map(|subset| subset.name.clone()).unwrap_or_default(),
                rules: found.clone(),
                mesh: Shared::of(mesh),
                endpoints: set.filter(|_| resolves).map(Shared::of),
                place: ordered.then(|| class.place.clone().unwrap_or_default()),
                client,
                mutual,
                accounts: if uses { Arc::clone(&at.accounts) } else { Arc::from([]) },
                accounts_are_names: service.source.kind == "ServiceEntry",
            }));
        }
    }
    passing_on(world, service, &mut keys);
    keys
}

/// The clusters by which a gateway passes on what is encrypted for the service already.
fn passing_on(world: &World<'_>, service: &Arc<Service>, keys: &mut Vec<ClusterKey>) {
    if service.external || !passes_on(world) {
        return;
    }
    let twins: Vec<ClusterKey> = keys
        .iter()
        .filter_map(|key| {
            let ClusterKey::Outbound(key) = key else { return None };
            let client = Client { passes_on: true, ..key.client };
            let plain = OutboundKey { client, mutual: Mutual::No, accounts: Arc::from([]), ..key.clone() };
            Some(ClusterKey::Outbound(plain))
        })
        .collect();
    keys.extend(twins);
}

/// Whether the class is a gateway with a server of mode `AUTO_PASSTHROUGH`.
pub(crate) fn passes_on(world: &World<'_>) -> bool {
    world.class.gateway.passes_on
}

/// What of a service's endpoints decides how clients speak to it.
struct At {
    /// Whether clients speak mutual TLS by themselves at all.
    automatic: bool,
    /// Whether every endpoint takes mutual TLS, and there are some.
    all_capable: bool,
    is_headless: bool,
    accounts: Arc<[String]>,
}

impl At {
    fn new(world: &World<'_>, service: &Service, set: Option<&EndpointSet>, client: Client) -> Self {
        let mesh = world.snapshot.mesh();
        let endpoints = || set.into_iter().flat_map(|set| &set.endpoints);
        let automatic = client.certificates
            && mesh.enable_auto_mtls
            && !service.external
            && !Policies::new(world.snapshot, &service.key.namespace).namespace_is_off();
        let mut accounts: BTreeSet<String> = service.subject_alt_names.iter().cloned().collect();
        if client.certificates {
            let domains = || std::iter::once(&mesh.trust_domain).chain(&mesh.trust_domain_aliases);
            for endpoint in endpoints().filter(|endpoint| !endpoint.service_account.is_empty()) {
                let namespace =
                    endpoint.workload.as_ref().map_or(&service.key.namespace, |workload| &workload.namespace);
                accounts.extend(domains().map(|domain| {
                    let identity = Identity {
                        trust_domain: domain.clone(),
                        namespace: namespace.to_string(),
                        service_account: endpoint.service_account.clone(),
                    };
                    identity.to_string()
                }));
            }
        }
        Self {
            automatic,
            all_capable: endpoints().next().is_some() && endpoints().all(|endpoint| is_capable(endpoint)),
            is_headless: service.is_headless(),
            accounts: accounts.into_iter().collect(),
        }
    }

    fn mutual(&self, policy: &lateen_api::networking::TrafficPolicy, role: Role) -> Mutual {
        if !self.automatic || policy.tls.is_some() {
            return Mutual::No;
        }
        // Where the endpoint of a connection is not known by its metadata, all must take it.
        let unknown = goes_where_it_was_going(policy) || (self.is_headless && role == Role::Sidecar);
        match (unknown, self.all_capable) {
            (false, _) => Mutual::Matching,
            (true, true) => Mutual::Always,
            (true, false) => Mutual::No,
        }
    }
}
