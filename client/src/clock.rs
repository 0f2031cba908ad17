//! The clock seam: everything that reads time gets it here, so that a simulation can replace it.

use std::time::{SystemTime, UNIX_EPOCH};

/// Two clocks. Implementations never panic and never block.
pub trait Clock: Send + Sync + 'static {
    /// Milliseconds of a clock that never goes back and runs on while the machine is suspended. Leases are counted on it;
    /// its zero means nothing.
    fn boot_ms(&self) -> u64;

    /// Milliseconds since 1970 in UTC, as the machine believes. For stamps that people read, never for decisions.
    fn wall_ms(&self) -> u64;
}

/// The machine's clocks: CLOCK_BOOTTIME and the system's time of day.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn boot_ms(&self) -> u64 {
        #[cfg(target_os = "linux")]
        let id = rustix::time::ClockId::Boottime;
        #[cfg(not(target_os = "linux"))]
        let id = rustix::time::ClockId::Monotonic;
        let now = rustix::time::clock_gettime(id);
        u64::try_from(now.tv_sec).unwrap_or(0) * 1_000 + u64::try_from(now.tv_nsec).unwrap_or(0) / 1_000_000
    }

    #[expect(clippy::disallowed_methods, reason = "this is the seam")]
    fn wall_ms(&self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }
}
