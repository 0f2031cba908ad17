use std::sync::atomic::{AtomicBool, Ordering};

use tokio::net::UdpSocket;

use super::datagram::tests::{Writer, member, own_of};
use super::*;
use crate::control::scripted::{Say, Scripted, problem};
use crate::control::{Call, ControlClient, ControlOptions};
use crate::ids::NodeId;
use crate::map::MapCache;

const PATIENCE: Duration = Duration::from_secs(30);

/// A UDP port of this machine that is free at the moment.
async fn free_addr() -> SocketAddr {
    UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

fn node(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

fn data(name: &str, listen: SocketAddr, seeds: &[SocketAddr]) -> GossipConfig {
    let store_id = format!("store-{name}");
    GossipConfig {
        me: Me::Data { node: node(name), addr: listen.to_string(), store_id },
        listen,
        advertise: listen.to_string(),
        seeds: seeds.iter().map(SocketAddr::to_string).collect(),
        reach: Reach::default(),
    }
}

async fn until(gossip: &Gossip, what: &str, holds: impl FnMut(&Arc<Sighting>) -> bool) {
    let mut seen = gossip.sightings();
    let waited = tokio::time::timeout(PATIENCE, seen.wait_for(holds)).await.map(drop);
    assert!(waited.is_ok(), "never: {what}; seen {:?}", gossip.sightings().borrow());
}

fn names(seen: &Sighting) -> Vec<&str> {
    seen.data.iter().map(|seen| seen.node.as_str()).collect()
}

#[tokio::test]
async fn all_find_each_other_from_one_and_miss_one_that_stops() {
    let (a, b, c) = (free_addr().await, free_addr().await, free_addr().await);
    let first = Gossip::start(data("a", a, &[]));
    let second = Gossip::start(data("b", b, &[a]));
    let third = Gossip::start(data("c", c, &[b]));
    for gossip in [&first, &second, &third] {
        until(gossip, "all see all", |seen| names(seen) == ["a", "b", "c"]).await;
    }
    first.set_cluster_id("k");
    until(&third, "what one comes to know is told", |seen| {
        seen.data[0].cluster_id.as_deref() == Some("k") && seen.data[0].store_id == "store-a"
    })
    .await;
    second.stop();
    until(&second, "who has stopped sees nobody", |seen| seen.data.is_empty()).await;
    until(&third, "who stopped is missed", |seen| names(seen) == ["a", "c"]).await;
}

#[tokio::test]
async fn one_that_does_not_reach_another_is_heard_of_by_a_third() {
    let (a, b, c) = (free_addr().await, free_addr().await, free_addr().await);
    let first = Gossip::start(data("a", a, &[]));
    let is_mute = Arc::new(AtomicBool::new(false));
    let mute = is_mute.clone();
    let reach = Reach::new(move |to| to != a && !mute.load(Ordering::Relaxed));
    let _second = Gossip::start(GossipConfig { reach, ..data("b", b, &[c]) });
    let _third = Gossip::start(data("c", c, &[a]));
    until(&first, "b is heard of", |seen| names(seen) == ["a", "b", "c"]).await;
    is_mute.store(true, Ordering::Relaxed);
    until(&first, "one that reaches nobody is missed", |seen| names(seen) == ["a", "c"]).await;
    is_mute.store(false, Ordering::Relaxed);
    until(&first, "and comes back", |seen| names(seen) == ["a", "b", "c"]).await;
}

#[tokio::test]
async fn forged_packets_neither_end_it_nor_speak_for_others() {
    let (a, b) = (free_addr().await, free_addr().await);
    let first = Gossip::start(data("a", a, &[]));
    let forger = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    // Somebody who is seen to be alive, and told of as chitchat takes badly.
    let ghost = member("data/ghost", forger.local_addr().unwrap().port());
    for beat in 1..5 {
        let digest = Writer::default().digest(&ghost, beat, 0, 0);
        let packet = Writer::message(0).pack(&digest).text("ruvector-cluster/1");
        forger.send_to(&packet.0, a).await.unwrap();
    }
    let fatal = Writer::default().told(&ghost, 0, 0).value("\u{e9}", "v", 3);
    forger.send_to(&Writer::message(2).pack(&fatal).0, a).await.unwrap();
    forger.send_to(b"noise", a).await.unwrap();
    let second = Gossip::start(data("b", b, &[a]));
    for gossip in [&first, &second] {
        until(gossip, "it goes on", |seen| names(seen) == ["a", "b"]).await;
    }
}

/// What was told of it by another is believed by others until it begins anew, as it does.
#[tokio::test]
async fn one_that_is_spoken_for_begins_anew() {
    let (a, b) = (free_addr().await, free_addr().await);
    let first = Gossip::start(data("a", a, &[]));
    let _second = Gossip::start(data("b", b, &[a]));
    until(&first, "b is there", |seen| names(seen) == ["a", "b"]).await;
    // The forger learns who b is from what b tells whoever asks.
    let forger = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let syn = Writer::message(0).pack(&Writer::default()).text("ruvector-cluster/1");
    forger.send_to(&syn.0, b).await.unwrap();
    let mut answer = vec![0; 65_507];
    let length = forger.recv(&mut answer).await.unwrap();
    let named =
        super::datagram::admit(&answer[..length], &own_of("data/nobody"), &Default::default()).unwrap();
    let id = named.into_iter().find(|id| id.name == "data/b").unwrap();
    let values = Writer::default().told(&id, 0, 0).value("addr", "10.6.6.6:666", 30);
    forger.send_to(&Writer::message(2).pack(&values).0, a).await.unwrap();
    let addr_of_b = |seen: &Sighting| seen.data.iter().map(|seen| seen.addr.clone()).nth(1);
    until(&first, "the forgery is believed", |seen| addr_of_b(seen).as_deref() == Some("10.6.6.6:666")).await;
    until(&first, "b tells again who it is", |seen| seen.data.iter().any(|seen| seen.addr == b.to_string()))
        .await;
    until(&first, "and the forgery is missed", |seen| {
        names(seen) == ["a", "b"] && addr_of_b(seen) == Some(b.to_string())
    })
    .await;
}

#[tokio::test]
async fn a_port_that_is_taken_is_tried_again() {
    let taken = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let addr = taken.local_addr().unwrap();
    let gossip = Gossip::start(data("a", addr, &[]));
    tokio::task::yield_now().await;
    assert_eq!(**gossip.sightings().borrow(), Sighting::default());
    drop(taken);
    until(&gossip, "it runs", |seen| names(seen) == ["a"]).await;
}

#[tokio::test]
async fn a_data_nodes_address_is_enough_to_find_the_control_nodes() {
    let other = Scripted::start(|_| Say::Json(404, String::new())).await;
    let control = Scripted::start(|asked| match asked.path() {
        "/v1/x" => Say::Json(200, "7".to_owned()),
        _ => problem(404, "not_found"),
    })
    .await;
    let (a, b) = (free_addr().await, free_addr().await);
    let me = Me::Control { name: node("n1"), client_url: control.url(), peer_url: control.url() };
    let _theirs = Gossip::start(GossipConfig { me, ..data("n1", a, &[]) });
    let ours = Gossip::start(data("d1", b, &[a]));
    let client = ControlClient::new(ControlOptions::new(vec![other.addr.to_string()])).unwrap();
    let stop = CancellationToken::new();
    let finding = find_control_nodes(ours, client.clone(), MapCache::new(), stop.clone());
    let finding = tokio::spawn(finding);
    let answered = client.send::<u64>(&Call::get("/v1/x")).await.unwrap();
    assert_eq!((answered.body, client.url_of(answered.by)), (7, control.url()));
    assert!(!other.asked().is_empty(), "whoever was given is asked first");
    stop.cancel();
    finding.await.unwrap();
}

#[test]
fn seeds_are_addresses_and_the_peer_ports_above_them() {
    let seeds = GossipConfig::seeds_of(["h:7001", "http://10.0.0.1:65000/", "h:7001", "nonsense"]);
    assert_eq!(seeds, ["h:7001", "h:8001", "10.0.0.1:65000"]);
}

#[test]
fn what_is_told_is_checked_and_another_clusters_nodes_are_told_apart() {
    let control = |name: &'static str, url: &'static str, cluster: &'static str| {
        let values = [("kind", "control"), ("name", name), ("client_url", url), ("peer_url", url)];
        let mut values = std::collections::BTreeMap::from(values);
        if !cluster.is_empty() {
            values.insert("cluster_id", cluster);
        }
        values
    };
    let members = [
        control("n1", "http://a:1", "ours"),
        control("n2", "http://b:1", "theirs"),
        control("n3", "http://c:1", ""),
        control("n4", "file:///etc/passwd", "ours"),
        control("no name", "http://d:1", "ours"),
        std::collections::BTreeMap::from([("kind", "moon"), ("name", "m")]),
    ];
    let seen = Sighting::of(members.into_iter());
    assert_eq!(seen.control_urls(None), ["http://a:1", "http://b:1", "http://c:1"]);
    assert_eq!(seen.control_urls(Some("ours")), ["http://a:1"]);
}
