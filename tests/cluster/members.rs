//! Members change while the cluster serves: one that is dead is replaced, an empty one joins, and one that was removed says so.

use std::sync::{Arc, Mutex};

use ruvector_cluster::client::wire::{Member, MemberRole};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::support::{Api, ControlCluster, DEADLINE, Options, wait_for};

#[derive(serde::Deserialize)]
struct MemberList {
    members: Vec<Member>,
}

async fn members(api: &Api) -> Result<Vec<Member>, String> {
    Ok(api.get_as::<MemberList>("/v1/members").await?.members)
}

fn names(members: &[Member], role: MemberRole) -> Vec<&str> {
    members.iter().filter(|member| member.role == role).map(|member| member.id.as_str()).collect()
}

/// Waits until exactly these vote and these learn; at each look `fewest` to `most` vote.
async fn wait_for_roles(api: &Api, voters: &[&str], learners: &[&str], (fewest, most): (usize, usize)) {
    wait_for(&format!("voters {voters:?}, learners {learners:?}"), DEADLINE, async || {
        let members = members(api).await?;
        let found = (names(&members, MemberRole::Voter), names(&members, MemberRole::Learner));
        assert!((fewest..=most).contains(&found.0.len()), "{found:?}");
        if found == (voters.to_vec(), learners.to_vec()) { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await;
}

/// Registers nodes without pause, each tried once more where it fails, at nodes that stay.
fn write_on(apis: Vec<Api>) -> (JoinHandle<()>, Arc<Mutex<usize>>) {
    let acknowledged = Arc::new(Mutex::new(0));
    let counted = Arc::clone(&acknowledged);
    let writing = tokio::spawn(async move {
        for n in 0_usize.. {
            let body = json!({"addr": "127.0.0.1:1", "store_id": format!("store-{n}")});
            let mut answers = Vec::new();
            for attempt in 0..2 {
                let api = &apis[(n + attempt) % apis.len()];
                let key = format!("w{n}");
                let path = format!("/v1/nodes/w{n}");
                answers.push(api.send("PUT", &path, &[("Idempotency-Key", &key)], Some(&body)).await);
                if matches!(answers.last(), Some(Ok(answer)) if answer.status == 200) {
                    break;
                }
            }
            assert!(matches!(answers.last(), Some(Ok(answer)) if answer.status == 200), "{answers:?}");
            *counted.lock().unwrap() += 1;
        }
    });
    (writing, acknowledged)
}

async fn wait_for_writes(acknowledged: &Mutex<usize>) {
    let enough = *acknowledged.lock().unwrap() + 20;
    wait_for("writes to go on", DEADLINE, async || {
        let count = *acknowledged.lock().unwrap();
        if count >= enough { Ok(()) } else { Err(count) }
    })
    .await;
}

/// Waits until a control node says of itself, in `/readyz`, that it was removed.
async fn wait_until_it_knows(api: &Api) {
    wait_for("the removed one to know it", DEADLINE, async || {
        let ready = api.get("/readyz").await?;
        let told = ready.status == 503 && ready.body["detail"].to_string().contains("was removed");
        if told { Ok(()) } else { Err(format!("{} {}", ready.status, ready.body)) }
    })
    .await;
}

/// One that was removed asks for votes again and again. Were it to stand for election each time, its term would run ahead.
async fn assert_undisturbed(cluster: &ControlCluster, removed: usize, member: usize) {
    let removed = cluster.view(removed).await.unwrap().term;
    let term = cluster.view(member).await.unwrap().term;
    assert!(removed <= term, "the removed one is at term {removed}, the others at {term}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_voter_is_replaced_under_writes_and_has_no_say_when_it_is_back() {
    let options = Options::default().shards(1).flags(&["--max-voters", "3"]);
    let mut cluster = ControlCluster::start_with(options).await;
    let leader = cluster.wait_for_leader().await;
    let (dead, other) = ((leader + 1) % 3, (leader + 2) % 3);
    let (writing, acknowledged) = write_on(vec![cluster.api(leader), cluster.api(other)]);
    wait_for_writes(&acknowledged).await;
    cluster.kill(dead);
    let new = cluster.add();
    cluster.spawn(new);
    let mut ask = cluster.as_member(new);
    ask["replaces"] = json!(format!("n{}", dead + 1));
    let api = cluster.api(other);
    // Until the new process listens it is refused as one that says nothing.
    wait_for("the replacement to be taken in", DEADLINE, async || {
        api.post_as::<Value>("/v1/members", &ask).await
    })
    .await;
    let mut voters = [format!("n{}", leader + 1), format!("n{}", other + 1), "n4".to_owned()];
    voters.sort();
    let voters: Vec<&str> = voters.iter().map(String::as_str).collect();
    // Four vote while the joint change is under way; never two.
    wait_for_roles(&api, &voters, &[], (3, 4)).await;
    wait_for_writes(&acknowledged).await;

    // With the directory it had, in which it is a voter.
    cluster.spawn(dead);
    let old = cluster.api(dead);
    wait_until_it_knows(&old).await;
    wait_for_writes(&acknowledged).await;
    assert_undisturbed(&cluster, dead, other).await;
    writing.abort();
    assert!(writing.await.unwrap_err().is_cancelled(), "a writer met an error twice");
}

/// What was removed is not taken in again by the repeat of an older request, though it listens; refusals are told again, too.
async fn keys_of_additions_hold(api: &Api, removed: &Value) {
    let keyed = async |method: &str, path: &str, key: &str, body: Option<&Value>| {
        let answer = api.send(method, path, &[("Idempotency-Key", key)], body).await.unwrap();
        (answer.status, answer.number("x-cluster-revision"), answer.body)
    };
    let (status, revision, first) = keyed("POST", "/v1/members", "in", Some(removed)).await;
    assert_eq!((status, &first["id"]), (200, &json!("n4")), "{first}");
    wait_for_roles(api, &["n1", "n2", "n3", "n5"], &["n4"], (4, 4)).await;
    wait_for("it to be removed again", DEADLINE, async || {
        api.send("DELETE", "/v1/members/n4", &[], None).await?.ok::<Value>()
    })
    .await;
    let (status, same, again) = keyed("POST", "/v1/members", "in", Some(removed)).await;
    assert_eq!((status, same, &again["id"]), (200, revision, &json!("n4")), "{again}");
    wait_for_roles(api, &["n1", "n2", "n3", "n5"], &[], (4, 4)).await;
    assert_eq!(keyed("POST", "/v1/members", "in", Some(&json!({}))).await.0, 400);
    assert_eq!(keyed("DELETE", "/v1/members/n4", "in", None).await.0, 422);
    let first = keyed("DELETE", "/v1/members/n9", "nobody", None).await;
    let again = keyed("DELETE", "/v1/members/n9", "nobody", None).await;
    assert_eq!((first.0, &first.2["detail"]), (404, &again.2["detail"]));
    assert_eq!(again.0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_under_a_key_takes_effect_once_also_when_its_target_is_gone() {
    let mut cluster = ControlCluster::start_with(Options::default().shards(1)).await;
    let leader = cluster.wait_for_leader().await;
    let (target, other) = ((leader + 1) % 3, (leader + 2) % 3);
    let api = cluster.api(other);
    let to = json!({"to": format!("n{}", target + 1)});
    let transfer = async |headers: &[(&str, &str)]| {
        wait_for("an answer to a transfer", DEADLINE, async || {
            let answer = api.send("POST", "/v1/leader/transfer", headers, Some(&to)).await?;
            if answer.status < 500 { Ok(answer) } else { Err(answer.body.to_string()) }
        })
        .await
    };
    let first = transfer(&[("Idempotency-Key", "over")]).await;
    assert_eq!(first.status, 200, "{}", first.body);
    cluster.kill(target);
    cluster.wait_for_leader().await;
    let again = transfer(&[("Idempotency-Key", "over")]).await;
    assert_eq!(again.status, 200, "{}", again.body);
    assert_eq!(first.number("x-cluster-revision"), again.number("x-cluster-revision"));
    let anew = transfer(&[]).await;
    assert_eq!(anew.status, 422, "{}", anew.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_node_joins_by_itself_and_a_removed_one_says_so() {
    let options = Options::default().shards(1).flags(&["--max-voters", "4"]);
    let mut cluster = ControlCluster::start_with(options).await;
    let leader = cluster.wait_for_leader().await;
    let api = cluster.api(leader);
    let fourth = cluster.add();
    cluster.spawn(fourth);
    wait_for_roles(&api, &["n1", "n2", "n3", "n4"], &[], (3, 4)).await;
    let fifth = cluster.add();
    cluster.spawn(fifth);
    wait_for_roles(&api, &["n1", "n2", "n3", "n4"], &["n5"], (4, 4)).await;
    let read = || async { cluster.api(fifth).get_as::<Value>("/v1/map").await };
    wait_for("the learner to answer a linearizable read", DEADLINE, read).await;

    // There was no seat for the fifth until the fourth was removed.
    let remove = async || {
        let answer = api.send("DELETE", "/v1/members/n4", &[("Idempotency-Key", "out")], None).await?;
        answer.ok::<Value>()
    };
    wait_for("the fourth to be removed", DEADLINE, remove).await;
    wait_for_roles(&api, &["n1", "n2", "n3", "n5"], &[], (3, 4)).await;
    remove().await.unwrap();
    keys_of_additions_hold(&api, &cluster.as_member(fourth)).await;

    let gone = cluster.api(fourth);
    wait_until_it_knows(&gone).await;
    for (path, status) in [("/v1/map", 503), ("/v1/map?consistency=stale", 200), ("/livez", 200)] {
        let answer = gone.get(path).await.unwrap();
        assert_eq!(answer.status, status, "{path}: {}", answer.body);
        assert!(
            status == 200 || answer.body["detail"].to_string().contains("was removed"),
            "{}",
            answer.body
        );
    }
    let pause = gone.post("/v1/rebalance/pause", &json!({})).await.unwrap();
    assert_eq!((pause.status, &pause.body["code"]), (503, &json!("unready")), "{}", pause.body);
    let health: Value = gone.get_as("/v1/health").await.unwrap();
    assert_eq!(
        (&health["status"], &health["reasons"][0]["code"]),
        (&json!("unavailable"), &json!("removed"))
    );
    assert!(cluster.process(fourth).log().contains("was removed from the cluster"));
    assert_undisturbed(&cluster, fourth, leader).await;
}
