//! A leader whose disk is full hands its leadership over.
//!
//! It can take no writes; another voter may. Reads go on here either way. Where that one's disk is full too it hands over in
//! its turn, so a pause between two tries bounds how often leadership moves while no disk has room.

use std::sync::Arc;
use std::time::Duration;

use ruvector_cluster_storage::Space;

use super::{Core, Node};

/// Between two tries: long against an election, short against a person who makes room.
const PAUSE: Duration = Duration::from_secs(2);

/// Watches the disk until the node ends.
pub(super) async fn run(core: Arc<Core>) {
    let mut space = core.space.clone();
    let mut leadership = core.leadership_watch();
    loop {
        if space.wait_for(|space| *space == Space::Full).await.is_err() {
            return;
        }
        if leadership.wait_for(|state| state.mine.is_some()).await.is_err() {
            return;
        }
        if *space.borrow() != Space::Full {
            continue;
        }
        match (Node { core: core.clone() }).transfer(None).await {
            Ok(()) => tracing::warn!("the disk of the log is full: leadership was handed over"),
            Err(error) => tracing::warn!(%error, "the disk of the log is full, and nobody took over"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}
