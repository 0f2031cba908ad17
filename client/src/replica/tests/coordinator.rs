//! The coordinator in its smallest form: one shard, the rules of in-sync sets, failover and migration.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::{Epoch, Incarnation, MigrationId, NodeId, ShardId};
use crate::wire::*;

#[derive(Clone, Debug)]
pub(super) struct Migration {
    pub(super) id: u64,
    pub(super) phase: Phase,
    pub(super) kind: MigrationKind,
    pub(super) target: NodeId,
    from: Option<NodeId>,
    ready: BTreeSet<NodeId>,
}

#[derive(Clone, Debug)]
pub(super) struct Coordinator {
    pub(super) epoch: u64,
    pub(super) primary: NodeId,
    pub(super) replicas: BTreeSet<NodeId>,
    pub(super) learners: BTreeSet<NodeId>,
    pub(super) retiring: BTreeSet<NodeId>,
    pub(super) in_sync: BTreeSet<NodeId>,
    pub(super) version: u64,
    pub(super) founding: bool,
    pub(super) down: BTreeSet<NodeId>,
    pub(super) incarnations: BTreeMap<NodeId, u64>,
    pub(super) migration: Option<Migration>,
    /// Raised by each change; nodes install what they have not yet.
    pub(super) revision: u64,
    migrations: u64,
}

impl Coordinator {
    pub(super) fn new(nodes: &[NodeId], copies: usize) -> Self {
        let copies: BTreeSet<NodeId> = nodes.iter().take(copies).cloned().collect();
        Self {
            epoch: 1,
            primary: nodes[0].clone(),
            replicas: copies.iter().filter(|node| **node != nodes[0]).cloned().collect(),
            learners: BTreeSet::new(),
            retiring: BTreeSet::new(),
            in_sync: copies,
            version: 1,
            founding: true,
            down: BTreeSet::new(),
            incarnations: nodes.iter().map(|node| (node.clone(), 1)).collect(),
            migration: None,
            revision: 1,
            migrations: 0,
        }
    }

    fn role(&self, node: &NodeId) -> Option<Role> {
        if *node == self.primary {
            Some(Role::Primary)
        } else if self.replicas.contains(node) {
            Some(Role::Replica)
        } else if self.learners.contains(node) {
            Some(Role::Learner)
        } else {
            self.retiring.contains(node).then_some(Role::Retiring)
        }
    }

    fn at(node: &NodeId) -> NodeAddr {
        NodeAddr { node: node.clone(), addr: format!("{node}:1") }
    }

    pub(super) fn assignment(&self, node: &NodeId) -> Option<Assignment> {
        let role = self.role(node)?;
        let others = [&self.primary].into_iter().chain(&self.replicas).chain(&self.learners);
        let own = (role == Role::Retiring).then_some(node);
        let copies = others.chain(own).map(|copy| CopyInfo {
            node: copy.clone(),
            addr: format!("{copy}:1"),
            incarnation: Incarnation(self.incarnations[copy]),
            role: self.role(copy).unwrap(),
            down: self.down.contains(copy),
        });
        let source = || self.in_sync.iter().find(|node| !self.down.contains(*node)).unwrap_or(&self.primary);
        Some(Assignment {
            shard: ShardId(0),
            epoch: Epoch(self.epoch),
            founding: self.founding,
            role,
            in_sync_version: self.version,
            in_sync: self.in_sync.iter().cloned().collect(),
            copies: copies.collect(),
            migration: self.migration.as_ref().map(|migration| AssignedMigration {
                id: MigrationId(migration.id),
                phase: migration.phase,
                kind: migration.kind,
                source: Some(Self::at(source())),
                target: Some(Self::at(&migration.target)),
            }),
        })
    }

    fn changed(&mut self) {
        self.revision += 1;
    }

    fn raise_epoch(&mut self) {
        self.epoch += 1;
        if let Some(migration) = self.migration.as_mut().filter(|m| m.phase != Phase::HandingOver) {
            migration.phase = Phase::Preparing;
            migration.ready.clear();
        }
        self.changed();
    }

    pub(super) fn register(&mut self, node: &NodeId) {
        *self.incarnations.get_mut(node).unwrap() += 1;
        self.down.remove(node);
        let target = self.migration.as_ref().is_some_and(|m| m.target == *node);
        if *node == self.primary && self.migration.as_ref().is_some_and(|m| m.phase == Phase::HandingOver) {
            self.cut_over();
        } else if *node == self.primary {
            self.raise_epoch();
        } else if target {
            self.put_back();
        }
        self.changed();
    }

    fn put_back(&mut self) {
        if let Some(migration) = self.migration.as_mut().filter(|m| m.phase != Phase::HandingOver) {
            migration.phase = Phase::Preparing;
            migration.ready.clear();
            self.changed();
        }
    }

    /// The node's lease has run out.
    pub(super) fn expire(&mut self, node: &NodeId) {
        self.down.insert(node.clone());
        self.changed();
        let handing = self.migration.as_ref().is_some_and(|m| m.phase == Phase::HandingOver);
        if handing && (*node == self.primary || self.migration.as_ref().is_some_and(|m| m.target == *node)) {
            return self.cut_over();
        }
        self.fail_over();
    }

    pub(super) fn alive(&mut self, node: &NodeId) {
        self.down.remove(node);
        self.changed();
    }

    fn fail_over(&mut self) {
        if !self.down.contains(&self.primary) {
            return;
        }
        let heir = self.in_sync.iter().find(|node| !self.down.contains(*node)).cloned();
        let Some(heir) = heir else { return };
        self.abort();
        self.replicas.remove(&heir);
        self.learners.remove(&heir);
        self.replicas.insert(std::mem::replace(&mut self.primary, heir));
        self.raise_epoch();
    }

    pub(super) fn abort(&mut self) {
        let Some(migration) = self.migration.take() else { return };
        if self.learners.remove(&migration.target) {
            if self.in_sync.contains(&migration.target) {
                self.replicas.insert(migration.target);
            } else {
                self.retiring.insert(migration.target);
            }
        }
        self.changed();
    }

    /// Ends the handing over: forward when the target can, else the old primary goes on.
    pub(super) fn cut_over(&mut self) {
        let Some(migration) = self.migration.take() else { return };
        let target = migration.target.clone();
        if !self.in_sync.contains(&target) || self.down.contains(&target) {
            self.migration = Some(migration);
            self.abort();
            return self.raise_epoch();
        }
        self.learners.remove(&target);
        self.replicas.remove(&target);
        let old = std::mem::replace(&mut self.primary, target);
        self.replicas.insert(old.clone());
        if migration.kind == MigrationKind::Move {
            self.leave(&old);
        }
        self.raise_epoch();
        self.fail_over();
    }

    fn leave(&mut self, from: &NodeId) {
        self.replicas.remove(from);
        self.retiring.insert(from.clone());
        if self.in_sync.remove(from) {
            self.version += 1;
        }
    }

    pub(super) fn migrate(&mut self, kind: MigrationKind, target: &NodeId, from: Option<&NodeId>) {
        assert!(self.migration.is_none());
        self.migrations += 1;
        let promote = kind == MigrationKind::Promote;
        if !promote {
            self.learners.insert(target.clone());
        }
        self.migration = Some(Migration {
            id: self.migrations,
            phase: if promote { Phase::HandingOver } else { Phase::Preparing },
            kind,
            target: target.clone(),
            from: from.cloned(),
            ready: BTreeSet::new(),
        });
        self.changed();
    }

    /// Takes a report, as it is applied.
    pub(super) fn report(
        &mut self,
        node: &NodeId,
        incarnation: u64,
        report: &Report,
    ) -> Result<(), &'static str> {
        if incarnation != self.incarnations[node] {
            return Err("stale_incarnation");
        }
        if report.epoch.0 != self.epoch && !report.retired {
            return Err("stale_epoch");
        }
        if report.retired {
            self.retiring.remove(node);
            self.changed();
            return Ok(());
        }
        if report.lost {
            return self.take_lost(node);
        }
        if let Some(set) = &report.in_sync_set {
            return self.take_set(node, set);
        }
        self.take_phase(node, report)
    }

    /// A lost copy becomes a learner copy, to be filled by a migration.
    fn take_lost(&mut self, node: &NodeId) -> Result<(), &'static str> {
        if self.migration.is_some() || !self.replicas.remove(node) {
            return Err("invalid");
        }
        if self.in_sync.remove(node) {
            self.version += 1;
        }
        self.migrate(MigrationKind::Add, node, None);
        Ok(())
    }

    fn take_set(&mut self, node: &NodeId, set: &InSyncProposal) -> Result<(), &'static str> {
        if *node != self.primary {
            return Err("stale_epoch");
        }
        if set.if_version != self.version {
            return Err("stale_version");
        }
        if set.members.iter().any(|m| m.incarnation.0 != self.incarnations[&m.node]) {
            return Err("stale_incarnation");
        }
        let admitting =
            self.migration.as_ref().filter(|m| m.phase == Phase::Admitting).map(|m| m.target.clone());
        let members: BTreeSet<NodeId> = set.members.iter().map(|m| m.node.clone()).collect();
        let legal = |new: &NodeId| {
            !self.down.contains(new) && (self.replicas.contains(new) || admitting.as_ref() == Some(new))
        };
        if !members.contains(node) || !members.difference(&self.in_sync).all(legal) {
            return Err("invalid");
        }
        self.in_sync = members;
        self.version += 1;
        self.founding = false;
        self.changed();
        if admitting.is_some_and(|target| self.in_sync.contains(&target)) {
            self.admitted();
        }
        Ok(())
    }

    fn admitted(&mut self) {
        let Some(mut migration) = self.migration.take() else { return };
        if migration.from.as_ref() == Some(&self.primary) {
            migration.phase = Phase::HandingOver;
            self.migration = Some(migration);
            return;
        }
        self.learners.remove(&migration.target);
        self.replicas.insert(migration.target);
        if let Some(from) = migration.from {
            self.leave(&from);
        }
    }

    fn take_phase(&mut self, node: &NodeId, report: &Report) -> Result<(), &'static str> {
        let Some(migration) = &mut self.migration else { return Err("stale_phase") };
        if report.migration != Some(MigrationId(migration.id)) || report.phase != Some(migration.phase) {
            return Err("stale_phase");
        }
        if report.error.is_some() {
            self.put_back();
            return Ok(());
        }
        if !report.done {
            return Ok(());
        }
        migration.ready.insert(node.clone());
        let both = migration.ready.contains(&migration.target) && migration.ready.contains(&self.primary);
        match migration.phase {
            Phase::Preparing if both => migration.phase = Phase::Copying,
            Phase::Copying if *node == migration.target => migration.phase = Phase::Admitting,
            Phase::HandingOver if *node == self.primary => self.cut_over(),
            _ => return Ok(()),
        }
        self.changed();
        Ok(())
    }
}
