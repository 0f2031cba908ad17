//! A schedule without faults: everything arrives, clocks go on, nodes start again. From every state it must lead to a primary that
//! acknowledges a write. It also makes the states in which explorations begin.

use std::panic::{AssertUnwindSafe, catch_unwind};

use ruvector_cluster_client::replica::wire::Request;

use crate::ghost::Rule;
use crate::node::SHARD;
use crate::scenario::{AtOnce, Before, Scenario};
use crate::world::{Message, NODES, World};

/// Steps of the clock within which something good happens: the longest wait is for a taken name, of four leases.
const MAX_TICKS: usize = 40;

/// A key that nothing is checked of.
const OTHER_KEY: &str = "a";

impl World {
    /// Lets everything happen that needs no time, and no fault.
    pub(crate) fn calm(&mut self) {
        self.at_once = AtOnce::ALL;
        self.cut = [false; NODES];
        (self.apart, self.deaf) = (None, None);
        for at in 0..NODES {
            if !self.nodes[at].is_on() {
                self.start(at);
            }
        }
        self.settle();
    }

    /// The node that leads, as it believes and as is committed.
    pub(crate) fn leader_of_shard(&self) -> Option<usize> {
        let named = self.control.metadata.shard(SHARD)?.primary.as_ref()?;
        (0..NODES).find(|at| self.nodes[*at].name == *named && self.nodes[*at].leads())
    }

    /// Whether a write is acknowledged in the end, when nothing goes wrong any more.
    pub(crate) fn can_do_good(&self) -> bool {
        let mut world = self.clone();
        world.whole = true;
        world.calm();
        let before = world.ghost.acknowledged;
        for _ in 0..MAX_TICKS {
            if let Some(at) = world.leader_of_shard() {
                world.write(at, OTHER_KEY, "good".to_owned());
                world.settle();
            }
            if world.ghost.acknowledged > before {
                return true;
            }
            world.tick();
            world.calm();
        }
        world.has_lost_all_stores()
    }

    /// All stores of in-sync copies are gone: nothing can bring back what they had, and nobody has accepted that.
    fn has_lost_all_stores(&self) -> bool {
        let metadata = &self.control.metadata;
        let is_gone = |at: usize| {
            let node = &self.nodes[at];
            metadata.node(&node.name).is_some_and(|row| row.store_id != node.store_id())
        };
        let Some(shard) = metadata.shard(SHARD) else { return false };
        let seats = |at: &usize| shard.in_sync.contains(&self.nodes[*at].name);
        (0..NODES).filter(seats).all(is_gone)
    }

    /// The state in which the scenario's exploration begins: where its prefix ends, or where it breaks a rule.
    ///
    /// # Errors
    /// How far it came, when the prefix doesn't come about.
    pub(crate) fn begin_of(scenario: &Scenario) -> Result<Self, Box<Self>> {
        let mut world = Self::new(scenario);
        let came = catch_unwind(AssertUnwindSafe(|| world.come_to_begin(scenario)));
        if came.is_err() {
            world.ghost.broke(Rule::StateHolds, "it panics before the exploration begins");
        }
        world.at_once = scenario.at_once;
        world.whole = scenario.whole;
        world.left = scenario.bounds;
        let is_there = matches!(came, Ok(Some(()))) || world.ghost.broken.is_some();
        if is_there { Ok(world) } else { Err(Box::new(world)) }
    }

    fn come_to_begin(&mut self, scenario: &Scenario) -> Option<()> {
        let world = self;
        for _ in 0..MAX_TICKS {
            world.calm();
            if world.leader_of_shard().is_some() && world.ghost.opened {
                break;
            }
            world.tick();
        }
        world.write(world.leader_of_shard()?, OTHER_KEY, "b".to_owned());
        world.settle();
        world.write(world.leader_of_shard()?, crate::node::KEY, "c".to_owned());
        world.settle();
        if world.ghost.acknowledged < 2 {
            return None;
        }
        world.at_once = scenario.at_once;
        world.whole = scenario.whole;
        for step in scenario.prefix {
            world.come_to(*step)?;
        }
        Some(())
    }

    /// The first node of the in-sync set that does not lead.
    fn follower(&self) -> Option<usize> {
        let shard = self.control.metadata.shard(SHARD)?;
        let leader = self.leader_of_shard();
        (0..NODES).find(|at| shard.in_sync.contains(&self.nodes[*at].name) && Some(*at) != leader)
    }

    /// The first message of a kind arrives.
    fn deliver_first(&mut self, is_meant: impl Fn(&Message) -> bool) -> Option<()> {
        let place = self.net.iter().position(|message| is_meant(message))?;
        let message = self.net.remove(place);
        self.deliver(&message);
        self.settle();
        Some(())
    }

    /// The primary restarts amid a write that its replicas have, and tells them to forget it.
    fn begin_to_align(&mut self, leader: usize) -> Option<()> {
        self.at_once = AtOnce { answers: false, requests: false, ..AtOnce::ALL };
        self.write(leader, crate::node::KEY, "d".to_owned());
        self.settle();
        while self.deliver_first(|message| matches!(message, Message::Request { .. })).is_some() {}
        self.crash(leader, true);
        self.at_once = AtOnce { requests: false, ..AtOnce::ALL };
        self.settle();
        self.start(leader).then_some(())?;
        self.settle();
        let is_adopt = |message: &Message| matches!(message, Message::Request { request, .. } if matches!(request, Request::Adopt { .. }));
        while self.deliver_first(is_adopt).is_some() {}
        Some(())
    }

    fn move_to_spare(&mut self) -> Option<()> {
        let shard = self.control.metadata.shard(SHARD)?;
        let spare = (0..NODES).find(|at| shard.role_of(&self.nodes[*at].name).is_none())?;
        self.migrate(spare).then_some(())?;
        self.at_once = AtOnce { requests: false, reports: false, ..AtOnce::ALL };
        self.settle();
        Some(())
    }

    fn come_to(&mut self, step: Before) -> Option<()> {
        let leader = self.leader_of_shard()?;
        match step {
            Before::MoveToSpare => self.move_to_spare(),
            Before::MoveToSpareCopying => {
                self.move_to_spare()?;
                self.at_once = AtOnce { requests: false, ..AtOnce::ALL };
                self.settle();
                let is_chunk = |message: &Message| matches!(message, Message::Request { request, .. } if matches!(request, Request::Chunk { .. }));
                for _ in 0..MAX_TICKS {
                    if self.net.iter().any(|message| is_chunk(message)) {
                        return Some(());
                    }
                    self.deliver_first(|_| true);
                }
                None
            }
            Before::HandOver => {
                let follower = self.follower()?;
                self.at_once = AtOnce { installs: false, beats: false, ..AtOnce::ALL };
                self.migrate(follower).then_some(())?;
                self.settle();
                Some(())
            }
            Before::DeafPrimary => {
                (self.apart, self.deaf) = (Some(leader), Some(leader));
                Some(())
            }
            Before::SilentPrimary => {
                self.at_once = AtOnce { beats: false, ..AtOnce::ALL };
                self.tick();
                self.settle();
                (0..NODES).filter(|at| *at != leader).for_each(|at| {
                    self.beat(at);
                });
                self.settle();
                Some(())
            }
            Before::WriteThenCrash => {
                self.at_once = AtOnce { answers: false, requests: false, ..AtOnce::ALL };
                self.write(leader, crate::node::KEY, "d".to_owned());
                self.settle();
                // The first request only arrives: one copy has the write, another has not.
                self.deliver_first(|_| true)?;
                self.crash(leader, true);
                self.settle();
                Some(())
            }
            Before::AlignUnderWay => self.begin_to_align(leader),
            Before::ReplicaDropped => {
                let follower = self.follower()?;
                self.at_once = AtOnce::ALL;
                self.crash(follower, true);
                self.settle();
                for _ in 0..4 {
                    self.tick();
                    self.settle();
                }
                (self.control.metadata.shard(SHARD)?.in_sync.len() == 1).then_some(())
            }
        }
    }
}
