//! Every bound and wait of a replica in one place.

/// Bounds and waits. All waits are in milliseconds of the clock that `now_ms` comes from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Limits {
    /// Most writes under way at a primary; more wait. Below half of [`TAIL_ENTRIES`](super::tail::TAIL_ENTRIES), so that reconciliation
    /// always finds what differs.
    pub window: usize,
    /// Most bytes of keys and values under way at a primary.
    pub window_bytes: usize,
    /// Most writes in one forward.
    pub batch: usize,
    /// Bytes of keys and values after which a forward is full.
    pub batch_bytes: usize,
    /// Size at which a chunk is full.
    pub chunk_bytes: u64,
    /// Most requests of clients that wait; more are refused.
    pub held: usize,
    /// The longest that a client's request waits.
    pub hold_ms: u64,
    /// An in-sync copy that leaves a request unanswered so long is dropped (DESIGN: 1 s).
    pub silence_ms: u64,
    /// A required copy that answers, but does not become equal to the primary for so long, is dropped.
    pub settle_ms: u64,
    /// The wait before something that failed is tried again.
    pub retry_ms: u64,
    /// The wait before a copy that is being filled is asked how far it is.
    pub poll_ms: u64,
    /// The wait before a report is repeated while what it says still holds.
    pub repeat_ms: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            window: 256,
            window_bytes: 4 << 20,
            batch: 128,
            batch_bytes: 1 << 20,
            chunk_bytes: 1 << 20,
            held: 1_024,
            hold_ms: 10_000,
            silence_ms: 1_000,
            settle_ms: 10_000,
            retry_ms: 100,
            poll_ms: 500,
            repeat_ms: 1_000,
        }
    }
}
