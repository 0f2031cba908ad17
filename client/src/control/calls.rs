//! The calls that data nodes and followers of the map make.

use std::time::Duration;

use http::{Method, StatusCode};
use tokio::time::Instant;

use super::judge::Attempt;
use super::{Answered, Call, ControlClient, ControlError};
use crate::ids::{NodeId, Revision};
use crate::wire::{
    AssignmentsResponse, ClusterView, HeartbeatRequest, HeartbeatResponse, RegisterRequest, ReportsRequest,
    ShardMap, WatchResponse,
};

/// How often members are asked for, in milliseconds: they change when an operator changes them.
const MEMBERS_EVERY_MS: u64 = 60_000;

/// The calls of a data node.
impl ControlClient {
    /// `PUT /v1/nodes/{id}`, to be sent by [`ControlClient::send`]; repeated as it is, it takes effect once, and gets the answer
    /// that it got. 409 `node_alive` and `last_copy` are refusals.
    ///
    /// # Errors
    /// [`ControlError::Malformed`].
    pub fn registration(node: &NodeId, request: &RegisterRequest) -> Result<Call, ControlError> {
        Ok(Call::write(Method::PUT, format!("/v1/nodes/{node}"), request)?.urgent())
    }

    /// `POST /v1/nodes/{id}/heartbeat`, with its own bounds.
    ///
    /// # Errors
    /// As [`ControlError`] says; 404 and 409 `stale_incarnation` mean: register again.
    pub async fn heartbeat(
        &self,
        node: &NodeId,
        request: &HeartbeatRequest,
        attempt_timeout_ms: u64,
        deadline_ms: u64,
    ) -> Result<Answered<HeartbeatResponse>, ControlError> {
        let call = Call::write(Method::POST, format!("/v1/nodes/{node}/heartbeat"), request)?;
        self.send(&call.unkeyed().urgent().within(attempt_timeout_ms, deadline_ms)).await
    }

    /// `GET /v1/nodes/{id}/assignments`, as a delta where that is known; `at` says whom to ask first.
    ///
    /// # Errors
    /// As [`ControlError`] says; 410 `compacted` means: ask with `since` 0.
    pub async fn assignments(
        &self,
        node: &NodeId,
        since: Revision,
        wait_ms: u64,
        at: Option<usize>,
    ) -> Result<Answered<AssignmentsResponse>, ControlError> {
        if wait_ms > 0 {
            // Not while a lease waits for assignments.
            self.keep_members().await;
        }
        let timeout_ms = wait_ms.saturating_add(self.inner.options.attempt_timeout_ms);
        let mut call = Call::get(format!("/v1/nodes/{node}/assignments"))
            .query("since", since)
            .query("wait_ms", wait_ms)
            .within(timeout_ms, timeout_ms.saturating_add(self.inner.options.deadline_ms))
            .urgent();
        if since > Revision(0) {
            call = call.query("delta", true);
        }
        call.first = at;
        self.send(&call).await
    }

    /// `POST /v1/nodes/{id}/reports`, to be sent by [`ControlClient::send`] until it is answered: repeated as it is, it
    /// takes effect once.
    ///
    /// # Errors
    /// [`ControlError::Malformed`].
    pub fn reports(node: &NodeId, request: &ReportsRequest) -> Result<Call, ControlError> {
        Call::write(Method::POST, format!("/v1/nodes/{node}/reports"), request)
    }

    /// `GET /v1/map`. With [`StaleReads::Allowed`] any control node answers from what it has, also without a quorum.
    ///
    /// # Errors
    /// As [`ControlError`] says.
    pub async fn map(&self, stale: StaleReads) -> Result<ShardMap, ControlError> {
        Ok(self.send(&map_call(stale)).await?.body)
    }

    /// As [`ControlClient::map`] with stale reads, unless it still has the tag that an earlier answer had.
    ///
    /// # Errors
    /// As [`ControlError`] says.
    pub async fn map_unless(&self, tag: Option<String>) -> Result<Changed<ShardMap>, ControlError> {
        let mut call = map_call(StaleReads::Allowed);
        call.if_none_match = tag;
        let (raw, by) = self.send_raw(&call).await?;
        if raw.status == StatusCode::NOT_MODIFIED {
            return Ok(Changed::No);
        }
        Ok(Changed::Yes { body: self.parse(&raw.body, by)?, tag: raw.tag })
    }

    /// `GET /v1/watch` as a long poll: what changed after `from`, at once where something did, else once something does or
    /// after the wait.
    ///
    /// # Errors
    /// As [`ControlError`] says; 410 `compacted` means: read the map.
    pub async fn changes(
        &self,
        from: Revision,
        wait_ms: u64,
        at: usize,
    ) -> Result<WatchResponse, ControlError> {
        let timeout_ms = wait_ms.saturating_add(self.inner.options.attempt_timeout_ms);
        let call = Call::get("/v1/watch").query("from", from).query("wait_ms", wait_ms);
        let call = call.at(at).within(timeout_ms, timeout_ms.saturating_add(self.inner.options.deadline_ms));
        Ok(self.send(&call).await?.body)
    }

    /// Learns of the control cluster's members and its leader, unless that was done lately.
    pub async fn keep_members(&self) {
        if self.inner.known.is_due(MEMBERS_EVERY_MS) {
            let until = Instant::now() + Duration::from_millis(self.inner.options.attempt_timeout_ms);
            self.look_for_members(self.preferred(), until).await;
        }
    }

    /// Asks `by` for members, at most once a second, and one call at a time.
    pub(super) async fn look_for_members(&self, by: usize, until: Instant) {
        let Some(_looking) = self.inner.known.begin_looking() else { return };
        let call = Call::get("/v1/cluster").query("consistency", "stale");
        let Attempt::Answer(raw) = self.attempt(&call, by, until).await else { return };
        match self.parse::<ClusterView>(&raw.body, by) {
            Ok(view) => self.inner.known.learn(&view),
            Err(error) => tracing::debug!(%error, "the control nodes' members could not be read"),
        }
    }
}

fn map_call(stale: StaleReads) -> Call {
    let call = Call::get("/v1/map");
    match stale {
        StaleReads::Allowed => call.query("consistency", "stale"),
        StaleReads::Refused => call,
    }
}

/// An answer, unless it is the one that is known.
#[derive(Clone, Debug)]
pub enum Changed<T> {
    /// It is the one that has the tag.
    No,
    /// Another.
    Yes {
        /// It.
        body: T,
        /// Its tag.
        tag: Option<String>,
    },
}

/// Whether a read may be answered from what one control node has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StaleReads {
    /// At once, from the published state of whoever is asked.
    Allowed,
    /// Linearizable.
    Refused,
}
