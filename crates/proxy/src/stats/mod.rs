//! Statistics without contention: each worker adds to cells of its own, and readers sum them.
//!
//! Names are resolved when configuration is compiled: the request path holds a [`Counter`], a [`Histogram`] or
//! [`Codes`], which are numbers. The names of a cluster, listener and so on are there for as long as somebody
//! [holds](Stats::hold) them.

mod cells;
mod groups;
pub mod histogram;
mod prometheus;
mod registry;
mod ssl;
pub mod text;

use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use cells::Cells;
pub use groups::*;
use registry::Inner;
pub use registry::{Hold, Labels, Sample, Stats, Value};
pub use ssl::{SecretStats, SslCounters};

/// A counter or gauge: its block and its place there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counter(u32);

impl Counter {
    fn new(block: u32, offset: usize) -> Self {
        Self(block << 8 | offset as u32)
    }

    #[inline]
    fn block(self) -> u32 {
        self.0 >> 8
    }

    #[inline]
    fn offset(self) -> usize {
        (self.0 & 0xff) as usize
    }
}

/// A histogram of milliseconds, bytes or the like: the first of its blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Histogram(u32);

/// Counters a response code (`upstream_rq_503`): the first of their blocks, one a class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Codes(u32);

/// What kind of number it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only goes up.
    Counter,
    /// A counter that is listed from its first use on, as those Envoy makes by need.
    Lazy,
    /// Goes up and down.
    Gauge,
    /// A gauge of 64 bits without a sign: what is left of a limit that is none.
    Wide,
    /// Many values.
    Histogram,
    /// A counter a response code; the name gets the code appended.
    Codes,
}

/// The values of one worker, and of nobody else: adding takes no atomic operation of the processor.
pub struct Shard {
    shared: SharedShard,
    // One thread alone writes here; others read the cells.
    _one_thread: PhantomData<*const ()>,
}

/// Values that any thread may change.
#[derive(Clone)]
pub struct SharedShard {
    cells: Arc<Cells>,
    stats: Arc<Inner>,
}

impl std::fmt::Debug for Shard {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Shard")
    }
}

impl std::fmt::Debug for SharedShard {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("SharedShard")
    }
}

impl Shard {
    #[inline]
    fn bump(&self, block: u32, offset: usize, size: impl FnOnce() -> usize, amount: u64) {
        let cell = self.shared.cells.cell(block, offset, size);
        cell.store(cell.load(Relaxed).wrapping_add(amount), Relaxed);
    }

    /// Adds one.
    #[inline]
    pub fn increment(&self, counter: Counter) {
        self.add(counter, 1);
    }

    /// Adds.
    #[inline]
    pub fn add(&self, counter: Counter, amount: u64) {
        self.bump(counter.block(), counter.offset(), || self.shared.stats.size(counter.block()), amount);
    }

    /// Takes one off a gauge. Shards may go below zero; their sum does not.
    #[inline]
    pub fn decrement(&self, counter: Counter) {
        self.subtract(counter, 1);
    }

    /// Takes off a gauge.
    #[inline]
    pub fn subtract(&self, counter: Counter, amount: u64) {
        self.bump(counter.block(), counter.offset() + 1, || self.shared.stats.size(counter.block()), amount);
    }

    /// Adds a value to a histogram.
    #[inline]
    pub fn record(&self, histogram: Histogram, value: u64) {
        let (decade, cell) = histogram::place(value);
        let size = move || if decade == 0 { histogram::FIRST } else { histogram::OTHER };
        self.bump(histogram.0 + decade, cell, size, 1);
        if value != 0 {
            self.bump(histogram.0, 0, || histogram::FIRST, value);
        }
    }

    /// Counts a response code.
    #[inline]
    pub fn code(&self, codes: Codes, code: u16) {
        if (100..600).contains(&code) {
            self.bump(codes.0 + u32::from(code / 100) - 1, usize::from(code % 100), || 100, 1);
        }
    }
}

impl SharedShard {
    /// All names and numbers of the proxy.
    pub fn stats(&self) -> Stats {
        Stats::of(&self.stats)
    }

    fn change(&self, counter: Counter, offset: usize, amount: u64) {
        self.cells
            .cell(counter.block(), offset, || self.stats.size(counter.block()))
            .fetch_add(amount, Relaxed);
    }

    /// Adds one.
    pub fn increment(&self, counter: Counter) {
        self.add(counter, 1);
    }

    /// Adds.
    pub fn add(&self, counter: Counter, amount: u64) {
        self.change(counter, counter.offset(), amount);
    }

    /// Takes one off a gauge.
    pub fn decrement(&self, counter: Counter) {
        self.subtract(counter, 1);
    }

    /// Takes off a gauge.
    pub fn subtract(&self, counter: Counter, amount: u64) {
        self.change(counter, counter.offset() + 1, amount);
    }

    /// Sets a gauge. One that is set is to be changed in no other way.
    pub fn set(&self, gauge: Counter, value: u64) {
        let size = || self.stats.size(gauge.block());
        // Both are moved by one, so that a gauge that was set to zero counts as used.
        self.cells.cell(gauge.block(), gauge.offset(), size).store(value.wrapping_add(1), Relaxed);
        self.cells.cell(gauge.block(), gauge.offset() + 1, size).store(1, Relaxed);
    }

    /// Adds a value to a histogram.
    pub fn record(&self, histogram: Histogram, value: u64) {
        let (decade, cell) = histogram::place(value);
        let size = move || if decade == 0 { histogram::FIRST } else { histogram::OTHER };
        self.cells.cell(histogram.0 + decade, cell, size).fetch_add(1, Relaxed);
        self.cells.cell(histogram.0, 0, || histogram::FIRST).fetch_add(value, Relaxed);
    }

    /// Counts a response code.
    pub fn code(&self, codes: Codes, code: u16) {
        if (100..600).contains(&code) {
            let block = codes.0 + u32::from(code / 100) - 1;
            self.cells.cell(block, usize::from(code % 100), || 100).fetch_add(1, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests;
