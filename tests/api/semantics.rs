//! What repeating, conditions and pages mean.

use serde_json::{Value, json};

use crate::contract::shard_and_ends;
use crate::{Served, call, call_with};

#[tokio::test(flavor = "multi_thread")]
async fn writes_repeat_conditions_hold_and_pages_join() {
    let served = Served::start().await;
    the_same_key_takes_effect_once(&served).await;
    a_row_that_moved_on_is_not_overwritten(&served).await;
    what_is_known_is_not_sent_again(&served).await;
    pages_join_without_gap_or_duplicate(&served).await;
    a_stale_read_names_its_revision(&served).await;
    a_drain_that_cannot_finish_says_why(&served).await;
}

async fn the_same_key_takes_effect_once(served: &Served) {
    let api = &served.api;
    let key = [("idempotency-key", "patch-1")];
    let body = json!({"labels": {"k": "1"}});
    let first = call_with(api, "PATCH", "/v1/nodes/d1", &key, Some(body.clone()), 200).await;
    let again = call_with(api, "PATCH", "/v1/nodes/d1", &key, Some(body), 200).await;
    assert_eq!(first.number("x-cluster-revision"), again.number("x-cluster-revision"));
    assert_eq!(first.body["revision"], again.body["revision"]);
    let other = Some(json!({"labels": {"k": "2"}}));
    let reused = call_with(api, "PATCH", "/v1/nodes/d1", &key, other, 422).await;
    assert_eq!(reused.body["code"], "invalid");

    let (shard, _, replica, _) = shard_and_ends(served).await;
    let key = [("idempotency-key", "migrate-1")];
    let body = json!({"shard": shard, "to": replica});
    let first = call_with(api, "POST", "/v1/migrations", &key, Some(body.clone()), 202).await;
    let path = format!("/v1/migrations/{}?wait_ms=20000", first.body["id"]);
    call(api, "GET", &path, None, 200).await;
    let again = call_with(api, "POST", "/v1/migrations", &key, Some(body.clone()), 202).await;
    for field in ["id", "revision", "phase"] {
        assert_eq!(first.body[field], again.body[field], "{field}");
    }
    assert_eq!(first.number("x-cluster-revision"), again.number("x-cluster-revision"));
    // Refusals are remembered too: the replica has become the primary.
    let key = [("idempotency-key", "migrate-2")];
    let refused = api.send("POST", "/v1/migrations", &key, Some(&body)).await.unwrap();
    let again = api.send("POST", "/v1/migrations", &key, Some(&body)).await.unwrap();
    assert!(refused.status >= 400, "{}", refused.body);
    assert_eq!((refused.status, &refused.body["detail"]), (again.status, &again.body["detail"]));
}

async fn a_row_that_moved_on_is_not_overwritten(served: &Served) {
    let api = &served.api;
    let node = call(api, "GET", "/v1/nodes/d2", None, 200).await;
    let tag = node.header("etag").unwrap().to_owned();
    let patch = |rack: &str| Some(json!({"rack": rack}));
    call_with(api, "PATCH", "/v1/nodes/d2", &[("if-match", &tag)], patch("r2b"), 200).await;
    call_with(api, "PATCH", "/v1/nodes/d2", &[("if-match", &tag)], patch("r2c"), 412).await;
    call_with(api, "DELETE", "/v1/nodes/d2", &[("if-match", &tag)], None, 412).await;
    call_with(api, "DELETE", "/v1/nodes/d2/drain", &[("if-match", &tag)], None, 412).await;
    let register = json!({"addr": "d2.invalid:1", "store_id": "store-of-d2"});
    call_with(api, "PUT", "/v1/nodes/d2", &[("if-match", &tag)], Some(register), 412).await;
    let node = call_with(api, "PATCH", "/v1/nodes/d2", &[("if-match", "*")], patch("r2"), 200).await;
    assert_eq!(node.body["rack"], "r2");
}

async fn what_is_known_is_not_sent_again(served: &Served) {
    let api = &served.api;
    let map = call(api, "GET", "/v1/map", None, 200).await;
    let tag = map.header("etag").unwrap().to_owned();
    let unchanged = call_with(api, "GET", "/v1/map", &[("if-none-match", &tag)], None, 304).await;
    assert!(unchanged.body.is_null());
    call_with(api, "GET", "/v1/map", &[("if-none-match", "\"1\"")], None, 200).await;
}

async fn pages_join_without_gap_or_duplicate(served: &Served) {
    for (list, count) in [("nodes", 4), ("shards", 8)] {
        let mut seen: Vec<Value> = Vec::new();
        let mut cursor = String::new();
        loop {
            let path = format!("/v1/{list}?limit=3&cursor={cursor}");
            let page = call(&served.api, "GET", &path, None, 200).await;
            seen.extend(page.body[list].as_array().unwrap().iter().map(|item| item["id"].clone()));
            match page.body["next_cursor"].as_str() {
                Some(next) => cursor = next.to_owned(),
                None => break,
            }
        }
        assert_eq!(seen.len(), count, "{seen:?}");
        let mut once = seen.clone();
        once.dedup();
        assert_eq!(once, seen);
    }
    let all = call(&served.api, "GET", "/v1/events", None, 200).await;
    let all = all.body["events"].as_array().unwrap().clone();
    let (mut paged, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = call(&served.api, "GET", &format!("/v1/events?limit=2&cursor={cursor}"), None, 200).await;
        paged.extend(page.body["events"].as_array().unwrap().clone());
        match page.body["next_cursor"].as_str() {
            Some(next) => cursor = next.to_owned(),
            None => break,
        }
    }
    assert_eq!(paged[..all.len()], all[..]);
}

async fn a_stale_read_names_its_revision(served: &Served) {
    let stale = call(&served.api, "GET", "/v1/map?consistency=stale", None, 200).await;
    assert_eq!(stale.body["revision"].as_u64(), stale.number("x-cluster-revision"));
}

async fn a_drain_that_cannot_finish_says_why(served: &Served) {
    let api = &served.api;
    // Four nodes hold three copies of everything: one may go, two may not.
    call(api, "POST", "/v1/nodes/d4/drain", None, 200).await;
    let refused = call(api, "POST", "/v1/nodes/d3/drain", Some(json!({"dry_run": true})), 422).await;
    assert!(refused.body["detail"].as_str().unwrap().contains("shard "), "{}", refused.body);
    call(api, "DELETE", "/v1/nodes/d4/drain", None, 200).await;
}
