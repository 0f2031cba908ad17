//! What data nodes say to each other, and the HTTP client that says it.
//!
//! Two kinds: messages between the copies of a shard (docs/protocol.md), which the replicas make and judge; and a client's
//! request handed on to the primary, one hop. Every call has a bound; whoever makes it decides what its failure means.

use std::time::Duration;

use crate::copies::{Messenger, Outcome};
use crate::ids::{Epoch, NodeId, Position, ShardId};
use crate::replica::Key;
use crate::replica::wire::{Answer, Request, Write};
use crate::wire::NodeAddr;
use async_trait::async_trait;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// A message to a copy gets its answer within this time, or counts as unanswered. More than the 1 s after which a primary
/// gives a copy up, so that one given up is not sent twice at a time for long.
const MESSAGE_TIMEOUT_MS: u64 = 3_000;
/// Connecting to a node that is there takes far less.
const CONNECT_TIMEOUT_MS: u64 = 500;

/// `POST /peer/v1/shards/{id}/messages`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Message {
    /// Who sends it.
    pub(super) from: NodeId,
    /// What it says.
    pub(super) request: Request,
}

/// `POST /peer/v1/shards/{id}/writes`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct WriteCall {
    /// The epoch that it was routed by.
    pub(super) epoch: Option<Epoch>,
    /// In order; positions are ignored.
    pub(super) writes: Vec<Write>,
}

/// Outcomes of writes, in their order.
pub(super) type WriteOutcomes = Vec<Outcome<Position>>;

/// `POST /peer/v1/shards/{id}/reads`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct ReadCall {
    /// The epoch that it was routed by.
    pub(super) epoch: Option<Epoch>,
    /// What to read.
    pub(super) key: Key,
}

/// `POST /peer/v1/search`: over shards of which the asked node is primary.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct SearchCall<Q> {
    /// The query.
    pub(super) query: Q,
    /// The shards, and the epochs that they were routed by.
    pub(super) shards: Vec<(ShardId, Option<Epoch>)>,
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum PeerError {
    /// The node was not reached: nothing was done.
    #[error("not reached")]
    NotReached(#[source] reqwest::Error),
    /// It was reached, or may have been.
    #[error("no answer")]
    NoAnswer(#[source] reqwest::Error),
    /// It answered something else.
    #[error("answered with {0}")]
    Status(reqwest::StatusCode),
}

/// The client to other data nodes; cloning is cheap.
#[derive(Clone, Debug)]
pub(super) struct Peers {
    http: reqwest::Client,
}

impl Peers {
    /// A client; connects on first use, and notices connections that are dead.
    ///
    /// # Errors
    /// When HTTP can't be set up.
    pub(super) fn new() -> Result<Self, reqwest::Error> {
        let http = reqwest::Client::builder()
            .no_proxy()
            .http2_prior_knowledge()
            .http2_keep_alive_interval(Duration::from_secs(2))
            .http2_keep_alive_timeout(Duration::from_secs(2))
            .http2_adaptive_window(true)
            .connect_timeout(Duration::from_millis(CONNECT_TIMEOUT_MS))
            .build()?;
        Ok(Self { http })
    }

    /// Writes handed to the primary.
    ///
    /// # Errors
    /// [`PeerError`].
    pub(super) async fn write(
        &self,
        addr: &str,
        shard: ShardId,
        call: &WriteCall,
        timeout_ms: u64,
    ) -> Result<WriteOutcomes, PeerError> {
        self.post(addr, &format!("shards/{shard}/writes"), call, timeout_ms).await
    }

    /// A read handed to the primary.
    ///
    /// # Errors
    /// [`PeerError`].
    pub(super) async fn read(
        &self,
        addr: &str,
        shard: ShardId,
        call: &ReadCall,
        timeout_ms: u64,
    ) -> Result<Outcome<Write>, PeerError> {
        self.post(addr, &format!("shards/{shard}/reads"), call, timeout_ms).await
    }

    /// A search handed to the primary of some shards; outcomes in their order.
    ///
    /// # Errors
    /// [`PeerError`].
    pub(super) async fn search<Q: Serialize, F: DeserializeOwned>(
        &self,
        addr: &str,
        call: &SearchCall<Q>,
        timeout_ms: u64,
    ) -> Result<Vec<Outcome<F>>, PeerError> {
        self.post(addr, "search", call, timeout_ms).await
    }

    async fn post<T: DeserializeOwned>(
        &self,
        addr: &str,
        path: &str,
        body: &impl Serialize,
        timeout_ms: u64,
    ) -> Result<T, PeerError> {
        let request = self.http.post(format!("http://{addr}/peer/v1/{path}")).json(body);
        let sent = request.timeout(Duration::from_millis(timeout_ms)).send().await;
        let failed = |error: reqwest::Error| {
            if error.is_connect() { PeerError::NotReached(error) } else { PeerError::NoAnswer(error) }
        };
        let answer = sent.map_err(failed)?;
        if !answer.status().is_success() {
            return Err(PeerError::Status(answer.status()));
        }
        answer.json().await.map_err(PeerError::NoAnswer)
    }
}

#[async_trait]
impl Messenger for Peers {
    async fn message(
        &self,
        to: &NodeAddr,
        shard: ShardId,
        from: &NodeId,
        request: Request,
    ) -> Option<Answer> {
        let message = Message { from: from.clone(), request };
        let path = format!("shards/{shard}/messages");
        let answer = self.post(&to.addr, &path, &message, MESSAGE_TIMEOUT_MS).await;
        answer
            .inspect_err(|error: &PeerError| {
                tracing::debug!(%shard, to = %to.node, %error, "a message came to nothing");
            })
            .ok()
    }
}
