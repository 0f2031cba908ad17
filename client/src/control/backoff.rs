/// Growing waits with full jitter: each is drawn from 0 to a bound that doubles up to a maximum, so that those who failed
/// together don't come back together ("Exponential Backoff And Jitter", AWS Architecture Blog, 2015).
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
        crate::chance::in_range(0..=bound)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn waits_are_drawn_from_nothing_to_a_bound_that_doubles_up_to_the_maximum() {
        let draw = async {
            let (mut least, mut most) = ([u64::MAX; 6], [0; 6]);
            for _ in 0..2_000 {
                let mut backoff = Backoff::new(50, 400);
                for at in 0..6 {
                    let wait = backoff.next_ms();
                    least[at] = least[at].min(wait);
                    most[at] = most[at].max(wait);
                }
            }
            (least, most)
        };
        let (least, most) = crate::chance::seeded(1, draw).await;
        for (at, bound) in [50, 100, 200, 400, 400, 400].into_iter().enumerate() {
            assert!(least[at] <= bound / 20, "wait {at} begins at {}", least[at]);
            assert!(most[at] <= bound && most[at] >= bound - bound / 20, "wait {at} ends at {}", most[at]);
        }
    }
}
