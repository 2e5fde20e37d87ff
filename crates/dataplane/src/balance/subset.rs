//! Subsets: hosts whose metadata fit what the route asks for.
//!
//! Source: Envoy's page "Load balancer subsets", `envoy.config.cluster.v3.Cluster.LbSubsetConfig`.

use std::collections::{BTreeMap, BTreeSet};

use crate::cluster::HostSet;

/// A value of metadata in a form that is equal where the values are.
pub type LabelValue = Box<str>;

/// What the metadata of a host say about balancing (`envoy.lb`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostLabels {
    /// By name: the value, and where it is a list, its elements.
    pub values: BTreeMap<Box<str>, (LabelValue, Vec<LabelValue>)>,
    /// What is hashed in place of the address (`hash_key`).
    pub hash_key: Option<Box<str>>,
}

impl HostLabels {
    /// What is hashed in place of the address.
    pub fn hash_key(&self) -> Option<&str> {
        self.hash_key.as_deref()
    }

    fn fits(&self, name: &str, value: &str, list_as_any: bool) -> bool {
        self.values.get(name).is_some_and(|(whole, elements)| {
            **whole == *value || (list_as_any && elements.iter().any(|element| **element == *value))
        })
    }
}

/// What a request asks of a host, by name, sorted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Criteria {
    pairs: Vec<(Box<str>, LabelValue)>,
    /// All of it as one text.
    key: Box<str>,
    /// Tried one after the other in place of the rest (`fallback_list`).
    pub alternatives: Vec<Criteria>,
}

impl Criteria {
    /// From names and values.
    pub fn new(pairs: BTreeMap<Box<str>, LabelValue>) -> Self {
        let pairs: Vec<_> = pairs.into_iter().collect();
        let key = key(pairs.iter().map(|(name, value)| (&**name, &**value)));
        Self { pairs, key, alternatives: Vec::new() }
    }

    /// These, and of `base` what these say nothing about.
    pub fn over(&self, base: &Criteria) -> Criteria {
        let all = base.pairs.iter().chain(&self.pairs).cloned().collect();
        Criteria { alternatives: self.alternatives.clone(), ..Criteria::new(all) }
    }

    /// Whether nothing is asked for.
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    /// Whether these are exactly the names.
    pub(super) fn fit_names(&self, names: &BTreeSet<Box<str>>) -> bool {
        names.len() == self.pairs.len() && self.names().all(|name| names.contains(name))
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        self.pairs.iter().map(|(name, _)| &**name)
    }

    fn only(&self, names: &BTreeSet<Box<str>>) -> Criteria {
        Criteria::new(self.pairs.iter().filter(|(name, _)| names.contains(name)).cloned().collect())
    }

    /// The text under which a subset of these is known.
    pub(super) fn key(&self) -> &str {
        &self.key
    }

    pub(super) fn fit(&self, labels: &HostLabels, list_as_any: bool) -> bool {
        self.pairs.iter().all(|(name, value)| labels.fits(name, value, list_as_any))
    }
}

fn key<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> Box<str> {
    let mut text = String::new();
    for (name, value) in pairs {
        text.push_str(name);
        text.push('\u{1}');
        text.push_str(value);
        text.push('\u{2}');
    }
    text.into()
}

/// What is done where no host fits.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Fallback {
    /// No host.
    #[default]
    None,
    /// Any host.
    Any,
    /// A host of the default subset.
    Default,
    /// As the request says of these names only. Of selectors only.
    Names(BTreeSet<Box<str>>),
}

/// Names by which subsets are made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selector {
    /// The names.
    pub names: BTreeSet<Box<str>>,
    /// Where no host fits; none takes the cluster's.
    pub fallback: Option<Fallback>,
    /// Only the first host of a subset counts.
    pub single_host: bool,
}

/// `LbSubsetConfig`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Subsets {
    /// Where no host fits and the selector says nothing.
    pub fallback: Fallback,
    /// The default subset.
    pub default: Criteria,
    /// By which names subsets are made.
    pub selectors: Vec<Selector>,
    /// Where there would be no host at all, any.
    pub panic_mode_any: bool,
    /// A list has each of its elements as value.
    pub list_as_any: bool,
    /// A request names alternatives under `fallback_list`.
    pub fallback_list: bool,
    /// Whether localities keep their weights within subsets.
    pub locality_weight_aware: bool,
}

/// Which hosts a request is to be sent to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Target<'a> {
    /// Those that fit.
    Fitting(std::borrow::Cow<'a, Criteria>),
    /// Those of the default subset.
    Default,
    /// Any.
    Any,
}

/// Who says where a request goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ChosenBy {
    /// The request: there is a subset that fits.
    Request,
    /// The fallback of a selector.
    Selector,
    /// The fallback of the cluster.
    Cluster,
}

impl Subsets {
    /// The subsets that these hosts make, by the texts under which they are known.
    pub fn keys_of(&self, hosts: &HostSet) -> BTreeSet<Box<str>> {
        let mut keys = BTreeSet::new();
        for member in hosts.members() {
            for selector in &self.selectors {
                for criteria in self.criteria_of(&member.labels, selector) {
                    keys.insert(criteria.key);
                }
            }
        }
        keys
    }

    /// The subsets of a selector to which a host belongs: more than one where it has lists for values.
    fn criteria_of(&self, labels: &HostLabels, selector: &Selector) -> Vec<Criteria> {
        let mut all: Vec<BTreeMap<Box<str>, LabelValue>> = vec![BTreeMap::new()];
        for name in &selector.names {
            let Some((whole, elements)) = labels.values.get(name) else { return Vec::new() };
            let values = match self.list_as_any && !elements.is_empty() {
                true => elements.as_slice(),
                false => std::slice::from_ref(whole),
            };
            let with = |pairs: &BTreeMap<Box<str>, LabelValue>, value: &LabelValue| {
                let mut pairs = pairs.clone();
                pairs.insert(name.clone(), value.clone());
                pairs
            };
            all = all.iter().flat_map(|pairs| values.iter().map(move |value| with(pairs, value))).collect();
        }
        all.into_iter().map(Criteria::new).collect()
    }

    /// The selector of exactly these names.
    fn selector(&self, criteria: &Criteria) -> Option<&Selector> {
        self.selectors.iter().find(|selector| criteria.fit_names(&selector.names))
    }

    /// Where a request goes, the first choice first. `exists` says whether a subset has any host.
    pub(super) fn target<'a>(
        &self,
        criteria: Option<&'a Criteria>,
        exists: &mut dyn FnMut(&Criteria) -> bool,
    ) -> (Option<Target<'a>>, ChosenBy) {
        use std::borrow::Cow;
        let mut current = criteria.map(Cow::Borrowed);
        // Names become fewer with every round.
        while let Some(criteria) = current.take() {
            let Some(selector) = self.selector(&criteria) else { break };
            if exists(&criteria) {
                return (Some(Target::Fitting(criteria)), ChosenBy::Request);
            }
            match &selector.fallback {
                None => break,
                Some(Fallback::Names(names)) if names.len() < criteria.pairs.len() => {
                    current = Some(Cow::Owned(criteria.only(names)));
                }
                Some(fallback) => return (Self::fall_back(fallback), ChosenBy::Selector),
            }
        }
        (Self::fall_back(&self.fallback), ChosenBy::Cluster)
    }

    fn fall_back(fallback: &Fallback) -> Option<Target<'static>> {
        match fallback {
            Fallback::None | Fallback::Names(_) => None,
            Fallback::Any => Some(Target::Any),
            Fallback::Default => Some(Target::Default),
        }
    }
}
