//! The cluster's first command: whoever first leads gives the new cluster its id and its settings.

use std::sync::Arc;
use std::time::Duration;

use ruvector_cluster_raft::Node;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::metadata::{Command, Envelope, Metadata, Settings};
use crate::proposer;

/// Between two looks at whether it is this node's turn, where nothing tells of a change.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Proposes to found the cluster whenever this node leads and it is not founded; ends once it is. Twice is harmless.
pub(super) async fn run(
    node: Node,
    mut state: watch::Receiver<Arc<Metadata>>,
    settings: Settings,
    ending: CancellationToken,
) {
    let mut leadership = node.leadership();
    loop {
        if state.borrow_and_update().founded().is_some() {
            return;
        }
        let mine = leadership.borrow_and_update().mine;
        if let (Some(mine), Some(cluster_id)) = (mine, node.cluster_id()) {
            let command = Command::Found { cluster_id, settings: settings.clone() };
            let actor = "coordinator".to_owned();
            let envelope = Envelope { version: proposer::COMMAND_VERSION, actor, key: None, command };
            match proposer::propose_fenced(&node, mine, &envelope).await.map(|outcome| outcome.result) {
                Ok(Ok(_)) => tracing::info!("the cluster is founded"),
                Ok(Err(refusal)) => tracing::warn!(%refusal, "the cluster was not founded"),
                Err(error) => tracing::info!(%error, "founding the cluster is repeated"),
            }
        }
        tokio::select! {
            () = ending.cancelled() => return,
            _ = state.changed() => {}
            _ = leadership.changed() => {}
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}
