//! Reads that bring the map up to date without a stream.

use crate::control::{Changed, ControlClient, ControlError};
use crate::map::{MapCache, MapVersion, Way};

/// What a read found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// Control nodes tell what changed.
    Changes,
    /// They do not, or not here: the map was read.
    Map,
}

/// Reads into a cache.
pub(crate) struct Reader {
    control: ControlClient,
    cache: MapCache,
    /// Of the map that was read whole last.
    tag: Option<(MapVersion, String)>,
}

impl Reader {
    pub(crate) fn new(control: ControlClient, cache: MapCache) -> Self {
        Self { control, cache, tag: None }
    }

    /// Reads the map, unless it is the one that is held.
    pub(crate) async fn read_map(&mut self) -> Result<(), ControlError> {
        let held = self.cache.version();
        let tag = self.tag.as_ref().filter(|(version, _)| Some(*version) == held);
        let said = match self.control.map_unless(tag.map(|(_, tag)| tag.clone())).await? {
            Changed::No => held,
            Changed::Yes { body, tag } => {
                let version = MapVersion { generation: body.generation, revision: body.revision };
                self.tag = tag.map(|tag| (version, tag));
                self.cache.install(body);
                Some(version)
            }
        };
        if said >= self.cache.version() {
            self.cache.note_current(Way::Poll);
        }
        Ok(())
    }

    /// Reads what changed, or waits for it; the whole map where no changes are to be had. `turn` says whom to ask first.
    pub(crate) async fn catch_up(&mut self, wait_ms: u64, turn: usize) -> Result<Found, ControlError> {
        let Some(held) = self.cache.version() else {
            return self.read_map().await.map(|()| Found::Map);
        };
        let at = self.control.preferred().wrapping_add(turn);
        match self.control.changes(held.revision, wait_ms, at).await {
            Ok(said) => {
                self.cache.apply_all(&said.events, said.revision);
                if self.cache.version().is_some_and(|held| held.revision <= said.revision) {
                    self.cache.note_current(Way::LongPoll);
                }
                Ok(Found::Changes)
            }
            Err(error) if is_compacted(&error) => self.read_map().await.map(|()| Found::Changes),
            Err(error) if is_not_there(&error) => self.read_map().await.map(|()| Found::Map),
            Err(error) => Err(error),
        }
    }
}

pub(super) fn is_compacted(error: &ControlError) -> bool {
    error.status() == Some(410)
}

/// Whether it is not offered here: by an older control node, or past a proxy. What is no JSON is none of ours.
fn is_not_there(error: &ControlError) -> bool {
    match error {
        ControlError::Malformed { .. } => true,
        ControlError::Refused(problem) => matches!(problem.status, 400 | 404 | 405 | 406 | 415 | 501),
        ControlError::NoCoordinators
        | ControlError::Setup(_)
        | ControlError::Unavailable { .. }
        | ControlError::RetriesExhausted { .. } => false,
    }
}
