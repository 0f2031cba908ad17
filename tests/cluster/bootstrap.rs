//! Three control nodes form one cluster, whichever starts first, and not before all three are there.

use std::collections::BTreeSet;

use ruvector_cluster::client::wire::MemberRole;

use crate::support::{ControlCluster, DEADLINE, Options, wait_for};

async fn bootstraps_in_order(order: [usize; 3]) {
    let mut cluster = ControlCluster::prepare(Options::default());
    let (last, first) = order.split_last().unwrap();
    for node in first {
        cluster.spawn(*node);
        let api = cluster.api(*node);
        wait_for("the process to answer", DEADLINE, async || {
            api.get("/livez").await?.ok::<serde_json::Value>()
        })
        .await;
        let ready = api.get("/readyz").await.unwrap();
        assert_eq!(ready.status, 503, "ready without a cluster: {}", ready.body);
    }
    cluster.spawn(*last);
    cluster.wait_for_leader().await;

    let mut ids = BTreeSet::new();
    for node in 0..cluster.len() {
        let view = cluster.view(node).await.unwrap();
        ids.insert((view.cluster_id.clone(), view.generation));
        assert_eq!(view.members.len(), 3, "{view:?}");
        assert!(view.members.iter().all(|member| member.role == MemberRole::Voter), "{view:?}");
        assert_eq!(view.num_shards, 16);
    }
    assert_eq!(ids.len(), 1, "two clusters: {ids:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_node_may_start_first() {
    bootstraps_in_order([0, 1, 2]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_second_node_may_start_first() {
    bootstraps_in_order([1, 2, 0]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_third_node_may_start_first() {
    bootstraps_in_order([2, 1, 0]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn founders_whose_settings_differ_form_no_cluster_and_say_which() {
    let mut cluster = ControlCluster::prepare(Options::default());
    cluster.spawn(0);
    cluster.spawn(1);
    cluster.spawn_with(2, &["--replication-factor", "2"]);
    wait_for("the differing setting to be named", DEADLINE, async || {
        let logs: Vec<String> = (0..3).map(|node| cluster.process(node).log()).collect();
        let names = |log: &String| log.contains("replication_factor") || log.contains("replication-factor");
        if logs.iter().any(names) { Ok(()) } else { Err(logs.join("----\n")) }
    })
    .await;
    wait_for("an answer that names it, too", DEADLINE, async || {
        let ready = cluster.api(2).get("/readyz").await?;
        let names = ready.status == 503 && ready.body.to_string().contains("flags disagree");
        if names { Ok(()) } else { Err(ready.body.to_string()) }
    })
    .await;
    for node in 0..3 {
        let view = cluster.view(node).await;
        let leads = view.as_ref().is_ok_and(|view| view.leader.is_some());
        assert!(!leads, "a cluster was formed: {view:?}");
    }
}
