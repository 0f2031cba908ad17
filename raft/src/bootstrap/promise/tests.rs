use std::collections::BTreeMap;
use std::sync::Arc;

use ruvector_cluster_storage::{MemRows, OpenOptions, SimDisk, Storage};

use super::*;

/// The node with raft id 3.
async fn fresh(disk: &SimDisk) -> (Founding, Storage) {
    let options = OpenOptions { raft_id: Some(3), ..OpenOptions::new("n3") };
    let storage = Storage::open(Arc::new(disk.clone()), Arc::new(MemRows::new()), options).await.unwrap();
    let diff: SettingsDiff =
        Arc::new(
            |mine, theirs| {
                if mine == theirs { Vec::new() } else { vec!["num-shards 64 here, 65 there".to_owned()] }
            },
        );
    let settings = Bytes::from_static(b"64");
    let (identity, slots) = (storage.identity.clone(), storage.promise.clone());
    let founding = Founding::open(3, settings, diff, identity, slots, 0xd).await;
    (founding.unwrap(), storage)
}

fn members(others: &[u64]) -> BTreeMap<u64, Peer> {
    others.iter().chain(&[3]).map(|id| (*id, Peer::default())).collect()
}

fn proposal(proposer: u64, cluster_id: &str) -> Proposal {
    Proposal {
        cluster_id: cluster_id.to_owned(),
        proposer,
        members: members(&[proposer]),
        settings: Opaque(Bytes::from_static(b"64")),
    }
}

fn plea(cluster_id: &str, rival: Option<u64>) -> ReleaseRequest {
    ReleaseRequest { cluster_id: cluster_id.to_owned(), rival, joining: false }
}

#[tokio::test]
async fn a_promise_binds_to_one_proposal_across_a_crash_until_it_is_released() {
    let disk = SimDisk::new();
    let (founding, storage) = fresh(&disk).await;
    founding.promise(proposal(1, "a")).await.unwrap();
    drop((founding, storage));
    let (founding, _storage) = fresh(&disk.crash(1)).await;
    assert!(matches!(founding.promise(proposal(2, "b")).await, Err(PromiseError::Promised(1))));
    founding.release(&plea("a", None)).await;
    founding.promise(proposal(1, "c")).await.unwrap();
    assert!(!founding.adopt("a").await.unwrap(), "that one was given up");
    assert!(founding.adopt("c").await.unwrap());
    let refused = founding.promise(proposal(1, "d")).await;
    assert!(matches!(refused, Err(PromiseError::Member(bound)) if bound == "c"));
}

/// It was bound to the older one then, and did not know the newer one when that started.
#[tokio::test]
async fn an_older_proposal_that_comes_late_does_not_replace_the_newer_one() {
    let (founding, _storage) = fresh(&SimDisk::new()).await;
    founding.promise(proposal(1, "newer")).await.unwrap();
    assert!(matches!(founding.promise(proposal(1, "older")).await, Err(PromiseError::Promised(1))));
    assert!(founding.adopt("newer").await.unwrap());
}

#[tokio::test]
async fn flags_that_disagree_are_refused_and_named() {
    let (founding, _storage) = fresh(&SimDisk::new()).await;
    let other = Proposal { settings: Opaque(Bytes::from_static(b"65")), ..proposal(1, "a") };
    let refused = founding.promise(other).await.unwrap_err();
    assert_eq!(refused.to_string(), "its flags disagree: num-shards 64 here, 65 there");
    assert_eq!(founding.promised().await, None);
}

#[tokio::test(start_paused = true)]
async fn a_proposer_that_is_promised_to_another_never_starts_what_it_gave_up() {
    let (founding, _storage) = fresh(&SimDisk::new()).await;
    let own = founding.draft(members(&[4])).await.unwrap();
    assert!(!founding.give_up(&plea(&own.cluster_id, None)).await, "it may still start");
    founding.promise(proposal(1, "a")).await.unwrap();
    assert!(founding.give_up(&plea(&own.cluster_id, None)).await);
    // Released itself, it still holds promises under the old cluster id.
    founding.release(&plea("a", None)).await;
    let late = founding.promise(own.clone()).await.unwrap_err();
    assert!(matches!(late, PromiseError::GivenUp), "{late}");
    tokio::time::sleep(FIRST_GIVE_WAY).await;
    let next = founding.draft(members(&[4])).await.unwrap();
    assert_ne!(next.cluster_id, own.cluster_id);
    founding.promise(next).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn of_two_proposers_that_wait_for_each_other_the_higher_one_gives_way() {
    let (founding, _storage) = fresh(&SimDisk::new()).await;
    let first = founding.draft(members(&[5])).await.unwrap();
    assert!(!founding.give_up(&plea(&first.cluster_id, Some(4))).await);
    assert!(founding.give_up(&plea(&first.cluster_id, Some(1))).await);
    assert_eq!(founding.draft(members(&[5])).await, None, "the other one goes first");
    tokio::time::sleep(FIRST_GIVE_WAY).await;
    let second = founding.draft(members(&[5])).await.unwrap();
    assert!(founding.give_up(&plea(&second.cluster_id, Some(1))).await);
    tokio::time::sleep(FIRST_GIVE_WAY).await;
    assert_eq!(founding.draft(members(&[5])).await, None, "for longer, as a slow one may need");
    tokio::time::sleep(FIRST_GIVE_WAY).await;
    let third = founding.draft(members(&[5])).await.unwrap();
    founding.promise(third.clone()).await.unwrap();
    assert!(!founding.give_up(&plea(&third.cluster_id, Some(1))).await, "about to start");
    assert!(founding.adopt(&third.cluster_id).await.unwrap());
    assert!(!founding.give_up(&plea(&third.cluster_id, Some(1))).await, "started");
    assert!(founding.give_up(&plea(&first.cluster_id, None)).await);
}

/// It was told that its proposal had started, by a proposer that had started another one under the same id, without it.
#[tokio::test]
async fn who_is_no_longer_proposed_is_released() {
    let (founding, _storage) = fresh(&SimDisk::new()).await;
    let first = founding.draft(members(&[5])).await.unwrap();
    let second = founding.draft(members(&[4])).await.unwrap();
    assert_ne!(first.cluster_id, second.cluster_id);
    assert!(founding.give_up(&plea(&first.cluster_id, None)).await);
    founding.promise(second.clone()).await.unwrap();
    assert!(founding.adopt(&second.cluster_id).await.unwrap());
    assert!(founding.give_up(&plea(&first.cluster_id, None)).await);
}

/// It kept them for ever.
#[tokio::test]
async fn a_proposer_that_joins_a_cluster_releases_whom_it_held() {
    let (founding, _storage) = fresh(&SimDisk::new()).await;
    let own = founding.draft(members(&[5])).await.unwrap();
    assert_eq!(founding.begin_joining().await, None);
    founding.join("z").await.unwrap();
    assert!(founding.give_up(&plea(&own.cluster_id, None)).await);
    assert!(!founding.give_up(&plea("z", None)).await);
}

/// Two clusters had a common member.
#[tokio::test]
async fn nobody_joins_a_cluster_while_promised_or_promises_itself_while_joining() {
    let (founding, _storage) = fresh(&SimDisk::new()).await;
    founding.promise(proposal(1, "a")).await.unwrap();
    assert_eq!(founding.begin_joining().await.unwrap().cluster_id, "a");
    let (_, request) = founding.plea(true).await.unwrap();
    founding.release(&request).await;
    assert_eq!(founding.begin_joining().await, None);
    assert!(matches!(founding.promise(proposal(1, "b")).await, Err(PromiseError::Joining)));
    founding.stop_joining().await;
    founding.promise(proposal(1, "b")).await.unwrap();
}

#[tokio::test]
async fn a_proposer_lets_a_member_go_that_found_a_running_cluster() {
    let (founding, _storage) = fresh(&SimDisk::new()).await;
    let own = founding.draft(members(&[5])).await.unwrap();
    assert!(founding.give_up(&ReleaseRequest { joining: true, ..plea(&own.cluster_id, None) }).await);
    assert!(matches!(founding.promise(own).await, Err(PromiseError::GivenUp)));
}

#[tokio::test]
async fn a_released_node_promises_itself_to_the_one_that_asked_in_vain() {
    let (founding, _storage) = fresh(&SimDisk::new()).await;
    founding.promise(proposal(2, "b")).await.unwrap();
    assert!(founding.promise(proposal(1, "a")).await.is_err());
    let (promise, request) = founding.plea(false).await.unwrap();
    assert_eq!((promise.proposer, &request), (2, &plea("b", Some(1))));
    founding.release(&plea("earlier", None)).await;
    assert_eq!(founding.promised().await.unwrap().cluster_id, "b", "that was about another proposal");
    founding.release(&request).await;
    founding.promise(proposal(1, "a")).await.unwrap();
}

#[tokio::test]
async fn a_proposer_that_crashed_before_it_was_bound_gave_its_proposal_up() {
    let disk = SimDisk::new();
    let (founding, storage) = fresh(&disk).await;
    let earlier = founding.draft(members(&[5])).await.unwrap();
    founding.promise(earlier.clone()).await.unwrap();
    drop((founding, storage));
    let (founding, _storage) = fresh(&disk.crash(1)).await;
    founding.state.lock().await.draft = Draft::new(0xe);
    assert!(founding.give_up(&plea(&earlier.cluster_id, None)).await);
}
