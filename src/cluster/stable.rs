//! Waiting for the cluster to settle.

use std::time::Duration;

use ruvector_cluster_client::control::Call;
use ruvector_cluster_client::ids::{NodeId, Revision};
use ruvector_cluster_client::wire::{ClusterView, MemberRole};
use ruvector_cluster_raft::Phase;
use tokio::time::Instant;

use super::live::Live;
use super::{ClusterError, Result, millis};

/// Between two looks: not all that is waited for is a change of the state.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// So long nothing must be missing, nor change: the leader decides again 50 ms after a change, and between two waves of migrations none is
/// active for as long.
const QUIET: Duration = Duration::from_millis(300);

pub(super) async fn wait(live: &Live, timeout: Duration) -> Result<()> {
    let began = Instant::now();
    let deadline = began + timeout;
    let mut quiet: Option<(Revision, Instant)> = None;
    loop {
        if let Some(why) = live.refused.borrow().clone() {
            return Err(ClusterError::Registration(why));
        }
        if let Some(failure) = live.failure() {
            return Err(failure);
        }
        let waiting_for = match tokio::time::timeout_at(deadline, missing(live)).await {
            Ok(missing) if missing.is_empty() => {
                let revision = live.state.borrow().revision();
                match quiet {
                    Some((then, since)) if then == revision && since.elapsed() >= QUIET => {
                        warn_of_other_settings(live);
                        return Ok(());
                    }
                    Some((then, _)) if then == revision => {}
                    Some(_) | None => quiet = Some((revision, Instant::now())),
                }
                vec!["the last change to be followed by no other".to_owned()]
            }
            Ok(missing) => {
                quiet = None;
                missing
            }
            Err(_) => vec!["an answer of the leader".to_owned()],
        };
        if Instant::now() >= deadline {
            return Err(ClusterError::NotStable { waited_ms: millis(began.elapsed()), waiting_for });
        }
        tokio::time::sleep_until(deadline.min(Instant::now() + LOOK_EVERY)).await;
    }
}

/// What is not yet as it should be, a sentence each.
async fn missing(live: &Live) -> Vec<String> {
    if let Phase::Waiting { why } = &*live.phase.borrow() {
        return vec![format!("this control node to find its cluster (seeds): {why}")];
    }
    if live.leadership.borrow().leader.is_none() {
        return vec!["a leader: more than half of the voters have to run and reach each other".to_owned()];
    }
    let mut missing = Vec::new();
    {
        let state = live.state.borrow();
        if state.founded().is_none() {
            return vec!["the cluster to be founded".to_owned()];
        }
        match state.node(&live.name) {
            None => missing.push(format!("{} to be registered as a data node", live.name)),
            Some(row) if row.is_down() => missing.push(format!("{} to be alive again", live.name)),
            Some(_) => {}
        }
        let unassigned = state.shard_counts().unassigned;
        if unassigned > 0 {
            missing.push(format!("{unassigned} shards to be assigned and opened"));
        }
        let active = state.active_migrations().count();
        if active > 0 {
            missing.push(format!("{active} migrations to end"));
        }
    }
    if missing.is_empty() {
        match live.ask::<ClusterView>(Call::get("/v1/cluster")).await {
            Ok(view) => missing.extend(lagging(&view)),
            Err(error) => missing.push(format!("an answer of the leader ({error})")),
        }
    }
    missing
}

/// What was fixed at the founding holds, whatever this process was told.
fn warn_of_other_settings(live: &Live) {
    let state = live.state.borrow();
    let Some(founded) = state.founded().map(|founded| &founded.settings) else { return };
    if *founded != live.asked {
        tracing::warn!(node = %live.name, ?founded, asked = ?live.asked, "the cluster was founded with other settings; these hold");
    }
}

/// Voters that lack something of what was committed when the leader was asked.
fn lagging(view: &ClusterView) -> impl Iterator<Item = String> {
    let is_leader = |id: &NodeId| view.leader.as_ref().is_some_and(|leader| leader.id == *id);
    let behind = view.members.iter().filter(move |member| {
        let has = member.matched.unwrap_or(0);
        member.role == MemberRole::Voter && !is_leader(&member.id) && has < view.revision.0
    });
    behind.map(|member| {
        let has = member.matched.unwrap_or(0);
        format!("control node {} to catch up: it has {has} of {} log entries", member.id, view.revision)
    })
}
