//! The state that is explored: control, data nodes, messages in flight, what is left of the bounds, and what was seen.

use std::sync::Arc;

use ruvector_cluster_client::ids::{Incarnation, NodeId, Revision};
use ruvector_cluster_client::replica::event::ReportOutcome;
use ruvector_cluster_client::replica::wire::{Answer, Request};
use ruvector_cluster_client::replica::{CallId, Limits, ReportId};
use ruvector_cluster_client::wire::Report;

use crate::control::Control;
use crate::ghost::Ghost;
use crate::node::Node;
use crate::scenario::{AtOnce, Bounds, Scenario};

/// Data nodes.
pub(crate) const NODES: usize = 3;

/// Length of a lease, as nodes count it.
pub(crate) const LEASE_MS: u64 = 2_000;

/// A step of the clock: half a lease.
pub(crate) const TICK_MS: u64 = 1_000;

/// Steps that happen at once, at most.
const MAX_AT_ONCE: usize = 2_000;

/// Something under way. Nodes are named by their number, runs of nodes by their incarnation.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Message {
    /// The answer to a heartbeat, that grants a lease.
    Granted {
        to: usize,
        run: Incarnation,
        sent_ms: u64,
        lease_ms: u64,
        assigned: Revision,
    },
    Request {
        from: usize,
        run: Incarnation,
        call: CallId,
        to: usize,
        request: Request,
    },
    Answer {
        to: usize,
        run: Incarnation,
        call: CallId,
        answer: Answer,
    },
    Report {
        from: usize,
        run: Incarnation,
        id: ReportId,
        body: Report,
    },
    Outcome {
        to: usize,
        run: Incarnation,
        id: ReportId,
        outcome: ReportOutcome,
    },
}

/// The state.
#[derive(Clone)]
pub struct World {
    /// Of data nodes' clocks, which are the slowest that the lease rules allow: the leader's runs 5 % faster.
    pub(crate) now_ms: u64,
    pub(crate) control: Arc<Control>,
    pub(crate) nodes: [Arc<Node>; NODES],
    pub(crate) net: Vec<Arc<Message>>,
    /// Nodes cut off from the control nodes.
    pub(crate) cut: [bool; NODES],
    /// The node that the other data nodes do not reach, nor it them.
    pub(crate) apart: Option<usize>,
    /// The node that fetches no assignments.
    pub(crate) deaf: Option<usize>,
    pub(crate) left: Bounds,
    pub(crate) at_once: AtOnce,
    pub(crate) whole: bool,
    pub(crate) limits: Arc<Limits>,
    pub(crate) ghost: Ghost,
}

impl World {
    /// A founded cluster of nodes that have never run.
    pub(crate) fn new(scenario: &Scenario) -> Self {
        let limits = Limits {
            chunk_bytes: 4,
            settle_ms: 3 * TICK_MS,
            retry_ms: 100,
            silence_ms: TICK_MS,
            repeat_ms: TICK_MS,
            poll_ms: TICK_MS / 2,
            ..Limits::default()
        };
        let name = |at: usize| NodeId::new(&format!("n{at}")).ok();
        let nodes = [0, 1, 2].map(|at| Arc::new(Node::off(at, name(at))));
        Self {
            now_ms: 100_000,
            control: Arc::new(Control::founded(scenario.copies, 100_000)),
            nodes,
            net: Vec::new(),
            cut: [false; NODES],
            apart: None,
            deaf: None,
            left: Bounds::default(),
            at_once: AtOnce::ALL,
            whole: true,
            limits: Arc::new(limits),
            ghost: Ghost::default(),
        }
    }

    pub(crate) fn node(&mut self, at: usize) -> &mut Node {
        Arc::make_mut(&mut self.nodes[at])
    }

    pub(crate) fn control(&mut self) -> &mut Control {
        Arc::make_mut(&mut self.control)
    }

    pub(crate) fn send(&mut self, message: Message) {
        self.net.push(Arc::new(message));
    }

    /// The number of the node of that name.
    pub(crate) fn number_of(&self, name: &NodeId) -> Option<usize> {
        self.nodes.iter().position(|node| node.name == *name)
    }

    /// Does what happens at once, until nothing does.
    pub(crate) fn settle(&mut self) {
        for _ in 0..MAX_AT_ONCE {
            if self.ghost.broken.is_some() || !self.settle_one() {
                self.check();
                return;
            }
        }
        let how = format!("what happens at once never ends: {:?}", self.decided());
        self.ghost.broke(crate::ghost::Rule::StateHolds, how);
    }

    fn settle_one(&mut self) -> bool {
        let at_once = self.at_once;
        if at_once.stores && (0..NODES).any(|at| self.carry_out_store(at)) {
            return true;
        }
        if let Some(place) = self.net.iter().position(|message| self.is_at_once(message)) {
            let message = self.net.remove(place);
            self.deliver(&message);
            return true;
        }
        if at_once.installs && (0..NODES).any(|at| self.install(at)) {
            return true;
        }
        if at_once.beats && (0..NODES).any(|at| self.beat(at)) {
            return true;
        }
        (at_once.proposals && self.propose_next()) || (at_once.decisions && self.decide())
    }

    fn is_at_once(&self, message: &Message) -> bool {
        match message {
            Message::Granted { .. } => self.at_once.grants,
            Message::Request { .. } => self.at_once.requests,
            Message::Answer { .. } => self.at_once.answers,
            Message::Report { from, .. } => self.at_once.reports && !self.cut[*from],
            Message::Outcome { to, .. } => self.at_once.outcomes && !self.cut[*to],
        }
    }

    /// Delivers a message to whom it is for, if that run still is.
    pub(crate) fn deliver(&mut self, message: &Message) {
        match message.clone() {
            Message::Granted { to, run, sent_ms, lease_ms, assigned } => {
                if self.nodes[to].run == run {
                    self.node(to).lease.granted(sent_ms, lease_ms, assigned);
                    self.tell_lease(to);
                }
            }
            Message::Request { from, run, call, to, request } => self.ask(to, (from, run, call), request),
            Message::Answer { to, run, call, answer } => self.answered(to, run, call, answer),
            Message::Report { from, run, id, body } => self.report(from, run, id, &body),
            Message::Outcome { to, run, id, outcome } => self.reported(to, run, id, outcome),
        }
    }

    /// Loses a message; whoever waits for its answer learns that there is none.
    pub(crate) fn lose(&mut self, message: &Message) {
        match message {
            Message::Granted { .. } => {}
            Message::Request { from: to, run, call, .. } | Message::Answer { to, run, call, .. } => {
                self.call_failed(*to, *run, *call);
            }
            Message::Report { from: to, run, id, .. } | Message::Outcome { to, run, id, .. } => {
                self.reported(*to, *run, *id, ReportOutcome::Unknown);
            }
        }
    }

    /// Time passes everywhere.
    pub(crate) fn tick(&mut self) {
        self.now_ms += TICK_MS;
        for at in 0..NODES {
            self.tick_node(at);
        }
    }
}
