//! What goes wrong in a cell: it takes effect while the phase is held, then the gate is opened.

use std::sync::Arc;

use http::Method;
use ruvector_cluster::client::ids::{Incarnation, NodeId};
use ruvector_cluster::client::wire::ReportsResponse;
use ruvector_cluster::metadata::Metadata;
use serde_json::json;

use super::rest::Late;
use super::rig::{Parties, REACHED_WITHIN, Rig, Step, broken};
use super::{Fault, Stage};
use crate::api::Ask;
use crate::control::{ControlNode, End};

/// A process is down for so long before it is started again within its lease.
const RESTART_MS: u64 = 200;
/// Whoever was declared down stays so for a while.
const AWAY_MS: u64 = 300;
/// Longer than leases last, and elections.
const OUTAGE_MS: u64 = 1_200;
/// A disk is full for so long: longer than an in-sync copy may be silent.
const FULL_MS: u64 = 1_500;

impl Rig {
    /// The cell's fault, and what is left to do once the migration has ended.
    pub(super) async fn inject(&mut self) -> Step<Late> {
        let Some(Parties { primary, from, to }) = self.parties.clone() else {
            return broken("there are parties", "none");
        };
        self.cluster.world.trace.note(&["fault", self.cell.fault.text()]);
        let target = to.unwrap_or_else(|| primary.clone());
        let giver = from.unwrap_or_else(|| primary.clone());
        let both = [primary.clone(), target.clone()];
        let one = |node: &NodeId| [node.clone()];
        let late = match self.cell.fault {
            Fault::Nothing => Late::default(),
            Fault::PrimaryRestarts => self.restart(&one(&primary)).await?,
            Fault::TargetRestarts => self.restart(&one(&target)).await?,
            Fault::BothRestart => self.restart(&both).await?,
            Fault::GiverRestarts => self.restart(&one(&giver)).await?,
            Fault::PrimaryGone => self.lose(&one(&primary)).await?,
            Fault::TargetGone => self.lose(&one(&target)).await?,
            Fault::BothGone => self.lose(&both).await?,
            Fault::GiverGone => self.lose(&one(&giver)).await?,
            Fault::PrimaryPaused => self.pause(&one(&primary)).await?,
            Fault::TargetPaused => self.pause(&one(&target)).await?,
            Fault::BothPaused => self.pause(&both).await?,
            Fault::GiverPaused => self.pause(&one(&giver)).await?,
            Fault::LeaderKilled | Fault::MajorityKilled | Fault::AllControlKilled => {
                self.kill_control().await?
            }
            Fault::LeaderCutOff => self.cut_leader_off().await?,
            Fault::TargetWiped => self.wipe(&target).await?,
            Fault::TargetDamaged => self.damage(&target).await?,
            Fault::ReportTwice => self.report_twice().await?,
            Fault::ReportLate => Late { reports: self.cluster.world.net.kept_reports(), ..Late::default() },
            Fault::ReportOfOldRun => self.report_of_old_run().await?,
            Fault::Cancelled => self.cancel().await?,
            Fault::TargetDrained => self.wish(&target, "drain", json!({})).await?,
            Fault::GiverDrained => self.wish(&giver, "drain", json!({})).await?,
            Fault::TargetInMaintenance => {
                self.wish(&target, "maintenance", json!({ "duration_ms": 60_000 })).await?
            }
            Fault::MovesPaused => self.pause_moves().await?,
            Fault::TargetDiskFull => self.fill_disk(&target).await?,
        };
        self.open();
        Ok(late)
    }

    fn open(&self) {
        self.cluster.world.net.withhold(None);
    }

    async fn takes_effect(&mut self, holds: impl Fn(&Self, &Metadata) -> bool) -> Step {
        if self.wait(REACHED_WITHIN, holds).await {
            return Ok(());
        }
        broken("the fault takes effect", self.told())
    }

    fn at(&self, node: &NodeId) -> usize {
        self.cluster.data_at(node).unwrap_or(usize::MAX)
    }

    fn run_of(&self, node: &NodeId) -> Incarnation {
        let state = self.cluster.newest_state();
        state.and_then(|state| Some(state.node(node)?.incarnation)).unwrap_or_default()
    }

    fn kill(&self, nodes: &[NodeId]) {
        for node in nodes {
            self.cluster.with_data(self.at(node), |node| node.kill());
        }
    }

    async fn restart(&mut self, nodes: &[NodeId]) -> Step<Late> {
        let before: Vec<(NodeId, Incarnation)> =
            nodes.iter().map(|node| (node.clone(), self.run_of(node))).collect();
        self.kill(nodes);
        self.sleep_ms(RESTART_MS).await;
        for node in nodes {
            self.cluster.with_data(self.at(node), |node| *node = node.restart());
        }
        let registered = move |_: &Self, state: &Metadata| {
            before.iter().all(|(node, run)| state.node(node).is_some_and(|row| row.incarnation > *run))
        };
        self.takes_effect(registered).await?;
        Ok(Late::default())
    }

    async fn lose(&mut self, nodes: &[NodeId]) -> Step<Late> {
        self.kill(nodes);
        self.gone.extend(nodes.iter().cloned());
        let nodes = nodes.to_vec();
        self.takes_effect(move |_, state| nodes.iter().all(|node| !state.is_alive(node))).await?;
        Ok(Late::default())
    }

    async fn pause(&mut self, nodes: &[NodeId]) -> Step<Late> {
        for node in nodes {
            self.cluster.with_data(self.at(node), |node| node.set_paused(true));
        }
        let paused = nodes.to_vec();
        self.takes_effect(move |_, state| paused.iter().all(|node| !state.is_alive(node))).await?;
        self.sleep_ms(AWAY_MS).await;
        for node in nodes {
            self.cluster.with_data(self.at(node), |node| node.set_paused(false));
        }
        Ok(Late::default())
    }

    /// The leader, with as many others as the fault says.
    async fn kill_control(&mut self) -> Step<Late> {
        let Some(leader) = self.cluster.leader() else { return broken("somebody leads", self.told()) };
        let others = self.cluster.control().into_iter().filter(|node| node.name != leader.name);
        let count = match self.cell.fault {
            Fault::MajorityKilled => 1,
            Fault::AllControlKilled => 2,
            _ => 0,
        };
        let killed: Vec<Arc<ControlNode>> = [leader.clone()].into_iter().chain(others.take(count)).collect();
        for node in &killed {
            node.kill(End::PowerLoss);
        }
        if count == 0 {
            self.takes_effect(|rig, _| rig.cluster.leader().is_some()).await?;
            // What waited comes to the new leader.
            self.open();
        }
        self.sleep_ms(OUTAGE_MS).await;
        for node in &killed {
            node.start();
        }
        self.takes_effect(|rig, _| rig.cluster.leader().is_some()).await?;
        Ok(Late::default())
    }

    async fn cut_leader_off(&mut self) -> Step<Late> {
        let Some(leader) = self.cluster.leader() else { return broken("somebody leads", self.told()) };
        let net = self.cluster.world.net.clone();
        let others: Vec<String> =
            self.cluster.names().into_iter().filter(|name| *name != leader.name).collect();
        let set = |cut: bool| {
            for other in &others {
                net.set_cut(&leader.name, other, cut);
                net.set_cut(other, &leader.name, cut);
            }
        };
        set(true);
        let name = leader.name.clone();
        self.takes_effect(move |rig, _| rig.cluster.leader().is_some_and(|now| now.name != name)).await?;
        self.open();
        self.sleep_ms(OUTAGE_MS).await;
        set(false);
        Ok(Late::default())
    }

    async fn wipe(&mut self, node: &NodeId) -> Step<Late> {
        let before = self.run_of(node);
        self.witness.excuse(node);
        self.cluster.with_data(self.at(node), |node| *node = node.restart_wiped());
        let node = node.clone();
        self.takes_effect(move |_, state| state.node(&node).is_some_and(|row| row.incarnation > before))
            .await?;
        Ok(Late::default())
    }

    async fn damage(&mut self, node: &NodeId) -> Step<Late> {
        let at = self.at(node);
        let failed = |rig: &Self| rig.cluster.with_data(at, |node| node.machine().disk.counts().failed);
        let before = failed(self);
        self.witness.excuse(node);
        self.cluster.with_data(at, |node| node.machine().disk.fail_next(1));
        // Clients write all the time, and what they write reaches the target.
        self.takes_effect(move |rig, _| failed(rig) > before).await?;
        Ok(Late::default())
    }

    async fn fill_disk(&mut self, node: &NodeId) -> Step<Late> {
        let at = self.at(node);
        self.cluster.with_data(at, |node| node.machine().disk.set_full(true));
        self.open();
        self.sleep_ms(FULL_MS).await;
        self.cluster.with_data(at, |node| node.machine().disk.set_full(false));
        Ok(Late::default())
    }

    async fn report_twice(&mut self) -> Step<Late> {
        let kept = self.cluster.world.net.kept_reports();
        self.open();
        for report in kept.iter().chain(&kept) {
            self.repeat(report).await?;
        }
        Ok(Late::default())
    }

    async fn report_of_old_run(&mut self) -> Step<Late> {
        let kept = self.cluster.world.net.kept_reports();
        let sender = kept.first().and_then(|kept| NodeId::new(kept.path.split('/').nth(3)?).ok());
        let (Some(first), Some(sender)) = (kept.first().cloned(), sender) else {
            return broken("a report was kept", format!("{kept:?}"));
        };
        self.restart(&[sender]).await?;
        let reply = self.repeat(&first).await?;
        let results: Option<ReportsResponse> = serde_json::from_slice(&reply.bytes).ok();
        let refused = results.is_some_and(|results| {
            results.results.iter().all(|result| result.code.as_deref() == Some("stale_incarnation"))
        });
        // Refused as a whole, or one by one.
        if !refused && reply.status < 400 {
            return broken("an old run's report is refused", format!("{:?}", reply.body));
        }
        Ok(Late::default())
    }

    async fn cancel(&mut self) -> Step<Late> {
        let id = self.migration.unwrap_or_default();
        let reply = self.ask(Ask::write(Method::DELETE, format!("/v1/migrations/{id}"), None)).await?;
        let too_late = matches!(self.cell.stage, Stage::HandingOver | Stage::CleaningDone);
        let right = if too_late { reply.code() == "too_late" } else { reply.status == 202 };
        if !right {
            return broken("a cancellation is answered", format!("{} {:?}", reply.status, reply.body));
        }
        Ok(Late::default())
    }

    /// An operator's wish about a node.
    async fn wish(&mut self, node: &NodeId, what: &str, body: serde_json::Value) -> Step<Late> {
        let path = format!("/v1/nodes/{node}/{what}");
        let reply = self.ask(Ask::write(Method::POST, path.clone(), Some(body))).await?;
        if reply.status == 422 {
            // While a copy is still being deleted it may have nowhere else to go: he is told so, and nothing has changed.
            return Ok(Late::default());
        }
        if reply.status >= 300 {
            return broken("a wish is taken", format!("{} {:?}", reply.status, reply.body));
        }
        Ok(Late { undo: Some(Ask::write(Method::DELETE, path, None)), ..Late::default() })
    }

    async fn pause_moves(&mut self) -> Step<Late> {
        self.ask(Ask::write(Method::POST, "/v1/rebalance/pause", Some(json!({})))).await?;
        let undo = Ask::write(Method::POST, "/v1/rebalance/resume", Some(json!({})));
        Ok(Late { undo: Some(undo), ..Late::default() })
    }
}
