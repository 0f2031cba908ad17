//! Backups of a cluster that serves, and what resuming it means: nothing.

use ruvector_cluster::backup;
use ruvector_cluster::client::wire::ResumeResponse;
use serde_json::json;

use crate::{Served, call, call_with};

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_has_every_acknowledged_change_and_a_resume_changes_nothing() {
    let served = Served::start().await;
    let api = &served.api;
    let labels = json!({"labels": {"told": "just now"}});
    let patched = call(api, "PATCH", "/v1/nodes/d2", Some(labels), 200).await;
    let answer = api.http().get(format!("{}/v1/snapshot", api.base())).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let header = |name: &str| answer.headers().get(name).unwrap().to_str().unwrap().to_owned();
    assert_eq!(header("content-type"), "application/octet-stream");
    assert!(header("content-disposition").starts_with("attachment; filename="));
    let revision: u64 = header("x-cluster-revision").parse().unwrap();
    assert!(revision >= patched.number("x-cluster-revision").unwrap());
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), answer.bytes().await.unwrap()).unwrap();
    let read = backup::read(file.path()).unwrap();
    assert_eq!((read.head.revision.0, read.head.generation), (revision, 1));
    assert_eq!(read.state.num_shards(), 8);
    let d2 = read.state.nodes().find(|row| row.id.as_str() == "d2").unwrap();
    assert_eq!(d2.labels["told"], "just now");

    let before = served.revision().await;
    let key = [("idempotency-key", "again")];
    for body in [json!({}), json!({"dry_run": true}), json!({"accept_data_loss": true, "without": ["d9"]})] {
        let told = call_with(api, "POST", "/v1/cluster/resume", &[], Some(body), 200).await;
        let told: ResumeResponse = told.ok().unwrap();
        assert!(!told.suspended && told.generation == 1 && told.led == 0, "{told:?}");
    }
    let resume = async || call_with(api, "POST", "/v1/cluster/resume", &key, Some(json!({})), 200).await;
    let first = resume().await;
    assert_eq!(served.revision().await, before);
    // Once more under its key: told the same, though the map has gone on.
    call(api, "PATCH", "/v1/nodes/d2", Some(json!({"labels": {"told": "later"}})), 200).await;
    assert!(served.revision().await > before);
    let again = resume().await;
    assert_eq!(again.body, first.body);
    assert_eq!(again.number("x-cluster-revision"), first.number("x-cluster-revision"));
    assert_eq!(again.body["revision"], before);
    call(api, "POST", "/v1/cluster/resume", Some(json!({"force": true})), 400).await;
    call(api, "GET", "/v1/snapshot?since=3", None, 400).await;
}
