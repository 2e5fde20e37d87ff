//! Connections through a forward proxy: a DestinationRule's `tunnel` (Istio's reference, "TrafficPolicy.TunnelSettings").

use lateen_api::networking::TunnelSettings;
use lateen_model::Service;

use crate::policy::policy;
use crate::proto::ext::filters::network::tcp_proxy::v3::tcp_proxy::TunnelingConfig;
use crate::rules;
use crate::world::World;

/// Where the proxy is asked to connect to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Tunnel {
    target: String,
    /// Whether it is asked by POST.
    by_post: bool,
}

impl Tunnel {
    /// What a policy asks for.
    pub(super) fn new(settings: &TunnelSettings) -> Self {
        let host = match settings.target_host.contains(':') {
            true => format!("[{}]", settings.target_host),
            false => settings.target_host.clone(),
        };
        Self { target: format!("{host}:{}", settings.target_port), by_post: settings.protocol == "POST" }
    }

    /// What the rules for a destination ask for.
    pub(super) fn to(world: &World<'_>, service: &Service, subset: &str, port: u16) -> Option<Self> {
        let found = world.rules.of(service, &world.class.namespace);
        let subset = rules::subsets(&found).into_iter().find(|known| known.name == subset);
        policy(None, &found, subset, port).tunnel.as_ref().map(Self::new)
    }

    pub(super) fn message(&self) -> TunnelingConfig {
        TunnelingConfig { hostname: self.target.clone(), use_post: self.by_post, ..Default::default() }
    }
}
