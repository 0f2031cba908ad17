//! Everything that is drawn in a run follows from its seed.

use std::sync::{Arc, Mutex, PoisonError};

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

/// A source of chance; clones draw from the same one.
#[derive(Clone)]
pub struct Chance(Arc<Mutex<StdRng>>);

impl Chance {
    /// The source that follows from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(StdRng::seed_from_u64(seed))))
    }

    fn with<T>(&self, draw: impl FnOnce(&mut StdRng) -> T) -> T {
        draw(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Any number.
    #[must_use]
    pub fn bits(&self) -> u64 {
        self.with(|rng| rng.random())
    }

    /// A source of its own, so that what one part draws does not depend on how often another one does.
    #[must_use]
    pub fn fork(&self) -> Self {
        Self::new(self.bits())
    }

    /// From `low` up to and including `high`.
    #[must_use]
    pub fn between(&self, low: u64, high: u64) -> u64 {
        self.with(|rng| rng.random_range(low..=high.max(low)))
    }

    /// True `n` times in a thousand.
    #[must_use]
    pub fn per_mille(&self, n: u32) -> bool {
        self.with(|rng| rng.random_ratio(n.min(1_000), 1_000))
    }

    /// One of `items`, or none of none.
    #[must_use]
    pub fn pick<'a, T>(&self, items: &'a [T]) -> Option<&'a T> {
        self.with(|rng| items.choose(rng))
    }
}
