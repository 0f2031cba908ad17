//! What this node answers to other control nodes.
//!
//! Invariants: nothing meant for another Raft id is acted on, since an address may pass to another data directory; Raft traffic is
//! accepted from this node's own cluster only, which a founder learns from the first such message that names the cluster it
//! promised itself to.

use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use openraft::ReadPolicy;
use openraft::raft::{AppendEntriesResponse, SnapshotResponse};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::bootstrap::messages::{Hello, JoinRequest, Proposal, ReleaseAnswer, ReleaseRequest};
use crate::codec::{self, CodecError};
use crate::machine_store::describe;
use crate::node::Core;
use crate::transport::{Envelope, Messages, PeerHandler, Refusal, RpcKind, TransportError};
use crate::types::Vote;

/// Answers once the node behind it is set.
#[derive(Default)]
pub(crate) struct PeerService {
    core: OnceLock<Arc<Core>>,
}

impl PeerService {
    pub(crate) fn set(&self, core: Arc<Core>) {
        if self.core.set(core).is_err() {
            tracing::error!("a peer service belongs to one node");
        }
    }

    /// The node, if the message is for it and from its cluster.
    async fn admit(&self, kind: RpcKind, envelope: &Envelope) -> Result<&Arc<Core>, Refusal> {
        let core = self.core.get().ok_or_else(|| Refusal::Unable("it is starting".to_owned()))?;
        if envelope.to.is_some_and(|to| to != core.raft_id) {
            return Err(Refusal::WrongNode);
        }
        if matches!(kind, RpcKind::Hello | RpcKind::Promise | RpcKind::Release | RpcKind::Join) {
            return Ok(core);
        }
        let theirs = envelope.cluster_id.as_deref().ok_or(Refusal::WrongCluster)?;
        match core.links.cluster_id() {
            Some(own) if own == theirs => Ok(core),
            Some(_) => Err(Refusal::WrongCluster),
            None => match core.adopt(theirs).await {
                Ok(true) => Ok(core),
                Ok(false) => Err(Refusal::WrongCluster),
                Err(error) => Err(Refusal::Unable(error.to_string())),
            },
        }
    }
}

fn question<T: DeserializeOwned>(kind: RpcKind, body: &[u8]) -> Result<T, Refusal> {
    codec::decode(kind.name(), body).map_err(malformed)
}

fn answer<T: Serialize>(kind: RpcKind, value: &T) -> Result<Bytes, Refusal> {
    codec::encode(kind.name(), value).map_err(unable)
}

fn malformed(error: CodecError) -> Refusal {
    Refusal::Malformed(error.to_string())
}

fn unable(error: impl ToString) -> Refusal {
    Refusal::Unable(error.to_string())
}

#[async_trait]
impl PeerHandler for PeerService {
    async fn rpc(&self, kind: RpcKind, envelope: Envelope, body: Bytes) -> Result<Bytes, Refusal> {
        let core = self.admit(kind, &envelope).await?;
        let raft = &core.raft;
        match kind {
            RpcKind::Hello => answer(kind, &Hello { knows_you: core.knows(&envelope).await, ..core.hello() }),
            RpcKind::Promise => {
                let proposal: Proposal = question(kind, &body)?;
                core.promise(proposal).await.map_err(unable)?;
                answer(kind, &())
            }
            RpcKind::Release => {
                let request: ReleaseRequest = question(kind, &body)?;
                answer(kind, &ReleaseAnswer { released: core.founding.give_up(&request).await })
            }
            RpcKind::Join => {
                let request: JoinRequest = question(kind, &body)?;
                answer(kind, &core.take_in(request.member).await)
            }
            RpcKind::Append => {
                core.heard_leader();
                let request = codec::decode_append(body).map_err(malformed)?;
                let answered: AppendEntriesResponse<_> =
                    raft.append_entries(request).await.map_err(unable)?;
                answer(kind, &answered)
            }
            RpcKind::Vote => answer(kind, &raft.vote(question(kind, &body)?).await.map_err(unable)?),
            RpcKind::PreVote => answer(kind, &raft.pre_vote(question(kind, &body)?).await.map_err(unable)?),
            RpcKind::TransferLeader => {
                answer(kind, &raft.handle_transfer_leader(question(kind, &body)?).await.map_err(unable)?)
            }
            RpcKind::ReadIndex => {
                let round = raft.get_read_linearizer(ReadPolicy::ReadIndex).await.map_err(unable)?;
                answer(kind, &round.read_log_id().index())
            }
            RpcKind::App => Ok(core.app.handle(envelope.from, body).await),
            RpcKind::AppendStream | RpcKind::Snapshot => {
                Err(Refusal::Malformed(format!("{} is a conversation", kind.name())))
            }
        }
    }

    async fn duplex(
        &self,
        kind: RpcKind,
        envelope: Envelope,
        messages: Messages,
    ) -> Result<Messages, Refusal> {
        let core = self.admit(kind, &envelope).await?.clone();
        match kind {
            RpcKind::AppendStream => Ok(append_stream(core, envelope.from, messages)),
            RpcKind::Snapshot => {
                let from = envelope.from;
                let installed = async move {
                    let installed = install(&core, messages).await;
                    installed.map_err(|refusal| TransportError::Refused { peer: from.to_string(), refusal })
                };
                Ok(futures::stream::once(installed).boxed())
            }
            _ => Err(Refusal::Malformed(format!("{} is no conversation", kind.name()))),
        }
    }
}

fn append_stream(core: Arc<Core>, from: u64, messages: Messages) -> Messages {
    let raft = core.raft.clone();
    // What cannot be read ends the stream; the leader begins a new one from what was answered.
    let requests = messages
        .map(move |message| {
            core.heard_leader();
            message.ok().and_then(|message| codec::decode_append(message).ok())
        })
        .take_while(|request| std::future::ready(request.is_some()))
        .filter_map(std::future::ready);
    let broken = move |why: String| TransportError::NoAnswer { peer: from.to_string(), why };
    let answers = raft.stream_append(Box::pin(requests));
    answers
        .map(move |answered| {
            let answered = answered.map_err(|fatal| broken(fatal.to_string()))?;
            codec::encode(RpcKind::AppendStream.name(), &answered).map_err(|error| broken(error.to_string()))
        })
        .boxed()
}

/// The leader's vote, then the pieces of the file, which is checked as it arrives and durable before it is installed.
async fn install(core: &Core, mut messages: Messages) -> Result<Bytes, Refusal> {
    let head = messages.next().await.ok_or_else(|| unable("a snapshot without its head"))?.map_err(unable)?;
    let vote: Vote = question(RpcKind::Snapshot, &head)?;
    let mut receiver = core.snapshots.receiver().await.map_err(unable)?;
    while let Some(piece) = messages.next().await {
        receiver.write(piece.map_err(unable)?).await.map_err(unable)?;
    }
    let file = receiver.finish().await.map_err(unable)?;
    let snapshot = describe(file).map_err(unable)?;
    let installed: SnapshotResponse<_> =
        core.raft.install_full_snapshot(vote, snapshot).await.map_err(unable)?;
    answer(RpcKind::Snapshot, &installed)
}
