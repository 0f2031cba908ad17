//! A Cluster's beginning and end.

use std::net::TcpListener;
use std::time::Duration;

use ruvector_cluster::{Cluster, ClusterConfig, ClusterError, ShardId};

use crate::support::{DEADLINE, wait_for};
use crate::{Places, settled};

/// A cluster of one.
fn alone(places: &Places) -> ClusterConfig {
    ClusterConfig { seeds: Vec::new(), ..places.config(0) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_was_stopped_starts_again_with_what_it_had() {
    let places = Places::new(1);
    let cluster = Cluster::new(alone(&places)).await.unwrap();
    assert!(matches!(cluster.get_shard_for_key("k"), Err(ClusterError::NotRunning)));
    assert!(matches!(cluster.nodes().await, Err(ClusterError::NotRunning)));
    assert_eq!((cluster.node_count().await, cluster.is_leader().await), (0, false));
    cluster.stop().await.unwrap();
    cluster.start().await.unwrap();
    cluster.start().await.unwrap();
    cluster.wait_for_stable().await.unwrap();
    let before = cluster.nodes().await.unwrap();
    let epoch = cluster.shard(ShardId(0)).await.unwrap().epoch;
    cluster.stop().await.unwrap();
    cluster.stop().await.unwrap();
    assert!(matches!(cluster.health().await, Err(ClusterError::NotRunning)));
    drop(TcpListener::bind(places.addr(0)).expect("the address is free after a stop"));

    cluster.start().await.unwrap();
    cluster.wait_for_stable().await.unwrap();
    let after = cluster.nodes().await.unwrap();
    assert_eq!((after.len(), &after[0].id, &after[0].shards), (1, &before[0].id, &before[0].shards));
    assert!(cluster.shard(ShardId(0)).await.unwrap().epoch > epoch, "the process began anew");
    cluster.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn dropping_a_cluster_stops_it() {
    let places = Places::new(1);
    drop(settled([alone(&places)]).await);
    // The directory is locked, and the address taken, as long as it runs.
    wait_for("the dropped cluster to have ended", DEADLINE, async || {
        let again = Cluster::new(alone(&places)).await?;
        again.start().await?;
        again.wait_for_stable().await?;
        again.stop().await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_is_given_up_half_way_leaves_nothing_running() {
    let places = Places::new(1);
    let cluster = Cluster::new(alone(&places)).await.unwrap();
    {
        let starting = cluster.start();
        futures::pin_mut!(starting);
        assert!(futures::poll!(starting).is_pending());
    }
    assert!(matches!(cluster.health().await, Err(ClusterError::NotRunning)));
    wait_for("the address and the directory to be free", DEADLINE, async || cluster.start().await).await;
    cluster.wait_for_stable().await.unwrap();
    cluster.stop().await.unwrap();
}

/// What was started died in the channel that told of it, and went on for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_is_given_up_at_its_end_leaves_nothing_running() {
    let places = Places::new(1);
    let cluster = Cluster::new(alone(&places)).await.unwrap();
    {
        let starting = cluster.start();
        futures::pin_mut!(starting);
        assert!(futures::poll!(&mut starting).is_pending());
        // It runs, and nobody asks for the answer.
        let url = format!("http://{}/livez", places.addr(0));
        wait_for("the node to run", DEADLINE, async || reqwest::get(&url).await.map(drop)).await;
    }
    drop(cluster);
    wait_for("the address to be free", DEADLINE, async || TcpListener::bind(places.addr(0)).map(drop)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_during_a_stop_that_was_given_up_waits_for_its_end() {
    let places = Places::new(1);
    let cluster = settled([alone(&places)]).await.remove(0);
    {
        let stopping = cluster.stop();
        futures::pin_mut!(stopping);
        assert!(futures::poll!(stopping).is_pending());
    }
    cluster.start().await.unwrap();
    cluster.wait_for_stable().await.unwrap();
    assert_eq!(cluster.nodes().await.unwrap().len(), 1);
    cluster.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_was_left_open_is_kept() {
    let places = Places::new(1);
    let any = "127.0.0.1:0".parse().unwrap();
    let cluster = Cluster::new(ClusterConfig { listen_addr: any, ..alone(&places) }).await.unwrap();
    for _ in 0..2 {
        cluster.start().await.unwrap();
        cluster.wait_for_stable().await.unwrap();
        let url = format!("http://{}/v1/nodes/node-1", cluster.advertised());
        assert_eq!(reqwest::get(url).await.unwrap().status(), 200);
        cluster.stop().await.unwrap();
    }
}

/// A runtime that ended took the node with it, and its files stayed locked.
#[test]
fn a_cluster_whose_runtime_ended_starts_again_on_another() {
    let places = Places::new(1);
    let runtime = || tokio::runtime::Runtime::new().unwrap();
    let first = runtime();
    let cluster = first.block_on(async { settled([alone(&places)]).await.remove(0) });
    drop(first);
    runtime().block_on(async {
        assert!(matches!(cluster.health().await, Err(ClusterError::NotRunning)));
        wait_for("the files to be free", DEADLINE, async || cluster.start().await).await;
        cluster.wait_for_stable().await.unwrap();
        cluster.stop().await.unwrap();
    });
}

/// They are awaited in tasks.
#[test]
fn what_the_methods_return_can_be_sent_between_threads() {
    fn is_send<T: Send>(_: T) {}
    #[allow(unreachable_code, clippy::diverging_sub_expression, reason = "compiled, not run")]
    fn all(cluster: &Cluster, mut watch: ruvector_cluster::ClusterWatch) {
        is_send((cluster.start(), cluster.stop(), cluster.wait_for_stable(), cluster.nodes()));
        is_send((cluster.node_count(), cluster.is_leader(), cluster.health(), cluster.rebalance()));
        is_send((cluster.get_shard_nodes(ShardId(0)), cluster.shard(ShardId(0)), watch.next()));
        is_send(cluster.migrate_shard(ShardId(0), &String::new()));
    }
    let _compiled: fn(&Cluster, ruvector_cluster::ClusterWatch) = all;
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_says_what_is_waited_for() {
    let places = Places::new(2);
    let config = ClusterConfig { stable_timeout: Duration::from_millis(1_500), ..places.config(0) };
    let cluster = Cluster::new(config).await.unwrap();
    cluster.start().await.unwrap();
    let error = cluster.wait_for_stable().await.unwrap_err();
    let ClusterError::NotStable { waited_ms, waiting_for } = &error else { panic!("{error}") };
    assert!(*waited_ms >= 1_500, "{waited_ms}");
    let told = waiting_for.join("; ");
    assert!(told.contains("seeds") && told.contains(&places.addr(1).to_string()), "{told}");
    assert!(matches!(cluster.get_shard_for_key("k"), Err(ClusterError::NotFounded)));
    cluster.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_are_watched_in_order_and_a_watch_ends_with_its_cluster() {
    let places = Places::new(2);
    let clusters = settled([places.config(0), places.config(1)]).await;
    let mut watch = clusters[0].watch().unwrap();
    let row = clusters[0].shard(ShardId(3)).await.unwrap();
    clusters[1].migrate_shard(ShardId(3), &row.replicas[0]).await.unwrap();
    let mut last = watch.revision();
    let seen = tokio::time::timeout(DEADLINE, async {
        loop {
            let event = watch.next().await.unwrap();
            assert!(event.revision > last);
            last = event.revision;
            let text = serde_json::to_string(&event).unwrap();
            let primary = format!("\"primary\":\"{}\"", row.replicas[0]);
            if text.contains("\"id\":3,") && text.contains(&primary) {
                return;
            }
        }
    });
    seen.await.expect("the migration is seen");
    let stopping = tokio::spawn(async move {
        for cluster in &clusters {
            cluster.stop().await.unwrap();
        }
    });
    let ended = tokio::time::timeout(DEADLINE, async { while watch.next().await.is_ok() {} });
    ended.await.expect("the watch ends");
    stopping.await.unwrap();
}
