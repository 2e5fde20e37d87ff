//! How far a change has come: which proxies it concerns, and which of them have acknowledged it.
//!
//! Every applied set of changes has a revision. A stream remembers the oldest revision that it has not yet acknowledged
//! as a whole; a configuration object remembers the revision that it last changed in, and the classes of proxies whose
//! resources changed then. An object has reached a stream once the stream owes nothing as old as the object's revision.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Weak};

use lateen_model::{ChangeSet, ConfigReference, Snapshot};
use lateen_pilot::Class;
use parking_lot::Mutex;
use serde::Serialize;

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
    /// Weak: a class that nobody has any more concerns nobody. Without a list it is everybody: at a start, proxies come
    /// after the objects, and nobody knows whom they concern.
    concerned: Option<Vec<Weak<Class>>>,
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

/// A stream, as far as distribution is concerned.
#[derive(Debug, Clone)]
pub(crate) struct Recipient {
    /// `POD.NAMESPACE`.
    pub(crate) proxy: String,
    pub(crate) class: Arc<Class>,
    pub(crate) debt: Debt,
    /// Why it refuses what it was sent last, if it does.
    pub(crate) rejection: Option<String>,
}

/// How far one object has come.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
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
}

/// A proxy that refuses its configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
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
        let concerned = (!changes.full).then(|| concerned.map(Arc::downgrade).collect());
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

    /// How far each of these objects has come; nothing for those that the control plane does not know.
    pub(crate) fn progress(
        &self,
        references: &[ConfigReference],
        snapshot: &Snapshot,
        recipients: &[Recipient],
    ) -> Vec<Option<Progress>> {
        // Objects that changed together have come equally far.
        let mut known: HashMap<Revision, Progress> = HashMap::new();
        let mut progress = |reference: &ConfigReference| {
            let applied = self.objects.get(reference)?;
            let generation = snapshot.configs().meta(reference)?.generation;
            let shared = known.entry(applied.revision).or_insert_with(|| applied.progress(recipients));
            Some(Progress { generation, ..shared.clone() })
        };
        references.iter().map(&mut progress).collect()
    }
}

impl Applied {
    /// The progress of each of its objects, but for their generations.
    fn progress(&self, recipients: &[Recipient]) -> Progress {
        let mut progress = Progress::default();
        for recipient in recipients.iter().filter(|recipient| self.concerns(&recipient.class)) {
            progress.concerned += 1;
            if let Some(reason) = &recipient.rejection {
                progress.rejected.push(Rejected { proxy: recipient.proxy.clone(), reason: reason.clone() });
            } else if recipient.debt.includes(self.revision) {
                progress.waiting.push(recipient.proxy.clone());
            } else {
                progress.acknowledged += 1;
            }
        }
        progress.waiting.sort();
        progress.rejected.sort_by(|one, other| one.proxy.cmp(&other.proxy));
        progress
    }

    fn concerns(&self, class: &Arc<Class>) -> bool {
        let is_it = |concerned: &Weak<Class>| std::ptr::eq(concerned.as_ptr(), Arc::as_ptr(class));
        self.concerned.as_ref().is_none_or(|classes| classes.iter().any(is_it))
    }
}

// === impl Progress ===

impl Progress {
    /// Whether every proxy concerned has acknowledged it.
    pub(crate) fn is_complete(&self) -> bool {
        self.acknowledged == self.concerned
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
    fn at_a_start_objects_concern_whoever_comes() {
        let reference = ConfigReference {
            kind: ConfigKind::Gateway,
            namespace: "default".into(),
            name: "edge".to_owned(),
        };
        let meta = Meta { namespace: "default".into(), name: "edge".to_owned(), ..Meta::default() };
        let object = ConfigObject::from_json(ConfigKind::Gateway, meta, serde_json::json!({})).unwrap();
        let mut edit = Snapshot::default().edit();
        edit.put_config(object);
        let (snapshot, _) = edit.finish();
        let mut distribution = Distribution::default();
        distribution.begin();
        distribution.applied(&snapshot, &ChangeSet::full(), std::iter::empty());

        let id = "sidecar~10.0.0.1~a.default~default.svc.cluster.local";
        let node = ProxyNode::parse(id, &serde_json::Map::new()).unwrap();
        let mut recipient = Recipient {
            proxy: "a.default".to_owned(),
            class: lateen_pilot::Engine::new().proxy_class(&node),
            debt: Debt::of_a_new_stream(),
            rejection: None,
        };
        let complete = |recipient: &Recipient| {
            let all = distribution.progress(
                std::slice::from_ref(&reference),
                &snapshot,
                std::slice::from_ref(recipient),
            );
            let progress = all[0].clone().unwrap();
            (progress.concerned, progress.is_complete())
        };
        assert_eq!(complete(&recipient), (1, false), "it has come, and has not answered");
        recipient.debt.settled();
        assert_eq!(complete(&recipient), (1, true));

        distribution.begin();
        let changes = ChangeSet { configs: [reference.clone()].into(), ..ChangeSet::default() };
        distribution.applied(&snapshot, &changes, std::iter::empty());
        let later = distribution.progress(&[reference], &snapshot, &[recipient]);
        assert_eq!(later[0].as_ref().unwrap().concerned, 0, "a change concerns whom it touched");
    }
}
