//! What the leader stamps commands with, and measures its waits by: log time, going on.
//!
//! Log time is the larger of the last stamp and the leader's time of day (DESIGN.md, section 2). Where a leader's time of day ran
//! ahead and was set right, or the next leader's is behind, log time would stand still until that catches up, and with it every
//! wait that is counted in it: retries, grace periods, maintenances. So from the last stamp on log time goes on with the clock that
//! is never set; it stands still only while nobody leads.

use std::sync::{Arc, Mutex, PoisonError};

use ruvector_cluster_client::clock::Clock;
use tokio::sync::watch;

use crate::metadata::Metadata;

/// A machine's clocks, whose time of day is log time.
pub struct LogClock {
    inner: Arc<dyn Clock>,
    state: watch::Receiver<Arc<Metadata>>,
    anchor: Mutex<Anchor>,
}

/// Log time at some moment of the boot clock.
#[derive(Clone, Copy, Default)]
struct Anchor {
    log_ms: u64,
    boot_ms: u64,
}

impl LogClock {
    /// Over the machine's clocks and the state as published.
    pub fn new(inner: Arc<dyn Clock>, state: watch::Receiver<Arc<Metadata>>) -> Self {
        Self { inner, state, anchor: Mutex::default() }
    }
}

impl Clock for LogClock {
    fn boot_ms(&self) -> u64 {
        self.inner.boot_ms()
    }

    fn wall_ms(&self) -> u64 {
        let (boot_ms, day_ms) = (self.inner.boot_ms(), self.inner.wall_ms());
        let last_ms = self.state.borrow().log_time_ms();
        let mut anchor = self.anchor.lock().unwrap_or_else(PoisonError::into_inner);
        let gone_on_ms = anchor.log_ms.saturating_add(boot_ms.saturating_sub(anchor.boot_ms));
        if last_ms > gone_on_ms {
            *anchor = Anchor { log_ms: last_ms, boot_ms };
        }
        // Before the first command there is no log time to go on from.
        let log_ms = if anchor.log_ms > 0 { gone_on_ms.max(last_ms) } else { 0 };
        day_ms.max(log_ms)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::metadata::{Command, Envelope, Settings, apply};

    #[derive(Default)]
    struct Hands {
        boot_ms: AtomicU64,
        wall_ms: AtomicU64,
    }

    impl Clock for Hands {
        fn boot_ms(&self) -> u64 {
            self.boot_ms.load(Ordering::Relaxed)
        }

        fn wall_ms(&self) -> u64 {
            self.wall_ms.load(Ordering::Relaxed)
        }
    }

    fn state_at(log_time_ms: u64) -> Arc<Metadata> {
        let settings = Settings {
            num_shards: 1,
            replication_factor: 1,
            failure_timeout_ms: 5_000,
            lease_ms: 4_000,
            heartbeat_interval_ms: 1_000,
        };
        let command = Command::Found { cluster_id: "c".to_owned(), settings };
        let mut state = Metadata::new();
        apply(
            &mut state,
            1,
            log_time_ms,
            &Envelope { version: 1, actor: "client".to_owned(), key: None, command },
        );
        Arc::new(state)
    }

    /// Found by simulation (seed 1010): a leader's time of day ran an hour ahead and was set right; for that hour no lost copy
    /// was readmitted, since the wait before a retry is counted in log time.
    #[test]
    fn log_time_goes_on_after_the_time_of_day_was_set_back() {
        let hands = Arc::new(Hands::default());
        let (publish, state) = watch::channel(Arc::new(Metadata::new()));
        let clock = LogClock::new(hands.clone(), state);
        hands.wall_ms.store(1_000, Ordering::Relaxed);
        assert_eq!(clock.wall_ms(), 1_000);
        publish.send_replace(state_at(3_601_000));
        assert_eq!(clock.wall_ms(), 3_601_000, "what was stamped is in the past");
        hands.boot_ms.store(5_000, Ordering::Relaxed);
        hands.wall_ms.store(6_000, Ordering::Relaxed);
        assert_eq!(clock.wall_ms(), 3_606_000, "five seconds later");
        hands.wall_ms.store(4_000_000, Ordering::Relaxed);
        assert_eq!(clock.wall_ms(), 4_000_000, "the time of day has caught up");
    }
}
