//! Configurations that can't be: an error that names the field and the remedy, before anything is started.

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use ruvector_cluster::{Cluster, ClusterConfig, ClusterError};

use crate::{Places, settled};

fn alone(places: &Places) -> ClusterConfig {
    ClusterConfig { seeds: Vec::new(), ..places.config(0) }
}

/// What is wrong with it, and that nothing was made or kept.
async fn refusal(places: &Places, config: ClusterConfig) -> String {
    let folder = config.data_dir.clone().unwrap();
    let error = Cluster::new(config).await.expect_err("it is refused");
    assert!(!folder.exists(), "{error}: nothing is on disk");
    drop(TcpListener::bind(places.addr(0)).expect("the address is free"));
    error.to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_bad_field_is_named_with_what_would_be_right() {
    let places = Places::new(1);
    let with = |change: &dyn Fn(&mut ClusterConfig)| {
        let mut config = alone(&places);
        change(&mut config);
        config
    };
    let any: SocketAddr = format!("0.0.0.0:{}", places.addr(0).port()).parse().unwrap();
    let cases: Vec<(ClusterConfig, &str, &str)> = vec![
        (with(&|c| c.replication_factor = 0), "replication_factor", "from 1 to 7"),
        (with(&|c| c.replication_factor = 8), "replication_factor", "from 1 to 7"),
        (with(&|c| c.num_shards = 0), "num_shards", "from 1 to 1048576"),
        (with(&|c| c.num_shards = 1_048_577), "num_shards", "from 1 to 1048576"),
        (with(&|c| c.node_id = String::new()), "node_id", "1 to 64 characters"),
        (with(&|c| c.node_id = "a/b".to_owned()), "node_id", "1 to 64 characters"),
        (with(&|c| c.node_id = "..".to_owned()), "node_id", "dots"),
        (with(&|c| c.listen_addr = any), "advertise_addr", "host:port"),
        (with(&|c| c.advertise_addr = Some("nowhere".to_owned())), "advertise_addr", "HOST:PORT"),
        (with(&|c| c.data_addr = Some("nowhere".to_owned())), "data_addr", "HOST:PORT"),
        (with(&|c| c.peer_addr = Some(c.listen_addr)), "peer_addr", "listen_addr"),
        (with(&|c| c.failure_timeout = Duration::from_millis(400)), "failure_timeout", "500 ms"),
        (with(&|c| c.failure_timeout = Duration::from_millis(399)), "failure_timeout", "heartbeat_interval"),
        (with(&|c| c.heartbeat_interval = Duration::ZERO), "heartbeat_interval", "10 ms"),
        (with(&|c| c.seeds = vec!["10.0.0.1:0".parse().unwrap()]), "seeds", "reached"),
        (with(&|c| c.seed_names = vec!["name".to_owned()]), "seed_names", "HOST:PORT"),
        (with(&|c| c.max_voters = 0), "max_voters", "from 1 to 9"),
        (with(&|c| c.bootstrap_expect = Some(0)), "bootstrap_expect", "from 1 to 99"),
    ];
    for (config, field, remedy) in cases {
        let told = refusal(&places, config).await;
        assert!(told.starts_with(&format!("{field}: ")) && told.contains(remedy), "{field}: {told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_in_use_is_named_and_the_other_one_is_free_again() {
    let places = Places::new(1);
    let holder = TcpListener::bind(places.addr(0)).unwrap();
    let error = Cluster::new(alone(&places)).await.unwrap_err();
    assert!(matches!(&error, ClusterError::Listen { field: "listen_addr", .. }), "{error}");
    assert!(error.to_string().contains(&places.addr(0).to_string()), "{error}");
    drop(holder);

    let peer = SocketAddr::new(places.addr(0).ip(), places.addr(0).port() + 1_000);
    let holder = TcpListener::bind(peer).unwrap();
    let cluster = Cluster::new(alone(&places)).await.unwrap();
    let error = cluster.start().await.unwrap_err();
    assert!(matches!(&error, ClusterError::Listen { field: "peer_addr", .. }), "{error}");
    drop(TcpListener::bind(places.addr(0)).expect("nothing runs"));
    drop(holder);
    cluster.start().await.unwrap();
    cluster.wait_for_stable().await.unwrap();
    cluster.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn seeds_of_other_clusters_are_refused_before_anything_is_started() {
    let places = Places::new(3);
    let single = |node: usize| ClusterConfig { seeds: Vec::new(), ..places.config(node) };
    let clusters = settled([single(0), single(1)]).await;

    let of_two = ClusterConfig { seeds: vec![places.addr(0), places.addr(1)], ..places.config(2) };
    let third = Cluster::new(of_two).await.unwrap();
    let told = third.start().await.unwrap_err().to_string();
    assert!(told.starts_with("seeds: ") && told.contains("different clusters"), "{told}");
    drop(third);

    clusters[1].stop().await.unwrap();
    let moved = ClusterConfig { seeds: vec![places.addr(0)], ..places.config(1) };
    drop(clusters);
    let first = settled_again(&places).await;
    let second = Cluster::new(moved).await.unwrap();
    let told = second.start().await.unwrap_err().to_string();
    assert!(told.starts_with("seeds: ") && told.contains("data_dir"), "{told}");
    first.stop().await.unwrap();
}

/// The first of them, once it has ended, and again.
async fn settled_again(places: &Places) -> Cluster {
    crate::support::wait_for("the first cluster to start again", crate::support::DEADLINE, async || {
        let cluster = Cluster::new(ClusterConfig { seeds: Vec::new(), ..places.config(0) }).await?;
        cluster.start().await?;
        cluster.wait_for_stable().await?;
        Ok::<_, ClusterError>(cluster)
    })
    .await
}
