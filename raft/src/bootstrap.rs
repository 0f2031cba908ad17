//! How a node finds its cluster: it resumes the one it belongs to, joins one that runs, or founds one with its peers.
//!
//! A fresh node asks its seeds who they are and recognises itself by its random Raft id. Where a seed belongs to a cluster, it
//! asks to join that. Otherwise, once as many fresh nodes answer as shall found the cluster, the one with the lowest id
//! proposes {cluster id, members, settings}; all of them promise themselves to it, durably (`promise`); the proposer last of
//! all, then it binds its directory to the cluster and starts Raft with those members. The others are bound by the first
//! message under that cluster id. Where nodes have different seeds there may be several proposers; then all but one give up.
//!
//! Where the seeds are not enough (each node may have been given one only), others of which it is told are asked too
//! ([`Node::set_more_seeds`](crate::Node::set_more_seeds)): fresh nodes, where it is known how many found the cluster; and members of a running
//! one, where not a single seed answers. Seeds come first, and how a cluster is founded is the same: more are heard of, no fewer agree.
//!
//! A crash anywhere leaves a state from which the same procedure goes on, as long as founders keep their addresses: a proposer
//! that is bound and whose log is empty starts what it promised itself to; everything before that is repeated.
//!
//! Nodes wait for each other without end, since people start them; what they wait for is in [`Phase`].

pub(crate) mod messages;
pub(crate) mod promise;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;

use crate::codec;
use crate::error::{FatalError, GreetError};
use crate::member::{Greeting, MemberInfo};
use crate::node::Core;
use crate::transport::{Envelope, RpcKind, Transport, TransportError};
use crate::types::Peer;
use messages::{Hello, JoinAnswer, JoinRequest, Proposal, ReleaseAnswer, ReleaseRequest};
use promise::PromiseError;

/// Where a node is on its way into a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Not yet in a cluster, or its cluster has not answered yet.
    Waiting {
        /// For what, in a sentence; names flags that disagree.
        why: String,
    },
    /// A member of its cluster.
    Running,
}

const ASK_TIMEOUT: Duration = Duration::from_secs(1);
/// Between two looks around: short, since a cluster's start waits for it; each is a handful of requests.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Brings the node into its cluster, then returns.
pub(crate) async fn run(core: Arc<Core>) {
    let mut last = String::new();
    loop {
        match step(&core).await {
            Ok(()) => break,
            Err(Hindrance::Fatal(error)) => {
                core.stop_with(error);
                return;
            }
            Err(Hindrance::Wait(why)) => {
                if why != last {
                    tracing::warn!(node = core.config.name, "{why}");
                    last.clone_from(&why);
                }
                core.phase.send_replace(Phase::Waiting { why });
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    core.phase.send_replace(Phase::Running);
    tracing::info!(node = core.config.name, cluster_id = core.links.cluster_id(), "member of its cluster");
}

enum Hindrance {
    Wait(String),
    Fatal(FatalError),
}

impl From<PromiseError> for Hindrance {
    fn from(error: PromiseError) -> Self {
        match error {
            PromiseError::Storage(why) => Self::Fatal(FatalError::Storage(why)),
            other => Self::Wait(format!("this control node cannot found a cluster: {other}")),
        }
    }
}

fn wait<T>(why: impl Into<String>) -> Result<T, Hindrance> {
    Err(Hindrance::Wait(why.into()))
}

/// One attempt; `Ok` when this node is a member.
async fn step(core: &Arc<Core>) -> Result<(), Hindrance> {
    if core.is_member() {
        return update_address(core).await;
    }
    if core.founding.cluster_id().is_some() {
        resume_founding(core).await?;
    }
    let seeds = look_around(core).await;
    let running = seeds.running()?;
    ask_for_release(core, &seeds, running.is_some()).await;
    if let Some(cluster_id) = running {
        let joined = join(core, &seeds, cluster_id).await;
        core.founding.stop_joining().await;
        return joined;
    }
    if core.founding.cluster_id().is_some() {
        return wait("waiting to hear from its cluster");
    }
    found(core, seeds).await
}

/// A proposer that crashed between binding its directory and starting Raft starts it now.
async fn resume_founding(core: &Core) -> Result<(), Hindrance> {
    let Some(promised) = core.founding.promised().await else { return Ok(()) };
    let cluster_id = core.founding.cluster_id();
    if promised.proposer == core.raft_id && cluster_id.as_deref() == Some(&promised.cluster_id) {
        return core.initialize(promised.members).await.map_err(Hindrance::Fatal);
    }
    Ok(())
}

/// The seeds that answered, by Raft id, without itself, and those that did not.
#[derive(Default)]
struct Seeds {
    found: BTreeMap<u64, Hello>,
    silent: Vec<String>,
    /// One of them is this node.
    is_met: bool,
}

impl Seeds {
    /// The cluster that some of them belong to.
    fn running(&self) -> Result<Option<&str>, Hindrance> {
        let clusters: BTreeMap<&str, &Hello> =
            self.found.values().filter_map(|hello| Some((hello.cluster_id.as_deref()?, hello))).collect();
        if clusters.len() > 1 {
            let names = clusters.iter().map(|(id, hello)| format!("{} to {id}", hello.member.client_url));
            return wait(format!(
                "the seeds belong to different clusters ({}); correct the seeds, or empty the directories of one",
                names.collect::<Vec<_>>().join(", ")
            ));
        }
        Ok(clusters.into_keys().next())
    }
}

async fn look_around(core: &Core) -> Seeds {
    let mut seeds = ask_all(core, &core.config.seeds).await;
    let found_all = core.config.bootstrap_expect.is_some_and(|expected| seeds.found.len() + 1 >= expected);
    let is_running = seeds.found.values().any(|hello| hello.cluster_id.is_some());
    if core.config.seeds.is_empty() || is_running || found_all {
        return seeds;
    }
    let is_answered = seeds.is_met || !seeds.found.is_empty();
    if is_answered && core.config.bootstrap_expect.is_none() {
        return seeds;
    }
    let more: Vec<String> =
        core.more_seeds().into_iter().filter(|addr| !core.config.seeds.contains(addr)).collect();
    for (raft_id, hello) in ask_all(core, &more).await.found {
        let counts = match hello.cluster_id {
            Some(_) => !is_answered,
            None => core.config.bootstrap_expect.is_some(),
        };
        if counts {
            seeds.found.entry(raft_id).or_insert(hello);
        }
    }
    seeds
}

async fn ask_all(core: &Core, addrs: &[String]) -> Seeds {
    let mut asking: FuturesUnordered<_> =
        addrs.iter().map(|seed| async move { (seed, ask_hello(core, seed).await) }).collect();
    let mut seeds = Seeds::default();
    while let Some((seed, answer)) = asking.next().await {
        match answer {
            Ok(hello) if hello.member.raft_id == core.raft_id => seeds.is_met = true,
            Ok(hello) => {
                seeds.found.insert(hello.member.raft_id, hello);
            }
            Err(error) => {
                tracing::debug!(seed, %error, "no hello");
                seeds.silent.push(seed.clone());
            }
        }
    }
    seeds.silent.sort();
    seeds
}

/// A seed is a client address. The peer listener is 1,000 ports above unless it was told otherwise; then the client API says
/// where.
async fn ask_hello(core: &Core, seed: &str) -> Result<Hello, TransportError> {
    let transport = core.links.transport();
    let foreign =
        |error: codec::CodecError| TransportError::NoAnswer { peer: seed.to_owned(), why: error.to_string() };
    let direct = match peer_url_of(seed) {
        Some(url) => {
            let envelope = Envelope { from: core.raft_id, to: None, cluster_id: None };
            transport.rpc(&url, RpcKind::Hello, envelope, Bytes::new(), ASK_TIMEOUT).await
        }
        None => Err(TransportError::Unreachable { peer: seed.to_owned(), why: "it has no port".to_owned() }),
    };
    match direct {
        Ok(answer) => codec::decode("hello", &answer).map_err(foreign),
        Err(error) => match transport.hello(seed, ASK_TIMEOUT).await {
            Ok(answer) => serde_json::from_slice(&answer)
                .map_err(|error| TransportError::NoAnswer { peer: seed.to_owned(), why: error.to_string() }),
            Err(_) => Err(error),
        },
    }
}

/// Asks the control node whose client API is at `addr` (`host:port`) who it is, also before a node of one's own is started.
///
/// # Errors
/// [`GreetError`].
pub async fn greet(transport: &dyn Transport, addr: &str, timeout: Duration) -> Result<Greeting, GreetError> {
    let answer = transport.hello(addr, timeout).await.map_err(GreetError::NoAnswer)?;
    let hello: Hello = serde_json::from_slice(&answer).map_err(GreetError::Foreign)?;
    Ok(Greeting { member: hello.member, cluster_id: hello.cluster_id })
}

fn peer_url_of(seed: &str) -> Option<String> {
    let (host, port) = seed.rsplit_once(':')?;
    let port = port.parse::<u16>().ok()?.checked_add(1_000)?;
    Some(format!("http://{host}:{port}"))
}

/// Asks to be taken in, one seed after the other: one may have been removed, and not know of it.
async fn join(core: &Arc<Core>, seeds: &Seeds, cluster_id: &str) -> Result<(), Hindrance> {
    if let Some(bound) = core.founding.cluster_id()
        && bound != *cluster_id
    {
        let why = format!(
            "this data directory belongs to cluster {bound}, the seeds to {cluster_id}; correct the seeds, or start with an \
             empty directory"
        );
        return Err(Hindrance::Fatal(FatalError::Refused(why)));
    }
    if !core.adopt(cluster_id).await?
        && let Some(promised) = core.founding.begin_joining().await
    {
        return wait(told(&promised));
    }
    let mut not_yet = String::new();
    for seed in seeds.found.values().filter(|hello| hello.cluster_id.as_deref() == Some(cluster_id)) {
        match join_by(core, &seed.member).await? {
            None => return wait("waiting for the leader's first entries"),
            Some(why) => not_yet = why,
        }
    }
    wait(not_yet)
}

/// Asks a member, and the leader it names, to be taken in; answers why that has not happened.
async fn join_by(core: &Core, member: &MemberInfo) -> Result<Option<String>, Hindrance> {
    let mut asked = member.clone();
    // A member that does not lead names the leader; one more hop is enough, or the next look around begins anew.
    for _ in 0..2 {
        match ask_to_join(core, &asked.peer_url, asked.raft_id).await {
            Ok(JoinAnswer::Joined { cluster_id }) => {
                core.founding.join(&cluster_id).await?;
                core.links.set_cluster_id(cluster_id);
                return Ok(None);
            }
            Ok(JoinAnswer::Elsewhere { leader: Some(leader) }) => asked = leader,
            Ok(JoinAnswer::Elsewhere { leader: None }) => {
                return Ok(Some("its cluster has no leader now".to_owned()));
            }
            Ok(JoinAnswer::Refused { why }) => return Err(Hindrance::Fatal(FatalError::Refused(why))),
            Ok(JoinAnswer::Later { why }) => {
                return Ok(Some(format!("its cluster cannot take it in yet: {why}")));
            }
            Err(error) => return Ok(Some(format!("its cluster cannot be asked: {error}"))),
        }
    }
    Ok(Some("its cluster is electing a leader".to_owned()))
}

async fn ask_to_join(core: &Core, peer_url: &str, raft_id: u64) -> Result<JoinAnswer, String> {
    let request = JoinRequest { member: core.info() };
    let body = codec::encode("join", &request).map_err(|error| error.to_string())?;
    let envelope = Envelope { from: core.raft_id, to: Some(raft_id), cluster_id: None };
    let answer = core.links.transport().rpc(peer_url, RpcKind::Join, envelope, body, ASK_TIMEOUT * 3).await;
    codec::decode("join", &answer.map_err(|error| error.to_string())?).map_err(|error| error.to_string())
}

/// A member that came back under other addresses tells the leader.
async fn update_address(core: &Core) -> Result<(), Hindrance> {
    let Some(known) = core.own_entry() else { return Ok(()) };
    let info = core.info();
    if known.info(core.raft_id) == info {
        return Ok(());
    }
    if known.name != info.name {
        let why = format!("this data directory is that of {}, not of {}", known.name, info.name);
        return Err(Hindrance::Fatal(FatalError::Refused(why)));
    }
    let Some(leader) = core.leader() else { return wait("waiting for a leader, to tell its new addresses") };
    // A leader is not to be found where it was.
    let answer = match leader.raft_id == core.raft_id {
        true => Ok(core.take_in(info).await),
        false => ask_to_join(core, &leader.peer_url, leader.raft_id).await,
    };
    match answer {
        Ok(JoinAnswer::Joined { .. }) => Ok(()),
        Ok(JoinAnswer::Refused { why }) => Err(Hindrance::Fatal(FatalError::Refused(why))),
        Ok(JoinAnswer::Elsewhere { .. } | JoinAnswer::Later { .. }) | Err(_) => {
            wait("telling its new addresses")
        }
    }
}

fn told(promised: &Proposal) -> String {
    let proposer = promised.members.get(&promised.proposer);
    let (name, url) = proposer.map_or(("?", "?"), |peer| (peer.name.as_str(), peer.peer_url.as_str()));
    format!(
        "promised to the control node {name} at {url}, which has neither founded its cluster nor released this node"
    )
}

/// A promised node asks its proposer to be released: on its own behalf where it found a cluster to join.
async fn ask_for_release(core: &Core, seeds: &Seeds, joining: bool) {
    let Some((promise, request)) = core.founding.plea(joining).await else { return };
    let proposer = promise.proposer;
    let released = if proposer == core.raft_id {
        core.founding.give_up(&request).await
    } else {
        // It may have moved.
        let seen = seeds.found.get(&proposer).map(|hello| &hello.member.peer_url);
        let promised = promise.members.get(&proposer).map(|peer| &peer.peer_url);
        let Some(peer_url) = seen.or(promised) else { return };
        match release(core, proposer, peer_url, &request).await {
            Ok(answer) => answer.released,
            Err(error) => {
                tracing::debug!(peer_url, error, "the promise stands");
                false
            }
        }
    };
    if released {
        tracing::info!(node = core.config.name, proposer, "released from its promise");
        core.founding.release(&request).await;
    }
}

async fn release(
    core: &Core,
    raft_id: u64,
    peer_url: &str,
    request: &ReleaseRequest,
) -> Result<ReleaseAnswer, String> {
    let body = codec::encode("release", request).map_err(|error| error.to_string())?;
    let envelope = Envelope { from: core.raft_id, to: Some(raft_id), cluster_id: None };
    let answer = core.links.transport().rpc(peer_url, RpcKind::Release, envelope, body, ASK_TIMEOUT).await;
    codec::decode("release", &answer.map_err(|error| error.to_string())?).map_err(|error| error.to_string())
}

/// Founds a cluster with the fresh nodes found, where this one has the lowest id of the founders and all agree.
async fn found(core: &Arc<Core>, seeds: Seeds) -> Result<(), Hindrance> {
    let founders = founders(core, &seeds)?;
    let Some((&lowest, _)) = founders.first_key_value() else { return wait("no founders") };
    if lowest != core.raft_id {
        return wait(format!("waiting for {} to propose the cluster", founders[&lowest].name));
    }
    if let Some(promised) = core.founding.promised().await
        && promised.proposer != core.raft_id
    {
        return wait(told(&promised));
    }
    let Some(proposal) = core.founding.draft(founders).await else {
        return wait("letting another control node propose the cluster");
    };
    gather_promises(core, &proposal).await?;
    core.promise(proposal.clone()).await?;
    if core.adopt(&proposal.cluster_id).await? {
        core.initialize(proposal.members).await.map_err(Hindrance::Fatal)?;
    }
    wait("starting the cluster")
}

fn founders(core: &Core, seeds: &Seeds) -> Result<BTreeMap<u64, Peer>, Hindrance> {
    let mut disagreements = BTreeSet::new();
    for hello in seeds.found.values() {
        let mut differences = core.founding.differences(&hello.settings.0);
        if let (Some(mine), Some(theirs)) = (core.config.bootstrap_expect, hello.bootstrap_expect)
            && mine != theirs
        {
            differences.push(format!("bootstrap-expect is {mine} here, {theirs} there"));
        }
        if !differences.is_empty() {
            disagreements.insert(format!(
                "flags disagree with {}: {}",
                hello.member.name,
                differences.join(", ")
            ));
        }
        if hello.member.name == core.config.name {
            disagreements.insert(format!(
                "the name {} is used twice: here and at {}; give each control node its own --node-id",
                core.config.name, hello.member.client_url
            ));
        }
    }
    if !disagreements.is_empty() {
        return wait(disagreements.into_iter().collect::<Vec<_>>().join("; "));
    }
    let mut founders: BTreeMap<u64, Peer> =
        seeds.found.values().map(|hello| (hello.member.raft_id, Peer::new(hello.member.clone()))).collect();
    founders.insert(core.raft_id, Peer::new(core.info()));
    let silent = seeds.silent.join(", ");
    match core.config.bootstrap_expect {
        None if !seeds.silent.is_empty() => wait(format!("waiting for the seeds {silent}")),
        Some(expected) if founders.len() < expected => {
            wait(format!("{} of {expected} control nodes found; no answer from {silent}", founders.len()))
        }
        // The others join what these found.
        Some(expected) => Ok(founders.into_iter().take(expected.min(core.config.max_voters)).collect()),
        None => Ok(founders.into_iter().take(core.config.max_voters).collect()),
    }
}

/// Asks all others to promise themselves. All must, or nothing starts.
async fn gather_promises(core: &Core, proposal: &Proposal) -> Result<(), Hindrance> {
    let body = codec::encode("promise", proposal).map_err(|error| Hindrance::Wait(error.to_string()))?;
    let others = proposal.members.iter().filter(|(raft_id, _)| **raft_id != core.raft_id);
    let mut asking: FuturesUnordered<_> = others
        .map(|(raft_id, peer)| {
            let envelope = Envelope { from: core.raft_id, to: Some(*raft_id), cluster_id: None };
            let asked = core.links.transport().rpc(
                &peer.peer_url,
                RpcKind::Promise,
                envelope,
                body.clone(),
                ASK_TIMEOUT,
            );
            async move { (&peer.name, asked.await) }
        })
        .collect();
    let mut refusals = BTreeSet::new();
    while let Some((name, answer)) = asking.next().await {
        if let Err(error) = answer {
            refusals.insert(format!("{name} did not promise itself: {error}"));
        }
    }
    if refusals.is_empty() { Ok(()) } else { wait(refusals.into_iter().collect::<Vec<_>>().join("; ")) }
}

/// The address that a URL with port 0 stands for.
pub(crate) fn with_port(url: &str, bound: SocketAddr) -> String {
    match url.strip_suffix(":0") {
        Some(host) => format!("{host}:{}", bound.port()),
        None => url.to_owned(),
    }
}
