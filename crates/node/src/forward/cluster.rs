//! Cluster IPs as packet rules.

use std::time::Duration;

use lateen_netfilter::services::{ClusterServices, NodeNetwork, ServicePort, Services};
use lateen_netfilter::{Connection, Error};
use tokio::sync::watch;

use super::{Service, Wanted};

/// How long to wait after a failure: it is the kernel's, and will hardly pass by itself.
const RETRY: Duration = Duration::from_secs(1);

/// Applies every state of `wanted`, or the newest where they come faster. `report` is told each update applied.
pub(super) async fn keep_in_step(
    network: NodeNetwork,
    mut wanted: watch::Receiver<Wanted>,
    report: watch::Sender<u64>,
) {
    let own = network.node_addresses.clone();
    let mut kernel = Kernel { connection: None, services: ClusterServices::new(network) };
    loop {
        let now = wanted.borrow_and_update().clone();
        let services = services(&now.services, &own);
        // Netlink answers in milliseconds, but it blocks.
        let work = tokio::task::spawn_blocking(move || {
            let result = kernel.apply(services);
            (kernel, result)
        });
        let result = match work.await {
            Ok((returned, result)) => {
                kernel = returned;
                result
            }
            Err(error) => {
                tracing::error!(%error, "the rules of cluster IPs are no longer kept");
                return;
            }
        };
        if let Err(error) = result {
            tracing::error!(%error, "cluster IPs do not work; trying again");
            tokio::time::sleep(RETRY).await;
            continue;
        }
        report.send_replace(now.update);
        if wanted.changed().await.is_err() {
            return;
        }
    }
}

struct Kernel {
    connection: Option<Connection>,
    services: ClusterServices,
}

impl Kernel {
    fn apply(&mut self, services: Services) -> Result<(), Error> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            none => none.insert(Connection::open()?),
        };
        let result = self.services.apply(connection, services);
        if result.is_err() {
            self.connection = None;
        }
        result
    }
}

/// All ports of all Services, without those whose address the node's own sockets serve.
fn services(all: &[Service], own: &[std::net::IpAddr]) -> Services {
    let mut services = Services::new();
    for service in all {
        for address in service.cluster_addresses.iter().filter(|address| !own.contains(address)) {
            for port in &service.ports {
                let key = ServicePort { address: *address, protocol: port.protocol, port: port.port };
                services.entry(key).or_default().extend_from_slice(&port.endpoints);
            }
        }
    }
    services
}
