//! The control cluster's members and its leader.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State};
use http::Uri;
use ruvector_cluster_client::ids::NodeId;
use ruvector_cluster_client::wire::{AddMemberRequest, LeaderInfo, Member, MemberRole, TransferRequest};
use ruvector_cluster_raft as raft;
use serde_json::json;

use super::answer::{self, Answer, Page};
use super::app::App;
use super::error::ApiError;
use super::extract::{LARGE_BODY_LIMIT_BYTES, NoBody, Params, Write, node_id};
use super::forward;

/// Name and address of the leader.
pub(super) fn leader_info(leader: &raft::MemberInfo) -> Option<LeaderInfo> {
    Some(LeaderInfo { id: NodeId::new(&leader.name).ok()?, url: leader.client_url.clone() })
}

/// All control nodes, by name.
pub(super) fn members(app: &App) -> Vec<Member> {
    let mut members: Vec<Member> = app.node.members().into_iter().filter_map(member).collect();
    members.sort_by(|a, b| (&a.id, a.raft_id).cmp(&(&b.id, b.raft_id)));
    members
}

#[derive(serde::Deserialize)]
struct MemberList {
    members: Vec<Member>,
}

/// All control nodes with what only the leader knows of them.
///
/// # Errors
/// 503 when the leader does not answer.
pub(super) async fn as_leader_knows(app: &Arc<App>) -> Result<Vec<Member>, ApiError> {
    if app.leads() {
        return Ok(members(app));
    }
    let response = forward::ask_leader(app, "/v1/members").await?;
    let bytes = axum::body::to_bytes(response.into_body(), LARGE_BODY_LIMIT_BYTES).await.unwrap_or_default();
    let list: Result<MemberList, _> = serde_json::from_slice(&bytes);
    list.map(|list| list.members).map_err(|_| ApiError::no_leader())
}

fn member(member: raft::Member) -> Option<Member> {
    Some(Member {
        id: NodeId::new(&member.info.name).ok()?,
        raft_id: member.info.raft_id,
        role: match member.role {
            raft::MemberRole::Voter => MemberRole::Voter,
            raft::MemberRole::Learner => MemberRole::Learner,
        },
        client_url: member.info.client_url,
        peer_url: member.info.peer_url,
        matched: member.matched,
        last_contact_ms: member.last_contact_ms,
    })
}

/// `GET /v1/members`.
pub(super) async fn list(State(app): State<Arc<App>>, params: Params) -> Answer {
    params.only(&["limit", "cursor", "consistency"])?;
    let page = Page::of(&params)?;
    let after: Option<NodeId> = page.after_parsed()?;
    let state = app.read(&params).await?;
    let members = members(&app).into_iter().filter(|m| after.as_ref().is_none_or(|after| m.id > *after));
    page.list(state.revision(), "members", members, |member| member.id.to_string())
}

/// `POST /v1/leader/transfer`.
pub(super) async fn transfer(
    State(app): State<Arc<App>>,
    params: Params,
    write: Write<TransferRequest>,
) -> Answer {
    params.only(&[])?;
    let to = match &write.body.to {
        Some(name) => Some(raft_id(&app, name)?),
        None => None,
    };
    app.node.transfer(to).await?;
    let leader = app.node.leadership().borrow().leader.as_ref().and_then(leader_info);
    answer::ok(app.published().revision(), &json!({ "leader": leader }))
}

fn raft_id(app: &App, name: &NodeId) -> Result<u64, ApiError> {
    let found = app.node.members().into_iter().find(|m| m.info.name == name.as_str());
    found.map(|m| m.info.raft_id).ok_or_else(|| ApiError::not_found(format!("control node {name}")))
}

/// `POST /v1/members`: asks the control node at `client_url` who it is, and takes it in as a learner.
pub(super) async fn add(
    State(app): State<Arc<App>>,
    params: Params,
    write: Write<AddMemberRequest>,
) -> Answer {
    params.only(&[])?;
    let body = write.body;
    let seat = match (&body.replaces, body.learner_only) {
        (Some(_), true) => {
            return Err(ApiError::invalid(
                "`replaces` and `learner_only` exclude each other: a learner takes no voter's seat",
            ));
        }
        (Some(name), false) => raft::Seat::InsteadOf(raft_id(&app, name)?),
        (None, true) => raft::Seat::Learner,
        (None, false) => raft::Seat::Voter,
    };
    let hello = ask_hello(&app, &body.client_url).await?;
    if hello.member.name != body.id.as_str() {
        return Err(ApiError::invalid(format!(
            "the control node at {} is named {}",
            body.client_url, hello.member.name
        )));
    }
    if seat == raft::Seat::InsteadOf(hello.member.raft_id) {
        return Err(ApiError::invalid(format!(
            "`replaces` names {} itself: name the control node whose seat it shall get, or leave it out",
            body.id
        )));
    }
    if hello.cluster_id.is_some() && hello.cluster_id != app.node.cluster_id() {
        return Err(ApiError::invalid(format!(
            "the control node {} belongs to another cluster: it needs an empty data directory",
            body.id
        )));
    }
    let info = raft::MemberInfo {
        name: hello.member.name,
        raft_id: hello.member.raft_id,
        client_url: body.client_url,
        peer_url: body.peer_url,
    };
    app.node.add_member(info, seat).await?;
    let members = members(&app);
    let added = members.iter().find(|m| m.raft_id == hello.member.raft_id);
    answer::ok(app.published().revision(), &added)
}

/// How long a control node that is to join may take to say who it is.
const HELLO_TIMEOUT: Duration = Duration::from_secs(3);

async fn ask_hello(app: &App, client_url: &str) -> Result<raft::Greeting, ApiError> {
    let addr = address_of(client_url).ok_or_else(|| {
        ApiError::invalid(format!("`client_url` must read http://host:port, and is {client_url:?}"))
    })?;
    app.node.greet(&addr, HELLO_TIMEOUT).await.map_err(|error| {
        let why = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
        ApiError::invalid(format!("the control node at {client_url} does not say who it is: {error}{why}"))
    })
}

/// `host:port` of an `http` URL without a path.
fn address_of(url: &str) -> Option<String> {
    let uri: Uri = url.parse().ok()?;
    let is_plain = uri.scheme_str() == Some("http") && uri.path() == "/" && uri.query().is_none();
    let authority = uri.authority().filter(|authority| is_plain && !authority.as_str().contains('@'))?;
    Some(format!("{}:{}", authority.host(), authority.port_u16().unwrap_or(80)))
}

/// `DELETE /v1/members/{id}`.
pub(super) async fn remove(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    params: Params,
    write: Write<NoBody>,
) -> Answer {
    params.only(&[])?;
    // What makes a removal conditional is the quorum; members have no ETag.
    if write.if_match.is_some() {
        return Err(ApiError::malformed("members have no ETag: leave `If-Match` out"));
    }
    let name = node_id(&id)?;
    app.node.remove_member(raft_id(&app, &name)?).await?;
    answer::ok(app.published().revision(), &json!({ "members": members(&app) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_url_names_a_host_and_a_port() {
        let told = |url| address_of(url).unwrap_or_default();
        assert_eq!(told("http://127.0.0.1:7001"), "127.0.0.1:7001");
        assert_eq!(told("HTTP://n4.example:7001/"), "n4.example:7001");
        assert_eq!(told("http://[::1]:7001"), "[::1]:7001");
        assert_eq!(told("http://n4.example"), "n4.example:80");
        for wrong in ["", "n4:7001", "https://n4:7001", "http://n4:7001/api", "http://u:p@n4:7001"] {
            assert_eq!(address_of(wrong), None, "{wrong}");
        }
    }
}
