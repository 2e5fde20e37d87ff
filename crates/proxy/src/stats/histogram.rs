//! Histograms with two significant decimal digits, as Envoy's (circllhist): at most ninety buckets a power of ten.

/// Powers of ten that are told apart; what is larger counts in the last bucket. 10^9 ms are eleven days.
pub(super) const DECADES: u32 = 9;
/// Blocks of one histogram.
pub(super) const BLOCKS: u32 = DECADES;
/// Cells of the first block: the sum, the zeros, and 1 to 9.
pub(super) const FIRST: usize = 11;
/// Cells of each other block: 10 to 99 times a power of ten.
pub(super) const OTHER: usize = 90;

/// The quantiles of Envoy's text form.
pub const QUANTILES: [f64; 10] = [0.0, 25.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.5, 99.9, 100.0];

/// The block (counted from the histogram's first) and cell of a value.
#[inline]
pub(super) fn place(value: u64) -> (u32, usize) {
    if value < 10 {
        return (0, 1 + value as usize);
    }
    let mut decade = 1u32;
    let mut reduced = value;
    while reduced >= 100 {
        reduced /= 10;
        decade += 1;
    }
    if decade >= DECADES {
        return (DECADES - 1, OTHER - 1);
    }
    (decade, reduced as usize - 10)
}

/// One bucket with something in it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bucket {
    /// Its lower bound.
    pub low: f64,
    /// How far it reaches.
    pub width: f64,
    /// Values in it.
    pub count: u64,
}

/// The bucket of a cell.
pub(super) fn bucket(decade: u32, cell: usize, count: u64) -> Bucket {
    if decade == 0 {
        let low = (cell - 1) as f64;
        // 1 has two digits as 1.0: its bucket ends at 1.1.
        return Bucket { low, width: if low == 0.0 { 0.0 } else { 0.1 }, count };
    }
    let scale = 10f64.powi(decade as i32 - 1);
    Bucket { low: (cell + 10) as f64 * scale, width: scale, count }
}

/// A histogram at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Snapshot {
    /// Ascending.
    pub buckets: Vec<Bucket>,
    /// The sum of all values.
    pub sum: u64,
}

impl Snapshot {
    /// How many values there are.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|bucket| bucket.count).sum()
    }

    /// The value below which `percent` of all are. Values of one bucket are taken as spread evenly within it.
    pub fn quantile(&self, percent: f64) -> f64 {
        let total = self.count();
        // Computed in tenths of a percent: 0.999 times a thousand is not to become a thousand and one.
        let rank = ((percent * 10.0).round() as u64 * total).div_ceil(1000).clamp(1, total.max(1));
        let mut before = 0;
        for bucket in &self.buckets {
            if before + bucket.count >= rank {
                let share = (rank - before) as f64 / (bucket.count + 1) as f64;
                return bucket.low + bucket.width * share;
            }
            before += bucket.count;
        }
        f64::NAN
    }

    /// How many values are at most `bound`; a bucket counts by its lower end, as in Envoy.
    pub fn up_to(&self, bound: f64) -> u64 {
        self.buckets.iter().filter(|bucket| bucket.low <= bound).map(|bucket| bucket.count).sum()
    }

    /// `P0(nan,1.05) P25(...)`: the first number of each would be the last interval's, which is not kept.
    pub fn text(&self) -> String {
        if self.buckets.is_empty() {
            return "No recorded values".to_owned();
        }
        let parts: Vec<String> = QUANTILES
            .iter()
            .map(|quantile| format!("P{quantile}(nan,{})", self.quantile(*quantile)))
            .collect();
        parts.join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lateen_dataplane::stat_tags::DEFAULT_BOUNDS;

    fn snapshot(values: &[u64]) -> Snapshot {
        let mut counts = std::collections::BTreeMap::new();
        for value in values {
            *counts.entry(place(*value)).or_insert(0) += 1;
        }
        Snapshot {
            buckets: counts.into_iter().map(|((decade, cell), count)| bucket(decade, cell, count)).collect(),
            sum: values.iter().sum(),
        }
    }

    #[test]
    fn quantiles_are_envoys() {
        // What Envoy 1.40 prints for the same values.
        for (values, percent, expect) in [
            (&[1, 4, 4][..], 0.0, "1.05"),
            (&[1, 4, 4], 50.0, "4.033333333333333"),
            (&[1, 4, 4], 100.0, "4.066666666666666"),
            (&[1, 1, 1], 75.0, "1.075"),
            (&[1, 1, 1, 1], 25.0, "1.02"),
            (&[1, 2, 7, 11], 90.0, "11.5"),
            (&[0, 0], 99.9, "0"),
            (&[33], 50.0, "33.5"),
            (&[12_345], 50.0, "12500"),
            (&[u64::MAX], 50.0, "995000000"),
        ] {
            assert_eq!(snapshot(values).quantile(percent).to_string(), expect, "{values:?} P{percent}");
        }
        assert_eq!(Snapshot::default().text(), "No recorded values");
    }

    #[test]
    fn bounds_count_whole_buckets() {
        let snapshot = snapshot(&[0, 0, 1, 5, 9, 30, 1200]);
        let counts: Vec<u64> = DEFAULT_BOUNDS.iter().map(|bound| snapshot.up_to(*bound)).collect();
        assert_eq!(counts[..7], [2, 3, 4, 5, 5, 6, 6]);
        assert_eq!(*counts.last().unwrap(), 7);
    }

    #[test]
    fn every_value_has_a_bucket_that_holds_it() {
        let mut value = 0u64;
        while value < 900_000_000 {
            let (decade, cell) = place(value);
            let bucket = bucket(decade, cell, 1);
            let exact = value as f64;
            let within = bucket.low <= exact && (exact < bucket.low + bucket.width || bucket.low == exact);
            assert!(within, "{value}: {bucket:?}");
            value += 1 + value / 7;
        }
    }
}
