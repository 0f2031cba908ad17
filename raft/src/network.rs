//! openraft's network over a [`Transport`]: who is asked, under which name, with which deadline.
//!
//! [`Links`] is what one node knows about reaching the others: its own envelope and everybody's latest address. Addresses are
//! looked up at each call, since a member may come back under another one while its replication stream lives on.
//!
//! Caveat: openraft passes the heartbeat interval as the deadline of an append; that is too short for one that waits for a
//! disk. Streams of entries have their own limit (see [`crate::pipeline`]).

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2, stream_append_sequential};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use ruvector_cluster_storage::SnapshotFile;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::codec::{self, CodecError};
use crate::pipeline;
use crate::transport::{Envelope, Messages, RpcKind, Transport, TransportError};
use crate::types::{Peer, TypeConfig, Vote};

type Snapshot = openraft::Snapshot<crate::types::CommittedLeaderId, u64, Peer, SnapshotFile>;

/// The bytes of a snapshot that travel in one message.
const SNAPSHOT_PIECE_BYTES: usize = 256 << 10;
const OPEN_TIMEOUT: Duration = Duration::from_secs(2);

/// What a node knows about reaching the others.
pub(crate) struct Links {
    transport: Arc<dyn Transport>,
    raft_id: u64,
    state: RwLock<LinksState>,
}

#[derive(Default)]
struct LinksState {
    cluster_id: Option<String>,
    peers: BTreeMap<u64, Peer>,
}

impl Links {
    pub(crate) fn new(transport: Arc<dyn Transport>, raft_id: u64, cluster_id: Option<String>) -> Arc<Self> {
        let state = LinksState { cluster_id, peers: BTreeMap::new() };
        Arc::new(Self { transport, raft_id, state: RwLock::new(state) })
    }

    pub(crate) fn transport(&self) -> &Arc<dyn Transport> {
        &self.transport
    }

    pub(crate) fn cluster_id(&self) -> Option<String> {
        self.state.read().unwrap_or_else(PoisonError::into_inner).cluster_id.clone()
    }

    pub(crate) fn set_cluster_id(&self, cluster_id: String) {
        self.state.write().unwrap_or_else(PoisonError::into_inner).cluster_id = Some(cluster_id);
    }

    /// The members, as of the newest membership seen.
    pub(crate) fn set_peers(&self, peers: BTreeMap<u64, Peer>) {
        self.state.write().unwrap_or_else(PoisonError::into_inner).peers = peers;
    }

    pub(crate) fn peer(&self, raft_id: u64) -> Option<Peer> {
        self.state.read().unwrap_or_else(PoisonError::into_inner).peers.get(&raft_id).cloned()
    }

    pub(crate) fn envelope(&self, to: Option<u64>) -> Envelope {
        Envelope { from: self.raft_id, to, cluster_id: self.cluster_id() }
    }
}

/// What a link is used for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Entries,
    Heartbeat,
}

/// Makes links for openraft.
pub(crate) struct Network {
    links: Arc<Links>,
}

impl Network {
    pub(crate) fn new(links: Arc<Links>) -> Self {
        Self { links }
    }

    fn link(&self, target: u64, node: &Peer, purpose: Purpose) -> Link {
        Link { links: self.links.clone(), target, node: node.clone(), purpose }
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Link;

    async fn new_client(&mut self, target: u64, node: &Peer) -> Link {
        self.link(target, node, Purpose::Entries)
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &Peer) -> Link {
        self.link(target, node, Purpose::Heartbeat)
    }
}

/// openraft's way to one other node.
pub(crate) struct Link {
    links: Arc<Links>,
    target: u64,
    node: Peer,
    purpose: Purpose,
}

impl Link {
    fn url(&self) -> String {
        self.links.peer(self.target).map_or_else(|| self.node.peer_url.clone(), |peer| peer.peer_url)
    }

    async fn ask<Q: Serialize, A: DeserializeOwned>(
        &self,
        kind: RpcKind,
        question: &Q,
        timeout: Duration,
    ) -> Result<A, RPCError<TypeConfig>> {
        let body = codec::encode(kind.name(), question).map_err(foreign)?;
        let envelope = self.links.envelope(Some(self.target));
        let answer =
            self.links.transport.rpc(&self.url(), kind, envelope, body, timeout).await.map_err(failed)?;
        codec::decode(kind.name(), &answer).map_err(foreign)
    }
}

pub(crate) fn failed(error: TransportError) -> RPCError<TypeConfig> {
    match &error {
        TransportError::Unreachable { .. } | TransportError::Refused { .. } => {
            RPCError::Unreachable(Unreachable::new(&error))
        }
        TransportError::NoAnswer { .. } => RPCError::Network(NetworkError::new(&error)),
    }
}

pub(crate) fn foreign(error: CodecError) -> RPCError<TypeConfig> {
    RPCError::Unreachable(Unreachable::new(&error))
}

impl RaftNetworkV2<TypeConfig> for Link {
    type SnapshotData = SnapshotFile;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        let body = codec::encode_append(&request).map_err(foreign)?;
        let (url, envelope) = (self.url(), self.links.envelope(Some(self.target)));
        let answer = self.links.transport.rpc(&url, RpcKind::Append, envelope, body, option.hard_ttl()).await;
        codec::decode(RpcKind::Append.name(), &answer.map_err(failed)?).map_err(foreign)
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<
        's,
        Result<
            BoxStream<'s, Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>>,
            RPCError<TypeConfig>,
        >,
    >
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + Unpin + 'static,
    {
        if self.purpose == Purpose::Heartbeat {
            return stream_append_sequential(self, input, option);
        }
        Box::pin(async move {
            let (send, messages) = pipeline::channel();
            let (url, envelope) = (self.url(), self.links.envelope(Some(self.target)));
            let opening =
                self.links.transport.duplex(&url, RpcKind::AppendStream, envelope, messages, OPEN_TIMEOUT);
            let answers = opening.await.map_err(failed)?;
            Ok(pipeline::run(input.boxed(), send, answers))
        })
    }

    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.ask(RpcKind::Vote, &request, option.hard_ttl()).await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.ask(RpcKind::PreVote, &request, option.hard_ttl()).await
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.ask(RpcKind::TransferLeader, &request, option.hard_ttl()).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let sending = tokio::time::timeout(option.hard_ttl(), self.send_snapshot(vote, snapshot));
        tokio::select! {
            closed = cancel => Err(StreamingError::Closed(closed)),
            answer = sending => match answer {
                Ok(answer) => answer.map_err(StreamingError::from),
                Err(_) => Err(NetworkError::from_string("sending the snapshot took too long").into()),
            },
        }
    }
}

impl Link {
    /// The vote first, then the file as it is; its own header has everything else.
    async fn send_snapshot(
        &self,
        vote: Vote,
        snapshot: Snapshot,
    ) -> Result<SnapshotResponse<TypeConfig>, RPCError<TypeConfig>> {
        let head = codec::encode(RpcKind::Snapshot.name(), &vote).map_err(foreign)?;
        let pieces = pieces(snapshot.snapshot, 0);
        let messages = futures::stream::once(std::future::ready(head)).chain(pieces).boxed();
        let (url, envelope) = (self.url(), self.links.envelope(Some(self.target)));
        let opening = self.links.transport.duplex(&url, RpcKind::Snapshot, envelope, messages, OPEN_TIMEOUT);
        let mut answers: Messages = opening.await.map_err(failed)?;
        let answer = answers.next().await;
        let answer = answer.ok_or_else(|| NetworkError::from_string("no answer to a snapshot"))?;
        codec::decode(RpcKind::Snapshot.name(), &answer.map_err(failed)?).map_err(foreign)
    }
}

/// A snapshot file's bytes in pieces. A read error ends them early, which the receiver's checksum notices.
fn pieces(file: SnapshotFile, from: u64) -> impl Stream<Item = Bytes> + Send {
    futures::stream::unfold((file, from), |(file, at)| async move {
        match file.raw(at, SNAPSHOT_PIECE_BYTES).await {
            Ok(piece) if piece.is_empty() => None,
            Ok(piece) => {
                let next = at + piece.len() as u64;
                Some((piece, (file, next)))
            }
            Err(error) => {
                tracing::error!(%error, "a snapshot cannot be read to send it");
                None
            }
        }
    })
}
