//! A bucket of tokens that fills all the time, shared by all workers without a lock.
//!
//! Envoy's `AtomicTokenBucketImpl`: the only state is the moment at which the bucket was (or would have been) empty;
//! what is in it follows from the time that has passed since. Time is an argument.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// A compiled `envoy.type.v3.TokenBucket`.
#[derive(Debug)]
pub struct TokenBucket {
    max: f64,
    per_second: f64,
    /// When the bucket was empty, in seconds, as the bits of an `f64`.
    empty_at: AtomicU64,
}

impl TokenBucket {
    /// A bucket that holds `max` tokens, is full at the beginning, and gets `per_fill` of them every `interval`.
    pub fn new(max: u32, per_fill: u32, interval: Duration) -> Self {
        let per_second = f64::from(per_fill) / interval.as_secs_f64().max(1e-9);
        // Full from the beginning of time.
        Self { max: f64::from(max), per_second, empty_at: AtomicU64::new(f64::NEG_INFINITY.to_bits()) }
    }

    /// Takes so many tokens; false, and nothing is taken, where there are fewer. `now` is any clock that never goes
    /// back, the same for all callers.
    pub fn take(&self, count: u32, now: Duration) -> bool {
        let (now, count) = (now.as_secs_f64(), f64::from(count));
        self.empty_at
            .fetch_update(Relaxed, Relaxed, |empty_at| {
                let tokens = self.tokens(f64::from_bits(empty_at), now);
                (tokens >= count).then(|| (now - (tokens - count) / self.per_second).to_bits())
            })
            .is_ok()
    }

    /// Takes as many whole tokens as there are, at most `most`, and says how many.
    pub fn take_up_to(&self, most: u32, now: Duration) -> u32 {
        let now = now.as_secs_f64();
        let mut taken = 0.0;
        let _ = self.empty_at.fetch_update(Relaxed, Relaxed, |empty_at| {
            let tokens = self.tokens(f64::from_bits(empty_at), now);
            taken = tokens.floor().min(f64::from(most));
            (taken > 0.0).then(|| (now - (tokens - taken) / self.per_second).to_bits())
        });
        taken as u32
    }

    /// Whole tokens in the bucket.
    pub fn remaining(&self, now: Duration) -> u32 {
        self.tokens(f64::from_bits(self.empty_at.load(Relaxed)), now.as_secs_f64()) as u32
    }

    /// Tokens that a full bucket holds.
    pub fn capacity(&self) -> u32 {
        self.max as u32
    }

    /// When one token will be there, from now.
    pub fn next_token(&self, now: Duration) -> Duration {
        let tokens = self.tokens(f64::from_bits(self.empty_at.load(Relaxed)), now.as_secs_f64());
        Duration::try_from_secs_f64((1.0 - tokens).max(0.0) / self.per_second).unwrap_or(Duration::MAX)
    }

    fn tokens(&self, empty_at: f64, now: f64) -> f64 {
        // Rounding must not lose a token that has just come.
        ((now - empty_at).max(0.0) * self.per_second + 1e-9).min(self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_empties_fills_and_is_never_more_than_full() {
        let at = Duration::from_millis;
        let bucket = TokenBucket::new(3, 1, Duration::from_millis(100));
        assert_eq!((bucket.remaining(at(5)), bucket.capacity()), (3, 3));
        for _ in 0..3 {
            assert!(bucket.take(1, at(1000)));
        }
        assert!(!bucket.take(1, at(1000)));
        assert!((at(49)..=at(50)).contains(&bucket.next_token(at(1050))));
        assert!(!bucket.take(1, at(1050)));
        assert!(bucket.take(1, at(1100)));
        assert!(!bucket.take(1, at(1100)));
        // Full again, and not more.
        assert_eq!(bucket.remaining(at(9000)), 3);
        assert!(bucket.take(3, at(9000)));
        assert!(!bucket.take(1, at(9050)));
        // A clock of another thread may be a little behind.
        assert!(!bucket.take(1, at(8990)));
    }

    #[test]
    fn several_at_once_are_all_or_nothing() {
        let bucket = TokenBucket::new(5, 5, Duration::from_secs(1));
        assert!(!bucket.take(6, Duration::from_secs(1)));
        assert_eq!(bucket.take_up_to(3, Duration::from_secs(1)), 3);
        assert_eq!(bucket.take_up_to(3, Duration::from_secs(1)), 2);
        assert_eq!(bucket.take_up_to(3, Duration::from_secs(1)), 0);
        assert!(bucket.take(5, Duration::from_secs(2)));
        assert_eq!(bucket.remaining(Duration::from_secs(2)), 0);
    }
}
