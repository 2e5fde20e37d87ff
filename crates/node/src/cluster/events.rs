//! Event objects: what `kubectl describe` and `kubectl get events` show.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::PostParams;
use kube::{Api, Client};
use parking_lot::Mutex;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// For information.
    Normal,
    /// Somebody should look.
    Warning,
}

/// Writes Events; the same message about the same object at most once a minute.
#[derive(Clone)]
pub struct Recorder {
    client: Client,
    component: &'static str,
    recent: Arc<Mutex<HashMap<String, Instant>>>,
}

const QUIET: Duration = Duration::from_secs(60);

impl Recorder {
    /// A recorder that signs with `component`.
    pub fn new(client: Client, component: &'static str) -> Self {
        Self { client, component, recent: Arc::default() }
    }

    /// Records something about a Pod. Does not wait; an event that cannot be written is lost.
    pub fn pod(&self, pod: &Pod, kind: EventKind, reason: &str, message: &str) {
        self.about(
            ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                name: pod.metadata.name.clone(),
                namespace: pod.metadata.namespace.clone(),
                uid: pod.metadata.uid.clone(),
                ..Default::default()
            },
            kind,
            reason,
            message,
        );
    }

    /// Records something about any object of a namespace.
    pub fn about(&self, object: ObjectReference, kind: EventKind, reason: &str, message: &str) {
        let what = object.name.clone().unwrap_or_default();
        match kind {
            EventKind::Normal => tracing::info!(object = what, reason, "{message}"),
            EventKind::Warning => tracing::warn!(object = what, reason, "{message}"),
        }
        if !self
            .is_news(&format!("{what}\0{}\0{reason}\0{message}", object.uid.as_deref().unwrap_or_default()))
        {
            return;
        }
        let Some(namespace) = object.namespace.clone() else { return };
        let now = Time(jiff::Timestamp::now());
        let event = Event {
            metadata: ObjectMeta {
                name: Some(format!("{what}.{:016x}", rand::random::<u64>())),
                namespace: Some(namespace.clone()),
                ..Default::default()
            },
            involved_object: object,
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            type_: Some(if kind == EventKind::Normal { "Normal" } else { "Warning" }.to_owned()),
            first_timestamp: Some(now.clone()),
            last_timestamp: Some(now),
            count: Some(1),
            source: Some(EventSource { component: Some(self.component.to_owned()), host: None }),
            ..Default::default()
        };
        let api: Api<Event> = Api::namespaced(self.client.clone(), &namespace);
        tokio::spawn(async move {
            if let Err(error) = api.create(&PostParams::default(), &event).await {
                tracing::debug!(%error, "event not written");
            }
        });
    }

    fn is_news(&self, key: &str) -> bool {
        let mut recent = self.recent.lock();
        recent.retain(|_, at| at.elapsed() < QUIET);
        recent.insert(key.to_owned(), Instant::now()).is_none()
    }
}
