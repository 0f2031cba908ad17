//! Data nodes in our own process: the client library's agent over a handler that holds no data. They register, send heartbeats,
//! hold leases and carry out assignments; and no two of them may serve a shard at once.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::Result;
use async_trait::async_trait;
use ruvector_cluster_client::agent::{Agent, AgentConfig, HostError, LeaseWatch, Outbox};
use ruvector_cluster_client::clock::SystemClock;
use ruvector_cluster_client::control::{ControlClient, ControlOptions};
use ruvector_cluster_client::copies::TokioSpawn;
use ruvector_cluster_client::handler::{HandlerHost, HandlerOptions, ShardHandler};
use ruvector_cluster_client::ids::{Epoch, NodeId, ShardId};
use ruvector_cluster_client::wire::{Assignment, Phase, RegisterRequest, Role};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::record::Recorder;

/// Between two looks at who serves.
const LOOK: Duration = Duration::from_millis(10);

/// What a data node knows of itself.
#[derive(Default)]
pub(crate) struct Seat {
    lease: OnceLock<Box<dyn Fn() -> bool + Send + Sync>>,
    /// Shards that it leads, while it may answer for them: not before they are opened, not while they are handed over.
    leads: Mutex<BTreeMap<ShardId, Epoch>>,
}

impl Seat {
    fn leads(&self) -> MutexGuard<'_, BTreeMap<ShardId, Epoch>> {
        self.leads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Under which epoch it serves `shard` right now.
    fn serves(&self, shard: ShardId) -> Option<Epoch> {
        // The lease is looked at last, as by whoever answers a request.
        let epoch = self.leads().get(&shard).copied()?;
        let runs = self.lease.get()?;
        runs().then_some(epoch)
    }
}

struct Handler(Arc<Seat>);

#[async_trait]
impl ShardHandler for Handler {
    fn attach(&self, lease: LeaseWatch) {
        // Called once for each seat.
        drop(self.0.lease.set(Box::new(move || lease.runs())));
    }

    async fn assigned(&self, assignment: &Assignment) -> Result<(), HostError> {
        let is_handed_over =
            assignment.migration.as_ref().is_some_and(|migration| migration.phase == Phase::HandingOver);
        if assignment.role == Role::Primary && !assignment.founding && !is_handed_over {
            self.0.leads().insert(assignment.shard, assignment.epoch);
        } else {
            self.0.leads().remove(&assignment.shard);
        }
        Ok(())
    }

    async fn unassigned(&self, shard: ShardId) -> Result<(), HostError> {
        self.0.leads().remove(&shard);
        Ok(())
    }

    async fn session_ended(&self) {
        self.0.leads().clear();
    }
}

/// Starts data nodes with these names, and looks at who serves, until `tasks` ends.
pub(crate) fn start(
    names: &[String],
    coordinators: &[String],
    shards: u32,
    recorder: &Recorder,
    tasks: &mut JoinSet<()>,
) -> Result<()> {
    let mut seats = Vec::new();
    for (n, name) in names.iter().enumerate() {
        let node: NodeId = name.parse()?;
        let (seat, clock) = (Arc::new(Seat::default()), Arc::new(SystemClock));
        let lease = LeaseWatch::new(clock.clone());
        let (reporter, outbox) = Outbox::new();
        let handler = Arc::new(Handler(seat.clone()));
        let (spawn, options) = (Arc::new(TokioSpawn), HandlerOptions::default());
        let host = HandlerHost::start(node.clone(), handler, lease.clone(), reporter, spawn, options);
        let registration = RegisterRequest {
            addr: format!("{name}.invalid:1"),
            store_id: format!("store-of-{name}"),
            zone: None,
            rack: Some(format!("r{n}")),
            labels: BTreeMap::new(),
            capacity: None,
            capacity_bytes: None,
            accept_data_loss: false,
        };
        let control = ControlClient::new(ControlOptions::new(coordinators.to_vec()))?;
        let agent = Agent::new(AgentConfig::new(node, registration), control, host, clock, lease, outbox);
        seats.push((name.clone(), seat));
        let (recorder, name) = (recorder.clone(), name.clone());
        tasks.spawn(async move {
            let ended = agent.run(CancellationToken::new()).await;
            recorder.violation("a data node is never refused for good", format!("{name}: {ended:?}"));
        });
    }
    let recorder = recorder.clone();
    tasks.spawn(async move {
        loop {
            tokio::time::sleep(LOOK).await;
            for shard in (0..shards).map(ShardId) {
                if let Some(twice) = served_twice(&seats, shard) {
                    recorder.violation("one data node serves a shard", twice);
                }
            }
        }
    });
    Ok(())
}

/// Two that serve `shard` at one moment.
fn served_twice(seats: &[(String, Arc<Seat>)], shard: ShardId) -> Option<String> {
    let mut serving = seats.iter().filter_map(|(name, seat)| Some((name, seat, seat.serves(shard)?)));
    let (first, seat, epoch) = serving.next()?;
    let (second, _, other) = serving.next()?;
    // The first one still does, so it did when the second one was looked at.
    let still = seat.serves(shard) == Some(epoch);
    still.then(|| format!("shard {shard} by {first} under {epoch:?} and by {second} under {other:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_that_lead_a_shard_while_their_leases_run_are_told() {
        let seat = |name: &str, runs: bool, epoch: u64| {
            let seat = Seat::default();
            drop(seat.lease.set(Box::new(move || runs)));
            seat.leads().insert(ShardId(1), Epoch(epoch));
            (name.to_owned(), Arc::new(seat))
        };
        let both = [seat("d1", true, 1), seat("d2", true, 2)];
        assert!(served_twice(&both, ShardId(1)).is_some());
        assert_eq!(served_twice(&both, ShardId(2)), None);
        assert_eq!(served_twice(&[seat("d1", false, 1), seat("d2", true, 2)], ShardId(1)), None);
    }
}
