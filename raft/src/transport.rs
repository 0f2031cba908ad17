//! How control nodes reach each other: a seam with an implementation over HTTP/2 and one in memory.
//!
//! A [`Transport`] moves opaque bodies; who may say what is decided by the [`PeerHandler`] behind it. Every message names
//! the Raft id that it is meant for, because an address may be taken over by another data directory; a handler refuses
//! what is not for it.
//!
//! Caveats: `rpc`s overtake each other; the messages of one `duplex` never do. A [`TransportError::Unreachable`] says
//! that the message certainly was not delivered; anything else leaves that open.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;

/// The version of what is said between control nodes. Raised when an older node could misunderstand a newer one.
pub const WIRE_VERSION: u32 = 1;

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RpcKind {
    /// Who are you?
    Hello,
    /// Promise yourself to this first membership.
    Promise,
    /// Am I still promised to you?
    Release,
    /// Take me as a member.
    Join,
    /// The leader's heartbeat, or entries one request at a time.
    Append,
    /// A stream of entries, each answered in order.
    AppendStream,
    /// May I have your vote?
    Vote,
    /// Would I have your vote?
    PreVote,
    /// A snapshot: one message of meta data, then the file in pieces, one answer.
    Snapshot,
    /// Take over the lead.
    TransferLeader,
    /// Up to where must a reader have applied?
    ReadIndex,
    /// The layer above's own.
    App,
}

impl RpcKind {
    /// All kinds.
    pub const ALL: [Self; 12] = [
        Self::Hello,
        Self::Promise,
        Self::Release,
        Self::Join,
        Self::Append,
        Self::AppendStream,
        Self::Vote,
        Self::PreVote,
        Self::Snapshot,
        Self::TransferLeader,
        Self::ReadIndex,
        Self::App,
    ];

    /// Its name on the wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Hello => "hello",
            Self::Promise => "promise",
            Self::Release => "release",
            Self::Join => "join",
            Self::Append => "append",
            Self::AppendStream => "append-stream",
            Self::Vote => "vote",
            Self::PreVote => "pre-vote",
            Self::Snapshot => "snapshot",
            Self::TransferLeader => "transfer-leader",
            Self::ReadIndex => "read-index",
            Self::App => "app",
        }
    }
}

/// Whose message it is and for whom.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Envelope {
    /// The sender's Raft id.
    pub from: u64,
    /// The receiver's; None for whoever is there.
    pub to: Option<u64>,
    /// The cluster that the sender belongs to, once it does.
    pub cluster_id: Option<String>,
}

/// Why there is no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TransportError {
    /// The message was certainly not delivered.
    #[error("{peer} cannot be reached: {why}")]
    Unreachable {
        /// Whom.
        peer: String,
        /// The cause, in words.
        why: String,
    },
    /// Delivered or not, there was no answer in time or the connection broke.
    #[error("{peer} did not answer: {why}")]
    NoAnswer {
        /// Whom.
        peer: String,
        /// The cause, in words.
        why: String,
    },
    /// The other side got it and refused to act on it.
    #[error("{peer} refused: {refusal}")]
    Refused {
        /// Whom.
        peer: String,
        /// Why.
        refusal: Refusal,
    },
}

/// Why a handler does not act on a message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, serde::Serialize, serde::Deserialize)]
#[serde(tag = "code", content = "detail", rename_all = "snake_case")]
pub enum Refusal {
    /// It is meant for another Raft id.
    #[error("it is another control node than the one meant")]
    WrongNode,
    /// The sender belongs to another cluster.
    #[error("it belongs to another cluster")]
    WrongCluster,
    /// The wire versions don't fit; says which.
    #[error("{0}")]
    WrongVersion(String),
    /// Not understood.
    #[error("it does not understand the message: {0}")]
    Malformed(String),
    /// It cannot act now, or for the reason given.
    #[error("{0}")]
    Unable(String),
}

/// Messages, in order. An error ends it.
pub type Messages = BoxStream<'static, Result<Bytes, TransportError>>;

/// Moves messages between control nodes.
#[async_trait]
pub trait Transport: Send + Sync + 'static {
    /// Asks once. `peer_url` is a base URL such as `http://10.0.0.1:8001`.
    ///
    /// # Errors
    /// See [`TransportError`]; after `timeout` [`TransportError::NoAnswer`].
    async fn rpc(
        &self,
        peer_url: &str,
        kind: RpcKind,
        envelope: Envelope,
        body: Bytes,
        timeout: Duration,
    ) -> Result<Bytes, TransportError>;

    /// Opens a conversation: messages out, messages back, both in order, neither waiting for the other's end. `timeout` bounds
    /// the opening alone. Dropping the answer ends it.
    ///
    /// # Errors
    /// See [`TransportError`].
    async fn duplex(
        &self,
        peer_url: &str,
        kind: RpcKind,
        envelope: Envelope,
        messages: BoxStream<'static, Bytes>,
        timeout: Duration,
    ) -> Result<Messages, TransportError>;

    /// Asks a control node's *client* address (`host:port`, a seed) who it is: the body of `GET /v1/hello`.
    ///
    /// # Errors
    /// See [`TransportError`].
    async fn hello(&self, seed: &str, timeout: Duration) -> Result<Bytes, TransportError>;

    /// Listens, and hands what arrives to `handler`, until the answer is dropped.
    ///
    /// # Errors
    /// When the address cannot be bound.
    async fn listen(&self, addr: SocketAddr, handler: Arc<dyn PeerHandler>) -> std::io::Result<Listening>;
}

/// An open listener. Dropping it closes it and drops the requests in flight.
pub struct Listening {
    /// Where it listens: the port that was asked for, or the one that the system chose.
    pub addr: SocketAddr,
    /// Closes the listener when dropped.
    _close: tokio_util::sync::DropGuard,
}

impl Listening {
    /// On `addr`, closed by `close`.
    #[must_use]
    pub fn new(addr: SocketAddr, close: tokio_util::sync::DropGuard) -> Self {
        Self { addr, _close: close }
    }
}

/// Acts on what other control nodes say.
#[async_trait]
pub trait PeerHandler: Send + Sync + 'static {
    /// Answers one message.
    ///
    /// # Errors
    /// The refusal that the sender gets.
    async fn rpc(&self, kind: RpcKind, envelope: Envelope, body: Bytes) -> Result<Bytes, Refusal>;

    /// Takes part in a conversation.
    ///
    /// # Errors
    /// The refusal that the sender gets.
    async fn duplex(
        &self,
        kind: RpcKind,
        envelope: Envelope,
        messages: Messages,
    ) -> Result<Messages, Refusal>;
}
