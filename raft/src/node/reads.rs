//! Linearizable reads, on any node: many readers share one read-index round that began after all of them arrived.
//!
//! On the leader a round asks a quorum; elsewhere it asks the leader to do so. Then the node waits until it has published
//! that index. A few rounds may run at once, so that a reader waits for less than one round before its own begins.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft::ReadPolicy;
use openraft::errors::{LinearizableReadError, RaftError};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::Instant;

use super::{Core, Node};
use crate::codec;
use crate::error::ReadError;
use crate::member::Leadership;
use crate::transport::RpcKind;

/// Rounds at once.
const ROUNDS: usize = 4;
/// Readers that wait for a round to begin; more wait in line before they are counted.
const WAITING: usize = 16_384;
/// Between two tries while there is no leader or no quorum.
const RETRY: Duration = Duration::from_millis(10);

type Reader = oneshot::Sender<Result<u64, ReadError>>;
pub(super) type Requests = mpsc::Receiver<Reader>;

/// The line of readers.
pub(super) struct Reads {
    send: mpsc::Sender<Reader>,
}

impl Reads {
    pub(super) fn new() -> (Self, Requests) {
        let (send, receive) = mpsc::channel(WAITING);
        (Self { send }, receive)
    }
}

impl Node {
    /// An index such that whatever was acknowledged before this call is at or below it, once it is published here. A read made
    /// after this returns is linearizable.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn read_index(&self) -> Result<u64, ReadError> {
        if *self.core.stopping.borrow() {
            return Err(ReadError::Stopped);
        }
        if *self.core.removed.borrow() {
            return Err(ReadError::Removed);
        }
        let (send, answer) = oneshot::channel();
        self.core.reads.send.send(send).await.map_err(|_| ReadError::Stopped)?;
        let mut stopping = self.core.stopping.subscribe();
        tokio::select! {
            answer = answer => answer.unwrap_or(Err(ReadError::Stopped)),
            _ = stopping.wait_for(|stopping| *stopping) => Err(ReadError::Stopped),
        }
    }

    /// As [`Node::read_index`], and says so only when it was this node, leading in that very term, that a quorum confirmed: the
    /// new leader of a later term has an entry of its own at or below the index, which would then be published here.
    ///
    /// # Errors
    /// [`ReadError`]; `NoLeader` also when another leadership was confirmed.
    pub async fn confirm(&self, leadership: Leadership) -> Result<u64, ReadError> {
        let index = self.read_index().await?;
        let term = self.core.published.borrow().term;
        if term == leadership.term { Ok(index) } else { Err(ReadError::NoLeader) }
    }
}

/// Forms rounds until the node ends.
pub(super) async fn run(core: Arc<Core>, mut requests: Requests) {
    let rounds = Arc::new(Semaphore::new(ROUNDS));
    while let Some(first) = requests.recv().await {
        let Ok(permit) = rounds.clone().acquire_owned().await else { return };
        let mut readers = vec![first];
        while let Ok(reader) = requests.try_recv() {
            readers.push(reader);
        }
        if mutants::is_on(mutants::Mutant::ReadJoinsOlderRound) {
            join_older_round(&core, readers, &mut requests).await;
            continue;
        }
        let core_of_round = core.clone();
        core.scope.spawn(async move {
            let deadline =
                Instant::now() + Duration::from_millis(core_of_round.config.timing.read_timeout_ms);
            let index = core_of_round.place_read(deadline).await;
            // The round is over; waiting for our own progress holds up nobody else.
            drop(permit);
            let published = match index {
                Ok(index) => core_of_round.wait_published(index, deadline).await.map(|()| index),
                Err(error) => Err(error),
            };
            answer(readers, &published);
        });
    }
}

/// The mutant: whoever arrives while the round is under way gets its answer.
async fn join_older_round(core: &Arc<Core>, mut readers: Vec<Reader>, requests: &mut Requests) {
    let deadline = Instant::now() + Duration::from_millis(core.config.timing.read_timeout_ms);
    let mut answered = core.place_read(deadline).await;
    while let Ok(reader) = requests.try_recv() {
        readers.push(reader);
    }
    if let Ok(index) = answered {
        answered = core.wait_published(index, deadline).await.map(|()| index);
    }
    answer(readers, &answered);
}

fn answer(readers: Vec<Reader>, published: &Result<u64, ReadError>) {
    for reader in readers {
        let answer = match published {
            Ok(index) => Ok(*index),
            Err(ReadError::NoLeader) => Err(ReadError::NoLeader),
            Err(ReadError::Timeout) => Err(ReadError::Timeout),
            Err(ReadError::Stopped) => Err(ReadError::Stopped),
            Err(ReadError::Removed) => Err(ReadError::Removed),
        };
        // A reader that gave up is not told.
        drop(reader.send(answer));
    }
}

impl Core {
    async fn place_read(&self, deadline: Instant) -> Result<u64, ReadError> {
        let mut leader_seen = false;
        while Instant::now() < deadline {
            match tokio::time::timeout_at(deadline, self.ask_read_index()).await {
                Ok(Ok(index)) => return Ok(index),
                Ok(Err(Unplaced::NoLeader)) => {}
                Ok(Err(Unplaced::NoQuorum)) | Err(_) => leader_seen = true,
                Ok(Err(Unplaced::Stopped)) => return Err(ReadError::Stopped),
            }
            tokio::time::sleep(RETRY).await;
        }
        Err(if leader_seen { ReadError::Timeout } else { ReadError::NoLeader })
    }

    async fn ask_read_index(&self) -> Result<u64, Unplaced> {
        let leader = match self.raft.get_read_linearizer(ReadPolicy::ReadIndex).await {
            Ok(round) => return Ok(round.read_log_id().index()),
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(to))) => to.leader_id,
            Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_))) => {
                return Err(Unplaced::NoQuorum);
            }
            Err(RaftError::Fatal(_)) => return Err(Unplaced::Stopped),
        };
        let leader = leader.filter(|leader| *leader != self.raft_id).ok_or(Unplaced::NoLeader)?;
        let peer = self.links.peer(leader).ok_or(Unplaced::NoLeader)?;
        let timeout = Duration::from_millis(self.config.timing.election_max_ms * 2);
        let envelope = self.links.envelope(Some(leader));
        let asked =
            self.links.transport().rpc(&peer.peer_url, RpcKind::ReadIndex, envelope, Bytes::new(), timeout);
        let answer = asked.await.map_err(|_| Unplaced::NoQuorum)?;
        codec::decode(RpcKind::ReadIndex.name(), &answer).map_err(|_| Unplaced::NoQuorum)
    }

    async fn wait_published(&self, index: u64, deadline: Instant) -> Result<(), ReadError> {
        let mut applied = self.applied.clone();
        match tokio::time::timeout_at(deadline, applied.wait_for(|applied| *applied >= index)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(ReadError::Stopped),
            Err(_) => Err(ReadError::Timeout),
        }
    }
}

enum Unplaced {
    NoLeader,
    NoQuorum,
    Stopped,
}
