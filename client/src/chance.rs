//! The seam for chance: jitter, idempotency keys and whom to ask first are drawn here, from the system or, inside of
//! [`seeded`], from a seed.

use std::future::Future;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, PoisonError};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

tokio::task_local! {
    static SOURCE: Arc<Mutex<StdRng>>;
}

/// Runs `future` so that whatever it draws here follows from `seed`. Tasks that it spawns draw from the system again.
pub fn seeded<F: Future>(seed: u64, future: F) -> impl Future<Output = F::Output> {
    SOURCE.scope(Arc::new(Mutex::new(StdRng::seed_from_u64(seed))), future)
}

/// A number from `range`, all equally likely.
pub(crate) fn in_range(range: RangeInclusive<u64>) -> u64 {
    draw(|source| source.random_range(range.clone()), || rand::random_range(range.clone()))
}

/// 128 bits.
pub(crate) fn bits() -> u128 {
    draw(|source| source.random(), rand::random)
}

fn draw<T>(from_seed: impl FnOnce(&mut StdRng) -> T, from_system: impl FnOnce() -> T) -> T {
    match SOURCE.try_with(Arc::clone) {
        Ok(source) => from_seed(&mut source.lock().unwrap_or_else(PoisonError::into_inner)),
        Err(_) => from_system(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_same_seed_draws_the_same_and_the_system_does_not() {
        let draws = |seed| seeded(seed, async { (bits(), in_range(1..=1_000_000)) });
        assert_eq!(draws(7).await, draws(7).await);
        assert_ne!(draws(7).await, draws(8).await);
        assert_ne!(bits(), bits());
    }
}
