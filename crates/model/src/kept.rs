//! Values that many things have in common: kept once, and not at all where they are empty.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::sync::Arc;

use serde::{Serialize, Serializer};

use crate::Locality;

/// A type that has one value for nothing.
pub trait Empty: Default + PartialEq + 'static {
    /// That value.
    fn empty() -> &'static Self;
}

/// A value that clones share. It compares as what it holds does; the same one equals itself without a look into it.
///
/// A mesh has many endpoints and few different labels, ports and places: each endpoint holds a pointer.
pub struct Kept<T>(Option<Arc<T>>);

impl Empty for BTreeMap<String, String> {
    fn empty() -> &'static Self {
        static EMPTY: BTreeMap<String, String> = BTreeMap::new();
        &EMPTY
    }
}

impl Empty for BTreeMap<String, u16> {
    fn empty() -> &'static Self {
        static EMPTY: BTreeMap<String, u16> = BTreeMap::new();
        &EMPTY
    }
}

impl Empty for Locality {
    fn empty() -> &'static Self {
        static EMPTY: Locality =
            Locality { region: String::new(), zone: String::new(), subzone: String::new() };
        &EMPTY
    }
}

impl<T> Kept<T> {
    /// Whether both are the very same value.
    fn is_same(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Some(one), Some(two)) => Arc::ptr_eq(one, two),
            (None, None) => true,
            _ => false,
        }
    }
}

/// One of each of many equal values. Those that nobody else holds go when they have become the greater part.
#[derive(Debug)]
pub struct Pool<T: Empty + Eq + Hash> {
    known: HashSet<Kept<T>>,
    sweep_at: usize,
}

impl<T: Empty + Eq + Hash> Default for Pool<T> {
    fn default() -> Self {
        Self { known: HashSet::new(), sweep_at: 64 }
    }
}

impl<T: Empty + Eq + Hash> Pool<T> {
    /// The one that equals this.
    pub fn one(&mut self, value: Kept<T>) -> Kept<T> {
        if value.0.is_none() {
            return value;
        }
        if let Some(known) = self.known.get(&value) {
            return known.clone();
        }
        if self.known.len() >= self.sweep_at {
            self.known.retain(|known| known.0.as_ref().is_some_and(|held| Arc::strong_count(held) > 1));
            self.sweep_at = (2 * self.known.len()).max(64);
        }
        self.known.insert(value.clone());
        value
    }
}

impl<T: Empty> Deref for Kept<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_deref().unwrap_or(T::empty())
    }
}

impl<T> Clone for Kept<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T: Empty> From<T> for Kept<T> {
    fn from(value: T) -> Self {
        Self((value != *T::empty()).then(|| Arc::new(value)))
    }
}

impl<T: Empty + Clone> From<&T> for Kept<T> {
    fn from(value: &T) -> Self {
        value.clone().into()
    }
}

impl<T: Empty + FromIterator<I>, I, const N: usize> From<[I; N]> for Kept<T> {
    fn from(items: [I; N]) -> Self {
        items.into_iter().collect()
    }
}

impl<T: Empty + FromIterator<I>, I> FromIterator<I> for Kept<T> {
    fn from_iter<A: IntoIterator<Item = I>>(items: A) -> Self {
        T::from_iter(items).into()
    }
}

impl<T: Empty> PartialEq for Kept<T> {
    fn eq(&self, other: &Self) -> bool {
        self.is_same(other) || **self == **other
    }
}

impl<T: Empty + Eq> Eq for Kept<T> {}

impl<T: Empty + Ord> PartialOrd for Kept<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T: Empty + Ord> Ord for Kept<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        if self.is_same(other) { Ordering::Equal } else { (**self).cmp(&**other) }
    }
}

impl<T: Empty + Hash> Hash for Kept<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (**self).hash(state);
    }
}

impl<T: Empty + fmt::Debug> fmt::Debug for Kept<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(formatter)
    }
}

impl<T: Empty + Serialize> Serialize for Kept<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (**self).serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kept_value_is_what_it_holds() {
        let kept = |pairs: &[(&str, u16)]| -> Kept<BTreeMap<String, u16>> {
            pairs.iter().map(|(name, number)| ((*name).to_owned(), *number)).collect()
        };
        let (one, two) = (kept(&[("http", 80)]), kept(&[("http", 81)]));
        assert_eq!(one, kept(&[("http", 80)]), "equal in another place");
        assert_eq!(one, one.clone());
        assert!(one < two && one != two);
        assert_eq!(one["http"], 80);
        assert_eq!(serde_json::to_string(&one).unwrap(), r#"{"http":80}"#);
        assert_eq!(kept(&[]), Kept::default());
        assert!(kept(&[]).0.is_none(), "nothing takes no room");
        assert_eq!(Kept::from(Locality::parse("")), Kept::default());
        assert_eq!(Kept::from(Locality::parse("r/z")).zone, "z");
    }

    #[test]
    fn a_pool_has_one_of_each_and_forgets_what_nobody_holds() {
        let mut pool = Pool::default();
        let kept = |port: u16| -> Kept<BTreeMap<String, u16>> { [("http".to_owned(), port)].into() };
        let first = pool.one(kept(80));
        assert!(pool.one(kept(80)).is_same(&first));
        for port in 81..1000 {
            pool.one(kept(port));
        }
        assert!(pool.known.len() <= 65, "{} are kept for nobody", pool.known.len());
        assert!(pool.one(kept(80)).is_same(&first), "what is held stays");
    }
}
