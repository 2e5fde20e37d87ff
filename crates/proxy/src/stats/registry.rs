//! Which names there are, and where their numbers are found.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use lateen_dataplane::stat_tags::{Label, StatsConfig};
use parking_lot::Mutex;

use super::cells::{Cells, END, SPARSE};
use super::histogram::{self, BLOCKS, FIRST, OTHER, Snapshot};
use super::{Codes, Counter, Histogram, Kind, Shard, SharedShard};

/// Blocks of response codes: a class each.
const CLASSES: u32 = 5;

/// Before the names of statistics with labels in the text form.
const ISTIO: &str = "istiocustom.";

/// How long blocks rest after their names are gone: a connection that still ends may write there.
const REST: Duration = Duration::from_secs(900);

/// The names of a group and their kinds, in the order in which handles are given out.
pub(super) type Names = &'static [(&'static str, Kind)];

/// Names that were defined together: `cluster.NAME.` + `health_check.` + each name.
#[derive(Debug, Clone)]
struct Group {
    suffix: Cow<'static, str>,
    labels: Option<Labels>,
    names: Names,
    dense: u32,
    sparse: u32,
}

/// The labels of statistics that are not Envoy's own (`istio_requests_total`).
pub type Labels = Arc<Vec<Label>>;

/// All groups with one prefix, such as `cluster.NAME.`.
#[derive(Debug, Default)]
struct Scope {
    groups: Vec<Group>,
    /// How many hold it; none has ever done so where it is there for good.
    holders: Option<usize>,
}

/// Blocks whose names are gone: since when, the first, how many.
type Resting = VecDeque<(Instant, u32, u32)>;

#[derive(Debug, Default)]
struct Registry {
    scopes: HashMap<Arc<str>, Scope, foldhash::fast::RandomState>,
    /// How many cells each dense block has.
    sizes: Vec<u8>,
    next_sparse: u32,
    free_dense: HashMap<u8, Resting>,
    free_sparse: HashMap<u32, Resting>,
    texts: BTreeMap<String, String>,
    /// Groups with labels, by the address of their names and the labels.
    labelled: HashMap<(usize, Labels), (u32, u32)>,
}

#[derive(Debug, Default)]
pub(super) struct Inner {
    registry: Mutex<Registry>,
    /// The first belongs to no worker.
    shards: Mutex<Vec<Arc<Cells>>>,
    common: Arc<Cells>,
    /// What counters were when they were reset; taken off when they are read.
    baseline: Cells,
    config: Mutex<Arc<StatsConfig>>,
    lookups: AtomicU64,
}

/// All names and numbers of a proxy.
#[derive(Debug, Clone, Default)]
pub struct Stats(Arc<Inner>);

/// Keeps a scope's names. With the last hold they go.
#[derive(Debug)]
pub struct Hold {
    stats: Arc<Inner>,
    prefix: Arc<str>,
}

/// A number with its name.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// As Envoy's text form has it.
    pub name: String,
    /// Its labels, where they are not to be found in the name.
    pub labels: Option<Labels>,
    /// Whether it was ever written.
    pub used: bool,
    /// The number.
    pub value: Value,
}

impl Sample {
    /// The name without labels, of a statistic that has them beside it.
    pub fn metric(&self) -> &str {
        let labels = self.labels.iter().flat_map(|labels| labels.iter());
        let length: usize = labels.map(|(label, value)| label.len() + value.len() + 2).sum();
        let name = &self.name[..self.name.len() - length];
        name.rsplit_once('.').map_or(name, |(_, name)| name)
    }
}

/// A number of some kind.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Only goes up.
    Counter(u64),
    /// Goes up and down.
    Gauge(u64),
    /// Many values.
    Histogram(Snapshot),
    /// Not a number at all.
    Text(String),
}

impl Inner {
    /// How many cells a dense block has. Asked once a block and worker.
    #[cold]
    pub(super) fn size(&self, block: u32) -> usize {
        self.registry.lock().sizes.get(block as usize).map_or(256, |size| usize::from(*size) + 1)
    }

    fn all(&self) -> Vec<Arc<Cells>> {
        let mut shards = vec![Arc::clone(&self.common)];
        shards.extend(self.shards.lock().iter().cloned());
        shards
    }
}

fn cells_of(names: Names) -> usize {
    names
        .iter()
        .map(|(_, kind)| match kind {
            Kind::Counter | Kind::Lazy => 1,
            Kind::Gauge | Kind::Wide => 2,
            Kind::Histogram | Kind::Codes => 0,
        })
        .sum()
}

fn blocks_of(names: Names) -> u32 {
    names
        .iter()
        .map(|(_, kind)| match kind {
            Kind::Histogram => BLOCKS,
            Kind::Codes => CLASSES,
            _ => 0,
        })
        .sum()
}

/// Takes a rested run of blocks, and sets it to zero.
fn reuse(free: Option<&mut Resting>, inner: &Inner) -> Option<u32> {
    let free = free?;
    if free.front()?.0.elapsed() < REST {
        return None;
    }
    let (_, first, count) = free.pop_front()?;
    for block in first..first + count {
        inner.all().iter().for_each(|shard| shard.clear(block));
        inner.baseline.clear(block);
    }
    Some(first)
}

/// Gives out the handles of a group in the order of its names.
#[derive(Debug)]
pub(super) struct Handles {
    dense: u32,
    offset: usize,
    sparse: u32,
}

impl Handles {
    pub(super) fn counter(&mut self) -> Counter {
        self.offset += 1;
        Counter::new(self.dense, self.offset - 1)
    }

    pub(super) fn gauge(&mut self) -> Counter {
        self.offset += 2;
        Counter::new(self.dense, self.offset - 2)
    }

    pub(super) fn histogram(&mut self) -> Histogram {
        self.sparse += BLOCKS;
        Histogram(self.sparse - BLOCKS)
    }

    pub(super) fn codes(&mut self) -> Codes {
        self.sparse += CLASSES;
        Codes(self.sparse - CLASSES)
    }
}

impl Stats {
    /// A shard of the calling thread's own.
    // Others read its cells, and none but this thread writes them: that is what the type says.
    #[allow(clippy::arc_with_non_send_sync)]
    pub fn shard(&self) -> Arc<Shard> {
        let cells = Arc::new(Cells::default());
        self.0.shards.lock().push(Arc::clone(&cells));
        let shared = SharedShard { cells, stats: Arc::clone(&self.0) };
        Arc::new(Shard { shared, _one_thread: std::marker::PhantomData })
    }

    /// The shard that all threads may use: configuration, health checks, admin.
    pub fn common(&self) -> SharedShard {
        SharedShard { cells: Arc::clone(&self.0.common), stats: Arc::clone(&self.0) }
    }

    /// Keeps the names that begin with `prefix` (`cluster.NAME.`) for as long as this and other holds live.
    pub fn hold(&self, prefix: &str) -> Hold {
        let mut registry = self.0.registry.lock();
        let prefix = registry.scope_key(prefix);
        let holders = &mut registry.scopes.entry(Arc::clone(&prefix)).or_default().holders;
        *holders = Some(holders.unwrap_or(0) + 1);
        Hold { stats: Arc::clone(&self.0), prefix }
    }

    /// A counter that is told from others by its labels, as Istio's are. Asked once for each combination.
    pub fn labelled_counter(&self, labels: Vec<Label>, names: &'static [(&'static str, Kind)]) -> Counter {
        self.labelled(ISTIO, labels, names).counter()
    }

    /// Likewise a histogram.
    pub fn labelled_histogram(
        &self,
        labels: Vec<Label>,
        names: &'static [(&'static str, Kind)],
    ) -> Histogram {
        self.labelled(ISTIO, labels, names).histogram()
    }

    /// The handles of a group with labels.
    fn labelled(&self, prefix: &str, labels: Vec<Label>, names: Names) -> Handles {
        let mut registry = self.0.registry.lock();
        let labels: Labels = Arc::new(labels);
        let identity = (names.as_ptr() as usize, Arc::clone(&labels));
        if let Some((dense, sparse)) = registry.labelled.get(&identity) {
            return Handles { dense: *dense, offset: 0, sparse: *sparse };
        }
        let key = registry.scope_key(prefix);
        let group = Group {
            suffix: Cow::Borrowed(""),
            labels: Some(labels),
            names,
            dense: registry.dense(cells_of(names), &self.0),
            sparse: registry.sparse(blocks_of(names), &self.0),
        };
        let handles = Handles { dense: group.dense, offset: 0, sparse: group.sparse };
        registry.labelled.insert(identity, (group.dense, group.sparse));
        registry.scopes.entry(key).or_default().groups.push(group);
        handles
    }

    /// The handles of a group, made at first use. `prefix` ends with a dot, or is empty.
    pub(super) fn group(&self, prefix: &str, suffix: Cow<'static, str>, names: Names) -> Handles {
        let mut registry = self.0.registry.lock();
        let key = registry.scope_key(prefix);
        let existing = registry.scopes.entry(Arc::clone(&key)).or_default().groups.iter();
        let found = existing.clone().find(|group| group.suffix == suffix && std::ptr::eq(group.names, names));
        let group = match found {
            Some(group) => group.clone(),
            None => {
                let group = Group {
                    suffix,
                    labels: None,
                    names,
                    dense: registry.dense(cells_of(names), &self.0),
                    sparse: registry.sparse(blocks_of(names), &self.0),
                };
                if let Some(scope) = registry.scopes.get_mut(&key) {
                    // There are many scopes, each with a few groups.
                    if scope.groups.len() < 16 {
                        scope.groups.reserve_exact(1);
                    }
                    scope.groups.push(group.clone());
                }
                group
            }
        };
        Handles { dense: group.dense, offset: 0, sparse: group.sparse }
    }

    /// The statistics of which this is a part.
    pub(super) fn of(inner: &Arc<Inner>) -> Self {
        Self(Arc::clone(inner))
    }

    /// Sets a text that is shown among the statistics (`cluster_manager.cds.version_text`).
    pub fn set_text(&self, name: &str, text: &str) {
        self.0.registry.lock().texts.insert(name.to_owned(), text.to_owned());
    }

    /// How names are shown and tagged (`stats_config` of the bootstrap).
    pub fn configure(&self, config: StatsConfig) {
        *self.0.config.lock() = Arc::new(config);
    }

    /// See [`configure`](Self::configure).
    pub fn config(&self) -> Arc<StatsConfig> {
        Arc::clone(&self.0.config.lock())
    }

    /// Counters begin at zero again.
    pub fn reset_counters(&self) {
        let registry = self.0.registry.lock();
        let shards = self.0.all();
        for group in registry.scopes.values().flat_map(|scope| &scope.groups) {
            let (mut offset, mut sparse) = (0, group.sparse);
            for (_, kind) in group.names {
                match kind {
                    Kind::Counter | Kind::Lazy => {
                        self.rebase(&shards, group.dense, offset, || cells_of(group.names));
                        offset += 1;
                    }
                    Kind::Gauge | Kind::Wide => offset += 2,
                    Kind::Histogram => sparse += BLOCKS,
                    Kind::Codes => {
                        for block in sparse..sparse + CLASSES {
                            (0..100).for_each(|code| self.rebase(&shards, block, code, || 100));
                        }
                        sparse += CLASSES;
                    }
                }
            }
        }
    }

    fn rebase(&self, shards: &[Arc<Cells>], block: u32, offset: usize, size: impl FnOnce() -> usize) {
        let value = sum(shards, block, offset);
        if value != 0 {
            self.0.baseline.cell(block, offset, size).store(value, Relaxed);
        }
    }

    /// The value of a counter or gauge, by its whole name.
    pub fn value(&self, name: &str) -> Option<u64> {
        self.0.lookups.fetch_add(1, Relaxed);
        let registry = self.0.registry.lock();
        let shards = self.0.all();
        let mut found = None;
        for (prefix, scope) in &registry.scopes {
            if name.starts_with(&**prefix) {
                scope.visit(prefix, &shards, &self.0.baseline, &mut |sample| {
                    if sample.name == name {
                        found = match sample.value {
                            Value::Counter(value) | Value::Gauge(value) => Some(value),
                            Value::Histogram(snapshot) => Some(snapshot.count()),
                            Value::Text(_) => None,
                        };
                    }
                });
            }
        }
        found
    }

    /// Everything, sorted by name; texts first, histograms last, as Envoy prints them.
    pub fn samples(&self) -> Vec<Sample> {
        let config = self.config();
        let registry = self.0.registry.lock();
        let shards = self.0.all();
        let mut numbers = Vec::new();
        let mut histograms = Vec::new();
        for (prefix, scope) in &registry.scopes {
            scope.visit(prefix, &shards, &self.0.baseline, &mut |sample| {
                if config.shows(&sample.name) {
                    match sample.value {
                        Value::Histogram(_) => histograms.push(sample),
                        _ => numbers.push(sample),
                    }
                }
            });
        }
        numbers.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        histograms.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        let texts = registry.texts.iter().map(|(name, text)| Sample {
            name: name.clone(),
            labels: None,
            used: !text.is_empty(),
            value: Value::Text(text.clone()),
        });
        texts.filter(|sample| config.shows(&sample.name)).chain(numbers).chain(histograms).collect()
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut registry = self.stats.registry.lock();
        let last = match registry.scopes.get_mut(&self.prefix) {
            Some(Scope { holders: Some(holders), .. }) => {
                *holders -= 1;
                *holders == 0
            }
            _ => false,
        };
        if last && let Some(scope) = registry.scopes.remove(&self.prefix) {
            let now = Instant::now();
            for group in scope.groups {
                let size = registry.sizes.get(group.dense as usize).copied();
                if let Some(size) = size.filter(|_| cells_of(group.names) > 0) {
                    registry.free_dense.entry(size).or_default().push_back((now, group.dense, 1));
                }
                let blocks = blocks_of(group.names);
                if blocks > 0 {
                    registry.free_sparse.entry(blocks).or_default().push_back((now, group.sparse, blocks));
                }
            }
        }
    }
}

impl Registry {
    fn scope_key(&self, prefix: &str) -> Arc<str> {
        match self.scopes.get_key_value(prefix) {
            Some((key, _)) => Arc::clone(key),
            None => prefix.into(),
        }
    }

    fn dense(&mut self, cells: usize, inner: &Inner) -> u32 {
        if cells == 0 {
            return 0;
        }
        let size = u8::try_from(cells - 1).unwrap_or(u8::MAX);
        if let Some(block) = reuse(self.free_dense.get_mut(&size), inner) {
            return block;
        }
        let next = self.sizes.len() as u32;
        if next + 1 >= SPARSE {
            // Beyond eight million groups numbers are shared rather than lost.
            return SPARSE - 1;
        }
        self.sizes.push(size);
        next
    }

    fn sparse(&mut self, blocks: u32, inner: &Inner) -> u32 {
        if blocks == 0 {
            return 0;
        }
        if let Some(first) = reuse(self.free_sparse.get_mut(&blocks), inner) {
            return first;
        }
        let next = SPARSE + self.next_sparse;
        if next + blocks >= END {
            return END - blocks;
        }
        self.next_sparse += blocks;
        next
    }
}

fn sum(shards: &[Arc<Cells>], block: u32, offset: usize) -> u64 {
    shards.iter().fold(0, |sum, shard| sum.wrapping_add(shard.value(block, offset)))
}

impl Scope {
    fn visit(&self, prefix: &str, shards: &[Arc<Cells>], baseline: &Cells, tell: &mut impl FnMut(Sample)) {
        for group in &self.groups {
            group.visit(prefix, shards, baseline, tell);
        }
    }
}

impl Group {
    fn visit(&self, prefix: &str, shards: &[Arc<Cells>], baseline: &Cells, tell: &mut impl FnMut(Sample)) {
        let (mut offset, mut sparse) = (0, self.sparse);
        let full = |name: &str| match &self.labels {
            None => format!("{prefix}{}{name}", self.suffix),
            Some(labels) => {
                let labels = labels.iter().map(|(label, value)| format!(".{label}.{value}"));
                format!("{prefix}{name}{}", labels.collect::<String>())
            }
        };
        for (name, kind) in self.names {
            match kind {
                Kind::Counter | Kind::Lazy => {
                    let total = sum(shards, self.dense, offset);
                    let value = total.wrapping_sub(baseline.value(self.dense, offset));
                    if total > 0 || *kind == Kind::Counter {
                        tell(Sample {
                            name: full(name),
                            labels: self.labels.clone(),
                            used: total > 0,
                            value: Value::Counter(value),
                        });
                    }
                    offset += 1;
                }
                Kind::Gauge | Kind::Wide => {
                    let up = sum(shards, self.dense, offset);
                    let down = sum(shards, self.dense, offset + 1);
                    // Read while it changes, a gauge may seem to be below zero for a moment.
                    let difference = up.wrapping_sub(down);
                    let below = *kind == Kind::Gauge && (difference as i64) < 0;
                    let value = if below { 0 } else { difference };
                    tell(Sample {
                        name: full(name),
                        labels: self.labels.clone(),
                        used: up != 0 || down != 0,
                        value: Value::Gauge(value),
                    });
                    offset += 2;
                }
                Kind::Histogram => {
                    let snapshot = snapshot(shards, sparse);
                    let used = !snapshot.buckets.is_empty();
                    tell(Sample {
                        name: full(name),
                        labels: self.labels.clone(),
                        used,
                        value: Value::Histogram(snapshot),
                    });
                    sparse += BLOCKS;
                }
                Kind::Codes => {
                    self.visit_codes(&full(name), sparse, shards, baseline, tell);
                    sparse += CLASSES;
                }
            }
        }
    }

    fn visit_codes(
        &self,
        name: &str,
        first: u32,
        shards: &[Arc<Cells>],
        baseline: &Cells,
        tell: &mut impl FnMut(Sample),
    ) {
        for class in 0..CLASSES {
            let block = first + class;
            if shards.iter().all(|shard| shard.get(block).is_none()) {
                continue;
            }
            for rest in 0..100usize {
                let total = sum(shards, block, rest);
                if total > 0 {
                    let value = total.wrapping_sub(baseline.value(block, rest));
                    let code = (class as usize + 1) * 100 + rest;
                    let name = format!("{name}_{code}");
                    tell(Sample { name, labels: None, used: true, value: Value::Counter(value) });
                }
            }
        }
    }
}

fn snapshot(shards: &[Arc<Cells>], first: u32) -> Snapshot {
    let mut out = Snapshot { sum: sum(shards, first, 0), buckets: Vec::new() };
    for decade in 0..BLOCKS {
        if shards.iter().all(|shard| shard.get(first + decade).is_none()) {
            continue;
        }
        let cells = if decade == 0 { 1..FIRST } else { 0..OTHER };
        for cell in cells {
            let count = sum(shards, first + decade, cell);
            if count > 0 {
                out.buckets.push(histogram::bucket(decade, cell, count));
            }
        }
    }
    out
}
