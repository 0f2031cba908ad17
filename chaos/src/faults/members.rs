//! Changes of the membership, while small things go wrong.

use std::time::Duration;

use anyhow::Result;
use reqwest::Method;
use serde_json::json;

use super::Faults;
use crate::api::{Ask, Reply};
use crate::cluster::Cluster;
use crate::links::Link;

/// How long an operator tries.
const OPERATOR: Duration = Duration::from_secs(40);

impl Faults {
    /// A control node that is no member starts empty, and finds the cluster by its seeds; half of the time an operator takes it in.
    pub(super) async fn add_member(&mut self, cluster: &mut Cluster) -> Result<bool> {
        let members = cluster.members();
        let Some(new) = (0..cluster.count()).find(|node| !members.contains(node)) else { return Ok(false) };
        cluster.start(new)?;
        let addr = cluster.addr(new);
        let body = json!({
            "id": cluster.name(new),
            "client_url": format!("http://{addr}"),
            "peer_url": cluster.peer_url(new),
        });
        let ask = Ask::write(Method::POST, "/v1/members", body);
        let asked = if self.chance.percent(50) {
            let taken_in = cluster.insist(&ask, OPERATOR, |reply| reply.status == 200);
            tokio::join!(taken_in, self.disturb(cluster)).0.map(drop)
        } else {
            self.disturb(cluster).await;
            Ok(())
        };
        cluster.set_member(new, true);
        Ok(self.has_ended(cluster, asked))
    }

    /// The control node that joined last leaves, and its files go.
    pub(super) async fn remove_member(&mut self, cluster: &mut Cluster) -> Result<bool> {
        let members = cluster.members();
        let Some(last) = members.last().copied().filter(|_| members.len() > 3) else { return Ok(false) };
        let removed = self.remove(cluster, last).await;
        cluster.set_member(last, false);
        cluster.kill(last);
        cluster.wipe(last)?;
        Ok(self.has_ended(cluster, removed))
    }

    /// Killed for good, removed, and started again under its name with empty files.
    pub(super) async fn replace_member(&mut self, cluster: &mut Cluster) -> Result<bool> {
        let Some(node) = self.any(cluster) else { return Ok(false) };
        cluster.kill(node);
        let removed = self.remove(cluster, node).await;
        if removed.is_ok() {
            cluster.wipe(node)?;
        }
        cluster.start(node)?;
        Ok(self.has_ended(cluster, removed))
    }

    async fn remove(&self, cluster: &Cluster, node: usize) -> Result<(), String> {
        let ask = Ask { method: Method::DELETE, ..Ask::get(format!("/v1/members/{}", cluster.name(node))) };
        // Gone already is fine, too: an earlier try had no answer.
        let gone = |reply: &Reply| reply.status == 200 || reply.code() == "not_found";
        let removed = cluster.insist(&ask, OPERATOR, gone);
        tokio::join!(removed, self.disturb(cluster)).0.map(drop)
    }

    fn has_ended(&self, cluster: &Cluster, change: Result<(), String>) -> bool {
        if let Err(last) = &change {
            let detail = format!("after {OPERATOR:?}: {last}");
            cluster.recorder.violation("a change of the membership ends", detail);
        }
        change.is_ok()
    }

    /// Something small goes wrong, and is put right again.
    async fn disturb(&self, cluster: &Cluster) {
        self.chance.wait(0, 300).await;
        match self.chance.between(0, 3) {
            0 => {}
            1 => {
                self.delay(cluster);
                self.chance.wait(100, 1_500).await;
            }
            2 => {
                self.some_links(cluster, Link::Drop);
                self.chance.wait(100, 1_500).await;
            }
            _ => {
                if let Some(leader) = cluster.leader().await {
                    cluster.pause(leader);
                    self.chance.wait(100, 1_500).await;
                    cluster.resume(leader);
                }
            }
        }
        cluster.links.heal();
    }
}
