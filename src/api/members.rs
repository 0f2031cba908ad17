//! The control cluster's members and its leader.
//!
//! What is asked under an Idempotency-Key takes effect once, as with other writes. The membership is Raft's own and not in the
//! replicated state, so that a key is used up by a command of its own: after a member was added or removed, before a transfer begins.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State};
use http::Uri;
use ruvector_cluster_client::hashing;
use ruvector_cluster_client::ids::{NodeId, Revision};
use ruvector_cluster_client::wire::{AddMemberRequest, LeaderInfo, Member, MemberRole, TransferRequest};
use ruvector_cluster_raft as raft;
use serde_json::json;

use super::answer::{self, Answer, Page};
use super::app::App;
use super::error::{ApiError, Code};
use super::extract::{LARGE_BODY_LIMIT_BYTES, NoBody, Params, Write, node_id};
use super::forward;
use crate::metadata::{Command, Rejection, RejectionCode, RequestKey};

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

/// `POST /v1/leader/transfer`. Once it has begun, this control node proposes nothing more, so that its key is used up before.
pub(super) async fn transfer(
    State(app): State<Arc<App>>,
    params: Params,
    write: Write<TransferRequest>,
) -> Answer {
    params.only(&[])?;
    if let Some(revision) = earlier(&app, write.key.as_ref()).await? {
        return answer_leader(&app, revision);
    }
    let successor = async {
        let to = write.body.to.as_ref().map(|name| raft_id(&app, name)).transpose()?;
        Ok(app.node.successor(to).await?)
    };
    let successor = or_refused(&app, write.key.as_ref(), successor.await).await?;
    let revision = remember(&app, write.key).await?;
    if successor.is_some() {
        app.node.transfer(successor).await?;
    }
    answer_leader(&app, revision)
}

fn answer_leader(app: &App, revision: Revision) -> Answer {
    let leader = app.node.leadership().borrow().leader.as_ref().and_then(leader_info);
    answer::ok(revision, &json!({ "leader": leader }))
}

fn raft_id(app: &App, name: &NodeId) -> Result<u64, ApiError> {
    let found = app.node.members().into_iter().find(|m| m.info.name == name.as_str());
    found.map(|m| m.info.raft_id).ok_or_else(|| ApiError::not_found(format!("control node {name}")))
}

/// The revision of the answer that this request had before.
///
/// # Errors
/// The refusal that it met before, 422 where its key stands for another request, and 503 without a leader.
async fn earlier(app: &App, key: Option<&RequestKey>) -> Result<Option<Revision>, ApiError> {
    if key.is_none() {
        return Ok(None);
    }
    let state = app.read_linearizable().await?;
    Ok(App::earlier(&state, key)?.map(|(revision, _)| revision))
}

/// Uses the key up: from here on a repeat finds the request done. Members are no part of the replicated state, so that a command
/// that changes nothing holds the key.
async fn remember(app: &App, key: Option<RequestKey>) -> Result<Revision, ApiError> {
    let state = app.published();
    // A restored cluster that is suspended takes no such command; its operator repeats by hand.
    if key.is_none() || state.is_suspended() {
        return Ok(state.revision());
    }
    Ok(app.propose(key, Command::Coordinate { changes: Vec::new() }).await?.0)
}

/// As [`remember`], where the change is made already: whatever hinders it leaves the outcome unknown.
async fn remember_done(app: &App, key: Option<RequestKey>) -> Result<Revision, ApiError> {
    remember(app, key).await.map_err(|error| match error.code {
        Code::Rejected(_) => error,
        _ => ApiError::outcome_unknown(),
    })
}

/// A refusal for what does not pass by itself is told again to a repeat; `quorum_lost` and what is retryable may pass.
async fn or_refused<T>(
    app: &App,
    key: Option<&RequestKey>,
    result: Result<T, ApiError>,
) -> Result<T, ApiError> {
    let error = match result {
        Ok(done) => return Ok(done),
        Err(error) => error,
    };
    let code = match error.code {
        Code::Invalid => RejectionCode::Invalid,
        Code::NotFound => RejectionCode::NotFound,
        Code::Conflict => RejectionCode::Conflict,
        _ => return Err(error),
    };
    let rejection = Rejection { code, detail: error.detail };
    app.refuse(key.cloned(), rejection).await.and(Err(ApiError::unexpected("a refusal")))
}

/// `POST /v1/members`: asks the control node at `client_url` who it is, and takes it in as a learner.
pub(super) async fn add(
    State(app): State<Arc<App>>,
    params: Params,
    write: Write<AddMemberRequest>,
) -> Answer {
    params.only(&[])?;
    let revision = match earlier(&app, write.key.as_ref()).await? {
        Some(revision) => revision,
        None => {
            let added = take_in(&app, &write.body).await;
            or_refused(&app, write.key.as_ref(), added).await?;
            remember_done(&app, write.key).await?
        }
    };
    let body = &write.body;
    match members(&app).into_iter().find(|m| m.id == body.id) {
        Some(member) => answer::ok(revision, &member),
        // A repeat, and it has gone since.
        None => answer::ok(
            revision,
            &json!({ "id": body.id, "client_url": body.client_url, "peer_url": body.peer_url }),
        ),
    }
}

async fn take_in(app: &App, body: &AddMemberRequest) -> Result<(), ApiError> {
    let seat = match (&body.replaces, body.learner_only) {
        (Some(_), true) => {
            return Err(ApiError::invalid(
                "`replaces` and `learner_only` exclude each other: a learner takes no voter's seat",
            ));
        }
        (Some(name), false) => raft::Seat::InsteadOf(raft_id(app, name)?),
        (None, true) => raft::Seat::Learner,
        (None, false) => raft::Seat::Voter,
    };
    let hello = ask_hello(app, &body.client_url).await?;
    if hello.member.name != body.id.as_str() {
        return Err(ApiError::invalid(format!(
            "`id` is {}, and the control node at {} is named {}",
            body.id, body.client_url, hello.member.name
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
    check_peer_url(app, &body.peer_url, hello.member.raft_id).await?;
    let info = raft::MemberInfo {
        name: hello.member.name,
        raft_id: hello.member.raft_id,
        client_url: body.client_url.clone(),
        peer_url: body.peer_url.clone(),
    };
    Ok(app.node.add_member(info, seat).await?)
}

/// A member that cannot be reached would be a voter lost.
async fn check_peer_url(app: &App, peer_url: &str, raft_id: u64) -> Result<(), ApiError> {
    let refuse = |why: String| ApiError::invalid(format!("`peer_url` {peer_url}: {why}"));
    if address_of(peer_url).is_none() {
        return Err(refuse("it must read http://host:port".to_owned()));
    }
    let found = app.node.identify(peer_url, HELLO_TIMEOUT).await.map_err(|error| {
        let why = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
        refuse(format!("no control node answers there: {error}{why}"))
    })?;
    if found.raft_id == raft_id {
        return Ok(());
    }
    Err(refuse(format!("another control node, {}, listens there", found.name)))
}

/// How long a control node that is to join may take to say who it is.
const HELLO_TIMEOUT: Duration = Duration::from_secs(3);

async fn ask_hello(app: &App, client_url: &str) -> Result<raft::Greeting, ApiError> {
    let addr = address_of(client_url).ok_or_else(|| {
        ApiError::invalid(format!("`client_url` must read http://host:port, and is {client_url:?}"))
    })?;
    app.node.greet(&addr, HELLO_TIMEOUT).await.map_err(|error| {
        let why = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
        ApiError::invalid(format!("`client_url` {client_url} does not say who it is: {error}{why}"))
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
    let revision = match earlier(&app, write.key.as_ref()).await? {
        Some(revision) => revision,
        None => {
            let removed = remove_once(&app, &name, write.key.as_ref()).await;
            or_refused(&app, write.key.as_ref(), removed).await?;
            remember_done(&app, write.key).await?
        }
    };
    answer::ok(revision, &json!({ "members": members(&app) }))
}

/// Under a key, whom it removes is noted first: a repeat after a leader's death, which finds nobody of that name or another
/// one, was carried out already.
async fn remove_once(app: &App, name: &NodeId, key: Option<&RequestKey>) -> Result<(), ApiError> {
    let found = raft_id(app, name);
    let Some(key) = key.filter(|_| !app.published().is_suspended()) else {
        return Ok(app.node.remove_member(found?).await?);
    };
    let noted = |raft_id: u64| RequestKey {
        // No client can send this one: it is no ASCII.
        key: format!(
            "\u{2192}removal {:016x}",
            hashing::hash_of_key(&format!("{}\n{}", key.fingerprint, key.key))
        ),
        fingerprint: raft_id.to_string(),
    };
    let Ok(raft_id) = found else {
        let is_noted = app.published().earlier_outcome(&noted(0)).is_some();
        return if is_noted { Ok(()) } else { found.map(drop) };
    };
    match app.propose(Some(noted(raft_id)), Command::Coordinate { changes: Vec::new() }).await {
        Ok(_) => Ok(app.node.remove_member(raft_id).await?),
        Err(error) if error.code == Code::Rejected(RejectionCode::KeyReused) => Ok(()),
        Err(error) => Err(error),
    }
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
