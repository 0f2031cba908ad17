//! A machine's clocks: they run a little fast or slow, begin anywhere, and the time of day jumps.

use std::sync::atomic::{AtomicI64, Ordering};

use ruvector_cluster_client::clock::Clock;
use tokio::time::Instant;

/// What every run's wall clocks begin near: 2026-01-01 in UTC.
const WALL_BEGIN_MS: u64 = 1_767_225_600_000;

/// One machine's clocks, over virtual time.
#[derive(Debug)]
pub struct SimClock {
    began: Instant,
    rate_per_mille: u64,
    offset_ms: u64,
    wall_jump_ms: AtomicI64,
}

impl SimClock {
    /// Clocks that begin now and run `rate_per_mille` milliseconds a second; the boot clock shows `offset_ms` at first. Leases
    /// bear 5 % between any two clocks, so rates are to lie from 976 to 1024.
    #[must_use]
    pub fn new(rate_per_mille: u64, offset_ms: u64) -> Self {
        Self { began: Instant::now(), rate_per_mille, offset_ms, wall_jump_ms: AtomicI64::new(0) }
    }

    /// Sets the time of day forward, or back.
    pub fn jump_wall(&self, by_ms: i64) {
        self.wall_jump_ms.fetch_add(by_ms, Ordering::Relaxed);
    }

    fn passed_ms(&self) -> u64 {
        let us = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX);
        us.saturating_mul(self.rate_per_mille) / 1_000_000
    }
}

impl Clock for SimClock {
    fn boot_ms(&self) -> u64 {
        self.offset_ms.saturating_add(self.passed_ms())
    }

    fn wall_ms(&self) -> u64 {
        let straight = WALL_BEGIN_MS.saturating_add(self.passed_ms());
        straight.saturating_add_signed(self.wall_jump_ms.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_slow_clock_is_slow_and_only_the_time_of_day_jumps() {
        let (slow, exact) = (SimClock::new(976, 5_000), SimClock::new(1_000, 0));
        tokio::time::sleep(Duration::from_secs(100)).await;
        assert_eq!((slow.boot_ms(), exact.boot_ms()), (102_600, 100_000));
        exact.jump_wall(-3_600_000);
        assert_eq!((exact.boot_ms(), exact.wall_ms()), (100_000, WALL_BEGIN_MS - 3_500_000));
    }
}
