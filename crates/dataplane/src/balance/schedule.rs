//! Weighted turns: the earliest deadline first, as Envoy's scheduler has it.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use rand::Rng;

/// An entry's next turn.
#[derive(Debug)]
struct Turn {
    deadline: f64,
    order: u64,
    entry: usize,
}

impl PartialEq for Turn {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl Eq for Turn {}
impl PartialOrd for Turn {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Turn {
    fn cmp(&self, other: &Self) -> Ordering {
        // The heap gives the greatest first.
        other.deadline.total_cmp(&self.deadline).then(other.order.cmp(&self.order))
    }
}

/// Entries in turn, each as often as its weight says when it had its last turn.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    turns: BinaryHeap<Turn>,
    now: f64,
    order: u64,
}

impl Schedule {
    /// All entries of a weight above 0. A random first turn within each one's period, so that workers do not march in
    /// step.
    pub(super) fn new(weights: impl Iterator<Item = f64>, random: &mut impl Rng) -> Self {
        let turns: BinaryHeap<Turn> = weights
            .enumerate()
            .filter(|(_, weight)| *weight > 0.0)
            .map(|(entry, weight)| Turn {
                deadline: random.random::<f64>() / weight,
                order: entry as u64,
                entry,
            })
            .collect();
        Self { order: turns.len() as u64, turns, now: 0.0 }
    }

    /// The entry whose turn it is; `weight` says what it weighs from now on.
    pub(super) fn next(&mut self, weight: impl Fn(usize) -> f64) -> Option<usize> {
        let turn = self.turns.pop()?;
        self.now = turn.deadline;
        self.order += 1;
        let weight = weight(turn.entry).max(1e-6);
        self.turns.push(Turn { deadline: self.now + 1.0 / weight, order: self.order, entry: turn.entry });
        Some(turn.entry)
    }
}
