//! The latest snapshot to many readers, each at its own pace.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use lateen_model::{ChangeSet, Snapshot};
use tokio::sync::Notify;

/// The writing end.
#[derive(Debug, Default)]
pub(crate) struct Publisher {
    shared: Mutex<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    latest: Option<Arc<Snapshot>>,
    mailboxes: Vec<Weak<Mailbox>>,
}

#[derive(Debug, Default)]
struct Mailbox {
    letter: Mutex<Option<(Arc<Snapshot>, ChangeSet)>>,
    arrived: Notify,
}

/// A reader's end: at most one snapshot waits in it, with all the changes since the one read last.
#[derive(Debug)]
pub struct Subscription {
    mailbox: Arc<Mailbox>,
    // Keeps the writing end's memory of this reader alive exactly as long as the reader.
    _publisher: Arc<Publisher>,
}

impl Publisher {
    /// Hands out a snapshot. The first one goes with a full set of changes.
    pub(crate) fn publish(&self, snapshot: &Arc<Snapshot>, changes: &ChangeSet) {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let changes = if shared.latest.is_none() { ChangeSet::full() } else { changes.clone() };
        shared.latest = Some(Arc::clone(snapshot));
        shared.mailboxes.retain(|mailbox| {
            let Some(mailbox) = mailbox.upgrade() else { return false };
            mailbox.put(snapshot, changes.clone());
            true
        });
    }

    /// The latest snapshot.
    pub(crate) fn latest(&self) -> Option<Arc<Snapshot>> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner).latest.clone()
    }

    /// A new reader, who begins with the latest snapshot and a full set of changes.
    pub(crate) fn subscribe(self: &Arc<Self>) -> Subscription {
        let mailbox = Arc::new(Mailbox::default());
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(latest) = &shared.latest {
            mailbox.put(latest, ChangeSet::full());
        }
        shared.mailboxes.push(Arc::downgrade(&mailbox));
        drop(shared);
        Subscription { mailbox, _publisher: Arc::clone(self) }
    }
}

impl Mailbox {
    fn put(&self, snapshot: &Arc<Snapshot>, changes: ChangeSet) {
        let mut letter = self.letter.lock().unwrap_or_else(PoisonError::into_inner);
        match letter.as_mut() {
            Some((waiting, merged)) => {
                *waiting = Arc::clone(snapshot);
                merged.merge(changes);
            }
            None => *letter = Some((Arc::clone(snapshot), changes)),
        }
        drop(letter);
        self.arrived.notify_one();
    }
}

impl Subscription {
    /// The latest snapshot and everything that changed since the last call; waits until something has.
    /// Cancelling the wait loses nothing.
    pub async fn next(&mut self) -> (Arc<Snapshot>, ChangeSet) {
        loop {
            if let Some(letter) = self.try_next() {
                return letter;
            }
            self.mailbox.arrived.notified().await;
        }
    }

    /// As [`Self::next`], but nothing where it would wait.
    pub fn try_next(&mut self) -> Option<(Arc<Snapshot>, ChangeSet)> {
        self.mailbox.letter.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_slow_reader_gets_the_latest_with_merged_changes() {
        let publisher = Arc::new(Publisher::default());
        let mut early = publisher.subscribe();
        assert!(early.try_next().is_none(), "nothing before the first snapshot");
        let snapshot = Arc::new(Snapshot::default());
        publisher.publish(&snapshot, &ChangeSet::default());
        assert!(early.next().await.1.full);
        let namespaces = |name: &str| ChangeSet { namespaces: [name.into()].into(), ..ChangeSet::default() };
        publisher.publish(&snapshot, &namespaces("a"));
        let last = Arc::new(Snapshot::default());
        publisher.publish(&last, &namespaces("b"));
        let (got, changes) = early.next().await;
        assert!(Arc::ptr_eq(&got, &last));
        assert_eq!(changes.namespaces, ["a".into(), "b".into()].into());
        assert!(early.try_next().is_none());
        assert!(publisher.subscribe().next().await.1.full, "a late reader looks at everything");
    }
}
