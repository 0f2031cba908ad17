use super::*;

const LEASE_MS: u64 = 4_000;
const LEADER_LEASE_MS: u64 = 4_200;
const ALIVE: Committed = Committed { down: false, assigned_revision: Revision(10) };
const DOWN: Committed = Committed { down: true, assigned_revision: Revision(10) };

fn id(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

fn leading_since(now_ms: u64, nodes: &[&str]) -> Liveness {
    let ids: Vec<_> = nodes.iter().map(|name| id(name)).collect();
    let mut liveness = Liveness::default();
    liveness.begin_leading(now_ms, LEASE_MS, 1_000, ids.iter().map(|node| (node, Incarnation(1))));
    liveness
}

fn beat(liveness: &mut Liveness, at_ms: u64, installed: u64, committed: Committed) -> Grant {
    let node = id("a");
    let beat = Beat {
        node: &node,
        incarnation: Incarnation(1),
        received_ms: at_ms,
        installed_revision: Revision(installed),
    };
    liveness.observe_heartbeat(&beat, committed)
}

fn expired_at(liveness: &mut Liveness, now_ms: u64) -> Vec<String> {
    liveness.stop_granting(now_ms);
    liveness.expired(now_ms).map(|(node, _)| node.to_string()).collect()
}

#[test]
fn a_silent_node_expires_after_the_leaders_count_of_the_last_grant() {
    let mut liveness = leading_since(0, &["a"]);
    assert_eq!(beat(&mut liveness, 1_000, 10, ALIVE), Grant::Granted(Revision(10)));
    assert!(expired_at(&mut liveness, 1_000 + LEADER_LEASE_MS - 1).is_empty());
    assert_eq!(expired_at(&mut liveness, 1_000 + LEADER_LEASE_MS), ["a"]);
}

#[test]
fn a_new_leader_takes_every_node_as_granted_when_it_begins() {
    let mut liveness = leading_since(50_000, &["a", "b"]);
    assert!(expired_at(&mut liveness, 50_000 + LEADER_LEASE_MS - 1).is_empty());
    assert_eq!(expired_at(&mut liveness, 50_000 + LEADER_LEASE_MS), ["a", "b"]);
}

#[test]
fn an_expiring_node_is_granted_nothing_until_its_verdict_is_committed() {
    let mut liveness = leading_since(0, &["a"]);
    liveness.stop_granting(LEADER_LEASE_MS);
    assert_eq!(beat(&mut liveness, LEADER_LEASE_MS + 1, 10, ALIVE), Grant::Expiring);
    assert_eq!(expired_at(&mut liveness, LEADER_LEASE_MS + 2), ["a"], "a late heartbeat does not undo it");
}

#[test]
fn a_down_node_that_is_heard_and_not_behind_returns_and_is_granted_only_once_alive() {
    let mut liveness = leading_since(0, &["a"]);
    liveness.stop_granting(LEADER_LEASE_MS);
    assert_eq!(beat(&mut liveness, 9_000, 9, DOWN), Grant::Behind(Revision(10)));
    assert_eq!(liveness.returned(9_000).count(), 0);
    assert_eq!(beat(&mut liveness, 9_500, 10, DOWN), Grant::Returning);
    assert_eq!(liveness.returned(9_500).map(|(node, _)| node.as_str()).collect::<Vec<_>>(), ["a"]);
    assert_eq!(liveness.returned(9_500 + LEASE_MS).count(), 0, "what was heard long ago is no return");
    assert_eq!(beat(&mut liveness, 10_000, 10, ALIVE), Grant::Granted(Revision(10)));
    assert_eq!(liveness.returned(10_000).count(), 0);
    assert!(expired_at(&mut liveness, 10_000 + LEADER_LEASE_MS - 1).is_empty());
}

#[test]
fn a_node_behind_for_a_lease_is_granted_nothing_more_and_expires_like_a_silent_one() {
    let mut liveness = leading_since(0, &["a"]);
    for at_ms in (1_000..5_000).step_by(500) {
        assert_eq!(beat(&mut liveness, at_ms, 9, ALIVE), Grant::Granted(Revision(10)));
        assert!(expired_at(&mut liveness, at_ms).is_empty());
    }
    assert!(expired_at(&mut liveness, 1_000 + LEASE_MS).is_empty(), "its last lease is waited out first");
    assert_eq!(beat(&mut liveness, 5_000, 9, ALIVE), Grant::Expiring);
    assert_eq!(expired_at(&mut liveness, 4_500 + LEADER_LEASE_MS), ["a"]);
}

#[test]
fn a_node_that_keeps_installing_is_not_behind_although_more_is_taken_from_it_each_time() {
    let mut liveness = leading_since(0, &["a"]);
    for step in 1..20 {
        let committed = Committed { down: false, assigned_revision: Revision(10 + step) };
        assert_eq!(
            beat(&mut liveness, step * 1_000, 9 + step, committed),
            Grant::Granted(Revision(10 + step))
        );
        assert!(expired_at(&mut liveness, step * 1_000).is_empty());
    }
}

#[test]
fn a_registration_starts_the_count_and_forgets_the_old_runs_grants() {
    let mut liveness = leading_since(0, &["a"]);
    beat(&mut liveness, 1_000, 10, ALIVE);
    assert!(!liveness.is_lease_over_below(&id("a"), Revision(20), 1_500));
    liveness.observe_registration(&id("a"), Incarnation(2), 2_000);
    assert!(
        liveness.is_lease_over_below(&id("a"), Revision(20), 2_000),
        "the new run serves nothing that was taken"
    );
    assert!(expired_at(&mut liveness, 2_000 + LEADER_LEASE_MS - 1).is_empty());
    assert_eq!(expired_at(&mut liveness, 2_000 + LEADER_LEASE_MS), ["a"]);
    assert_eq!(beat(&mut liveness, 2_500, 10, ALIVE), Grant::Expiring, "the old run is granted nothing");
}

#[test]
fn what_was_taken_is_given_after_the_last_grant_below_that_revision_has_ended() {
    let mut liveness = leading_since(0, &["a"]);
    let node = id("a");
    assert!(!liveness.is_lease_over_below(&node, Revision(1), 0), "assumed grants are below every revision");
    assert!(liveness.is_lease_over_below(&node, Revision(1), LEADER_LEASE_MS));
    beat(&mut liveness, 5_000, 10, ALIVE);
    let taken = Committed { down: false, assigned_revision: Revision(30) };
    for at_ms in [6_000, 7_000, 8_000, 9_000] {
        assert_eq!(beat(&mut liveness, at_ms, 10, taken), Grant::Granted(Revision(30)));
    }
    assert!(!liveness.is_lease_over_below(&node, Revision(30), 5_000 + LEADER_LEASE_MS - 1));
    assert!(liveness.is_lease_over_below(&node, Revision(30), 5_000 + LEADER_LEASE_MS));
    assert!(
        !liveness.is_lease_over_below(&node, Revision(31), 5_000 + LEADER_LEASE_MS),
        "a later one waits longer"
    );
    assert!(!liveness.is_lease_over_below(&id("stranger"), Revision(1), 1_000_000));
}

#[test]
fn many_assigned_revisions_within_a_lease_are_merged_on_the_safe_side() {
    let mut liveness = leading_since(0, &["a"]);
    for step in 1..=200 {
        let committed = Committed { down: false, assigned_revision: Revision(step) };
        beat(&mut liveness, 10_000 + step, step, committed);
    }
    assert!(liveness.nodes[&id("a")].grants.len() <= MAX_REMEMBERED_GRANTS);
    assert!(!liveness.is_lease_over_below(&id("a"), Revision(2), 10_001 + LEADER_LEASE_MS - 1));
    assert!(liveness.is_lease_over_below(&id("a"), Revision(201), 10_200 + LEADER_LEASE_MS));
}

#[test]
fn another_store_takes_a_name_only_after_the_lease_and_holds_the_old_one_off() {
    let mut liveness = leading_since(0, &["a"]);
    assert_eq!(liveness.hold_if_over(&id("a"), false, 4_000), None);
    assert_eq!(liveness.hold_if_over(&id("a"), false, LEADER_LEASE_MS), Some(Incarnation(1)));
    assert_eq!(beat(&mut liveness, 5_000, 10, ALIVE), Grant::Expiring);
    assert_eq!(beat(&mut liveness, 6_000, 10, DOWN), Grant::Expiring, "nor may it return meanwhile");
    assert_eq!(liveness.returned(6_000).count(), 0);
    assert_eq!(beat(&mut liveness, 60_000, 10, DOWN), Grant::Returning, "the hold is bounded");
    assert_eq!(liveness.hold_if_over(&id("b"), true, 0), None);
}

#[test]
fn two_lost_heartbeats_make_a_node_suspect_and_nothing_else() {
    let mut liveness = leading_since(0, &["a"]);
    beat(&mut liveness, 1_000, 10, ALIVE);
    assert!(!liveness.is_suspect(&id("a"), 3_400));
    assert!(liveness.is_suspect(&id("a"), 3_500));
    assert!(expired_at(&mut liveness, 3_500).is_empty());
    assert_eq!(liveness.next_expiry_ms(3_500), Some(LEADER_LEASE_MS), "the assumed grant ends first");
    assert_eq!(liveness.next_expiry_ms(LEADER_LEASE_MS), Some(1_000 + LEADER_LEASE_MS));
}
