/// Growing waits with jitter: each is drawn from the upper half of a bound that doubles up to a maximum.
#[derive(Clone, Debug)]
pub struct Backoff {
    bound_ms: u64,
    max_ms: u64,
}

impl Backoff {
    /// The first wait is at most `first_ms`, every one at most `max_ms`.
    pub fn new(first_ms: u64, max_ms: u64) -> Self {
        Self { bound_ms: first_ms.max(1), max_ms: max_ms.max(1) }
    }

    /// How long to wait now, in milliseconds.
    pub fn next_ms(&mut self) -> u64 {
        let bound = self.bound_ms.min(self.max_ms);
        self.bound_ms = self.bound_ms.saturating_mul(2).min(self.max_ms);
        crate::chance::in_range(bound.div_ceil(2)..=bound)
    }
}
