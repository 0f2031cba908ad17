//! One run of chitchat, from its socket's opening to its end.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use chitchat::{
    Chitchat, ChitchatConfig, ChitchatHandle, ChitchatId, FailureDetectorConfig, NodeState, ProtocolVersion,
    spawn_chitchat,
};
use tokio::net::lookup_host;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};

use super::datagram::{MAX_VERSION, MemberId, PROTOCOL};
use super::sighting::{CLUSTER_ID, Sighting};
use super::socket::{Gate, Gated};
use super::{GossipConfig, Shared};
use crate::chance;
use crate::clock::{Clock, SystemClock};

/// A node speaks to three others so often, so that all know a change after log(members) times.
const INTERVAL: Duration = Duration::from_millis(500);

/// A member is missed when what it counts has not risen for [`PHI`] times the mean of the last [`SAMPLES`] intervals in which it
/// did, and five more of [`PRIOR`] that stand for what is not known. Rises are seen each 50 to 500 ms, the seldomer the more
/// members there are, so a silent one is missed after (10 x 0.05 + 5 x 1.5) / 15 x 8 = 4.3 s to 6.7 s: after the lease
/// of a node that died with it (failure_timeout, 5 s), and long before its copies are rebuilt (down_grace_ms, 30 s).
/// Shorter would take a process that waits for a processor to be gone.
const PHI: f64 = 8.0;
const SAMPLES: usize = 10;
const PRIOR: Duration = Duration::from_millis(1_500);
/// An interval that is longer is no sample.
const MAX_SAMPLE: Duration = Duration::from_secs(5);

/// Who is missed for so long is forgotten, and told of no more after half of it. Long enough that a partition heals without a seed,
/// short enough that what somebody made up goes.
const FORGET_AFTER: Duration = Duration::from_secs(600);

/// How often suggested addresses are spoken to, and the gate is told who is remembered.
const TURN: Duration = Duration::from_secs(2);
/// How often the own address is resolved, as chitchat does with seeds.
const RESOLVE_EVERY: Duration = Duration::from_secs(60);
/// A generation that others were told wrong things of lasts at least so long: whoever forges can't make a node begin anew all the
/// time.
const MIN_GENERATION: Duration = Duration::from_secs(10);

/// Why a run ended without an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Anew {
    /// The own name stands for another address.
    Moved,
    /// Somebody else told of this member.
    SpokenFor,
    /// It set values as often as a generation may.
    WornOut,
}

/// Ends with what holds it.
struct Running(ChitchatHandle);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Runs until it has to begin anew, or can't go on.
pub(super) async fn run(
    config: &GossipConfig,
    shared: &Shared,
    publish: &watch::Sender<Arc<Sighting>>,
) -> anyhow::Result<Anew> {
    let addr = resolve(&config.advertise).await?;
    let own = ChitchatId::new(config.me.member_name(), SystemClock.wall_ms(), addr);
    let gate = Arc::new(Gate::new(member_of(&own)));
    let transport = Gated { gate: gate.clone(), reach: config.reach.clone() };
    let mut cluster_id = shared.cluster_id.subscribe();
    let mut values = config.me.values();
    values.extend(cluster_id.borrow_and_update().clone().map(|id| (CLUSTER_ID.to_owned(), id)));
    let handle = spawn_chitchat(chitchat_config(config, own), values, &transport).await?;
    let running = Running(handle);
    let mut seen = running.0.with_chitchat(|chitchat| chitchat.live_nodes_watcher()).await;
    let (began, mut resolved) = (Instant::now(), Instant::now());
    let mut turn = tokio::time::interval(TURN);
    turn.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            ended = running.0.termination_watcher() => {
                ended?;
                bail!("it ended");
            }
            changed = seen.changed() => {
                changed?;
                show(&seen.borrow_and_update(), publish);
            }
            changed = cluster_id.changed() => {
                changed?;
                let told = cluster_id.borrow_and_update().clone().unwrap_or_default();
                if tell_cluster(&running.0, &told).await >= MAX_VERSION {
                    return Ok(Anew::WornOut);
                }
            }
            _ = turn.tick() => {
                speak_to_suggested(&running.0, shared).await?;
                remember(&running.0, &gate).await;
                if gate.is_spoken_for() && began.elapsed() >= MIN_GENERATION {
                    return Ok(Anew::SpokenFor);
                }
                if resolved.elapsed() >= RESOLVE_EVERY {
                    resolved = Instant::now();
                    // While names can't be resolved, nothing is known to have moved.
                    if resolve(&config.advertise).await.is_ok_and(|now| now != addr) {
                        return Ok(Anew::Moved);
                    }
                }
            }
        }
    }
}

/// How often values were set with this one.
async fn tell_cluster(handle: &ChitchatHandle, cluster_id: &str) -> u64 {
    let tell = |chitchat: &mut Chitchat| {
        let own = chitchat.self_node_state();
        own.set(CLUSTER_ID, cluster_id);
        own.max_version()
    };
    handle.with_chitchat(tell).await
}

fn chitchat_config(config: &GossipConfig, own: ChitchatId) -> ChitchatConfig {
    ChitchatConfig {
        chitchat_id: own,
        cluster_id: PROTOCOL.to_owned(),
        gossip_interval: INTERVAL,
        listen_addr: config.listen,
        seed_nodes: config.seeds.clone(),
        failure_detector_config: FailureDetectorConfig::new(PHI, SAMPLES, MAX_SAMPLE, PRIOR, FORGET_AFTER),
        // Nothing is ever deleted.
        marked_for_deletion_grace_period: FORGET_AFTER,
        catchup_callback: None,
        extra_liveness_predicate: None,
        protocol_version: ProtocolVersion::V1,
    }
}

fn member_of(id: &ChitchatId) -> MemberId {
    let name = id.node_id.to_string();
    MemberId { name, generation: id.generation_id, addr: id.gossip_advertise_addr }
}

fn show(live: &BTreeMap<ChitchatId, NodeState>, publish: &watch::Sender<Arc<Sighting>>) {
    let seen = Sighting::of(live.values().map(|state| state.key_values().collect()));
    publish.send_if_modified(|held| {
        let is_new = **held != seen;
        if is_new {
            *held = Arc::new(seen);
        }
        is_new
    });
}

async fn remember(handle: &ChitchatHandle, gate: &Gate) {
    let (members, heartbeat) = handle
        .with_chitchat(|chitchat| {
            let members: BTreeSet<MemberId> = chitchat.node_states().keys().map(member_of).collect();
            (members, u64::from(chitchat.self_node_state().heartbeat()))
        })
        .await;
    gate.remember(members, heartbeat);
}

/// Speaks to one of the suggested addresses.
async fn speak_to_suggested(handle: &ChitchatHandle, shared: &Shared) -> anyhow::Result<()> {
    let suggested = shared.suggested.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let Some(last) = suggested.len().checked_sub(1) else { return Ok(()) };
    let chosen = usize::try_from(chance::in_range(0..=last as u64)).unwrap_or(0);
    // A name that can't be resolved now may be later.
    if let Ok(addr) = resolve(&suggested[chosen]).await {
        handle.gossip(addr)?;
    }
    Ok(())
}

async fn resolve(addr: &str) -> anyhow::Result<SocketAddr> {
    let mut found = lookup_host(addr).await.with_context(|| format!("{addr} can't be resolved"))?;
    found.next().with_context(|| format!("{addr} stands for no address"))
}
