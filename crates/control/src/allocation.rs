//! Writes the addresses that the mesh makes up for ServiceEntries into their statuses, by the leader only
//! (`lateen_registry::allocations` says which). Every replica reads them back like any other change, so all proxies see
//! the same addresses whoever wrote them.

use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use kube::api::{Patch, PatchParams};
use lateen_base::backoff::Backoff;
use lateen_base::drain;
use lateen_model::{ConfigKind, Snapshot};
use lateen_registry::{Allocation, Subscription, allocations};
use prometheus_client::metrics::counter::Counter;
use serde_json::{Value, json};

use crate::leader::Leadership;
use crate::objects::config_api;

/// Allocates for as long as this replica leads, until the drain begins.
pub(crate) async fn run(
    client: Client,
    mut snapshots: Subscription,
    mut leadership: Leadership,
    errors: Counter,
    drain: drain::Watch,
) {
    // A new leader looks at everything once, whatever it saw before.
    let mut latest: Option<Arc<Snapshot>> = None;
    loop {
        tokio::select! {
            () = leadership.gained() => {}
            () = drain.signaled() => return,
        }
        tokio::select! {
            () = lead(&client, &mut snapshots, &mut latest, &errors) => {}
            () = leadership.lost() => {}
            () = drain.signaled() => return,
        }
    }
}

async fn lead(
    client: &Client,
    snapshots: &mut Subscription,
    latest: &mut Option<Arc<Snapshot>>,
    errors: &Counter,
) {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));
    let mut due = latest.is_some();
    loop {
        if let Some(snapshot) = latest.as_ref().filter(|_| due) {
            due = false;
            for allocation in allocations(snapshot) {
                if let Err(error) = write(client, &allocation).await {
                    errors.inc();
                    tracing::warn!(
                        namespace = %allocation.entry.namespace, name = allocation.entry.name,
                        "the addresses of a ServiceEntry were not written, and are tried again: {error}"
                    );
                    due = true;
                }
            }
        }
        let news = match due {
            // What failed is tried again even if nothing changes.
            true => tokio::time::timeout(backoff.next_delay(), snapshots.next()).await.ok(),
            false => {
                backoff.reset();
                Some(snapshots.next().await)
            }
        };
        if let Some((snapshot, changes)) = news {
            due |= changes.touches(ConfigKind::ServiceEntry);
            *latest = Some(snapshot);
        }
    }
}

async fn write(client: &Client, allocation: &Allocation) -> kube::Result<()> {
    let Some(api) = config_api(client, ConfigKind::ServiceEntry, &allocation.entry.namespace) else {
        return Ok(());
    };
    let addresses: Vec<Value> = allocation
        .addresses
        .iter()
        .map(|(host, address)| json!({"host": host, "value": address.to_string()}))
        .collect();
    let patch = Patch::Merge(json!({"status": {"addresses": addresses}}));
    match api.patch_status(&allocation.entry.name, &PatchParams::default(), &patch).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use lateen_registry::{Kubernetes, KubernetesOptions, Registry, StoreOptions};

    use super::*;
    use crate::objects::{Existing, ensure};
    use crate::{leader, testing};

    #[tokio::test(flavor = "multi_thread")]
    async fn a_service_entry_without_addresses_gets_some_and_every_replica_reads_them_back() {
        let api = testing::api().await;
        crate::install::kinds(&api.client).await.unwrap();
        for name in ["istio-system", "shop"] {
            let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
            ensure(&api.client, &namespace, Existing::Keep).await.unwrap();
        }
        let platform = Kubernetes::new(api.client.clone(), KubernetesOptions::default());
        let registry = Registry::start(StoreOptions::default(), vec![Box::new(platform)], None);
        let (_trigger, drain) = drain::channel();
        let timing = leader::Timing::default();
        let leadership = leader::elect(&api.client, "istio-system", "leader", "me", timing, drain.clone());
        tokio::spawn(run(api.client.clone(), registry.subscribe(), leadership, Counter::default(), drain));
        let entry = json!({
            "apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry",
            "metadata": {"name": "outside", "namespace": "shop"},
            "spec": {"hosts": ["api.example.com"], "resolution": "DNS",
                "ports": [{"number": 80, "name": "http", "protocol": "HTTP"}]},
        });
        ensure(&api.client, &entry, Existing::Keep).await.unwrap();
        let begun = Instant::now();
        let given = loop {
            let snapshot = registry.snapshot();
            let services = snapshot.iter().flat_map(|snapshot| snapshot.services());
            let given: Vec<_> = services.flat_map(|service| service.auto_addresses.clone()).collect();
            if given.len() == 2 {
                break given;
            }
            assert!(begun.elapsed() < Duration::from_secs(30), "waited for addresses: {given:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        assert!(given.iter().any(|address| address.to_string().starts_with("240.240.")), "{given:?}");
        assert!(given.iter().any(|address| address.to_string().starts_with("2001:2:")), "{given:?}");
    }
}
