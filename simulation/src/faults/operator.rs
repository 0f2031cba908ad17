//! What operators do at bad times.

use std::time::Duration;

use http::Method;
use serde_json::json;

use super::Faults;
use crate::api::{Ask, Reply};
use crate::control::End;

/// How long an operator tries.
const OPERATOR: Duration = Duration::from_secs(20);

impl Faults {
    pub(super) async fn transfer(&self) -> bool {
        let ask = Ask::write(Method::POST, "/v1/leader/transfer", Some(json!({})));
        self.cluster.operate(&ask).await.is_some_and(|reply| reply.status == 200)
    }

    pub(super) async fn replace_member(&self) -> bool {
        let Some(node) = self.any_control() else { return false };
        let others_up = self.cluster.control().iter().all(|other| other.is_up());
        if !others_up || !self.cluster.may_replace() {
            return false;
        }
        node.kill(End::PowerLoss);
        let ask = Ask::write(Method::DELETE, format!("/v1/members/{}", node.name), None);
        // Gone already is fine, too: an earlier try had no answer.
        let gone = |reply: &Reply| reply.status == 200 || reply.status == 404;
        let is_gone = self.cluster.insist_for(&ask, OPERATOR, gone).await.is_some();
        if is_gone {
            self.cluster.replace_control(&node).start();
        } else {
            node.start();
        }
        is_gone
    }

    /// The new control node finds the cluster by its seeds, too: whichever comes first, the operator's word counts.
    pub(super) async fn swap_member(&self) -> bool {
        let Some(old) = self.any_control().filter(|_| self.cluster.may_replace()) else { return false };
        let names = |reply: &Reply, name: &str| {
            let members = reply.body["members"].as_array().filter(|_| reply.status == 200);
            members.is_some_and(|members| members.iter().any(|member| member["id"] == name))
        };
        let listed = self.cluster.operate(&Ask::get("/v1/members")).await;
        if !old.is_up() || !listed.is_some_and(|reply| names(&reply, &old.name)) {
            return false;
        }
        let new = self.cluster.add_control();
        new.start();
        self.wait(0, 1_000).await;
        let body = json!({
            "id": new.name,
            "client_url": format!("http://{}", new.addr()),
            "peer_url": format!("http://{}", new.peer_addr()),
            "replaces": old.name,
        });
        let ask = Ask::write(Method::POST, "/v1/members", Some(body));
        // Whom it replaces is gone already where an earlier try had no answer.
        let done = |reply: &Reply| reply.status == 200 || reply.status == 404;
        let is_asked = self.cluster.insist_for(&ask, OPERATOR, done).await.is_some();
        // It is promoted once it has caught up; until then the other one votes.
        let is_gone = |reply: &Reply| names(reply, &new.name) && !names(reply, &old.name);
        let is_swapped =
            is_asked && self.cluster.insist_for(&Ask::get("/v1/members"), OPERATOR, is_gone).await.is_some();
        if is_swapped {
            old.kill(End::PowerLoss);
            self.cluster.forget_control(&old);
        }
        is_swapped
    }

    pub(super) async fn rebalance(&self) -> bool {
        let ask = Ask::write(Method::POST, "/v1/rebalance", Some(json!({})));
        self.cluster.operate(&ask).await.is_some_and(|reply| reply.status == 202)
    }

    pub(super) async fn migrate(&self) -> bool {
        let shard = self.between(0, u64::from(self.cluster.world.plan.settings.num_shards) - 1);
        let Some(to) = self.cluster.world.chance.pick(&self.cluster.data_names()).cloned() else {
            return false;
        };
        let ask = Ask::write(Method::POST, "/v1/migrations", Some(json!({ "shard": shard, "to": to })));
        let Some(reply) = self.cluster.operate(&ask).await else { return false };
        if reply.status == 202 && self.between(0, 3) == 0 {
            self.wait(1, 300).await;
            let cancel = format!("/v1/migrations/{}", reply.body["id"].as_u64().unwrap_or(0));
            drop(self.cluster.operate(&Ask::write(Method::DELETE, cancel, None)).await);
        }
        reply.status == 202
    }

    pub(super) async fn drain(&self) -> bool {
        let Some(node) = self.cluster.world.chance.pick(&self.cluster.data_names()).cloned() else {
            return false;
        };
        let path = format!("/v1/nodes/{node}/drain");
        let asked = self.cluster.operate(&Ask::write(Method::POST, path.clone(), Some(json!({})))).await;
        self.wait(500, 8_000).await;
        let undo = Ask::write(Method::DELETE, path, None);
        self.cluster.insist_for(&undo, OPERATOR, |reply| reply.status == 200).await;
        asked.is_some_and(|reply| reply.status == 200)
    }
}
