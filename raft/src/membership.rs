//! Who is a member, changed by the leader: taking in, promoting, removing, handing the lead over.
//!
//! A node that joins is a learner first. While there is room below `max_voters`, the leader promotes learners that have caught up,
//! one at a time; one that replaces another takes its seat in the same joint change. A Raft id never comes back: a wiped directory
//! has a new one, and its old name is free only once the old member is removed or replaced.
//!
//! Caveat: two leaders of different terms may both try; openraft lets one change be uncommitted at a time, and each is checked
//! against the membership that it changes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft::ChangeMembers;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ChangeMembershipError, ClientWriteError, RaftError};

use tokio::time::Instant;

use crate::bootstrap::messages::JoinAnswer;
use crate::error::MembershipError;
use crate::member::{Leadership, Member, MemberInfo, MemberRole};
use crate::node::{Core, Node};
use crate::transport::{RpcKind, TransportError};
use crate::types::{Peer, TypeConfig};

/// Between two looks at the learners.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// A learner that lacks fewer entries than this has caught up: a fraction of a second of writes.
const CAUGHT_UP_ENTRIES: u64 = 500;
/// A member that answered within this time counts as reachable. Many heartbeats, so that a pause does not hide a node.
const REACHABLE_MS: u64 = 1_000;
/// How long a transfer of the lead may take.
const TRANSFER_PATIENCE: Duration = Duration::from_secs(2);
/// How long a change may wait for its quorum.
const CHANGE_PATIENCE: Duration = Duration::from_secs(10);
/// How long a change waits for the one before it.
const IN_PROGRESS_PATIENCE: Duration = Duration::from_secs(2);
/// How long a voter may take to answer whether it is there.
const PROBE_TIMEOUT: Duration = Duration::from_millis(800);
const IN_PROGRESS_RETRY: Duration = Duration::from_millis(20);

/// Which seat a learner shall get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seat {
    /// That of a voter, below `max_voters`.
    Voter,
    /// That of this member, in one joint change.
    InsteadOf(u64),
    /// It stays a learner.
    Learner,
}

impl Node {
    /// Takes a control node in, as a learner; it is promoted by itself once it has caught up and there is a seat. A member asked for
    /// again gets the addresses and the seat named now.
    ///
    /// # Errors
    /// [`MembershipError`].
    pub async fn add_member(&self, member: MemberInfo, seat: Seat) -> Result<(), MembershipError> {
        self.core.add(member, Some(seat)).await
    }

    /// Removes a member. Its process goes on, without a say. A leader doesn't remove itself: it hands over first.
    ///
    /// # Errors
    /// [`MembershipError::NotLeader`] also once it has handed over: its successor removes it.
    /// [`MembershipError::QuorumLost`] where the reachable rest would be no quorum of what remains; and others.
    pub async fn remove_member(&self, raft_id: u64) -> Result<(), MembershipError> {
        let core = &self.core;
        let _one = core.changing.lock().await;
        core.must_lead()?;
        let members = core.members();
        let found = members.iter().find(|member| member.info.raft_id == raft_id);
        let found = found.ok_or_else(|| MembershipError::UnknownMember { name: raft_id.to_string() })?;
        let change = match found.role {
            MemberRole::Learner => ChangeMembers::RemoveNodes(BTreeSet::from([raft_id])),
            MemberRole::Voter => {
                core.check_quorum_without(&members, raft_id).await?;
                if raft_id == core.raft_id {
                    self.transfer(None).await?;
                    return Err(MembershipError::NotLeader { leader: core.leader() });
                }
                ChangeMembers::RemoveVoters(BTreeSet::from([raft_id]))
            }
        };
        core.change(change).await
    }

    /// The voter that would be handed the lead: the one named, else the one that is furthest. None where that is this node.
    ///
    /// # Errors
    /// [`MembershipError`]; `NotTransferred` says what is wrong with the one named, or that there is none.
    pub async fn successor(&self, to: Option<u64>) -> Result<Option<u64>, MembershipError> {
        let core = &self.core;
        core.must_lead()?;
        match to {
            Some(raft_id) if raft_id == core.raft_id => Ok(None),
            Some(raft_id) => core.check_successor(raft_id).await.map(|()| Some(raft_id)),
            None => core.furthest_voter().map(Some),
        }
    }

    /// Hands the lead to a voter: the one named, else the one that is furthest. Returns when another node leads.
    ///
    /// # Errors
    /// [`MembershipError`]; `Unknown` where it was begun and did not end in time.
    pub async fn transfer(&self, to: Option<u64>) -> Result<(), MembershipError> {
        let core = &self.core;
        let Some(target) = self.successor(to).await? else { return Ok(()) };
        core.raft.trigger().transfer_leader(target).await.map_err(|_| MembershipError::Unknown)?;
        let mut leadership = self.leadership();
        let other = |state: &crate::member::LeadershipState| {
            state.leader.as_ref().is_some_and(|leader| leader.raft_id != core.raft_id)
        };
        match tokio::time::timeout(TRANSFER_PATIENCE, leadership.wait_for(other)).await {
            Ok(Ok(_)) => Ok(()),
            // Nothing takes it back: the other one may still take over, or a third one.
            Ok(Err(_)) | Err(_) => Err(MembershipError::Unknown),
        }
    }
}

impl Core {
    /// Asks the voters that would remain, so that one that died a moment ago does not count.
    async fn check_quorum_without(&self, members: &[Member], removed: u64) -> Result<(), MembershipError> {
        let remaining: Vec<&Member> =
            members.iter().filter(|m| m.role == MemberRole::Voter && m.info.raft_id != removed).collect();
        let is_there = async |member: &Member| {
            member.info.raft_id == self.raft_id || self.probe(&member.info).await.is_ok()
        };
        let answered = futures::future::join_all(remaining.iter().map(|member| is_there(member))).await;
        let reached = answered.iter().filter(|answered| **answered).count();
        if reached > remaining.len() / 2 {
            return Ok(());
        }
        let silent = remaining.iter().zip(&answered).filter(|(_, answered)| !**answered);
        let silent: Vec<&str> = silent.map(|(member, _)| member.info.name.as_str()).collect();
        let why = format!("{reached} of {} answer, not [{}]", remaining.len(), silent.join(", "));
        Err(MembershipError::QuorumLost { why })
    }

    fn furthest_voter(&self) -> Result<u64, MembershipError> {
        let members = self.members();
        let able = members.iter().filter(|member| {
            member.role == MemberRole::Voter
                && member.info.raft_id != self.raft_id
                && member.last_contact_ms.is_some_and(|ms| ms <= REACHABLE_MS)
        });
        let furthest = able.max_by_key(|member| member.matched).map(|member| member.info.raft_id);
        let why = "there is no other voter that can be reached".to_owned();
        furthest.ok_or(MembershipError::NotTransferred { why })
    }

    /// Once begun a transfer is not taken back, so that whoever cannot take over soon is refused before.
    async fn check_successor(&self, raft_id: u64) -> Result<(), MembershipError> {
        let members = self.members();
        let found = members.iter().find(|member| member.info.raft_id == raft_id);
        let member = found.ok_or_else(|| MembershipError::UnknownMember { name: raft_id.to_string() })?;
        let name = &member.info.name;
        let not = |why: String| Err(MembershipError::NotTransferred { why });
        if member.role == MemberRole::Learner {
            return not(format!("{name} is a learner, and only voters lead"));
        }
        if let Err(error) = self.probe(&member.info).await {
            return not(format!("{name} does not answer ({error})"));
        }
        let last = members.iter().filter_map(|member| member.matched).max();
        if member.matched.unwrap_or(0) + CAUGHT_UP_ENTRIES < last.unwrap_or(0) {
            return not(format!(
                "{name} has not caught up: `matched` of GET /v1/members tells how far it is"
            ));
        }
        Ok(())
    }

    /// Asks a member for its hello now, rather than going by when it was last heard.
    pub(crate) async fn probe(&self, member: &MemberInfo) -> Result<Bytes, TransportError> {
        let envelope = self.links.envelope(Some(member.raft_id));
        let transport = self.links.transport();
        transport.rpc(&member.peer_url, RpcKind::Hello, envelope, Bytes::new(), PROBE_TIMEOUT).await
    }

    fn must_lead(&self) -> Result<Leadership, MembershipError> {
        let state = self.leadership();
        state.mine.ok_or(MembershipError::NotLeader { leader: state.leader })
    }

    /// Carries a change to its end, both steps of a joint one, even when whoever asked goes away.
    async fn change(&self, change: ChangeMembers<u64, Peer>) -> Result<(), MembershipError> {
        let begun = Instant::now();
        loop {
            // One that was removed may lead for a moment yet; openraft takes no change from it.
            if !self.is_member() {
                return Err(MembershipError::NotLeader { leader: None });
            }
            let (raft, change) = (self.raft.clone(), change.clone());
            let changing = self.scope.spawn(async move { raft.change_membership(change, false).await });
            let error = match tokio::time::timeout(CHANGE_PATIENCE, changing).await {
                Ok(Ok(Ok(_))) => return Ok(()),
                Ok(Ok(Err(RaftError::APIError(error)))) => refused(error, self.leader()),
                // The core may have ended after it appended the change.
                Ok(Ok(Err(RaftError::Fatal(_))) | Err(_)) | Err(_) => MembershipError::Unknown,
            };
            // A change that is under way, or a leader's first entry, is committed in a moment.
            if !matches!(error, MembershipError::InProgress) || begun.elapsed() > IN_PROGRESS_PATIENCE {
                return Err(error);
            }
            tokio::time::sleep(IN_PROGRESS_RETRY).await;
        }
    }

    /// Whether a joint change was left half way, by a leader that went away between its steps.
    fn is_joint(&self) -> bool {
        let metrics = self.raft.server_metrics();
        metrics.borrow_watched().membership_config.membership().get_joint_config().len() > 1
    }

    /// Without a seat named, a member keeps the one that it has.
    async fn add(&self, member: MemberInfo, seat: Option<Seat>) -> Result<(), MembershipError> {
        let _one = self.changing.lock().await;
        self.must_lead()?;
        let members = self.members();
        let raft_id = member.raft_id;
        let known = members.iter().find(|known| known.info.raft_id == raft_id);
        let mut peer = Peer::new(member);
        (peer.learner_only, peer.replaces) = match (seat, known) {
            (None, Some(known)) => (known.learner_only, known.replaces),
            (None | Some(Seat::Voter), _) => (false, None),
            (Some(Seat::InsteadOf(replaced)), _) => (false, Some(replaced)),
            (Some(Seat::Learner), _) => (true, None),
        };
        let replaced = |member: &Member| Some(member.info.raft_id) == peer.replaces;
        if let Some(Seat::InsteadOf(unknown)) = seat
            && !members.iter().any(replaced)
        {
            return Err(MembershipError::UnknownMember { name: unknown.to_string() });
        }
        let mut others = members.iter().filter(|m| m.info.raft_id != raft_id && !replaced(m));
        if let Some(taken) = others.clone().find(|other| other.info.name == peer.name) {
            return Err(MembershipError::NameTaken { name: peer.name, raft_id: taken.info.raft_id });
        }
        // A member that tells its new addresses may have been given those of one that is away.
        if seat.is_some() || known.is_none() {
            let urls = [("client_url", &peer.client_url), ("peer_url", &peer.peer_url)];
            let same = |info: &MemberInfo| {
                urls.into_iter().find(|(_, url)| **url == info.client_url || **url == info.peer_url)
            };
            if let Some((other, (field, url))) = others.find_map(|other| Some((other, same(&other.info)?))) {
                let (url, name) = (url.clone(), other.info.name.clone());
                return Err(MembershipError::AddressTaken { field, url, name });
            }
        }
        match known {
            None => self.change(ChangeMembers::AddNodes(BTreeMap::from([(raft_id, peer)]))).await,
            Some(known)
                if known.info == peer.info(raft_id)
                    && known.learner_only == peer.learner_only
                    && known.replaces == peer.replaces =>
            {
                Ok(())
            }
            // The Raft id is that of the data directory, so that it is the same node, under another address perhaps.
            Some(_) => self.change(ChangeMembers::SetNodes(BTreeMap::from([(raft_id, peer)]))).await,
        }
    }

    /// Answers a node that asks to join.
    pub(crate) async fn take_in(&self, member: MemberInfo) -> JoinAnswer {
        let Some(cluster_id) = self.links.cluster_id() else {
            return JoinAnswer::Later { why: "it belongs to no cluster yet".to_owned() };
        };
        match self.add(member, None).await {
            Ok(()) => JoinAnswer::Joined { cluster_id },
            Err(MembershipError::NotLeader { leader }) => {
                JoinAnswer::Elsewhere { leader: leader.filter(|leader| leader.raft_id != self.raft_id) }
            }
            Err(error @ MembershipError::NameTaken { .. }) => JoinAnswer::Refused { why: error.to_string() },
            Err(error) => JoinAnswer::Later { why: error.to_string() },
        }
    }
}

fn refused(error: ClientWriteError<TypeConfig>, leader: Option<MemberInfo>) -> MembershipError {
    match error {
        ClientWriteError::ForwardToLeader(_) | ClientWriteError::PreconditionFailed(_) => {
            MembershipError::NotLeader { leader }
        }
        ClientWriteError::LogEntryDiscarded(_) => MembershipError::Unknown,
        ClientWriteError::ChangeMembershipError(error) => match error {
            ChangeMembershipError::LearnerNotFound(missing) => {
                MembershipError::UnknownMember { name: missing.node_id.to_string() }
            }
            ChangeMembershipError::EmptyMembership(_) => {
                MembershipError::QuorumLost { why: "no voter would remain".to_owned() }
            }
            ChangeMembershipError::InProgress(_)
            | ChangeMembershipError::UncommittedLeaderLog(_)
            | ChangeMembershipError::UnsupportedMembershipTransition(_)
            | ChangeMembershipError::NodeMetadataChanged(_) => MembershipError::InProgress,
        },
    }
}

/// Promotes learners while this node leads.
pub(crate) async fn run(core: Arc<Core>) {
    let mut leadership = core.leadership_watch();
    let node = Node { core: core.clone() };
    loop {
        if leadership.wait_for(|state| state.mine.is_some()).await.is_err() {
            return;
        }
        let left_over = core.is_joint().then(|| ChangeMembers::AddVoterIds(BTreeSet::new()));
        let members = core.members();
        let done = match left_over.or_else(|| next_promotion(&members, core.config.max_voters)) {
            Some(change) => {
                let _one = core.changing.lock().await;
                if removes(&change, core.raft_id) {
                    // Its successor makes the change.
                    node.transfer(None).await
                } else {
                    core.change(change).await
                }
            }
            // As any removal it asks first whether the rest is there.
            None => match voter_replaced(&members) {
                Some(replaced) => node.remove_member(replaced).await,
                None => Ok(()),
            },
        };
        if let Err(error) = done {
            tracing::debug!(%error, "a seat is not given yet");
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn removes(change: &ChangeMembers<u64, Peer>, raft_id: u64) -> bool {
    match change {
        ChangeMembers::Batch(changes) => changes.iter().any(|change| removes(change, raft_id)),
        ChangeMembers::RemoveVoters(removed) => removed.contains(&raft_id),
        _ => false,
    }
}

/// A voter that another voter is to replace: that one found a free seat before it was told whom to replace.
fn voter_replaced(members: &[Member]) -> Option<u64> {
    let votes =
        |raft_id: u64| members.iter().any(|m| m.role == MemberRole::Voter && m.info.raft_id == raft_id);
    let voters = members.iter().filter(|member| member.role == MemberRole::Voter);
    let mut others =
        voters.filter_map(|voter| voter.replaces.filter(|replaced| *replaced != voter.info.raft_id));
    others.find(|replaced| votes(*replaced))
}

/// The first learner that has caught up and for which there is a seat.
fn next_promotion(members: &[Member], max_voters: usize) -> Option<ChangeMembers<u64, Peer>> {
    let voters: BTreeMap<u64, &Member> =
        members.iter().filter(|m| m.role == MemberRole::Voter).map(|m| (m.info.raft_id, m)).collect();
    let furthest = voters.values().filter_map(|voter| voter.matched).max()?;
    let ready = |member: &&Member| {
        member.role == MemberRole::Learner
            && !member.learner_only
            && member.last_contact_ms.is_some_and(|ms| ms <= REACHABLE_MS)
            && member.matched.is_some_and(|matched| matched + CAUGHT_UP_ENTRIES >= furthest)
    };
    for learner in members.iter().filter(ready) {
        let promoted = ChangeMembers::AddVoterIds(BTreeSet::from([learner.info.raft_id]));
        match learner.replaces.filter(|replaced| voters.contains_key(replaced)) {
            Some(replaced) => {
                let removed = ChangeMembers::RemoveVoters(BTreeSet::from([replaced]));
                return Some(ChangeMembers::Batch(vec![promoted, removed]));
            }
            None if voters.len() < max_voters => return Some(promoted),
            None => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(raft_id: u64, role: MemberRole, matched: u64) -> Member {
        let info = MemberInfo {
            name: format!("n{raft_id}"),
            raft_id,
            client_url: String::new(),
            peer_url: String::new(),
        };
        Member {
            info,
            role,
            learner_only: false,
            replaces: None,
            matched: Some(matched),
            last_contact_ms: Some(5),
        }
    }

    #[test]
    fn a_learner_is_promoted_once_it_has_caught_up_and_there_is_a_seat() {
        let mut members = vec![member(1, MemberRole::Voter, 10_000), member(2, MemberRole::Learner, 10)];
        assert_eq!(next_promotion(&members, 5), None);
        members[1].matched = Some(9_900);
        assert_eq!(next_promotion(&members, 5), Some(ChangeMembers::AddVoterIds([2].into())));
        assert_eq!(next_promotion(&members, 1), None);
        members[1].learner_only = true;
        assert_eq!(next_promotion(&members, 5), None);
    }

    #[test]
    fn a_replacement_takes_the_seat_in_one_change() {
        let mut members = vec![member(1, MemberRole::Voter, 10), member(2, MemberRole::Learner, 10)];
        members[1].replaces = Some(1);
        let both =
            vec![ChangeMembers::AddVoterIds([2].into()), ChangeMembers::RemoveVoters(BTreeSet::from([1]))];
        assert_eq!(next_promotion(&members, 1), Some(ChangeMembers::Batch(both)));
        members.remove(0);
        assert_eq!(next_promotion(&members, 1), None);
    }

    #[test]
    fn a_replacement_that_had_found_a_free_seat_still_replaces() {
        let mut members = vec![member(1, MemberRole::Voter, 10), member(2, MemberRole::Voter, 10)];
        assert_eq!(voter_replaced(&members), None);
        members[1].replaces = Some(1);
        assert_eq!(voter_replaced(&members), Some(1));
        members[1].replaces = Some(2);
        assert_eq!(voter_replaced(&members), None, "nobody replaces himself");
        members[1].replaces = Some(1);
        members.remove(0);
        assert_eq!(voter_replaced(&members), None);
    }
}
