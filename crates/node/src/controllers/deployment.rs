//! Deployments: which ReplicaSets there should be, and how large, as a pure function.
//!
//! The rules are those of Kubernetes' documentation page "Deployments" (rolling update with maxSurge and
//! maxUnavailable, Recreate, revisions, progress deadline), and the status is what `kubectl rollout status` and
//! `kubectl wait` read.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{
    Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet, ReplicaSetSpec,
};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{controller_reference, is_controlled_by};

/// The annotation that numbers revisions, on the Deployment and on its ReplicaSets.
pub const REVISION: &str = "deployment.kubernetes.io/revision";
/// The label that tells the Pods of one template from another's.
pub const TEMPLATE_HASH: &str = "pod-template-hash";

/// Something to write.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Create a ReplicaSet.
    Create(Box<ReplicaSet>),
    /// Change a ReplicaSet's size.
    Scale {
        /// Its name.
        name: String,
        /// Its new size.
        replicas: i32,
    },
    /// Set a ReplicaSet's revision and minimum ready time.
    Annotate {
        /// Its name.
        name: String,
        /// The revision.
        revision: i64,
    },
    /// Delete an old ReplicaSet beyond the history limit.
    Delete {
        /// Its name.
        name: String,
    },
    /// Set the Deployment's revision annotation.
    Revision(i64),
}

/// What to do about a Deployment.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Plan {
    /// In order.
    pub actions: Vec<Action>,
    /// The status it should show.
    pub status: DeploymentStatus,
    /// When to look again without a change.
    pub again: Option<Duration>,
}

/// Plans one step for `deployment`, given all ReplicaSets of its namespace.
pub fn plan(deployment: &Deployment, replica_sets: &[Arc<ReplicaSet>], now: Timestamp) -> Plan {
    let spec = &deployment.spec;
    let mut owned: Vec<&ReplicaSet> = replica_sets
        .iter()
        .map(Arc::as_ref)
        .filter(|set| is_controlled_by(&set.metadata, &deployment.metadata))
        .filter(|set| set.metadata.deletion_timestamp.is_none())
        .collect();
    owned.sort_by_key(|set| (set.metadata.creation_timestamp.clone(), set.metadata.name.clone()));
    let hash = template_hash(&spec.template);
    let new = owned
        .iter()
        .copied()
        .find(|set| same_template(set, &spec.template))
        .or_else(|| owned.iter().copied().find(|set| hash_label(set) == Some(&hash)));
    let old: Vec<&ReplicaSet> = owned
        .iter()
        .copied()
        .filter(|set| new.is_none_or(|new| new.metadata.uid != set.metadata.uid))
        .collect();

    let mut plan = Plan::default();
    let sizes = Sizes::of(deployment, &owned, new, &old);
    let paused = spec.paused.unwrap_or(false);
    let newest_old = old.iter().map(|set| revision(&set.metadata)).max().unwrap_or(0);
    let wanted = match new {
        Some(new) if revision(&new.metadata) > newest_old => revision(&new.metadata),
        _ => newest_old + 1,
    };
    if deployment.metadata.deletion_timestamp.is_none() {
        match new {
            None if !paused => {
                plan.actions
                    .push(Action::Create(Box::new(new_replica_set(deployment, &hash, wanted, &sizes))));
            }
            Some(new) if revision(&new.metadata) != wanted => {
                plan.actions.push(Action::Annotate { name: name(new), revision: wanted });
            }
            _ => {}
        }
        if new.is_some() && revision(&deployment.metadata) != wanted {
            plan.actions.push(Action::Revision(wanted));
        }
        let recreate =
            spec.strategy.as_ref().and_then(|strategy| strategy.type_.as_deref()) == Some("Recreate");
        match (new, paused) {
            (_, true) => scale_while_paused(&mut plan, new, &old, &sizes),
            (Some(new), false) if recreate => recreate_step(&mut plan, new, &old, &sizes),
            (Some(new), false) => rolling_step(&mut plan, new, &old, &sizes),
            (None, false) if recreate => empty(&mut plan, &old),
            (None, false) => {}
        }
        if sizes.is_complete() {
            prune_history(&mut plan, &old, spec.revision_history_limit.unwrap_or(10));
        }
    }
    plan.status = status(deployment, new, &sizes, now, &mut plan.again);
    plan
}

/// The numbers that the decisions rest on.
struct Sizes {
    desired: i32,
    max_surge: i32,
    max_unavailable: i32,
    /// Sum of the sizes asked of all ReplicaSets.
    asked: i32,
    actual: i32,
    ready: i32,
    available: i32,
    updated: i32,
    updated_available: i32,
    old_actual: i32,
    recreate: bool,
}

impl Sizes {
    fn of(
        deployment: &Deployment,
        owned: &[&ReplicaSet],
        new: Option<&ReplicaSet>,
        old: &[&ReplicaSet],
    ) -> Self {
        let desired = deployment.spec.replicas.unwrap_or(1);
        let strategy = deployment.spec.strategy.as_ref();
        let recreate = strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("Recreate");
        let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
        let quarter = IntOrString::String("25%".to_owned());
        let surge = rolling.and_then(|rolling| rolling.max_surge.as_ref()).unwrap_or(&quarter);
        let unavailable = rolling.and_then(|rolling| rolling.max_unavailable.as_ref()).unwrap_or(&quarter);
        let max_surge = resolve(surge, desired, true);
        let mut max_unavailable = resolve(unavailable, desired, false).min(desired);
        if max_surge == 0 && max_unavailable == 0 {
            max_unavailable = 1;
        }
        let sum = |sets: &[&ReplicaSet], of: fn(&ReplicaSet) -> i32| sets.iter().map(|set| of(set)).sum();
        Self {
            desired,
            max_surge,
            max_unavailable: if recreate { desired } else { max_unavailable },
            asked: sum(owned, asked),
            actual: sum(owned, actual),
            ready: sum(owned, |set| {
                set.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or(0)
            }),
            available: sum(owned, available),
            updated: new.map_or(0, actual),
            updated_available: new.map_or(0, available),
            old_actual: sum(old, actual),
            recreate,
        }
    }

    fn is_complete(&self) -> bool {
        self.updated == self.desired && self.updated_available == self.desired && self.old_actual == 0
    }

    /// The size that the new ReplicaSet may have now.
    fn new_size(&self, current: i32) -> i32 {
        if self.recreate {
            return self.desired;
        }
        let room = self.desired + self.max_surge - self.asked;
        (current + room.max(0)).min(self.desired)
    }
}

fn rolling_step(plan: &mut Plan, new: &ReplicaSet, old: &[&ReplicaSet], sizes: &Sizes) {
    let size = if asked(new) > sizes.desired { sizes.desired } else { sizes.new_size(asked(new)) };
    if size != asked(new) {
        plan.actions.push(Action::Scale { name: name(new), replicas: size });
        if size > asked(new) {
            return;
        }
    }
    let least_available = sizes.desired - sizes.max_unavailable;
    let new_unavailable = asked(new) - available(new);
    // First the old ones that do not work anyway, then the oldest that do.
    let mut may_go = (sizes.asked - least_available - new_unavailable).max(0);
    let mut left: Vec<(&ReplicaSet, i32)> = old.iter().map(|set| (*set, asked(set))).collect();
    for (set, size) in &mut left {
        let broken = (*size - available(set)).clamp(0, may_go);
        *size -= broken;
        may_go -= broken;
    }
    let working: i32 = sizes.available;
    let mut surplus = (working - least_available).max(0).min(may_go);
    for (_, size) in &mut left {
        let goes = (*size).min(surplus);
        *size -= goes;
        surplus -= goes;
    }
    for (set, size) in left {
        if size != asked(set) {
            plan.actions.push(Action::Scale { name: name(set), replicas: size });
        }
    }
}

fn recreate_step(plan: &mut Plan, new: &ReplicaSet, old: &[&ReplicaSet], sizes: &Sizes) {
    empty(plan, old);
    if sizes.old_actual == 0 && asked(new) != sizes.desired {
        plan.actions.push(Action::Scale { name: name(new), replicas: sizes.desired });
    }
}

fn empty(plan: &mut Plan, old: &[&ReplicaSet]) {
    for set in old.iter().filter(|set| asked(set) > 0) {
        plan.actions.push(Action::Scale { name: name(set), replicas: 0 });
    }
}

/// A paused Deployment follows its size only, with the ReplicaSet that is in use.
fn scale_while_paused(plan: &mut Plan, new: Option<&ReplicaSet>, old: &[&ReplicaSet], sizes: &Sizes) {
    let used: Vec<&ReplicaSet> = old.iter().copied().chain(new).filter(|set| asked(set) > 0).collect();
    if let ([only], true) = (used.as_slice(), sizes.asked != sizes.desired) {
        plan.actions.push(Action::Scale { name: name(only), replicas: sizes.desired });
    }
}

fn prune_history(plan: &mut Plan, old: &[&ReplicaSet], limit: i32) {
    let mut unused: Vec<&&ReplicaSet> =
        old.iter().filter(|set| asked(set) == 0 && actual(set) == 0).collect();
    unused.sort_by_key(|set| revision(&set.metadata));
    let surplus = unused.len().saturating_sub(limit.max(0) as usize);
    plan.actions.extend(unused.into_iter().take(surplus).map(|set| Action::Delete { name: name(set) }));
}

fn new_replica_set(deployment: &Deployment, hash: &str, revision: i64, sizes: &Sizes) -> ReplicaSet {
    let spec = deployment.spec.clone();
    let add = |labels: &mut Option<BTreeMap<String, String>>| {
        labels.get_or_insert_default().insert(TEMPLATE_HASH.to_owned(), hash.to_owned());
    };
    let mut template = spec.template;
    add(&mut template.metadata.get_or_insert_default().labels);
    let mut selector: LabelSelector = spec.selector;
    add(&mut selector.match_labels);
    let mut annotations = deployment.metadata.annotations.clone().unwrap_or_default();
    annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
    annotations.insert(REVISION.to_owned(), revision.to_string());
    let replicas = match sizes.recreate && sizes.actual > 0 {
        true => 0,
        false => sizes.new_size(0),
    };
    ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!("{}-{hash}", deployment.metadata.name.as_deref().unwrap_or_default())),
            namespace: deployment.metadata.namespace.clone(),
            labels: template.metadata.as_ref().and_then(|metadata| metadata.labels.clone()),
            annotations: Some(annotations),
            owner_references: Some(vec![controller_reference(deployment)]),
            ..Default::default()
        },
        spec: ReplicaSetSpec {
            replicas: Some(replicas),
            min_ready_seconds: spec.min_ready_seconds,
            selector,
            template: Some(template),
        },
        status: None,
    }
}

fn status(
    deployment: &Deployment,
    new: Option<&ReplicaSet>,
    sizes: &Sizes,
    now: Timestamp,
    again: &mut Option<Duration>,
) -> DeploymentStatus {
    let before = deployment.status.clone().unwrap_or_default();
    let some = |count: i32| (count > 0).then_some(count);
    let mut status = DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: some(sizes.actual),
        updated_replicas: some(sizes.updated),
        ready_replicas: some(sizes.ready),
        available_replicas: some(sizes.available),
        unavailable_replicas: some((sizes.desired.max(sizes.actual) - sizes.available).max(0)),
        collision_count: before.collision_count,
        conditions: None,
        ..Default::default()
    };
    let enough = sizes.available >= sizes.desired - sizes.max_unavailable;
    let mut conditions = Vec::new();
    conditions.push(match enough {
        true => (
            "Available",
            "True",
            "MinimumReplicasAvailable",
            "Deployment has minimum availability.".to_owned(),
        ),
        false => (
            "Available",
            "False",
            "MinimumReplicasUnavailable",
            "Deployment does not have minimum availability.".to_owned(),
        ),
    });
    let moved = before.updated_replicas.unwrap_or(0) != sizes.updated
        || before.available_replicas.unwrap_or(0) != sizes.available
        || before.replicas.unwrap_or(0) != sizes.actual
        || before.observed_generation != status.observed_generation;
    conditions.push(progress(deployment, new, sizes, now, moved, again));
    let previous = before.conditions.unwrap_or_default();
    let built = conditions.into_iter().map(|(kind, value, reason, message)| {
        let old = previous.iter().find(|condition| condition.type_.as_deref() == Some(kind));
        let unchanged = old
            .is_some_and(|old| old.status.as_deref() == Some(value) && old.reason.as_deref() == Some(reason));
        let still = kind == "Progressing" && moved && !sizes.is_complete();
        DeploymentCondition {
            type_: Some(kind.to_owned()),
            status: Some(value.to_owned()),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_transition_time: old
                .filter(|old| old.status.as_deref() == Some(value))
                .and_then(|old| old.last_transition_time.clone())
                .or(Some(Time(now))),
            last_update_time: old
                .filter(|_| unchanged && !still)
                .and_then(|old| old.last_update_time.clone())
                .or(Some(Time(now))),
        }
    });
    status.conditions = Some(built.collect());
    status
}

type Condition = (&'static str, &'static str, &'static str, String);

/// The condition `Progressing`.
fn progress(
    deployment: &Deployment,
    new: Option<&ReplicaSet>,
    sizes: &Sizes,
    now: Timestamp,
    moved: bool,
    again: &mut Option<Duration>,
) -> Condition {
    let set =
        new.map_or_else(|| "a new ReplicaSet".to_owned(), |new| format!("ReplicaSet \"{}\"", name(new)));
    if new.is_some() && sizes.is_complete() {
        return (
            "Progressing",
            "True",
            "NewReplicaSetAvailable",
            format!("{set} has successfully progressed."),
        );
    }
    let spec = &deployment.spec;
    let paused = spec.paused.unwrap_or(false);
    if paused {
        return ("Progressing", "Unknown", "DeploymentPaused", "Deployment is paused".to_owned());
    }
    let deadline = Duration::from_secs(spec.progress_deadline_seconds.unwrap_or(600) as u64);
    let before = deployment.status.as_ref().and_then(|status| status.conditions.as_ref());
    let last = before.and_then(|conditions| {
        conditions.iter().find(|condition| condition.type_.as_deref() == Some("Progressing"))
    });
    let since = last
        .filter(|last| !moved && last.reason.as_deref() != Some("NewReplicaSetAvailable"))
        .and_then(|last| last.last_update_time.as_ref())
        .map_or(Duration::ZERO, |time| Duration::try_from(now.duration_since(time.0)).unwrap_or_default());
    if since >= deadline {
        return (
            "Progressing",
            "False",
            "ProgressDeadlineExceeded",
            format!("{set} has timed out progressing."),
        );
    }
    *again = Some(deadline - since);
    match new {
        None => ("Progressing", "True", "NewReplicaSetCreated", format!("Created {set}")),
        Some(_) => ("Progressing", "True", "ReplicaSetUpdated", format!("{set} is progressing.")),
    }
}

/// The hash of a template, in letters that spell no words.
pub fn template_hash(template: &PodTemplateSpec) -> String {
    let text = serde_json::to_string(template).unwrap_or_default();
    super::safe_hash(text.as_bytes())
}

fn same_template(set: &ReplicaSet, template: &PodTemplateSpec) -> bool {
    let Some(mut own) = set.spec.template.clone() else { return false };
    let mut template = template.clone();
    for side in [&mut own, &mut template] {
        let metadata = side.metadata.get_or_insert_default();
        metadata.labels.get_or_insert_default().remove(TEMPLATE_HASH);
        metadata.annotations.get_or_insert_default();
        metadata.creation_timestamp = None;
    }
    own == template
}

/// A count or a share of `total`.
fn resolve(value: &IntOrString, total: i32, up: bool) -> i32 {
    match value {
        IntOrString::Int(count) => (*count).max(0),
        IntOrString::String(text) => {
            let percent: i64 = text.trim_end_matches('%').parse().unwrap_or(0);
            let product = percent.max(0) * i64::from(total);
            ((product + if up { 99 } else { 0 }) / 100) as i32
        }
    }
}

fn revision(metadata: &ObjectMeta) -> i64 {
    let annotations = metadata.annotations.as_ref();
    annotations.and_then(|all| all.get(REVISION)).and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn name(set: &ReplicaSet) -> String {
    set.metadata.name.clone().unwrap_or_default()
}

fn hash_label(set: &ReplicaSet) -> Option<&String> {
    set.metadata.labels.as_ref().and_then(|labels| labels.get(TEMPLATE_HASH))
}

fn asked(set: &ReplicaSet) -> i32 {
    set.spec.replicas.unwrap_or(1)
}

fn actual(set: &ReplicaSet) -> i32 {
    set.status.as_ref().map_or(0, |status| status.replicas)
}

fn available(set: &ReplicaSet) -> i32 {
    set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0)
}

#[cfg(test)]
#[path = "deployment_tests.rs"]
mod tests;
