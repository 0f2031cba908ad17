//! A counterexample in words.

use crate::actions::Action;
use crate::control::Control;
use crate::node::SHARD;
use crate::world::{NODES, World};

fn told_control(control: &Control) -> String {
    let metadata = &control.metadata;
    let Some(shard) = metadata.shard(SHARD) else { return "no shard".to_owned() };
    let name = |node: Option<&ruvector_cluster_client::ids::NodeId>| {
        node.map_or("-".to_owned(), ToString::to_string)
    };
    let list = |nodes: &[ruvector_cluster_client::ids::NodeId]| {
        nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    };
    let migration = metadata.active_migrations().next();
    let migration =
        migration.map(|row| format!(", {:?} to {} {:?}", row.kind, name(row.to.as_ref()), row.phase));
    let down: Vec<String> =
        metadata.nodes().filter(|row| row.is_down()).map(|row| row.id.to_string()).collect();
    format!(
        "revision {} epoch {} primary {} replicas [{}] learners [{}] in sync [{}] v{}{}{} down [{}]",
        metadata.revision(),
        shard.epoch,
        name(shard.primary.as_ref()),
        list(&shard.replicas),
        list(&shard.learners),
        list(&shard.in_sync),
        shard.in_sync_version,
        if shard.lost { " lost" } else { "" },
        migration.unwrap_or_default(),
        down.join(" "),
    )
}

impl World {
    /// The state in some lines.
    pub(crate) fn told(&self) -> String {
        let mut text = format!("    at {} ms: {}\n", self.now_ms, told_control(&self.control));
        for at in 0..NODES {
            let node = &self.nodes[at];
            let disk = node.disk.as_ref().map(|copy| {
                format!(
                    "disk: epoch {} last {:?} full {}",
                    copy.state.adopted,
                    copy.state.tail.last(),
                    copy.state.full
                )
            });
            let status = node.replica.as_ref().map(|replica| {
                let status = replica.status();
                format!("epoch {} serving {}", status.epoch, status.serving)
            });
            text.push_str(&format!(
                "      n{at} run {} store {} {} lease until {} installed {} {}{}{}\n",
                node.run,
                node.store,
                status.unwrap_or_else(|| "off".to_owned()),
                node.lease.until_ms(),
                node.installed,
                disk.unwrap_or_else(|| "no copy".to_owned()),
                if self.cut[at] { " cut off" } else { "" },
                if node.queue.is_empty() { String::new() } else { format!(" to store {:?}", node.queue) },
            ));
        }
        for message in &self.net {
            text.push_str(&format!("      under way: {message:?}\n"));
        }
        if let Some(broken) = &self.ghost.broken {
            text.push_str(&format!("    BROKEN {:?}: {}\n", broken.rule, broken.how));
        }
        text
    }

    /// An action, with what it delivers.
    pub(crate) fn told_action(&self, action: Action) -> String {
        match action {
            Action::Deliver(place) | Action::Lose(place) | Action::Repeat(place) => {
                format!("{action:?} {:?}", self.net.get(place))
            }
            Action::Commit => format!("{action:?} {:?}", self.control.proposals.front()),
            Action::Tick
            | Action::Beat(_)
            | Action::Install(_)
            | Action::Store(_)
            | Action::Decide
            | Action::Write(_)
            | Action::Read(_)
            | Action::Crash(..)
            | Action::Start(_)
            | Action::Wipe(_)
            | Action::Cut(_)
            | Action::Lead(_)
            | Action::Migrate(_) => format!("{action:?}"),
        }
    }
}
