//! What happened in a run, folded into one number: two runs of a seed must have the same.

use std::hash::Hasher;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;
use twox_hash::XxHash64;

/// The running number; clones share it.
#[derive(Clone)]
pub struct Trace {
    began: Instant,
    state: Arc<Mutex<State>>,
}

struct State {
    hash: XxHash64,
    events: u64,
    /// Printed as it goes, to find where two runs part.
    printed: bool,
}

impl Trace {
    /// Nothing has happened.
    #[must_use]
    pub fn new(printed: bool) -> Self {
        let state = State { hash: XxHash64::with_seed(0), events: 0, printed };
        Self { began: Instant::now(), state: Arc::new(Mutex::new(state)) }
    }

    /// Something happened now.
    pub fn note(&self, words: &[&str]) {
        let at_us = self.now_us();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.events += 1;
        state.hash.write_u64(at_us);
        for word in words {
            state.hash.write(word.as_bytes());
            state.hash.write_u8(0);
        }
        if state.printed {
            println!("{at_us:>12} {}", words.join(" "));
        }
    }

    /// Microseconds of virtual time since the run began.
    #[must_use]
    pub fn now_us(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// The number so far, and how many events it is of.
    #[must_use]
    pub fn hash(&self) -> (u64, u64) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        (state.hash.finish(), state.events)
    }
}
