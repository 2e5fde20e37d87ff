//! The controllers that one machine needs: Deployments, ReplicaSets, EndpointSlices, and binding Pods to the node.
//!
//! Each kind has a pure `plan(observed) -> actions`; this module feeds the plans from the caches and carries the actions
//! out. Everything is level-triggered: a key in the queue means "look at this again", never "this happened".

pub mod deployment;
pub mod endpoint_slice;
mod execute;
pub mod queue;
pub mod replica_set;

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use kube::Resource;

pub use execute::Controllers;
pub(crate) use execute::status_patch;

/// Whether `labels` has every entry of `selector`.
pub fn labels_contain(
    labels: Option<&BTreeMap<String, String>>,
    selector: &BTreeMap<String, String>,
) -> bool {
    selector.iter().all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value))
}

/// Whether a label selector with expressions matches. One without any requirement matches nothing here: a ReplicaSet
/// must not take every Pod.
pub fn selector_matches(selector: &LabelSelector, labels: Option<&BTreeMap<String, String>>) -> bool {
    let exact = selector.match_labels.as_ref();
    let expressions = selector.match_expressions.as_deref().unwrap_or_default();
    if exact.is_none_or(BTreeMap::is_empty) && expressions.is_empty() {
        return false;
    }
    exact.is_none_or(|exact| labels_contain(labels, exact))
        && expressions.iter().all(|expression| {
            let value = labels.and_then(|labels| labels.get(&expression.key));
            let among = value.is_some_and(|value| expression.values.iter().flatten().any(|one| one == value));
            match expression.operator.as_str() {
                "In" => among,
                "NotIn" => !among,
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                _ => false,
            }
        })
}

/// Since when the Pod's condition `Ready` holds.
pub fn ready_since(pod: &Pod) -> Option<Timestamp> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let ready =
        conditions.iter().find(|condition| condition.type_ == "Ready" && condition.status == "True")?;
    Some(ready.last_transition_time.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0))
}

/// The owner that controls an object.
pub fn controller_of(metadata: &ObjectMeta) -> Option<&OwnerReference> {
    metadata.owner_references.as_ref()?.iter().find(|owner| owner.controller == Some(true))
}

/// Whether `owner` controls the object.
pub fn is_controlled_by(metadata: &ObjectMeta, owner: &ObjectMeta) -> bool {
    controller_of(metadata).is_some_and(|reference| Some(&reference.uid) == owner.uid.as_ref())
}

fn controller_reference<K: Resource<DynamicType = ()>>(owner: &K) -> OwnerReference {
    OwnerReference {
        api_version: K::api_version(&()).into_owned(),
        kind: K::kind(&()).into_owned(),
        name: owner.meta().name.clone().unwrap_or_default(),
        uid: owner.meta().uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// Letters that spell no words and are not mistaken for each other.
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// A short stable hash (FNV-1a) in [`ALPHABET`].
fn safe_hash(bytes: &[u8]) -> String {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in bytes {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    let mut text = String::with_capacity(10);
    for _ in 0..10 {
        text.push(ALPHABET[(hash % ALPHABET.len() as u64) as usize] as char);
        hash /= ALPHABET.len() as u64;
    }
    text
}

fn random_name(prefix: &str) -> String {
    let tail: String = (0..5).map(|_| ALPHABET[rand::random_range(0..ALPHABET.len())] as char).collect();
    format!("{prefix}-{tail}")
}
