//! Rows with what only the leader knows laid over them.

use ruvector_cluster_client::wire::{Migration, Node, Shard};

use super::app::App;
use crate::metadata::view::{self, MigrationSoft, NodeSoft, ShardSoft};
use crate::metadata::{Metadata, MigrationRow, NodeRow, ShardRow};
use crate::soft::Soft;

/// One data node, as this control node knows it now: its soft fields are null where it does not lead.
pub(super) fn node_now(app: &App, state: &Metadata, row: &NodeRow) -> Node {
    let boot_ms = app.clock.boot_ms();
    let seen = app.look(|soft| node(state, row, Some(soft), boot_ms));
    seen.unwrap_or_else(|| node(state, row, None, boot_ms))
}

/// One shard, likewise.
pub(super) fn shard_now(app: &App, state: &Metadata, row: &ShardRow) -> Shard {
    app.look(|soft| shard(state, row, Some(soft))).unwrap_or_else(|| shard(state, row, None))
}

/// One migration, likewise.
pub(super) fn migration_now(app: &App, row: &MigrationRow) -> Migration {
    app.look(|soft| migration(row, Some(soft))).unwrap_or_else(|| migration(row, None))
}

/// A data node; without `soft` its soft fields are null.
pub(super) fn node(state: &Metadata, row: &NodeRow, soft: Option<&Soft>, boot_ms: u64) -> Node {
    let Some(soft) = soft else { return view::node(state, row, NodeSoft::default()) };
    let said = soft.nodes.get(&row.id);
    let known = NodeSoft {
        suspect: soft.liveness.is_suspect(&row.id, boot_ms),
        size_bytes: said.filter(|said| said.complete).map(|said| said.size_bytes()),
        last_heartbeat_ms: said.map(|said| said.last_heartbeat_wall_ms),
        heard_by_gossip: Some(soft.heard_of.has(row)),
    };
    view::node(state, row, known)
}

/// A shard; without `soft` its soft fields are null.
pub(super) fn shard(state: &Metadata, row: &ShardRow, soft: Option<&Soft>) -> Shard {
    let held = soft.zip(row.primary.as_ref()).and_then(|(soft, primary)| soft.held(primary, row.id));
    let known = ShardSoft { size_bytes: held.map(|h| h.size_bytes), vectors: held.map(|h| h.vectors) };
    view::shard(state, row, known)
}

/// A migration; without `soft` its soft fields are null.
pub(super) fn migration(row: &MigrationRow, soft: Option<&Soft>) -> Migration {
    let progress = soft.and_then(|soft| soft.progress.get(&row.id));
    let known = progress.map(|progress| MigrationSoft {
        bytes_done: progress.bytes_done,
        bytes_total: progress.bytes_total,
        eta_ms: progress.eta_ms(),
    });
    view::migration(row, known.unwrap_or_default())
}
