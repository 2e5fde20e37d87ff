//! One key to many values.

use std::collections::HashMap;
use std::hash::Hash;

/// A multimap that forgets keys without values. Most keys have one value, so values are kept in sorted lists, which take
/// no more room than they have values.
#[derive(Debug)]
pub(crate) struct Index<K, V>(HashMap<K, Vec<V>>);

impl<K: Hash + Eq, V: Ord + Clone> Index<K, V> {
    pub(crate) fn insert(&mut self, key: K, value: V) {
        let values = self.0.entry(key).or_default();
        if let Err(place) = values.binary_search(&value) {
            if values.is_empty() {
                values.reserve_exact(1);
            }
            values.insert(place, value);
        }
    }

    pub(crate) fn remove(&mut self, key: &K, value: &V) {
        if let Some(values) = self.0.get_mut(key) {
            if let Ok(place) = values.binary_search(value) {
                values.remove(place);
            }
            if values.is_empty() {
                self.0.remove(key);
            }
        }
    }

    pub(crate) fn get(&self, key: &K) -> impl Iterator<Item = &V> + use<'_, K, V> {
        self.0.get(key).into_iter().flatten()
    }
}

impl<K, V> Default for Index<K, V> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_in_order_and_there_once() {
        let mut index: Index<&str, u8> = Index::default();
        for value in [3, 1, 2, 1] {
            index.insert("a", value);
        }
        assert_eq!(index.get(&"a").copied().collect::<Vec<_>>(), [1, 2, 3]);
        for value in [2, 4, 1, 3] {
            index.remove(&"a", &value);
        }
        assert!(index.0.is_empty(), "keys without values go");
    }
}
