//! The names that clients want of a type. Clients that see the same want the same hundreds of names: the set is kept
//! once for all of them.

use std::cmp::Ordering;
use std::collections::{BTreeSet, HashMap};
use std::ops::Deref;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use xxhash_rust::xxh3::xxh3_128;

type Set = BTreeSet<Arc<str>>;

/// Sets smaller than this are not worth sharing.
const SMALL: usize = 16;

/// The sets of all clients of a server.
#[derive(Debug, Default)]
pub(super) struct NamePool {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// By the sum of the hashes of all names, which tells where to look and nothing more.
    sets: HashMap<u128, Weak<Set>>,
    sweep_at: usize,
}

/// One client's set.
#[derive(Debug, Clone, Default)]
pub(super) struct NameSet {
    names: Arc<Set>,
    sum: u128,
}

impl Deref for NameSet {
    type Target = Set;

    fn deref(&self) -> &Set {
        &self.names
    }
}

fn hash(name: &str) -> u128 {
    xxh3_128(name.as_bytes())
}

impl NameSet {
    /// Takes in what was added, then leaves out what was removed.
    pub(super) fn change(&mut self, pool: &NamePool, added: &[Arc<str>], removed: &[Arc<str>]) {
        let removed: BTreeSet<&str> = removed.iter().map(|name| &**name).collect();
        let added: Set = added
            .iter()
            .filter(|name| !removed.contains(&***name) && !self.names.contains(*name))
            .cloned()
            .collect();
        let gone: Vec<Arc<str>> = removed.iter().filter_map(|name| self.names.get(*name)).cloned().collect();
        if added.is_empty() && gone.is_empty() {
            return;
        }
        let plus = added.iter().fold(self.sum, |sum, name| sum.wrapping_add(hash(name)));
        self.sum = gone.iter().fold(plus, |sum, name| sum.wrapping_sub(hash(name)));
        let size = self.names.len() + added.len() - gone.len();
        if let Some(known) = pool.find(self.sum, size)
            && is_changed(&known, &self.names, &added, &removed)
        {
            self.names = known;
            return;
        }
        let names = Arc::make_mut(&mut self.names);
        for name in &gone {
            names.remove(name);
        }
        names.extend(added);
        pool.keep(self);
    }

    /// Takes the place of the set so far.
    pub(super) fn replace(&mut self, pool: &NamePool, names: Set) {
        if *self.names == names {
            return;
        }
        self.sum = names.iter().fold(0, |sum, name| sum.wrapping_add(hash(name)));
        let known = pool.find(self.sum, names.len()).filter(|known| **known == names);
        match known {
            Some(known) => self.names = known,
            None => {
                self.names = Arc::new(names);
                pool.keep(self);
            }
        }
    }
}

/// Whether `known` is `old` with `added` and without `removed`: one walk over all of them, by pointers for the most part.
fn is_changed(known: &Set, old: &Set, added: &Set, removed: &BTreeSet<&str>) -> bool {
    let mut kept = old.iter().filter(|name| removed.is_empty() || !removed.contains(&***name)).peekable();
    let mut more = added.iter().peekable();
    let merged = std::iter::from_fn(|| match (kept.peek(), more.peek()) {
        (Some(left), Some(right)) if left.cmp(right) == Ordering::Greater => more.next(),
        (Some(_), _) => kept.next(),
        (None, _) => more.next(),
    });
    let same = |(left, right): (&Arc<str>, &Arc<str>)| Arc::ptr_eq(left, right) || left == right;
    known.iter().zip(merged).all(same)
}

impl NamePool {
    fn find(&self, sum: u128, size: usize) -> Option<Arc<Set>> {
        let found = self.known.lock().sets.get(&sum).and_then(Weak::upgrade);
        found.filter(|set| set.len() == size)
    }

    fn keep(&self, set: &NameSet) {
        if set.names.len() < SMALL {
            return;
        }
        let mut known = self.known.lock();
        if known.sets.len() >= known.sweep_at {
            known.sets.retain(|_, set| set.strong_count() > 0);
            known.sweep_at = (2 * known.sets.len()).max(64);
        }
        known.sets.insert(set.sum, Arc::downgrade(&set.names));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(range: std::ops::Range<usize>) -> Vec<Arc<str>> {
        range.map(|number| Arc::from(format!("name-{number}"))).collect()
    }

    #[test]
    fn equal_sets_are_kept_once_however_they_came_about() {
        let pool = NamePool::default();
        let (mut one, mut two, mut three) = (NameSet::default(), NameSet::default(), NameSet::default());
        one.change(&pool, &names(0..100), &[]);
        two.change(&pool, &names(0..60), &[]);
        assert!(!Arc::ptr_eq(&one.names, &two.names));
        two.change(&pool, &names(40..110), &names(100..110));
        assert_eq!(*one, *two);
        assert!(Arc::ptr_eq(&one.names, &two.names), "by another way");
        three.replace(&pool, names(0..100).into_iter().collect());
        assert!(Arc::ptr_eq(&one.names, &three.names), "given whole");
        // Each goes its own way from there, and they meet again.
        one.change(&pool, &names(200..201), &names(7..8));
        assert!(one.contains("name-200") && !one.contains("name-7") && two.contains("name-7"));
        two.change(&pool, &names(200..201), &names(7..8));
        assert!(Arc::ptr_eq(&one.names, &two.names));
        let expected: Set = names(0..7).into_iter().chain(names(8..100)).chain(names(200..201)).collect();
        assert_eq!(*one, expected);
        drop((one, two));
        assert_eq!(three.len(), 100);
    }

    #[test]
    fn a_set_of_equal_hash_that_is_another_one_is_not_taken() {
        let pool = NamePool::default();
        let mut liar = NameSet::default();
        liar.change(&pool, &names(0..50), &[]);
        let mut honest = NameSet::default();
        honest.change(&pool, &names(50..100), &[]);
        // As if hashes collided.
        let sum = honest.sum.wrapping_add(hash("name-0"));
        pool.known.lock().sets.insert(sum, Arc::downgrade(&liar.names));
        honest.change(&pool, &names(0..1), &[]);
        let expected: Set = names(50..100).into_iter().chain(names(0..1)).collect();
        assert_eq!(*honest, expected);
    }
}
