//! What a run does follows from its seed; when it does it, and what comes of it, does not: real processes keep their own time.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

/// A source of chance; clones draw from the same one.
#[derive(Clone)]
pub(crate) struct Chance(Arc<Mutex<StdRng>>);

impl Chance {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(StdRng::seed_from_u64(seed))))
    }

    fn with<T>(&self, draw: impl FnOnce(&mut StdRng) -> T) -> T {
        draw(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A source of its own, so that what one part draws does not depend on how often another one does.
    pub(crate) fn fork(&self) -> Self {
        Self::new(self.with(|rng| rng.random()))
    }

    /// From `low` up to and including `high`.
    pub(crate) fn between(&self, low: u64, high: u64) -> u64 {
        self.with(|rng| rng.random_range(low..=high.max(low)))
    }

    /// True `n` times in a hundred.
    pub(crate) fn percent(&self, n: u64) -> bool {
        self.between(0, 99) < n
    }

    pub(crate) fn pick<T: Clone>(&self, items: &[T]) -> Option<T> {
        self.with(|rng| items.choose(rng)).cloned()
    }

    /// Waits for some milliseconds.
    pub(crate) async fn wait(&self, low_ms: u64, high_ms: u64) {
        let ms = self.between(low_ms, high_ms);
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }
}
