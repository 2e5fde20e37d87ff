//! What a cluster always has, and the life of namespaces.
//!
//! Every namespace gets the ServiceAccount `default` and the ConfigMap `kube-root-ca.crt`. A namespace that is being
//! removed is emptied first: its Pods and controllers, then what Pods use, then itself.

use crate::api::Api;
use crate::http::{Circumstances, DeleteOptions, Place, create_object, delete_object, modify};
use crate::object::{is_deleting, meta, put};
use crate::seam::{KindInfo, Resource, api_version};
use crate::status::Status;
use crate::store::{EventType, Expect, Stored, Write, resource_of, table_name};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// The namespaces of every cluster.
const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];
/// How often namespaces in removal are looked at.
const RETRY: Duration = Duration::from_millis(250);
/// How often old Events are looked for.
const EVENTS_EVERY: Duration = Duration::from_secs(60);
/// What Pods need to the end.
const USED_BY_PODS: [&str; 3] = ["/serviceaccounts", "/configmaps", "/secrets"];

/// Makes the objects every cluster has, where they are missing.
pub(crate) async fn bootstrap(api: &Api, advertised: Option<SocketAddr>) -> Result<(), Status> {
    for name in NAMESPACES {
        ensure(api, Resource::new("", "namespaces"), "", json!({"metadata": {"name": name}})).await?;
        fill(api, name).await?;
    }
    let Some(advertised) = advertised else { return Ok(()) };
    let labels = json!({"component": "apiserver", "provider": "kubernetes"});
    let address = api.allocator.first_address().to_string();
    let service = json!({
        "metadata": {"name": "kubernetes", "labels": labels},
        "spec": {
            "type": "ClusterIP",
            "clusterIP": address,
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": advertised.port()}],
        },
    });
    let slice = json!({
        "metadata": {"name": "kubernetes", "labels": {"kubernetes.io/service-name": "kubernetes"}},
        "addressType": if advertised.is_ipv4() { "IPv4" } else { "IPv6" },
        "endpoints": [{"addresses": [advertised.ip().to_string()], "conditions": {"ready": true}}],
        "ports": [{"name": "https", "port": advertised.port(), "protocol": "TCP"}],
    });
    let slices = Resource::new("discovery.k8s.io", "endpointslices");
    for (resource, object) in [(Resource::new("", "services"), service), (slices, slice)] {
        if let Err(status) = ensure(api, resource, "default", object).await {
            tracing::warn!(%status, "Pods may not find this server under kubernetes.default");
        }
    }
    Ok(())
}

fn kind_of(api: &Api, resource: Resource<'_>) -> Option<Arc<KindInfo>> {
    api.schema.kinds().find_resource(resource.group, resource.plural).cloned()
}

/// Creates an object where it is missing; where it says something else than it should, sets what it should say.
async fn ensure(api: &Api, resource: Resource<'_>, namespace: &str, mut object: Value) -> Result<(), Status> {
    let Some(kind) = kind_of(api, resource) else { return Ok(()) };
    let name = meta(&object, "name").to_owned();
    let Some(current) = api.store.read(&table_name(resource), namespace, &name) else {
        put(&mut object, &["apiVersion"], api_version(&kind.group, &kind.version).into());
        put(&mut object, &["kind"], kind.kind.clone().into());
        return match create_object(api, kind, namespace, object, &Circumstances::internal()).await {
            Err(status) if status.reason != "AlreadyExists" => Err(status),
            _ => Ok(()),
        };
    };
    if says(&current.value, &object) || is_deleting(&current.value) {
        return Ok(());
    }
    let place = Place { kind, namespace: namespace.to_owned(), name, subresource: None };
    let change = |old: &Value| {
        let mut new = old.clone();
        for (field, value) in
            object.as_object().into_iter().flatten().filter(|(field, _)| *field != "metadata")
        {
            match (&mut new[field], value) {
                (Value::Object(place), Value::Object(value)) if field == "spec" => {
                    place.extend(value.clone())
                }
                (place, value) => *place = value.clone(),
            }
        }
        Ok(new)
    };
    modify(api, &place, &Circumstances::internal(), None, change).await.map(drop)
}

/// Whether an object has everything that another one asks for. Labels are left to who changes them.
fn says(object: &Value, wanted: &Value) -> bool {
    match (object, wanted) {
        (Value::Object(object), Value::Object(wanted)) => wanted
            .iter()
            .filter(|(key, _)| *key != "metadata")
            .all(|(key, wanted)| object.get(key).is_some_and(|value| says(value, wanted))),
        (Value::Array(object), Value::Array(wanted)) => {
            object.len() == wanted.len()
                && object.iter().zip(wanted).all(|(value, wanted)| says(value, wanted))
        }
        (object, wanted) => object == wanted,
    }
}

/// What every namespace has.
async fn fill(api: &Api, namespace: &str) -> Result<(), Status> {
    let account = json!({"metadata": {"name": "default"}});
    ensure(api, Resource::new("", "serviceaccounts"), namespace, account).await?;
    if api.root_certificates.is_empty() {
        return Ok(());
    }
    let map = json!({"metadata": {"name": "kube-root-ca.crt"}, "data": {"ca.crt": api.root_certificates}});
    ensure(api, Resource::new("", "configmaps"), namespace, map).await
}

/// Follows the namespaces until the server ends.
pub(crate) async fn run(api: Arc<Api>, event_lifetime: Duration) {
    let mut retry = tokio::time::interval(RETRY);
    retry.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut events = tokio::time::interval(EVENTS_EVERY);
    loop {
        let revision = api.store.snapshot().revision;
        let mut waiting = all_namespaces(&api);
        let Ok(mut reader) = api.store.all_changes(revision) else { continue };
        loop {
            tokio::select! {
                biased;
                () = api.drain.signaled() => return,
                changes = reader.next(256) => match changes {
                    Ok(changes) => {
                        for change in &changes {
                            waiting.extend(concerned(&change.table, change.event_type, &change.object));
                        }
                    }
                    Err(_) => break,
                },
                _ = retry.tick(), if !waiting.is_empty() => {}
                _ = events.tick() => {
                    remove_old_events(&api, event_lifetime).await;
                    continue;
                }
            }
            let mut later = HashSet::new();
            for name in waiting.drain() {
                if !settle(&api, &name).await {
                    later.insert(name);
                }
            }
            waiting = later;
        }
    }
}

fn all_namespaces(api: &Api) -> HashSet<String> {
    let snapshot = api.store.snapshot();
    let table = table_name(Resource::new("", "namespaces"));
    snapshot.list(&table, None, None).map(|(key, _)| key.name.to_string()).collect()
}

/// The namespace that a change asks to look at.
fn concerned(table: &str, event_type: EventType, object: &Stored) -> Option<String> {
    match (table, event_type, meta(&object.value, "name")) {
        ("/namespaces", EventType::Added | EventType::Modified, name) => Some(name.to_owned()),
        ("/serviceaccounts", EventType::Deleted, "default")
        | ("/configmaps", EventType::Deleted | EventType::Modified, "kube-root-ca.crt") => {
            Some(meta(&object.value, "namespace").to_owned())
        }
        _ => None,
    }
}

/// Does what a namespace needs; false where that has not come to its end.
async fn settle(api: &Api, name: &str) -> bool {
    let resource = Resource::new("", "namespaces");
    let Some(namespace) = api.store.read(&table_name(resource), "", name) else { return true };
    let result = if is_deleting(&namespace.value) {
        empty(api, name, &namespace).await
    } else {
        fill(api, name).await.map(|()| true)
    };
    result.unwrap_or_else(|status| {
        tracing::warn!(namespace = name, %status, "a namespace cannot be brought into its state; trying again");
        false
    })
}

/// Removes what is in a namespace; true when the namespace has been finalized.
async fn empty(api: &Api, name: &str, namespace: &Stored) -> Result<bool, Status> {
    let snapshot = api.store.snapshot();
    let mut left = 0_usize;
    let pods = snapshot.list("/pods", Some(name), None).count();
    let kinds = api.schema.kinds();
    for table in snapshot.tables() {
        let used = USED_BY_PODS.contains(&&**table);
        for (key, stored) in snapshot.list(table, Some(name), None) {
            left += 1;
            if is_deleting(&stored.value) || (used && pods > 0) {
                continue;
            }
            let resource = resource_of(table);
            match kinds.find_resource(resource.group, resource.plural) {
                Some(kind) => {
                    let options = DeleteOptions {
                        uid: Some(meta(&stored.value, "uid").to_owned()),
                        ..DeleteOptions::default()
                    };
                    let circumstances = Circumstances::internal();
                    match delete_object(api, kind, name, &key.name, &options, &circumstances).await {
                        Err(status) if status.reason != "NotFound" => return Err(status),
                        _ => {}
                    }
                }
                None => remove(api, table.clone(), name, &key.name, stored.revision).await,
            }
        }
    }
    if left > 0 {
        return Ok(false);
    }
    let mut last = (*namespace.value).clone();
    put(&mut last, &["spec", "finalizers"], json!([]));
    let gone = crate::object::finalizers(&last).is_empty();
    let write = Write {
        table: table_name(Resource::new("", "namespaces")),
        namespace: String::new(),
        name: name.to_owned(),
        object: (!gone).then_some(last),
        expect: Expect::Revision(namespace.revision),
    };
    Ok(api.store.write(write).await.is_ok())
}

/// Removes an object whose kind is no longer served.
pub(crate) async fn remove(api: &Api, table: Arc<str>, namespace: &str, name: &str, revision: u64) {
    let write = Write {
        table,
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        object: None,
        expect: Expect::Revision(revision),
    };
    if let Err(error) = api.store.write(write).await {
        tracing::debug!(%error, namespace, name, "an object could not be removed");
    }
}

async fn remove_old_events(api: &Api, lifetime: Duration) {
    let Ok(lifetime) = jiff::SignedDuration::try_from(lifetime) else { return };
    let oldest = jiff::Timestamp::now() - lifetime;
    let snapshot = api.store.snapshot();
    for table in ["/events", "events.k8s.io/events"] {
        for (key, stored) in snapshot.list(table, None, None) {
            let text = |field: &str| stored.value[field].as_str();
            let seen = text("lastTimestamp").or_else(|| text("eventTime"));
            let seen = seen.unwrap_or_else(|| meta(&stored.value, "creationTimestamp"));
            if seen.parse::<jiff::Timestamp>().is_ok_and(|seen| seen < oldest) {
                remove(api, table.into(), &key.namespace, &key.name, stored.revision).await;
            }
        }
    }
}
