//! How much may be repeated: a token bucket that all calls of a client share.
//!
//! Each call puts in a part of a token, and time does too; each repetition takes a whole one. While the control nodes do well
//! the bucket is full, so that a lost control node or an election is bridged. When they don't, the load of all clients grows
//! by that part and no more. (Finagle's RetryBudget; "Site Reliability Engineering", chapter 21.)

use std::sync::{Mutex, PoisonError};

use tokio::time::Instant;

/// How much may be repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryBudget {
    /// Repetitions for a hundred calls.
    pub percent: u32,
    /// Repetitions a second beside those: a client that calls seldom may repeat too.
    pub per_s: u32,
    /// What is saved up at most; it is there at the start.
    pub most: u32,
}

impl Default for RetryBudget {
    /// 20 percent, 10 a second, 100 saved up: Finagle's.
    fn default() -> Self {
        Self { percent: 20, per_s: 10, most: 100 }
    }
}

const TOKEN: u64 = 1_000;

#[derive(Debug)]
struct Bucket {
    /// Thousandths of a token.
    held: u64,
    filled: Instant,
}

#[derive(Debug)]
pub(super) struct Tokens {
    budget: RetryBudget,
    bucket: Mutex<Option<Bucket>>,
}

impl Tokens {
    pub(super) fn new(budget: RetryBudget) -> Self {
        Self { budget, bucket: Mutex::new(None) }
    }

    /// Counts a call. It may always be tried once.
    pub(super) fn first(&self) -> bool {
        self.change(|held| *held += u64::from(self.budget.percent) * TOKEN / 100);
        true
    }

    /// Whether it may be tried again.
    pub(super) fn again(&self) -> bool {
        self.change(|held| match held.checked_sub(TOKEN) {
            Some(left) => {
                *held = left;
                true
            }
            None => false,
        })
    }

    fn change<T>(&self, change: impl FnOnce(&mut u64) -> T) -> T {
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        let (now, most) = (Instant::now(), u64::from(self.budget.most) * TOKEN);
        let bucket = bucket.get_or_insert(Bucket { held: most, filled: now });
        let passed_ms = super::millis(now - bucket.filled);
        // One token a second is a thousandth a millisecond.
        let more = passed_ms.saturating_mul(u64::from(self.budget.per_s));
        bucket.filled = now;
        bucket.held = bucket.held.saturating_add(more).min(most);
        let changed = change(&mut bucket.held);
        bucket.held = bucket.held.min(most);
        changed
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn repetitions_are_a_part_of_the_calls_and_some_a_second() {
        let tokens = Tokens::new(RetryBudget { percent: 20, per_s: 2, most: 10 });
        let taken = || std::iter::from_fn(|| tokens.again().then_some(())).take(1_000).count();
        assert_eq!(taken(), 10, "what is saved up at the start");
        for _ in 0..25 {
            assert!(tokens.first());
        }
        assert_eq!(taken(), 5, "a fifth of the calls");
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(taken(), 6, "two a second");
        tokio::time::advance(Duration::from_secs(3_600)).await;
        assert_eq!(taken(), 10, "no more than may be saved up");
    }
}
