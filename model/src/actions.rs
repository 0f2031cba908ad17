//! What may happen next in a state, and what comes of it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crate::ghost::Rule;
use crate::node::KEY;
use crate::world::{Message, NODES, World};

/// One thing that happens. Nodes by number, messages by their place among those under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// All clocks go on by half a lease.
    Tick,
    /// A data node sends a heartbeat.
    Beat(usize),
    /// A data node puts its newest assignments in force.
    Install(usize),
    /// A store carries out its oldest action.
    Store(usize),
    /// The leader decides.
    Decide,
    /// The leader's next proposal is committed.
    Commit,
    /// A message arrives.
    Deliver(usize),
    /// A message is lost, and its sender learns that there is no answer.
    Lose(usize),
    /// A message arrives, and will arrive again.
    Repeat(usize),
    /// A client writes at a node.
    Write(usize),
    /// A client reads at a node.
    Read(usize),
    /// A data node's process ends; what its store had to do is done, or not.
    Crash(usize, bool),
    /// A data node's process starts and registers.
    Start(usize),
    /// The store of a node that is off is replaced by an empty one.
    Wipe(usize),
    /// A data node and the control nodes no longer reach each other.
    Cut(usize),
    /// Another control node leads; its predecessor's proposal is committed, or never will be.
    Lead(bool),
    /// An operator starts a migration to a node.
    Migrate(usize),
}

impl World {
    /// What may happen next, in a fixed order.
    pub(crate) fn actions(&self, actions: &mut Vec<Action>) {
        if self.ghost.broken.is_some() {
            return;
        }
        self.message_actions(actions);
        for at in 0..NODES {
            self.node_actions(at, actions);
        }
        if !self.at_once.proposals && !self.control.proposals.is_empty() {
            actions.push(Action::Commit);
        }
        if !self.at_once.decisions && self.may_decide() {
            actions.push(Action::Decide);
        }
        if self.left.leaders > 0 {
            actions.push(Action::Lead(false));
            if !self.control.proposals.is_empty() {
                actions.push(Action::Lead(true));
            }
        }
        if self.left.ticks > 0 {
            actions.push(Action::Tick);
        }
    }

    fn message_actions(&self, actions: &mut Vec<Action>) {
        for (place, message) in self.net.iter().enumerate() {
            if self.net[..place].contains(message) {
                continue;
            }
            let is_cut = match **message {
                Message::Report { from: at, .. } | Message::Outcome { to: at, .. } => self.cut[at],
                Message::Granted { to: at, .. } => self.cut[at],
                Message::Request { .. } | Message::Answer { .. } => false,
            };
            if !is_cut {
                actions.push(Action::Deliver(place));
            }
            if self.left.losses > 0 {
                actions.push(Action::Lose(place));
            }
            let may_repeat = matches!(**message, Message::Report { .. } | Message::Request { .. });
            if may_repeat && !is_cut && self.left.repeats > 0 {
                actions.push(Action::Repeat(place));
            }
        }
    }

    fn node_actions(&self, at: usize, actions: &mut Vec<Action>) {
        let node = &self.nodes[at];
        if !node.is_on() {
            actions.push(Action::Start(at));
            if self.left.wipes > 0 && node.disk.is_some() {
                actions.push(Action::Wipe(at));
            }
            return;
        }
        if !node.queue.is_empty() {
            actions.push(Action::Store(at));
        }
        if !self.at_once.installs && self.may_install(at) {
            actions.push(Action::Install(at));
        }
        if !self.at_once.beats && self.may_beat(at) {
            actions.push(Action::Beat(at));
        }
        if node.leads() && self.left.writes > 0 {
            actions.push(Action::Write(at));
        }
        if node.leads() && self.left.reads > 0 {
            actions.push(Action::Read(at));
        }
        if self.left.crashes > 0 {
            actions.push(Action::Crash(at, false));
            if !node.queue.is_empty() {
                actions.push(Action::Crash(at, true));
            }
        }
        if self.left.cuts > 0 && !self.cut[at] {
            actions.push(Action::Cut(at));
        }
        let is_spare = self.control.metadata.active_migrations().next().is_none() && !node.leads();
        if self.left.migrations > 0 && is_spare {
            actions.push(Action::Migrate(at));
        }
    }

    /// The state after `action`; none where nothing comes of it. A panic of the code under test is a property broken.
    pub(crate) fn after(&self, action: Action) -> Option<Self> {
        let stepped = catch_unwind(AssertUnwindSafe(|| {
            let mut next = self.clone();
            next.act(action).then(|| {
                next.settle();
                next
            })
        }));
        stepped.unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            let mut next = self.clone();
            next.ghost.broke(Rule::StateHolds, text.unwrap_or_else(|| "it panics".to_owned()));
            Some(next)
        })
    }

    pub(crate) fn act(&mut self, action: Action) -> bool {
        match action {
            Action::Tick => {
                self.left.ticks -= 1;
                self.tick();
            }
            Action::Beat(at) => return self.beat(at),
            Action::Install(at) => return self.install(at),
            Action::Store(at) => return self.carry_out_store(at),
            Action::Decide => return self.decide(),
            Action::Commit => return self.propose_next(),
            Action::Deliver(place) => {
                let message = self.net.remove(place);
                self.deliver(&message);
            }
            Action::Lose(place) => {
                self.left.losses -= 1;
                let message = self.net.remove(place);
                self.lose(&message);
            }
            Action::Repeat(place) => {
                self.left.repeats -= 1;
                let message = Arc::clone(&self.net[place]);
                self.deliver(&message);
            }
            Action::Write(at) => {
                self.left.writes -= 1;
                let value = format!("w{}", self.left.writes);
                self.write(at, KEY, value);
            }
            Action::Read(at) => {
                self.left.reads -= 1;
                self.read(at);
            }
            Action::Crash(at, is_stored) => {
                self.left.crashes -= 1;
                self.crash(at, is_stored);
            }
            Action::Start(at) => return self.start(at),
            Action::Wipe(at) => {
                self.left.wipes -= 1;
                let node = self.node(at);
                node.disk = None;
                node.store += 1;
            }
            Action::Cut(at) => {
                self.left.cuts -= 1;
                self.cut[at] = true;
            }
            Action::Lead(is_committed) => {
                self.left.leaders -= 1;
                self.change_leader(is_committed);
            }
            Action::Migrate(to) => {
                self.left.migrations -= 1;
                return self.migrate(to);
            }
        }
        true
    }
}
