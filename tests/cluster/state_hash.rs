//! All control nodes' states hash equal at equal revision, also of one that was killed and rebuilt its state from its files.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::support::{ControlCluster, DEADLINE, ScriptedNode, wait_for};

/// The revision that control node `node` has applied, and the hash of what is replicated there.
async fn digest_of(cluster: &ControlCluster, node: usize) -> Result<(u64, String), String> {
    let view: Value = cluster.api(node).get_as("/v1/cluster?consistency=stale&state_hash=true").await?;
    let revision = view["revision"].as_u64().ok_or_else(|| view.to_string())?;
    let digest = view["state_hash"].as_str().ok_or_else(|| view.to_string())?;
    Ok((revision, digest.to_owned()))
}

#[derive(Default)]
struct Digests {
    /// At each revision: the digest, and who had it first.
    by_revision: BTreeMap<u64, (String, usize)>,
    /// How often a second node was seen at a revision that another one had been seen at.
    compared: usize,
}

impl Digests {
    async fn look(&mut self, cluster: &ControlCluster) {
        for node in cluster.running() {
            let Ok((revision, digest)) = digest_of(cluster, node).await else { continue };
            let (known, first) = self.by_revision.entry(revision).or_insert_with(|| (digest.clone(), node));
            assert_eq!(*known, digest, "n{} and n{} differ at revision {revision}", *first + 1, node + 1);
            self.compared += usize::from(*first != node);
        }
    }

    async fn look_until_equal(&mut self, cluster: &ControlCluster) -> u64 {
        wait_for("all control nodes at one revision", DEADLINE, async || {
            self.look(cluster).await;
            let mut at = Vec::new();
            for node in cluster.running() {
                at.push(digest_of(cluster, node).await?);
            }
            if at.iter().all(|one| *one == at[0]) { Ok(at[0].0) } else { Err(format!("{at:?}")) }
        })
        .await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_states_hash_equal_at_equal_revision() {
    let mut cluster = ControlCluster::start(3).await;
    let mut digests = Digests::default();
    let mut nodes = Vec::new();
    for name in ["d1", "d2", "d3", "d4"] {
        nodes.push(ScriptedNode::start(&cluster, name, None).await);
        digests.look(&cluster).await;
    }
    cluster.wait_for_healthy(4).await;
    let first = digests.look_until_equal(&cluster).await;

    let leader = cluster.wait_for_leader().await;
    let follower = (leader + 1) % 3;
    cluster.kill(follower);
    for n in 0..20 {
        let labels = json!({"labels": {"turn": n.to_string()}});
        let api = cluster.api(leader);
        wait_for("a change", DEADLINE, async || {
            api.send("PATCH", "/v1/nodes/d1", &[], Some(&labels)).await?.ok::<Value>()
        })
        .await;
        digests.look(&cluster).await;
    }
    nodes[3].fall_silent();
    cluster.spawn(follower);
    cluster.wait_for_leader().await;
    let last = digests.look_until_equal(&cluster).await;
    assert!(last >= first + 20, "nothing happened between {first} and {last}");
    assert!(digests.compared >= 4, "only {} digests were compared", digests.compared);
}
