use tokio::time::Instant;

use super::MapVersion;

/// How a map is kept fresh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// An event stream of `GET /v1/watch`.
    Stream,
    /// Requests to `GET /v1/watch` that are answered when something changes.
    LongPoll,
    /// `GET /v1/map`, again and again.
    Poll,
}

/// How old the held map may be.
#[derive(Clone, Debug)]
pub struct Freshness {
    /// The held map; none before one was read.
    pub version: Option<MapVersion>,
    /// Milliseconds since a control node last said that this is its map; none before one did. That control node may itself
    /// have been behind.
    pub current_ms_ago: Option<u64>,
    /// How it said so last.
    pub way: Option<Way>,
    /// What went wrong last, unless a control node has said since that the map is current.
    pub last_error: Option<String>,
}

/// What [`Freshness`] is made from.
#[derive(Debug, Default)]
pub(super) struct Noted {
    pub(super) current: Option<(Instant, Way)>,
    pub(super) last_error: Option<String>,
}

impl Noted {
    pub(super) fn freshness(&self, version: Option<MapVersion>) -> Freshness {
        let ago = |at: Instant| u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX);
        Freshness {
            version,
            current_ms_ago: self.current.map(|(at, _)| ago(at)),
            way: self.current.map(|(_, way)| way),
            last_error: self.last_error.clone(),
        }
    }
}
