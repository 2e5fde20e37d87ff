//! How far a change has come: which proxies it concerns, and which of them have acknowledged it.
//!
//! Every applied set of changes has a revision. A stream remembers the oldest revision that it has not yet acknowledged
//! as a whole; a configuration object remembers the revision that it last changed in, and the classes of proxies whose
//! resources changed then. An object has reached a stream once the stream owes nothing as old as the object's revision.
//! Classes that came later, after a restart for instance, are concerned if the object is visible to them.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Weak};

use lateen_model::{ChangeSet, ConfigReference, Snapshot};
use lateen_pilot::{Class, Engine};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

/// Counts the sets of changes that were applied.
pub(crate) type Revision = u64;

/// Remembers of each object when it last changed, and for whom.
#[derive(Debug, Default)]
pub(crate) struct Distribution {
    revision: Revision,
    objects: HashMap<ConfigReference, Arc<Applied>>,
}

/// What objects that changed together have in common.
#[derive(Debug)]
struct Applied {
    revision: Revision,
    /// By address, which a weak pointer keeps from being used again. Without a list, as at a start, proxies come after
    /// the objects, and visibility alone says whom they concern.
    concerned: Option<HashMap<usize, Weak<Class>>>,
}

/// What changed since somebody last looked, for who writes statuses. A reader that is slow finds it merged.
#[derive(Debug, Default)]
pub(crate) struct Feed {
    news: Mutex<News>,
}

/// What a [`Feed`] has collected.
#[derive(Debug, Default)]
pub(crate) struct News {
    /// Objects that came or changed; those that went may be among them.
    pub(crate) objects: BTreeSet<ConfigReference>,
    /// Whether what objects name may have come or gone.
    pub(crate) references: bool,
}

/// What a stream owes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Debt {
    /// The oldest revision that waits to be taken up.
    waiting: Option<Revision>,
    /// The oldest revision that was taken up and is not acknowledged as a whole.
    under_way: Option<Revision>,
}

/// The streams of one class.
#[derive(Debug, Clone)]
pub(crate) struct Recipients {
    pub(crate) class: Arc<Class>,
    /// The revision after which the class came.
    pub(crate) since: Revision,
    pub(crate) streams: Vec<Recipient>,
}

/// A stream, as far as distribution is concerned.
#[derive(Debug, Clone)]
pub(crate) struct Recipient {
    /// `POD.NAMESPACE`.
    pub(crate) proxy: String,
    pub(crate) debt: Debt,
    /// Why it refuses what it was sent last, if it does.
    pub(crate) rejection: Option<String>,
}

/// How far one object has come.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Progress {
    /// The generation of the object that this is about.
    pub(crate) generation: i64,
    /// How many proxies it concerns.
    pub(crate) concerned: usize,
    /// How many of them have acknowledged it.
    pub(crate) acknowledged: usize,
    /// Those that have not, `POD.NAMESPACE`.
    pub(crate) waiting: Vec<String>,
    /// Those that refuse what they were sent, and why.
    pub(crate) rejected: Vec<Rejected>,
    /// Replicas of the control plane that do not know of this generation yet, or that do not answer: what their proxies
    /// have is not known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) behind: Vec<String>,
}

/// A proxy that refuses its configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Rejected {
    /// `POD.NAMESPACE`.
    pub(crate) proxy: String,
    /// Its own words.
    pub(crate) reason: String,
}

// === impl Distribution ===

impl Distribution {
    /// Begins a revision: what streams are told from now on belongs to it.
    pub(crate) fn begin(&mut self) -> Revision {
        self.revision += 1;
        self.revision
    }

    /// Notes which objects changed in the present revision, and the classes that this concerns.
    pub(crate) fn applied<'a>(
        &mut self,
        snapshot: &Snapshot,
        changes: &ChangeSet,
        concerned: impl Iterator<Item = &'a Arc<Class>>,
    ) {
        if changes.configs.is_empty() && !changes.full {
            return;
        }
        let by_address = |class: &'a Arc<Class>| (Arc::as_ptr(class).addr(), Arc::downgrade(class));
        let concerned = (!changes.full).then(|| concerned.map(by_address).collect());
        let applied = Arc::new(Applied { revision: self.revision, concerned });
        if changes.full {
            self.objects.clear();
            let all = snapshot.configs().references();
            self.objects.extend(all.into_iter().map(|reference| (reference, Arc::clone(&applied))));
            return;
        }
        for reference in &changes.configs {
            if snapshot.configs().contains(reference) {
                self.objects.insert(reference.clone(), Arc::clone(&applied));
            } else {
                self.objects.remove(reference);
            }
        }
    }

    /// The present revision.
    pub(crate) fn revision(&self) -> Revision {
        self.revision
    }

    /// How far each of these objects has come; nothing for those that the control plane does not know.
    pub(crate) fn progress(
        &self,
        references: &[ConfigReference],
        engine: &Engine,
        recipients: &[Recipients],
    ) -> Vec<Option<Progress>> {
        let progress = |reference: &ConfigReference| {
            let applied = self.objects.get(reference)?;
            let generation = engine.snapshot().configs().meta(reference)?.generation;
            let concerned = recipients.iter().filter(|of| applied.concerns(of, reference, engine));
            Some(applied.progress(generation, concerned))
        };
        references.iter().map(progress).collect()
    }
}

impl Applied {
    fn progress<'a>(&self, generation: i64, recipients: impl Iterator<Item = &'a Recipients>) -> Progress {
        let mut progress = Progress { generation, ..Progress::default() };
        for recipient in recipients.flat_map(|of| &of.streams) {
            progress.concerned += 1;
            if let Some(reason) = &recipient.rejection {
                progress.rejected.push(Rejected { proxy: recipient.proxy.clone(), reason: reason.clone() });
            } else if recipient.debt.includes(self.revision) {
                progress.waiting.push(recipient.proxy.clone());
            } else {
                progress.acknowledged += 1;
            }
        }
        progress.sort();
        progress
    }

    fn concerns(&self, recipients: &Recipients, reference: &ConfigReference, engine: &Engine) -> bool {
        let Some(concerned) = &self.concerned else { return engine.concerns(&recipients.class, reference) };
        concerned.contains_key(&Arc::as_ptr(&recipients.class).addr())
            || recipients.since >= self.revision && engine.concerns(&recipients.class, reference)
    }
}

// === impl Progress ===

impl Progress {
    /// Whether every proxy concerned has acknowledged it.
    pub(crate) fn is_complete(&self) -> bool {
        self.acknowledged == self.concerned && self.behind.is_empty()
    }

    /// Adds what another replica says of the proxies that are connected to it.
    pub(crate) fn add(&mut self, replica: &str, theirs: Option<&Progress>) {
        let Some(theirs) = theirs.filter(|theirs| theirs.generation >= self.generation) else {
            return self.behind.push(replica.to_owned());
        };
        self.concerned += theirs.concerned;
        self.acknowledged += theirs.acknowledged;
        self.waiting.extend(theirs.waiting.iter().cloned());
        self.rejected.extend(theirs.rejected.iter().cloned());
        self.sort();
    }

    fn sort(&mut self) {
        self.waiting.sort();
        self.rejected.sort_by(|one, other| one.proxy.cmp(&other.proxy));
    }
}

// === impl Feed ===

impl Feed {
    /// A feed that begins with every object.
    pub(crate) fn new(snapshot: &Snapshot) -> Self {
        let objects = snapshot.configs().references().into_iter().collect();
        Self { news: Mutex::new(News { objects, references: true }) }
    }

    /// Takes in a set of changes.
    pub(crate) fn put(&self, snapshot: &Snapshot, changes: &ChangeSet) {
        let mut news = self.news.lock();
        if changes.full {
            news.objects.extend(snapshot.configs().references());
        } else {
            news.objects.extend(changes.configs.iter().cloned());
        }
        news.references |= changes.full || !changes.services.is_empty() || !changes.configs.is_empty();
    }

    /// What was collected since the last call.
    pub(crate) fn take(&self) -> News {
        std::mem::take(&mut *self.news.lock())
    }
}

// === impl Debt ===

impl Debt {
    /// A stream that begins has acknowledged nothing.
    pub(crate) fn of_a_new_stream() -> Self {
        Self { waiting: None, under_way: Some(0) }
    }

    /// The stream has something of this revision in its letterbox.
    pub(crate) fn told(&mut self, revision: Revision) {
        self.waiting.get_or_insert(revision);
    }

    /// It emptied its letterbox.
    pub(crate) fn taken(&mut self) {
        if let Some(waiting) = self.waiting.take() {
            self.under_way.get_or_insert(waiting);
        }
    }

    /// It acknowledged all that it has taken.
    pub(crate) fn settled(&mut self) {
        self.under_way = None;
    }

    fn includes(self, revision: Revision) -> bool {
        let owes = |oldest: Option<Revision>| oldest.is_some_and(|oldest| oldest <= revision);
        owes(self.under_way) || owes(self.waiting)
    }
}

#[cfg(test)]
mod tests {
    use lateen_model::{ConfigKind, ConfigObject, Meta};
    use lateen_pilot::ProxyNode;

    use super::*;

    #[test]
    fn a_stream_owes_what_it_was_told_and_has_not_settled() {
        let mut debt = Debt::default();
        assert!(!debt.includes(5));
        debt.told(3);
        debt.told(4);
        assert!(debt.includes(3) && debt.includes(7) && !debt.includes(2), "{debt:?}");
        debt.settled();
        assert!(debt.includes(3), "what lies in the letterbox is not settled with what was taken before");
        debt.taken();
        debt.told(6);
        assert!(debt.includes(3));
        debt.settled();
        assert!(!debt.includes(5) && debt.includes(6), "{debt:?}");
        debt.taken();
        debt.settled();
        assert_eq!(debt, Debt::default());
        let mut new = Debt::of_a_new_stream();
        assert!(new.includes(1));
        new.settled();
        assert!(!new.includes(1));
    }

    #[test]
    fn replicas_count_together() {
        let of = |generation, acknowledged, concerned| Progress {
            generation,
            acknowledged,
            concerned,
            ..Progress::default()
        };
        for (name, theirs, complete, counts) in [
            ("all have it", Some(of(3, 2, 2)), true, (3, 3)),
            ("some there do not", Some(of(3, 1, 2)), false, (2, 3)),
            ("nobody there", Some(of(3, 0, 0)), true, (1, 1)),
            ("it is ahead", Some(of(4, 2, 2)), true, (3, 3)),
            ("it is behind", Some(of(2, 2, 2)), false, (1, 1)),
            ("it knows nothing of it", None, false, (1, 1)),
        ] {
            let mut ours = of(3, 1, 1);
            ours.add("other", theirs.as_ref());
            assert_eq!(ours.is_complete(), complete, "{name}");
            assert_eq!((ours.acknowledged, ours.concerned), counts, "{name}");
        }
    }

    #[test]
    fn objects_concern_who_comes_later_and_sees_them() {
        let named =
            |kind, name: &str| ConfigReference { kind, namespace: "default".into(), name: name.into() };
        let meta =
            |name: &str| Meta { namespace: "default".into(), name: name.to_owned(), ..Meta::default() };
        let object = |kind, name: &str, spec| ConfigObject::from_json(kind, meta(name), spec).unwrap();
        let mut edit = Snapshot::default().edit();
        edit.put_config(object(ConfigKind::Gateway, "edge", serde_json::json!({})));
        let route = serde_json::json!([{"route": [{"destination": {"host": "a"}}]}]);
        let rule = serde_json::json!({"hosts": ["a"], "http": route});
        edit.put_config(object(ConfigKind::VirtualService, "a", rule));
        let (snapshot, _) = edit.finish();
        let mut engine = Engine::new();
        engine.apply(snapshot, &ChangeSet::full());
        let snapshot = Arc::clone(engine.snapshot());
        let mut distribution = Distribution::default();
        distribution.begin();
        distribution.applied(&snapshot, &ChangeSet::full(), std::iter::empty());

        let id = "sidecar~10.0.0.1~a.default~default.svc.cluster.local";
        let node = ProxyNode::parse(id, &serde_json::Map::new()).unwrap();
        let stream =
            Recipient { proxy: "a.default".to_owned(), debt: Debt::of_a_new_stream(), rejection: None };
        let mut of_class = Recipients {
            class: engine.proxy_class(&node),
            since: distribution.revision(),
            streams: vec![stream],
        };
        let said = |distribution: &Distribution, of_class: &Recipients, reference: ConfigReference| {
            let all = distribution.progress(&[reference], &engine, std::slice::from_ref(of_class));
            let progress = all[0].clone().unwrap();
            (progress.concerned, progress.is_complete())
        };
        let rule = || named(ConfigKind::VirtualService, "a");
        assert_eq!(said(&distribution, &of_class, rule()), (1, false), "it has come, and has not answered");
        let gateway = named(ConfigKind::Gateway, "edge");
        assert_eq!(said(&distribution, &of_class, gateway), (0, true), "no sidecar is concerned");
        of_class.streams[0].debt.settled();
        assert_eq!(said(&distribution, &of_class, rule()), (1, true));

        distribution.begin();
        let changes = ChangeSet { configs: [rule()].into(), ..ChangeSet::default() };
        distribution.applied(&snapshot, &changes, std::iter::empty());
        assert_eq!(said(&distribution, &of_class, rule()).0, 0, "a change concerns whom it touched");
        of_class.since = distribution.revision();
        assert_eq!(said(&distribution, &of_class, rule()).0, 1, "and who came later and sees it");
    }
}
