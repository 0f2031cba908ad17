//! What cannot be asked of the members, and what comes on the peer port from elsewhere: a precise answer, and nothing changes.

use ruvector_cluster::client::wire::MemberRole;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{Api, ControlCluster, DEADLINE, Options, wait_for};

/// Names, Raft ids, roles and addresses.
async fn members(api: &Api) -> Vec<Value> {
    let list: Value = wait_for("the members", DEADLINE, async || api.get_as("/v1/members").await).await;
    let hard = |member: &Value| {
        ["id", "raft_id", "role", "client_url", "peer_url"]
            .iter()
            .map(|field| member[*field].clone())
            .collect()
    };
    list["members"].as_array().unwrap().iter().map(hard).collect()
}

/// Posted, and refused with this status and code; the detail has all these words.
async fn refused(api: &Api, path: &str, body: &Value, (status, code): (u16, &str), words: &[&str]) {
    // Without a leader for a moment it is 503.
    let answer = wait_for("an answer", DEADLINE, async || {
        let answer = api.post(path, body).await?;
        if answer.status == 503 { Err(answer.body.to_string()) } else { Ok(answer) }
    })
    .await;
    assert_eq!(
        (answer.status, &answer.body["code"]),
        (status, &json!(code)),
        "{path} {body}: {}",
        answer.body
    );
    let detail = answer.body["detail"].as_str().unwrap();
    assert!(words.iter().all(|word| detail.contains(word)), "{path} {body}: {detail}");
}

/// What the peer port answers to a message with these headers.
async fn told_by_peer(
    cluster: &ControlCluster,
    kind: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> (u16, Value) {
    let api = Api::new(&cluster.peer_addr(0));
    let mut request = api.http().post(format!("{}/peer/v1/{kind}", api.base())).body(body.to_owned());
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    let text = response.text().await.unwrap();
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

async fn garbage_on_the_peer_port(cluster: &ControlCluster) {
    let noise: Vec<u8> = (0..100_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    for start in [&noise[..], b"\0\0\0\0", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff", b"GET /"] {
        let mut stream = TcpStream::connect(cluster.peer_addr(0)).await.unwrap();
        // It may be closed before all is written.
        drop(stream.write_all(start).await);
        drop(stream.shutdown().await);
        let mut answer = Vec::new();
        let ended = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut answer)).await;
        assert!(ended.is_ok(), "the connection was kept open");
    }
    let (ours, theirs) = (("x-ruvector-wire", "1"), ("x-ruvector-from", "1"));
    for version in ["99", "0"] {
        let (status, body) =
            told_by_peer(cluster, "append", &[("x-ruvector-wire", version), theirs], "{}").await;
        assert_eq!((status, &body["code"]), (409, &json!("wrong_version")), "{body}");
        let detail = body["detail"].as_str().unwrap();
        assert!(detail.contains("wire version 1") && detail.contains(version), "{detail}");
    }
    let other = ("x-ruvector-cluster", "another");
    let own = cluster.view(0).await.unwrap().cluster_id;
    let own = ("x-ruvector-cluster", own.as_str());
    for (kind, headers, code) in [
        ("append", &[theirs][..], "wrong_version"),
        ("append", &[("x-ruvector-wire", "one"), theirs], "malformed"),
        ("append", &[ours], "malformed"),
        ("nonsense", &[ours, theirs], "malformed"),
        ("append", &[ours, theirs], "wrong_cluster"),
        ("vote", &[ours, theirs, other], "wrong_cluster"),
        ("vote", &[ours, theirs, own], "malformed"),
        ("append", &[ours, theirs, own], "malformed"),
        ("join", &[ours, theirs], "malformed"),
        ("hello", &[ours, theirs, ("x-ruvector-to", "1")], "wrong_node"),
    ] {
        let (status, body) = told_by_peer(cluster, kind, headers, "nonsense").await;
        assert_eq!((status, &body["code"]), (409, &json!(code)), "{kind} {headers:?}: {body}");
    }
}

async fn mistaken_additions(api: &Api, cluster: &ControlCluster) {
    // Empty nodes that wait for founders of their own, and a cluster of another one.
    let mut strangers = ControlCluster::prepare(Options { count: 5, ..Options::default() });
    for node in [0, 4] {
        strangers.spawn(node);
        let api = strangers.api(node);
        wait_for("it to listen", DEADLINE, async || api.get_as::<Value>("/livez").await).await;
    }
    let other = ControlCluster::start(1).await;
    let path = "/v1/members";
    let taken = strangers.as_member(0);
    refused(api, path, &taken, (409, "conflict"), &["the name n1 is taken", "DELETE /v1/members/n1"]).await;
    refused(api, path, &other.as_member(0), (422, "invalid"), &["n1", "another cluster", "empty"]).await;
    let fifth = |change: &dyn Fn(&mut Value)| {
        let mut body = strangers.as_member(4);
        change(&mut body);
        body
    };
    for (body, words) in [
        (fifth(&|body| body["id"] = json!("n6")), &["`id`", "named n5"][..]),
        (
            fifth(&|body| body["client_url"] = cluster.as_member(0)["client_url"].clone()),
            &["`id`", "named n1"],
        ),
        (fifth(&|body| body["peer_url"] = cluster.as_member(0)["peer_url"].clone()), &["`peer_url`", "n1"]),
        (fifth(&|body| body["peer_url"] = body["client_url"].clone()), &["`peer_url`"]),
        (fifth(&|body| body["peer_url"] = json!("nowhere")), &["`peer_url`", "http://host:port"]),
        (fifth(&|body| body["client_url"] = json!("http://127.0.0.1:1")), &["`client_url`"]),
    ] {
        refused(api, path, &body, (422, "invalid"), words).await;
    }
    refused(api, path, &fifth(&|body| body["replaces"] = json!("n9")), (404, "not_found"), &["n9"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_is_refused_and_changes_no_member() {
    let mut cluster =
        ControlCluster::start_with(Options::default().shards(1).flags(&["--max-voters", "3"])).await;
    let learner = cluster.add();
    cluster.spawn(learner);
    let leader = cluster.wait_for_leader().await;
    let api = cluster.api(leader);
    wait_for("the fourth to be a learner", DEADLINE, async || {
        let view = cluster.view(leader).await?;
        let is_in = view.members.iter().any(|m| m.id.as_str() == "n4" && m.role == MemberRole::Learner);
        if is_in { Ok(()) } else { Err(format!("{view:?}")) }
    })
    .await;
    let before = members(&api).await;
    garbage_on_the_peer_port(&cluster).await;
    mistaken_additions(&api, &cluster).await;

    let transfer = "/v1/leader/transfer";
    refused(&api, transfer, &json!({"to": "n4"}), (422, "invalid"), &["n4 is a learner"]).await;
    refused(&api, transfer, &json!({"to": "n9"}), (404, "not_found"), &["n9"]).await;
    let (dead, other) = ((leader + 1) % 3, (leader + 2) % 3);
    cluster.kill(dead);
    let (dead, other) = (format!("n{}", dead + 1), format!("n{}", other + 1));
    refused(&api, transfer, &json!({"to": dead}), (422, "invalid"), &[dead.as_str(), "does not answer"])
        .await;
    let removed = wait_for("an answer", DEADLINE, async || {
        let answer = api.send("DELETE", &format!("/v1/members/{other}"), &[], None).await?;
        if answer.status == 503 { Err(answer.body.to_string()) } else { Ok(answer) }
    })
    .await;
    assert_eq!((removed.status, &removed.body["code"]), (409, &json!("quorum_lost")), "{}", removed.body);

    assert_eq!(members(&api).await, before);
    for node in cluster.running() {
        assert!(cluster.process(node).is_running(), "n{} has ended", node + 1);
        let log = cluster.process(node).log();
        assert!(!log.contains("panicked"), "{log}");
    }
}
