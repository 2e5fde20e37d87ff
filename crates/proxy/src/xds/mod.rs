//! Discovery: what the control plane sends becomes resources of the manager, each taken or refused by itself.

use std::collections::BTreeSet;

use lateen_envoy::TypeUrl;
use lateen_envoy::envoy::config::bootstrap::v3::bootstrap::DynamicResources;
use lateen_envoy::envoy::config::cluster::v3::Cluster;
use lateen_envoy::envoy::config::core::v3::Node;
use lateen_envoy::envoy::config::endpoint::v3::ClusterLoadAssignment;
use lateen_envoy::envoy::config::listener::v3::Listener;
use lateen_envoy::envoy::config::route::v3::RouteConfiguration;
use lateen_envoy::prost::Message;
use lateen_xds::Protocol;
use lateen_xds::client::{self, ClientOptions, Handle, Handler, RejectedResource, Resource, Update};
use tokio::sync::watch;
use tonic::transport::Channel;

use crate::manager::{ApplyError, SharedManager};

/// Starts the client. `ready` becomes true when the first configuration serves.
pub fn start(
    channel: Channel,
    node: Node,
    delta: bool,
    manager: SharedManager,
    ready: watch::Sender<bool>,
    dynamic: &DynamicResources,
) -> Handle {
    let wants_listeners = dynamic.lds_config.is_some();
    let wants_clusters = dynamic.cds_config.is_some();
    let options = ClientOptions {
        node,
        protocol: if delta { Protocol::Delta } else { Protocol::Sotw },
        ..ClientOptions::default()
    };
    let (first_listeners, mut listeners_came) = watch::channel(!wants_listeners);
    let (first_clusters, mut clusters_came) = watch::channel(!wants_clusters);
    let consumer = Consumer {
        manager: SharedManager::clone(&manager),
        endpoints: BTreeSet::new(),
        routes: BTreeSet::new(),
        first_clusters,
        first_listeners,
    };
    let handle = client::start(channel, options, consumer);
    if wants_clusters {
        handle.subscribe_all(Cluster::TYPE_URL);
    }
    let later = handle.clone();
    // Listeners are asked for when the clusters they lead to serve, as Envoy does: no request meets a route whose
    // cluster is still missing.
    tokio::spawn(async move {
        let mut warming = manager.lock().warming.subscribe();
        let _ = clusters_came.wait_for(|came| *came).await;
        let _ = warming.wait_for(|warming| *warming == 0).await;
        if wants_listeners {
            later.subscribe_all(Listener::TYPE_URL);
        }
        let _ = listeners_came.wait_for(|came| *came).await;
        let _ = warming.wait_for(|warming| *warming == 0).await;
        ready.send_replace(true);
    });
    handle
}

struct Consumer {
    manager: SharedManager,
    endpoints: BTreeSet<String>,
    routes: BTreeSet<String>,
    first_clusters: watch::Sender<bool>,
    first_listeners: watch::Sender<bool>,
}

impl Handler for Consumer {
    fn update(&mut self, update: Update, handle: &Handle) -> Vec<RejectedResource> {
        let kind = update.type_url.clone();
        let mut rejected = Vec::new();
        {
            let mut manager = self.manager.lock();
            for resource in &update.resources {
                let applied = match &*kind {
                    Cluster::TYPE_URL => decode(resource).map(|message| manager.apply_cluster(message)),
                    Listener::TYPE_URL => decode(resource).map(|message| manager.apply_listener(message)),
                    RouteConfiguration::TYPE_URL => {
                        decode(resource).map(|message| manager.apply_routes(message))
                    }
                    ClusterLoadAssignment::TYPE_URL => {
                        decode(resource).map(|message| manager.apply_assignment(message))
                    }
                    _ => Ok(Ok(())),
                };
                let applied = applied
                    .and_then(|applied: Result<(), ApplyError>| applied.map_err(|error| error.to_string()));
                if let Err(reason) = applied {
                    tracing::warn!(resource = %resource.name, %reason, "a resource was refused");
                    rejected.push(RejectedResource { name: resource.name.clone(), reason });
                }
            }
            for name in &update.removed {
                match &*kind {
                    Cluster::TYPE_URL => manager.remove_cluster(name),
                    Listener::TYPE_URL => manager.remove_listener(name),
                    // Routes and endpoints live as long as somebody refers to them.
                    _ => {}
                }
            }
            let endpoints = manager.wanted_endpoints();
            subscribe(handle, ClusterLoadAssignment::TYPE_URL, &mut self.endpoints, endpoints);
            let routes = manager.wanted_routes();
            subscribe(handle, RouteConfiguration::TYPE_URL, &mut self.routes, routes);
        }
        match &*kind {
            Cluster::TYPE_URL => drop(self.first_clusters.send_replace(true)),
            Listener::TYPE_URL => drop(self.first_listeners.send_replace(true)),
            _ => {}
        }
        rejected
    }

    fn connection(&mut self, state: client::Connection<'_>) {
        match state {
            client::Connection::Up => tracing::info!("connected to the control plane"),
            client::Connection::Down { reason } => {
                tracing::warn!(%reason, "no connection to the control plane; the last configuration serves");
            }
        }
    }
}

fn decode<M: Message + Default>(resource: &Resource) -> Result<M, String> {
    M::decode(resource.body.clone()).map_err(|error| format!("{}: cannot be decoded: {error}", resource.name))
}

fn subscribe(handle: &Handle, kind: &'static str, held: &mut BTreeSet<String>, wanted: BTreeSet<String>) {
    let added: Vec<String> = wanted.difference(held).cloned().collect();
    let removed: Vec<String> = held.difference(&wanted).cloned().collect();
    if !added.is_empty() {
        handle.subscribe(kind, added);
    }
    if !removed.is_empty() {
        handle.unsubscribe(kind, removed);
    }
    *held = wanted;
}
