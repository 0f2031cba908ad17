use super::*;
use crate::bootstrap::Phase;
use crate::config::NodeConfig;
use crate::error::FatalError;
use crate::member::MemberRole;
use crate::membership::Seat;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_found_one_cluster_in_any_order_of_starting() {
    for order in [[0, 1, 2], [2, 0, 1], [1, 2, 0]] {
        let mut cluster = Cluster::in_memory(3);
        cluster.start_all(&order).await;
        cluster.put("a", "1").await;
        cluster.converge("a", "1").await;
        let ids: Vec<_> = cluster.running().map(|(_, node)| node.cluster_id().unwrap()).collect();
        assert!(ids.windows(2).all(|pair| pair[0] == pair[1]));
        let members = cluster.node(0).members();
        assert_eq!(members.iter().filter(|member| member.role == MemberRole::Voter).count(), 3);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_found_one_cluster_over_sockets() {
    let mut cluster = Cluster::over_http(3);
    cluster.start_all(&[1, 0, 2]).await;
    cluster.put("a", "1").await;
    cluster.converge("a", "1").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_without_seeds_is_a_cluster_at_once() {
    let mut cluster = Cluster::in_memory(1);
    cluster.adjust = |_, config| config.seeds.clear();
    cluster.start(0).await;
    cluster.put("a", "1").await;
    cluster.stop(0).await;
    cluster.start(0).await;
    assert_eq!(cluster.get(0, "a").await.as_deref(), Some("1"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_starts_before_all_expected_nodes_are_there() {
    let mut cluster = Cluster::in_memory(3);
    cluster.start_all(&[0, 1]).await;
    eventually(
        "it says for whom it waits",
        async || matches!(&*cluster.node(0).phase().borrow(), Phase::Waiting { why } if why.contains("7002")),
    )
    .await;
    assert!(cluster.running().all(|(_, node)| node.cluster_id().is_none()));
    cluster.start(2).await;
    cluster.put("a", "1").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flags_that_disagree_are_named_and_nothing_starts() {
    let mut cluster = Cluster::in_memory(2);
    cluster.adjust = |at, config| {
        if at == 1 {
            config.bootstrap_settings = "65".into();
        }
    };
    cluster.start_all(&[0, 1]).await;
    eventually("the flag is named", async || {
        matches!(&*cluster.node(0).phase().borrow(), Phase::Waiting { why }
            if why == "flags disagree with n1: num-shards is 64 here, 65 there")
    })
    .await;
    assert!(cluster.running().all(|(_, node)| node.cluster_id().is_none()));
}

/// Each is given the first one's address alone, and none could know of all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_with_one_seed_found_one_cluster_once_they_are_told_of_each_other() {
    let mut cluster = Cluster::in_memory(3);
    cluster.adjust = |_, config| {
        config.seeds.truncate(1);
        config.bootstrap_expect = Some(3);
    };
    cluster.start_all(&[0, 1, 2]).await;
    eventually("the first says how many it found", async || {
        matches!(&*cluster.node(0).phase().borrow(), Phase::Waiting { why } if why.starts_with("1 of 3"))
    })
    .await;
    let all: Vec<String> = (0..3).map(|at| cluster.client(at)).collect();
    for at in 0..3 {
        cluster.node(at).set_more_seeds(all.clone());
    }
    cluster.put("a", "1").await;
    cluster.converge("a", "1").await;
    let voters = cluster.node(0).members();
    assert_eq!(voters.iter().filter(|member| member.role == MemberRole::Voter).count(), 3);
}

/// Two clusters by their seeds; a newcomer is told of both.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fresh_node_joins_whom_it_is_told_of_where_no_seed_answers_and_its_seeds_come_first() {
    let mut cluster = Cluster::in_memory(4);
    cluster.adjust = |at, config| {
        let own = config.client_url.trim_start_matches("http://").to_owned();
        config.seeds = match at {
            0 | 1 => vec![own],
            2 => vec!["127.0.0.1:7001".to_owned()],
            _ => vec!["127.0.0.1:1".to_owned()],
        };
    };
    cluster.start_all(&[0, 1]).await;
    let founded = async |at: usize| cluster.node(at).cluster_id().is_some();
    eventually("both are founded", async || founded(0).await && founded(1).await).await;
    let first = cluster.client(0);
    cluster.start_all(&[2, 3]).await;
    for at in [2, 3] {
        cluster.node(at).set_more_seeds(vec![first.clone()]);
    }
    for (at, whose) in [(2, 1), (3, 0)] {
        eventually("it has joined", async || cluster.node(at).cluster_id().is_some()).await;
        assert_eq!(cluster.node(at).cluster_id(), cluster.node(whose).cluster_id(), "n{at}");
    }
}

async fn one_cluster_is_founded_by(size: usize, order: &[usize], adjust: fn(usize, &mut NodeConfig)) {
    for descending in [true, false] {
        for _ in 0..3 {
            let mut cluster = Cluster::in_memory(size);
            cluster.raft_id =
                if descending { |at| Some(100 - at as u64) } else { |at| Some(100 + at as u64) };
            cluster.adjust = adjust;
            cluster.start_all(order).await;
            cluster.put("a", "1").await;
            cluster.converge("a", "1").await;
            let ids: Vec<_> = cluster.running().map(|(_, node)| node.cluster_id()).collect();
            assert!(ids.iter().all(|id| id.is_some() && *id == ids[0]), "{ids:?}");
        }
    }
}

/// Two proposers each held the promise of nodes that the other needed, and all waited for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_fresh_nodes_than_are_expected_found_one_cluster() {
    // The fourth is nobody's seed.
    one_cluster_is_founded_by(3, &[3, 2, 1, 0], |_, config| {
        (config.bootstrap_expect, config.max_voters) = (Some(3), 3);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fresh_nodes_that_expect_different_numbers_found_one_cluster() {
    one_cluster_is_founded_by(3, &[3, 2, 1, 0], |_, config| config.max_voters = 3).await;
}

/// Neither proposer is in what the other one proposes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_proposers_that_do_not_know_each_other_found_one_cluster() {
    one_cluster_is_founded_by(4, &[0, 1, 2, 3], |at, config| {
        (config.bootstrap_expect, config.max_voters) = (Some(3), 3);
        if at < 2 {
            config.seeds.remove(1 - at);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn seeds_of_two_clusters_are_refused_and_named() {
    let mut cluster = Cluster::in_memory(2);
    cluster.adjust = |at, config| {
        if at < 2 {
            config.seeds.clear();
        }
    };
    // Both clusters are there before the third looks: of one alone it would become a part.
    cluster.start_all(&[0, 1]).await;
    eventually("both are founded", async || [0, 1].iter().all(|at| cluster.node(*at).cluster_id().is_some()))
        .await;
    cluster.start(2).await;
    eventually("it says so", async || {
        matches!(&*cluster.node(2).phase().borrow(), Phase::Waiting { why }
            if why.starts_with("the seeds belong to different clusters"))
    })
    .await;
    assert_eq!(cluster.node(2).cluster_id(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_while_founding_is_resumed() {
    for seed in 0..6 {
        let mut cluster = Cluster::in_memory(3);
        cluster.start_all(&[0, 1, 2]).await;
        for step in 0..4 {
            tokio::time::sleep(std::time::Duration::from_millis(20 * seed % 7 + 10 * step)).await;
            let at = usize::try_from((seed + step) % 3).unwrap();
            cluster.crash(at, seed);
            cluster.start(at).await;
        }
        cluster.put("a", "1").await;
        cluster.converge("a", "1").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fresh_node_joins_a_running_cluster_and_is_promoted() {
    let mut cluster = Cluster::in_memory(3);
    cluster.start_all(&[0, 1, 2]).await;
    cluster.put("a", "1").await;
    cluster.start(3).await;
    eventually("the fourth votes", async || {
        cluster.node(0).members().iter().filter(|member| member.role == MemberRole::Voter).count() == 4
    })
    .await;
    assert_eq!(cluster.get(3, "a").await.as_deref(), Some("1"));
    eventually("it says so", async || *cluster.node(3).phase().borrow() == Phase::Running).await;
}

/// It asked only the one that had been removed, for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fresh_node_joins_although_a_seed_was_removed_and_does_not_know() {
    for removed in 0..3 {
        let mut cluster = Cluster::in_memory(3);
        cluster.raft_id = |at| Some(100 + at as u64);
        cluster.start_all(&[0, 1, 2]).await;
        cluster.put("a", "1").await;
        cluster.converge("a", "1").await;
        cluster.set_isolated(removed, true);
        let others: Vec<usize> = (0..3).filter(|at| *at != removed).collect();
        let gone = cluster.node(removed).raft_id();
        eventually("it is removed", async || {
            for at in &others {
                drop(cluster.node(*at).remove_member(gone).await);
            }
            others.iter().any(|at| cluster.node(*at).members().len() == 2)
        })
        .await;
        cluster.set_isolated(removed, false);
        cluster.start(3).await;
        eventually("it has joined", async || {
            *cluster.node(3).phase().borrow() == Phase::Running
                && cluster.get(3, "a").await.as_deref() == Some("1")
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beyond_max_voters_a_node_stays_a_learner() {
    let mut cluster = Cluster::in_memory(3);
    cluster.adjust = |_, config| config.max_voters = 3;
    cluster.start_all(&[0, 1, 2]).await;
    cluster.put("a", "1").await;
    cluster.start(3).await;
    cluster.converge("a", "1").await;
    let fourth = cluster.node(3).raft_id();
    let role =
        |member: &crate::member::Member| member.info.raft_id == fourth && member.role == MemberRole::Learner;
    assert!(cluster.node(0).members().iter().any(role));
}

/// A fourth node is to take the seat of a follower, having joined as `max_voters` let it.
async fn a_seat_is_given(adjust: fn(usize, &mut NodeConfig), joined_as: MemberRole) {
    let mut cluster = Cluster::in_memory(3);
    cluster.adjust = adjust;
    cluster.start_all(&[0, 1, 2]).await;
    cluster.put("a", "1").await;
    cluster.start(3).await;
    let new = cluster.node(3).info();
    let role_of = |cluster: &Cluster, raft_id: u64| {
        let members = cluster.node(3).members();
        members.iter().find(|member| member.info.raft_id == raft_id).map(|member| member.role)
    };
    eventually("it has joined", async || role_of(&cluster, new.raft_id) == Some(joined_as)).await;
    let replaced = cluster.node((cluster.leader().await + 1) % 3).raft_id();
    // Whoever leads may change on a busy machine, and changes come one at a time.
    eventually("it is told whom to replace", async || {
        let leader = cluster.leader().await;
        cluster.node(leader).add_member(new.clone(), Seat::InsteadOf(replaced)).await.is_ok()
    })
    .await;
    eventually("one went and the other votes", async || {
        role_of(&cluster, replaced).is_none() && role_of(&cluster, new.raft_id) == Some(MemberRole::Voter)
    })
    .await;
    cluster.put("a", "2").await;
    assert_eq!(cluster.get(3, "a").await.as_deref(), Some("2"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_learner_takes_the_seat_of_whom_it_replaces() {
    a_seat_is_given(|_, config| config.max_voters = 3, MemberRole::Learner).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_voter_that_had_found_a_free_seat_still_replaces_whom_it_is_told_to() {
    a_seat_is_given(|_, config| config.max_voters = 5, MemberRole::Voter).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_node_is_refused_under_its_old_name_until_the_old_one_is_removed() {
    let mut cluster = Cluster::in_memory(3);
    cluster.start_all(&[0, 1, 2]).await;
    cluster.put("a", "1").await;
    let old = cluster.node(2).raft_id();
    cluster.crash(2, 1);
    cluster.members.remove(&2);
    cluster.start(2).await;
    let FatalError::Refused(why) = cluster.node(2).fatal().await else { panic!("not refused") };
    assert!(why.contains("the name n2 is taken") && why.contains("DELETE /v1/members/n2"), "{why}");
    cluster.crash(2, 1);
    let leader = cluster.leader().await;
    cluster.node(leader).remove_member(old).await.unwrap();
    cluster.start(2).await;
    cluster.converge("a", "1").await;
}
