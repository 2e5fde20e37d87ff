//! Where the numbers of one thread are: blocks of cells behind a tree of three levels, made at first use.
//!
//! A cluster that sees no traffic costs no cell. Blocks of counters are numbered densely from zero; those of histograms
//! and response codes have numbers of their own from [`SPARSE`] on, so that they share no leaf with blocks in use.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The first block of histograms and response codes.
pub(super) const SPARSE: u32 = 1 << 23;
/// One more than the last block.
pub(super) const END: u32 = 1 << 24;

const FAN: usize = 256;

type Block = OnceLock<Box<[AtomicU64]>>;
type Leaf = OnceLock<Box<[Block]>>;

/// The values of one thread.
pub(super) struct Cells {
    root: Box<[OnceLock<Box<[Leaf]>>]>,
}

fn slots<T>() -> Box<[OnceLock<T>]> {
    (0..FAN).map(|_| OnceLock::new()).collect()
}

impl Default for Cells {
    fn default() -> Self {
        Self { root: slots() }
    }
}

impl std::fmt::Debug for Cells {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Cells")
    }
}

impl Cells {
    /// The cells of a block, if anything was ever written there.
    pub(super) fn get(&self, block: u32) -> Option<&[AtomicU64]> {
        let block = block as usize;
        let leaf = self.root[block >> 16 & 0xff].get()?[block >> 8 & 0xff].get()?;
        leaf[block & 0xff].get().map(|cells| &**cells)
    }

    /// A cell; `size` says how many its block has.
    #[inline]
    pub(super) fn cell(&self, block: u32, offset: usize, size: impl FnOnce() -> usize) -> &AtomicU64 {
        match self.get(block) {
            Some(cells) => &cells[offset],
            None => &self.make(block, size().max(offset + 1))[offset],
        }
    }

    #[cold]
    fn make(&self, block: u32, size: usize) -> &[AtomicU64] {
        let block = block as usize;
        let middle = self.root[block >> 16 & 0xff].get_or_init(slots);
        let leaf = middle[block >> 8 & 0xff].get_or_init(slots);
        leaf[block & 0xff].get_or_init(|| (0..size).map(|_| AtomicU64::new(0)).collect())
    }

    /// A value; zero where nothing was written.
    pub(super) fn value(&self, block: u32, offset: usize) -> u64 {
        self.get(block).and_then(|cells| cells.get(offset)).map_or(0, |cell| cell.load(Relaxed))
    }

    /// Sets a block to zero, for its next owner.
    pub(super) fn clear(&self, block: u32) {
        for cell in self.get(block).unwrap_or_default() {
            cell.store(0, Relaxed);
        }
    }
}
