//! Waiting until something is so, with a bound that a loaded machine does not reach.

use std::time::{Duration, Instant};

/// How long something may take to come about. Only a test that fails waits as long.
pub const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(5);

/// What a look says: not yet, or a value.
pub trait Outcome {
    /// What is handed on once it is there.
    type Value;
    /// The value, or none where it is still to be waited for.
    fn value(self) -> Option<Self::Value>;
}

impl Outcome for bool {
    type Value = ();
    fn value(self) -> Option<()> {
        self.then_some(())
    }
}

impl<T> Outcome for Option<T> {
    type Value = T;
    fn value(self) -> Option<T> {
        self
    }
}

/// Looks again and again until there is something; panics, and says what was waited for, after [`PATIENCE`].
#[track_caller]
pub fn eventually<O: Outcome>(
    what: &str,
    mut look: impl AsyncFnMut() -> O,
) -> impl Future<Output = O::Value> {
    let asked = std::panic::Location::caller();
    async move {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(value) = look().await.value() {
                return value;
            }
            assert!(Instant::now() < deadline, "{asked}: never: {what}");
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// [`eventually`] for tests without a runtime.
#[track_caller]
pub fn eventually_blocking<O: Outcome>(what: &str, mut look: impl FnMut() -> O) -> O::Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = look().value() {
            return value;
        }
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_comes_about_is_handed_on() {
        let mut looks = 0;
        let third = eventually("three looks", async || {
            looks += 1;
            (looks == 3).then_some(looks)
        });
        assert_eq!(third.await, 3);
        eventually("at once", async || true).await;
    }

    #[test]
    fn also_without_a_runtime() {
        let mut looks = 0;
        eventually_blocking("three looks", || {
            looks += 1;
            looks == 3
        });
        assert_eq!(looks, 3);
    }
}
