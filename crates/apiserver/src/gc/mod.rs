//! Garbage collection: what becomes of objects whose owners go.
//!
//! One task follows all changes and keeps the graph of owners. An object all of whose owners are gone is removed; one
//! with some left loses the references to the others. The finalizers `orphan` and `foregroundDeletion` are worked off
//! here, as is what a removed CustomResourceDefinition leaves behind.

mod graph;

use crate::api::Api;
use crate::http::{Circumstances, DeleteOptions, Place, Propagation, delete_object, modify};
use crate::namespace::remove;
use crate::object::{FOREGROUND, ORPHAN, finalizers, is_deleting, meta, meta_mut, remove_finalizer};
use crate::schema::crd::CLEANUP;
use crate::seam::KindInfo;
use crate::status::Status;
use crate::store::{EventType, Key, Stored, resource_of};
use graph::{Graph, Node};
use serde_json::Value;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

/// How long to wait before trying again what failed.
const RETRY: Duration = Duration::from_millis(500);
const DEFINITIONS: &str = "apiextensions.k8s.io/customresourcedefinitions";

/// Collects garbage until the server ends.
pub(crate) async fn run(api: Arc<Api>) {
    loop {
        let snapshot = api.store.snapshot();
        let mut graph = Graph::default();
        for table in snapshot.tables() {
            for (key, stored) in snapshot.list(table, None, None) {
                graph.put(Node::new(table.clone(), key.clone()), &stored.value);
            }
        }
        // What was under way when the server last ended is found again here.
        let mut work = graph.all();
        let Ok(mut reader) = api.store.all_changes(snapshot.revision) else { continue };
        let mut retry = tokio::time::interval(RETRY);
        retry.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let mut later = HashSet::new();
            for node in work.drain() {
                if let Err(status) = collect(&api, &graph, &node).await {
                    tracing::debug!(?node, %status, "garbage collection of an object is tried again");
                    later.insert(node);
                }
            }
            work = later;
            tokio::select! {
                biased;
                () = api.drain.signaled() => return,
                events = reader.next(256) => match events {
                    Ok(events) => {
                        for event in &events {
                            work.extend(graph.follow(event));
                            if &*event.table == DEFINITIONS && event.event_type == EventType::Deleted {
                                // One from before definitions were held until their objects are gone.
                                let _ = remove_instances(&api, &event.object.value).await;
                            }
                        }
                    }
                    Err(_) => break,
                },
                _ = retry.tick(), if !work.is_empty() => {}
            }
        }
    }
}

/// Does what the graph asks for one object.
async fn collect(api: &Api, graph: &Graph, node: &Node) -> Result<(), Status> {
    let Some(stored) = api.store.read(&node.table, &node.key.namespace, &node.key.name) else {
        return Ok(());
    };
    let resource = resource_of(&node.table);
    let kinds = api.schema.kinds();
    let Some(kind) = kinds.find_resource(resource.group, resource.plural) else { return Ok(()) };
    if is_deleting(&stored.value) {
        return work_off(api, graph, kind, node, &stored).await;
    }
    let owners = graph::owners(&stored.value);
    let dead: Vec<&str> = owners.iter().copied().filter(|uid| !graph.is_live(uid)).collect();
    if dead.is_empty() {
        return Ok(());
    }
    if dead.len() == owners.len() {
        return delete(api, kind, node, &stored, None).await;
    }
    let dead: Vec<String> = dead.into_iter().map(str::to_owned).collect();
    change(api, kind, &node.key, |object| drop_owners(object, |uid| dead.iter().any(|one| one == uid))).await
}

/// The finalizers that wait for the collector.
async fn work_off(
    api: &Api,
    graph: &Graph,
    kind: &Arc<KindInfo>,
    node: &Node,
    stored: &Stored,
) -> Result<(), Status> {
    let uid = meta(&stored.value, "uid");
    let finalizers = finalizers(&stored.value);
    let dependents = || graph.dependents(uid).filter_map(|node| Some((node, read(api, node)?)));
    if &*node.table == DEFINITIONS && finalizers.contains(&CLEANUP) {
        remove_instances(api, &stored.value).await?;
        return change(api, kind, &node.key, |object| remove_finalizer(object, CLEANUP)).await;
    }
    if finalizers.contains(&ORPHAN) {
        for (dependent, _) in dependents() {
            if let Some(kind) = kind_of(api, dependent) {
                change(api, &kind, &dependent.key, |object| drop_owners(object, |owner| owner == uid))
                    .await?;
            }
        }
        return change(api, kind, &node.key, |object| remove_finalizer(object, ORPHAN)).await;
    }
    if finalizers.contains(&FOREGROUND) {
        let mut blocked = false;
        for (dependent, state) in dependents() {
            blocked |= graph::blocks(&state.value, uid);
            if !is_deleting(&state.value)
                && let Some(kind) = kind_of(api, dependent)
            {
                // What owns others goes in the same way, so that nothing outlives what it depends on.
                let owns = graph.dependents(meta(&state.value, "uid")).next().is_some();
                delete(api, &kind, dependent, &state, owns.then_some(Propagation::Foreground)).await?;
            }
        }
        // Some may be gone at once; those that are left come back here when they go.
        let left = blocked && dependents().any(|(_, state)| graph::blocks(&state.value, uid));
        if !left {
            return change(api, kind, &node.key, |object| remove_finalizer(object, FOREGROUND)).await;
        }
    }
    Ok(())
}

fn read(api: &Api, node: &Node) -> Option<Arc<Stored>> {
    api.store.read(&node.table, &node.key.namespace, &node.key.name)
}

fn kind_of(api: &Api, node: &Node) -> Option<Arc<KindInfo>> {
    let resource = resource_of(&node.table);
    api.schema.kinds().find_resource(resource.group, resource.plural).cloned()
}

async fn delete(
    api: &Api,
    kind: &Arc<KindInfo>,
    node: &Node,
    stored: &Stored,
    propagation: Option<Propagation>,
) -> Result<(), Status> {
    let uid = Some(meta(&stored.value, "uid").to_owned());
    let options = DeleteOptions { uid, propagation, ..DeleteOptions::default() };
    let result =
        delete_object(api, kind, &node.key.namespace, &node.key.name, &options, &Circumstances::internal())
            .await;
    match result {
        Err(status) if !matches!(status.reason, "NotFound" | "Conflict") => Err(status),
        _ => Ok(()),
    }
}

async fn change(api: &Api, kind: &Arc<KindInfo>, key: &Key, edit: impl Fn(&mut Value)) -> Result<(), Status> {
    let place = Place {
        kind: kind.clone(),
        namespace: key.namespace.to_string(),
        name: key.name.to_string(),
        subresource: None,
    };
    let apply = |old: &Value| {
        let mut new = old.clone();
        edit(&mut new);
        Ok(new)
    };
    match modify(api, &place, &Circumstances::internal(), None, apply).await {
        Err(status) if status.reason != "NotFound" => Err(status),
        _ => Ok(()),
    }
}

fn drop_owners(object: &mut Value, gone: impl Fn(&str) -> bool) {
    let metadata = meta_mut(object);
    if let Some(list) = metadata.get_mut("ownerReferences").and_then(Value::as_array_mut) {
        list.retain(|owner| !owner["uid"].as_str().is_some_and(&gone));
        if list.is_empty() {
            metadata.shift_remove("ownerReferences");
        }
    }
}

/// A definition in removal takes its objects along; an error says that some are still held by finalizers.
async fn remove_instances(api: &Api, definition: &Value) -> Result<(), Status> {
    let spec = &definition["spec"];
    let (Some(group), Some(plural)) = (spec["group"].as_str(), spec["names"]["plural"].as_str()) else {
        return Ok(());
    };
    let table: Arc<str> = format!("{group}/{plural}").into();
    let kind = api.schema.kinds().find_resource(group, plural).cloned();
    let snapshot = api.store.snapshot();
    for (key, stored) in snapshot.list(&table, None, None) {
        match &kind {
            Some(kind) if is_deleting(&stored.value) => {
                tracing::trace!(kind = kind.kind, "an object is held")
            }
            Some(kind) => {
                let node = Node::new(table.clone(), key.clone());
                delete(api, kind, &node, stored, None).await?;
            }
            // No version is served: nobody could take a finalizer away.
            None => remove(api, table.clone(), &key.namespace, &key.name, stored.revision).await,
        }
    }
    match api.store.snapshot().list(&table, None, None).count() {
        0 => Ok(()),
        left => Err(Status::unavailable(format!("{left} objects of {plural}.{group} are left"))),
    }
}
