//! What the mesh says of an object, written into its `status`: whether it was accepted, whether what it names is there,
//! and whether the proxies that it concerns have acknowledged it.
//!
//! Only the leader writes, and it counts the proxies of all replicas. An object is written when it changed, once more
//! when its distribution is complete, and when the counts are others because proxies came or went and that has calmed
//! down. Conditions of other writers (health of a WorkloadEntry, addresses of a ServiceEntry) stay as they are.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, DynamicObject, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use lateen_base::drain;
use lateen_galley::kind_schema;
use lateen_model::{ConfigKind, ConfigReference, Snapshot};
use lateen_pilot::References;
use prometheus_client::metrics::counter::Counter;
use serde_json::{Value, json};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use crate::discovery::Discovery;
use crate::distribution::Progress;
use crate::leader::Leadership;
use crate::replicas::Replicas;

/// How often objects under way are looked at.
const ROUND: Duration = Duration::from_millis(500);
/// A new leader gives proxies so long to come (back) before it counts them.
const FIRST: Duration = Duration::from_secs(3);
/// How many objects are looked at in one step: what all of a big mesh takes must hold up nothing else.
const STEP: usize = 64;
/// How often the other replicas are asked whether proxies came or went.
const MEMBERS: Duration = Duration::from_secs(5);
/// Counts are written anew when no proxy has come or gone for so long, or ...
const CALM: Duration = Duration::from_secs(5);
/// ... at the latest after so long.
const STALE: Duration = Duration::from_secs(60);
/// An object that is not acknowledged by all after so long is written as it stands.
const PATIENCE: Duration = Duration::from_secs(2);
/// The least time between two writes: status must not crowd out configuration.
const PACE: Duration = Duration::from_millis(20);

/// What writing statuses takes.
#[derive(Clone)]
pub(crate) struct Settings {
    pub(crate) client: Client,
    pub(crate) discovery: Discovery,
    pub(crate) replicas: Arc<Replicas>,
    /// Counts failures to write.
    pub(crate) errors: Counter,
}

/// Writes statuses for as long as this replica leads, until the drain begins.
pub(crate) async fn write(settings: Settings, mut leadership: Leadership, drain: drain::Watch) {
    loop {
        tokio::select! {
            () = leadership.gained() => {}
            () = drain.signaled() => return,
        }
        let writer = Writer::new(settings.clone());
        tokio::select! {
            () = writer.run() => {}
            () = leadership.lost() => {}
            () = drain.signaled() => return,
        }
    }
}

struct Writer {
    settings: Settings,
    /// Objects whose distribution is not known to be complete.
    under_way: BTreeMap<ConfigReference, Followed>,
    /// Objects that name what is not there.
    unresolved: BTreeMap<ConfigReference, Vec<String>>,
    /// What the status of each object says, as a digest.
    said: HashMap<ConfigReference, u64>,
    members: Members,
}

/// An object under way.
struct Followed {
    since: Instant,
    /// When to look at it next.
    due: Instant,
    /// Whether it is looked at for its counts alone: what we wrote last is there still.
    recount: bool,
}

/// Who is connected, and since when that is so.
struct Members {
    asked: Option<Instant>,
    present: Vec<(String, u64)>,
    /// The first and the last change that the counts do not tell of yet.
    changed: Option<(Instant, Instant)>,
}

/// What is to be said of an object.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Conditions {
    generation: i64,
    conditions: Vec<Condition>,
}

/// One condition; the time of its last transition is found when it is written.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Condition {
    kind: &'static str,
    status: &'static str,
    reason: &'static str,
    message: String,
}

impl Writer {
    fn new(settings: Settings) -> Self {
        Self {
            settings,
            under_way: BTreeMap::new(),
            unresolved: BTreeMap::new(),
            said: HashMap::new(),
            members: Members { asked: None, present: Vec::new(), changed: None },
        }
    }

    async fn run(mut self) {
        // A new leader does not know what the one before it has written: every object is looked at, and those whose
        // status says the same already cost a read.
        let feed = self.settings.discovery.follow_objects();
        let mut rounds = interval(ROUND);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut first = Some(Instant::now() + FIRST);
        loop {
            rounds.tick().await;
            let news = feed.take();
            let snapshot = self.settings.discovery.snapshot();
            if news.references {
                self.resolve(&snapshot);
            }
            self.follow(news.objects, first.take().unwrap_or_else(Instant::now));
            self.count_members(&snapshot).await;
            while self.step().await {}
        }
    }

    fn follow(&mut self, objects: impl IntoIterator<Item = ConfigReference>, due: Instant) {
        for reference in objects.into_iter().filter(is_ours_to_write) {
            self.under_way.insert(reference, Followed { since: Instant::now(), due, recount: false });
        }
    }

    /// Looks whether proxies came or went, here or at other replicas; then all counts are looked at again.
    async fn count_members(&mut self, snapshot: &Snapshot) {
        let now = Instant::now();
        if self.members.asked.is_some_and(|asked| now - asked < MEMBERS) {
            return;
        }
        self.members.asked = Some(now);
        let together = self.settings.replicas.ask(&[]).await;
        if !self.members.note(together.membership, !together.silent.is_empty(), now) {
            return;
        }
        for reference in snapshot.configs().references().into_iter().filter(is_ours_to_write) {
            let followed = Followed { since: now, due: now, recount: true };
            self.under_way.entry(reference).or_insert(followed);
        }
    }

    /// Finds out anew what objects name and is not there; those for which that has changed are written again.
    fn resolve(&mut self, snapshot: &Snapshot) {
        let index = References::new(snapshot);
        let naming = [ConfigKind::VirtualService, ConfigKind::DestinationRule];
        let all = snapshot.configs().references().into_iter();
        let unresolved: BTreeMap<ConfigReference, Vec<String>> = all
            .filter(|reference| naming.contains(&reference.kind))
            .map(|reference| (index.unresolved(&reference), reference))
            .filter(|(missing, _)| !missing.is_empty())
            .map(|(missing, reference)| (reference, missing))
            .collect();
        let before = std::mem::replace(&mut self.unresolved, unresolved);
        let now = &self.unresolved;
        let differs = |reference: &&ConfigReference| before.get(reference) != now.get(reference);
        let changed: BTreeSet<_> = before.keys().chain(now.keys()).filter(differs).cloned().collect();
        self.follow(changed, Instant::now());
    }

    /// Looks at some of the objects under way; whether there are more.
    async fn step(&mut self) -> bool {
        let now = Instant::now();
        let due = self.under_way.iter().filter(|(_, followed)| followed.due <= now);
        let references: Vec<ConfigReference> =
            due.take(STEP).map(|(reference, _)| reference.clone()).collect();
        if references.is_empty() {
            return false;
        }
        let together = self.settings.replicas.ask(&references).await;
        let full = references.len() == STEP;
        for (reference, progress) in references.into_iter().zip(together.progress) {
            match progress {
                Some(progress) => self.object(reference, &progress).await,
                // It was deleted: there is nothing to write to.
                None => {
                    self.under_way.remove(&reference);
                    self.said.remove(&reference);
                }
            }
        }
        full
    }

    async fn object(&mut self, reference: ConfigReference, progress: &Progress) {
        let Some(followed) = self.under_way.get_mut(&reference) else { return };
        followed.due = Instant::now() + ROUND;
        if !progress.is_complete() && followed.since.elapsed() < PATIENCE {
            return;
        }
        let missing = self.unresolved.get(&reference).map(Vec::as_slice).unwrap_or_default();
        let conditions = conditions(missing, progress);
        let digest = digest(&conditions);
        if !followed.recount || self.said.get(&reference) != Some(&digest) {
            match put(&self.settings.client, &reference, &conditions).await {
                Ok(()) => {
                    // From now on only what differs from this is written.
                    followed.recount = true;
                    self.said.insert(reference.clone(), digest);
                }
                Err(error) => {
                    self.settings.errors.inc();
                    tracing::debug!(?reference, "the status was not written, and is tried again: {error}");
                    return;
                }
            }
            sleep(PACE).await;
        }
        if progress.is_complete() {
            self.under_way.remove(&reference);
        }
    }
}

impl Members {
    /// Takes in who is connected now, and says whether to count anew. While a replica does not `answer`, its proxies are
    /// on their way elsewhere: that is waited for.
    fn note(&mut self, present: Vec<(String, u64)>, some_silent: bool, now: Instant) -> bool {
        if present != self.present {
            self.present = present;
            let (first, _) = self.changed.unwrap_or((now, now));
            self.changed = Some((first, now));
        }
        let Some((first, last)) = self.changed else { return false };
        let calm = now - last >= CALM && !some_silent;
        if calm || now - first >= STALE {
            self.changed = None;
            return true;
        }
        false
    }
}

fn digest(conditions: &Conditions) -> u64 {
    let mut hasher = DefaultHasher::new();
    conditions.hash(&mut hasher);
    hasher.finish()
}

/// Whether the status of an object is of the mesh's own form. Other APIs' kinds have forms of their own, and what is
/// made from them stands in no store.
fn is_ours_to_write(reference: &ConfigReference) -> bool {
    let foreign = [ConfigKind::Ingress, ConfigKind::IngressClass, ConfigKind::HTTPRoute];
    !foreign.contains(&reference.kind) && !lateen_galley::derived::is_derived(reference)
}

/// What is said of an object that is so far.
fn conditions(unresolved: &[String], progress: &Progress) -> Conditions {
    let accepted = Condition {
        kind: "Accepted",
        status: "True",
        reason: "Valid",
        message: "the configuration is valid and in use".to_owned(),
    };
    let resolved = match unresolved {
        [] => Condition {
            kind: "ResolvedRefs",
            status: "True",
            reason: "ResolvedRefs",
            message: "everything that it names is there".to_owned(),
        },
        missing => Condition {
            kind: "ResolvedRefs",
            status: "False",
            reason: "RefNotFound",
            message: missing.join("; "),
        },
    };
    let (acknowledged, concerned) = (progress.acknowledged, progress.concerned);
    let distributed = if let Some(first) = progress.rejected.first() {
        Condition {
            kind: "Reconciled",
            status: "False",
            reason: "Rejected",
            message: format!(
                "{} of {concerned} proxies refuse it; {} says: {}",
                progress.rejected.len(),
                first.proxy,
                first.reason
            ),
        }
    } else if progress.is_complete() {
        Condition {
            kind: "Reconciled",
            status: "True",
            reason: "Acknowledged",
            message: format!("{acknowledged} of {concerned} proxies that it concerns have acknowledged it"),
        }
    } else {
        Condition { kind: "Reconciled", status: "False", reason: "Waiting", message: waiting(progress) }
    };
    Conditions { generation: progress.generation, conditions: vec![accepted, resolved, distributed] }
}

fn waiting(progress: &Progress) -> String {
    let (acknowledged, concerned) = (progress.acknowledged, progress.concerned);
    let mut text = format!("{acknowledged} of {concerned} proxies that it concerns have acknowledged it");
    if !progress.behind.is_empty() {
        text.push_str(&format!("; replicas that do not know it yet: {}", progress.behind.join(", ")));
    }
    text
}

/// Reads the object, and writes its status where that says something else.
async fn put(client: &Client, reference: &ConfigReference, conditions: &Conditions) -> kube::Result<()> {
    let Some(kind) = kind_schema(reference.kind.as_str()) else { return Ok(()) };
    let version = kind.versions.first().copied().unwrap_or("v1");
    let resource = ApiResource::from_gvk_with_plural(
        &GroupVersionKind::gvk(kind.group, version, kind.kind),
        kind.plural,
    );
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &reference.namespace, &resource);
    let Some(mut object) = api.get_opt(&reference.name).await? else { return Ok(()) };
    let present = object.data.get("status").cloned().unwrap_or(Value::Null);
    let Some(status) = merged(&present, conditions, &Timestamp::now().to_string()) else { return Ok(()) };
    object.data["status"] = status;
    match api.replace_status(&reference.name, &PostParams::default(), &object).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(error),
    }
}

/// The status with our conditions in it; nothing where it says so already.
fn merged(present: &Value, ours: &Conditions, now: &str) -> Option<Value> {
    let mut status = if present.is_object() { present.clone() } else { json!({}) };
    let mut all: Vec<Value> = present["conditions"].as_array().cloned().unwrap_or_default();
    let mut changed = present["observedGeneration"] != json!(ours.generation.to_string());
    for condition in &ours.conditions {
        let old = all.iter().position(|old| old["type"] == condition.kind);
        let before = old.map(|index| all[index].clone()).unwrap_or_default();
        let same = before["status"] == condition.status
            && before["reason"] == condition.reason
            && before["message"] == *condition.message;
        if same {
            continue;
        }
        changed = true;
        let since = match before["lastTransitionTime"].as_str() {
            Some(since) if before["status"] == condition.status => since,
            _ => now,
        };
        let next = json!({
            "type": condition.kind,
            "status": condition.status,
            "reason": condition.reason,
            "message": condition.message,
            "lastTransitionTime": since,
        });
        match old {
            Some(index) => all[index] = next,
            None => all.push(next),
        }
    }
    if !changed {
        return None;
    }
    status["conditions"] = Value::Array(all);
    // A 64-bit number is a string in the JSON form of protobuf.
    status["observedGeneration"] = json!(ours.generation.to_string());
    Some(status)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::distribution::Rejected;

    fn reconciled(progress: Progress) -> (&'static str, &'static str, String) {
        let made = conditions(&[], &progress);
        let last = made.conditions.into_iter().find(|condition| condition.kind == "Reconciled").unwrap();
        (last.status, last.reason, last.message)
    }

    #[test]
    fn distribution_in_words() {
        let of = |acknowledged, concerned| Progress { acknowledged, concerned, ..Progress::default() };
        for (name, progress, status, reason, message) in [
            ("all", of(3, 3), "True", "Acknowledged", "3 of 3 proxies that it concerns have acknowledged it"),
            (
                "nobody",
                of(0, 0),
                "True",
                "Acknowledged",
                "0 of 0 proxies that it concerns have acknowledged it",
            ),
            ("some", of(1, 3), "False", "Waiting", "1 of 3 proxies that it concerns have acknowledged it"),
            (
                "a replica does not answer",
                Progress { behind: vec!["10.0.0.2:8080".into()], ..of(1, 1) },
                "False",
                "Waiting",
                "1 of 1 proxies that it concerns have acknowledged it; replicas that do not know it yet: 10.0.0.2:8080",
            ),
            (
                "refused",
                Progress {
                    rejected: vec![Rejected { proxy: "a.default".into(), reason: "bad".into() }],
                    ..of(1, 3)
                },
                "False",
                "Rejected",
                "1 of 3 proxies refuse it; a.default says: bad",
            ),
        ] {
            assert_eq!(reconciled(progress), (status, reason, message.to_owned()), "{name}");
        }
    }

    #[test]
    fn counts_are_made_anew_when_proxies_have_come_to_rest() {
        let start = Instant::now();
        let mut members = Members { asked: None, present: Vec::new(), changed: None };
        let at = |count| vec![("a".to_owned(), count)];
        for (name, second, count, silent, anew) in [
            ("somebody came", 0, 1, false, false),
            ("another", 4, 2, false, false),
            ("not for long", 8, 2, false, false),
            ("for long", 9, 2, false, true),
            ("nothing since", 30, 2, false, false),
            ("they leave a replica that died", 31, 1, true, false),
            ("it is waited for", 40, 1, true, false),
            ("not for ever", 91, 1, true, true),
        ] {
            let now = start + Duration::from_secs(second);
            assert_eq!(members.note(at(count), silent, now), anew, "{name}");
        }
    }

    #[test]
    fn conditions_of_others_stay_and_equal_ones_are_not_written_again() {
        let progress = Progress { generation: 2, acknowledged: 1, concerned: 1, ..Progress::default() };
        let ours = conditions(&["spec.gateways[0]: there is no Gateway gone".to_owned()], &progress);
        let present = json!({"addresses": [{"value": "240.240.0.1"}], "conditions": [
            {"type": "Healthy", "status": "True"},
            {"type": "ResolvedRefs", "status": "False", "reason": "RefNotFound", "message": "old",
             "lastTransitionTime": "2026-01-01T00:00:00Z"},
        ]});
        let written = merged(&present, &ours, "2026-02-02T00:00:00Z").unwrap();
        assert_eq!(written["addresses"], present["addresses"]);
        assert_eq!(written["observedGeneration"], "2");
        let of = |kind: &str| {
            let all = written["conditions"].as_array().unwrap();
            all.iter().find(|condition| condition["type"] == kind).unwrap().clone()
        };
        assert_eq!(of("Healthy")["status"], "True");
        assert_eq!(of("ResolvedRefs")["message"], "spec.gateways[0]: there is no Gateway gone");
        assert_eq!(
            of("ResolvedRefs")["lastTransitionTime"],
            "2026-01-01T00:00:00Z",
            "its status is as before"
        );
        assert_eq!(of("Reconciled")["lastTransitionTime"], "2026-02-02T00:00:00Z");
        assert_eq!(merged(&written, &ours, "2026-03-03T00:00:00Z"), None);
    }
}
