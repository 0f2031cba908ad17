//! What a control node asks of others, and tells them.

use std::time::Duration;

use bytes::Bytes;

use super::Node;
use crate::bootstrap;
use crate::bootstrap::messages::Hello;
use crate::codec;
use crate::error::{CallError, GreetError};
use crate::member::{Greeting, MemberInfo};
use crate::transport::{RpcKind, TransportError};

fn call_failed(error: TransportError) -> CallError {
    match error {
        // A refusal comes before the message is acted on.
        TransportError::Unreachable { .. } | TransportError::Refused { .. } => CallError::Unreachable(error),
        TransportError::NoAnswer { .. } => CallError::NoAnswer(error),
    }
}

impl Node {
    /// The body of `GET /v1/hello`: who this node is, for those that know its client address alone. JSON.
    #[must_use]
    pub fn hello(&self) -> Bytes {
        serde_json::to_vec(&self.core.hello()).map(Bytes::from).unwrap_or_default()
    }

    /// Asks the control node whose client API is at `addr` (`host:port`) who it is.
    ///
    /// # Errors
    /// [`GreetError`].
    pub async fn greet(&self, addr: &str, timeout: Duration) -> Result<Greeting, GreetError> {
        bootstrap::greet(self.core.links.transport().as_ref(), addr, timeout).await
    }

    /// Asks who listens for control nodes at `peer_url`.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn identify(&self, peer_url: &str, timeout: Duration) -> Result<MemberInfo, CallError> {
        let links = &self.core.links;
        let asked =
            links.transport().rpc(peer_url, RpcKind::Hello, links.envelope(None), Bytes::new(), timeout);
        let answer = asked.await.map_err(call_failed)?;
        let hello: Hello = codec::decode("hello", &answer).map_err(|error| {
            CallError::NoAnswer(TransportError::NoAnswer {
                peer: peer_url.to_owned(),
                why: error.to_string(),
            })
        })?;
        Ok(hello.member)
    }

    /// Asks the same layer on another member.
    ///
    /// # Errors
    /// [`CallError`]; it tells whether the message may have been acted on.
    pub async fn call(&self, to_raft_id: u64, body: Bytes, timeout: Duration) -> Result<Bytes, CallError> {
        let core = &self.core;
        if to_raft_id == core.raft_id {
            return Ok(core.app.handle(core.raft_id, body).await);
        }
        let peer = core.links.peer(to_raft_id).ok_or(CallError::UnknownMember { raft_id: to_raft_id })?;
        let envelope = core.links.envelope(Some(to_raft_id));
        let answer = core.links.transport().rpc(&peer.peer_url, RpcKind::App, envelope, body, timeout).await;
        answer.map_err(|error| match error {
            // A refusal comes before the message is acted on.
            TransportError::Unreachable { .. } | TransportError::Refused { .. } => {
                CallError::Unreachable(error)
            }
            TransportError::NoAnswer { .. } => CallError::NoAnswer(error),
        })
    }
}
