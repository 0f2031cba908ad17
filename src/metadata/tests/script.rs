//! The commands of golden scripts, and how what they did is told.
//!
//! `found shards=2 rf=3`, `register a [store=s2] [over=1] [accept] [addr=x] [rack=r]`, `patch a rack=r`, `delete a`, `drain a`,
//! `enddrain a`, `maintain a MS`, `endmaintenance a` (each of these also with `match=R`),
//! `move|promote|add|remove|migrate SHARD from=a to=b [epoch=1]`, `cancel 1`, `force 0 b`, `pause`, `resume`, `refuse`,
//! `policy MAX_MIGRATIONS`, `report a SHARD [epoch=1] [run=1] [on=MIGRATION/PHASE] [done] [error=gap] [retired] [lost]
//! [set=a,b,c] [version=1]`, and of the leader's, several of which make one command when `;` stands between them:
//! `down a`, `alive a`, `failover 0 b`, `assign 0 a b c`, `auto 0 kind=add to=d`, `start 1`, `cutover 1`, `takeback 1`,
//! `abort 1`, `retire 0 d`, `drained a`, `maintained a`.
//! Epochs, runs, versions and phases that are left out are the current ones. `key=K` before a command gives it that
//! Idempotency-Key, `again` applies the last one once more, `wait MS` lets log time go on, `status 0` and `assigned a` show.

use std::collections::BTreeMap;
use std::fmt::Write;

use ruvector_cluster_client::ids::{Epoch, Incarnation, MigrationId, NodeId, Revision, ShardId};
use ruvector_cluster_client::wire::{
    InSyncMember, InSyncProposal, MigrationKind, PatchNodeRequest, Phase, RebalancePolicy, Report,
};
use serde_json::Value;

use super::super::check::check;
use super::super::*;

/// A state that grows with each line.
#[derive(Default)]
pub(super) struct Runner {
    state: Metadata,
    index: u64,
    now_ms: u64,
    last: Option<Envelope>,
}

/// A line's words, and its `name=value` pairs.
struct Words<'a> {
    plain: Vec<&'a str>,
    named: BTreeMap<&'a str, &'a str>,
}

impl<'a> Words<'a> {
    fn of(line: &'a str) -> Self {
        let (named, plain): (Vec<&str>, Vec<&str>) =
            line.split_whitespace().partition(|word| word.contains('='));
        Self { plain, named: named.into_iter().filter_map(|word| word.split_once('=')).collect() }
    }

    fn number(&self, at: usize) -> u64 {
        self.plain[at].parse().unwrap()
    }

    fn shard(&self) -> ShardId {
        ShardId(self.number(1) as u32)
    }

    fn named(&self, name: &str) -> Option<u64> {
        self.named.get(name).map(|value| value.parse().unwrap())
    }

    fn has(&self, flag: &str) -> bool {
        self.plain.contains(&flag)
    }

    fn node_named(&self, name: &str) -> Option<NodeId> {
        self.named.get(name).map(|value| node(value))
    }
}

fn node(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

fn kind_of(word: &str) -> Option<MigrationKind> {
    serde_json::from_value(Value::from(word)).ok()
}

impl Runner {
    /// Carries a line out, and tells what it did.
    pub(super) fn line(&mut self, line: &str) -> String {
        let (key, command) = match line.strip_prefix("key=").and_then(|rest| rest.split_once(' ')) {
            Some((key, command)) => {
                (Some(RequestKey { key: key.to_owned(), fingerprint: command.to_owned() }), command)
            }
            None => (None, line),
        };
        let words = Words::of(command);
        match words.plain[0] {
            "wait" => {
                self.now_ms += words.number(1);
                return String::new();
            }
            "status" => {
                let row = self.state.shard(words.shard()).unwrap();
                return format!("{:?}, {:?}\n", self.state.shard_status(row), self.state.shard_counts());
            }
            "assigned" => return self.assigned(&node(words.plain[1])),
            "again" => {}
            _ => {
                let command = self.command(command, &words);
                let actor = "client".to_owned();
                self.last = Some(Envelope { version: COMMAND_VERSION, actor, key, command });
            }
        }
        let envelope = self.last.clone().unwrap();
        self.apply(&envelope)
    }

    fn apply(&mut self, envelope: &Envelope) -> String {
        let before: BTreeMap<_, _> = self.state.to_rows().collect();
        self.index += 1;
        self.now_ms += 1;
        let applied = apply(&mut self.state, self.index, self.now_ms, envelope);
        assert_eq!(check(&self.state), []);
        let mut text = format!("{}: {}\n", applied.outcome.revision, told(&applied.outcome.result));
        for row in applied.rows {
            if row.key != b"head" && !row.key.starts_with(b"k/") {
                let was = before.get(&row.key).map(|value| json(value));
                let now = row.value.as_deref().map(json);
                writeln!(text, "    {}", difference(was.as_ref(), now.as_ref())).unwrap();
            }
        }
        text
    }

    fn assigned(&self, id: &NodeId) -> String {
        let Some(all) = view::assignments(&self.state, id) else { return "not registered\n".to_owned() };
        let mut text = format!("{id} in run {}\n", all.incarnation);
        for assignment in all.assignments {
            writeln!(text, "    {}", serde_json::to_string(&assignment).unwrap()).unwrap();
        }
        text
    }

    fn run_of(&self, id: &NodeId) -> Incarnation {
        self.state.node(id).map_or(Incarnation(0), |row| row.incarnation)
    }

    fn epoch_of(&self, shard: ShardId, words: &Words<'_>) -> Epoch {
        let current = self.state.shard(shard).map_or(Epoch(0), |row| row.epoch);
        words.named("epoch").map_or(current, Epoch)
    }

    fn command(&self, line: &str, words: &Words<'_>) -> Command {
        let at = |position: usize| node(words.plain[position]);
        let if_match = words.named("match").map(Revision);
        let wish = |wish: Wish| Command::SetIntent { node: at(1), if_match, wish };
        match words.plain[0] {
            "found" => found(words),
            "register" => self.register(words),
            "patch" => {
                let rack = words.named.get("rack").map(|rack| (*rack).to_owned());
                let patch = PatchNodeRequest { rack, ..PatchNodeRequest::default() };
                Command::PatchNode { node: at(1), if_match, patch }
            }
            "delete" => Command::DeleteNode { node: at(1), if_match },
            "drain" => wish(Wish::Drain),
            "enddrain" => wish(Wish::EndDrain),
            "maintain" => wish(Wish::Maintain { duration_ms: words.number(2) }),
            "endmaintenance" => wish(Wish::EndMaintenance),
            "refuse" => Command::Refuse {
                rejection: Rejection {
                    code: RejectionCode::Invalid,
                    detail: "as the script says".to_owned(),
                },
            },
            "cancel" => Command::CancelMigration { migration: MigrationId(words.number(1)), if_match: None },
            "force" => Command::ForcePrimary { shard: words.shard(), node: at(2) },
            "pause" => Command::SetPaused { paused: true },
            "resume" => Command::SetPaused { paused: false },
            "policy" => {
                let max_migrations = words.number(1) as u32;
                let policy = RebalancePolicy { max_migrations, ..RebalancePolicy::default() };
                Command::SetPolicy { policy, if_match: None }
            }
            "report" => self.report(words),
            "move" | "promote" | "add" | "remove" | "migrate" => {
                let migrations = vec![new_migration(words, kind_of(words.plain[0]))];
                Command::Migrate { migrations, plan: None }
            }
            _ => Command::Coordinate { changes: line.split(';').map(|part| self.change(part)).collect() },
        }
    }

    fn register(&self, words: &Words<'_>) -> Command {
        let id = node(words.plain[1]);
        let known = self.state.node(&id).map_or("s1".to_owned(), |row| row.store_id.clone());
        let text = |name: &str| words.named.get(name).map(|value| (*value).to_owned());
        Command::Register(Register {
            addr: text("addr").unwrap_or_else(|| format!("{id}:1")),
            store_id: text("store").unwrap_or(known),
            zone: None,
            rack: text("rack"),
            labels: BTreeMap::new(),
            capacity: None,
            capacity_bytes: None,
            accept_data_loss: words.has("accept"),
            lease_over_of: words.named("over").map(Incarnation),
            if_match: words.named("match").map(Revision),
            node: id,
        })
    }

    fn report(&self, words: &Words<'_>) -> Command {
        let reporter = node(words.plain[1]);
        let shard = ShardId(words.number(2) as u32);
        let mut report = Report::new(shard, self.epoch_of(shard, words));
        if let Some((migration, phase)) = words.named.get("on").and_then(|on| on.split_once('/')) {
            report.migration = Some(MigrationId(migration.parse().unwrap()));
            report.phase = Some(serde_json::from_value(Value::from(phase)).unwrap());
        }
        report.done = words.has("done");
        report.retired = words.has("retired");
        report.lost = words.has("lost");
        report.error = words.named.get("error").map(|error| (*error).to_owned());
        report.in_sync_set = words.named.get("set").map(|members| {
            let member =
                |name: &str| InSyncMember { node: node(name), incarnation: self.run_of(&node(name)) };
            let current = self.state.shard(shard).map_or(0, |row| row.in_sync_version);
            let if_version = words.named("version").unwrap_or(current);
            InSyncProposal { if_version, members: members.split(',').map(member).collect() }
        });
        let incarnation = words.named("run").map_or(self.run_of(&reporter), Incarnation);
        Command::Reports { node: reporter, incarnation, reports: vec![report] }
    }

    fn change(&self, part: &str) -> Change {
        let words = Words::of(part);
        let at = |position: usize| node(words.plain[position]);
        let run = || words.named("run").map_or_else(|| self.run_of(&at(1)), Incarnation);
        let error = || "so it was decided".to_owned();
        match words.plain[0] {
            "down" => Change::Down { node: at(1), incarnation: run() },
            "alive" => Change::Alive { node: at(1), incarnation: run() },
            "drained" => Change::Drained { node: at(1) },
            "maintained" => Change::MaintenanceOver { node: at(1) },
            "failover" => {
                let shard = words.shard();
                Change::Failover { shard, if_epoch: self.epoch_of(shard, &words), to: at(2) }
            }
            "assign" => {
                let shard = words.shard();
                let replicas = words.plain[3..].iter().map(|name| node(name)).collect();
                Change::Assign { shard, if_epoch: self.epoch_of(shard, &words), primary: at(2), replicas }
            }
            "retire" => {
                let shard = words.shard();
                Change::Retire { shard, if_epoch: self.epoch_of(shard, &words), node: at(2) }
            }
            "auto" => {
                let kind = words.named.get("kind").and_then(|kind| kind_of(kind));
                Change::Migrate(new_migration(&words, kind))
            }
            "start" => self.step(&words, Step::Start),
            "cutover" => self.step(&words, Step::CutOver),
            "takeback" => self.step(&words, Step::TakeBack { error: error() }),
            "abort" => self.step(&words, Step::Abort { error: error() }),
            other => panic!("{other} is no command of a script"),
        }
    }

    fn step(&self, words: &Words<'_>, step: Step) -> Change {
        let migration = MigrationId(words.number(1));
        let row = self.state.migration(migration);
        let (epoch, phase) = row.map_or((Epoch(0), Phase::Queued), |row| (row.epoch, row.phase));
        let if_epoch = words.named("epoch").map_or(epoch, Epoch);
        Change::Step { migration, if_epoch, if_phase: phase, step }
    }
}

fn found(words: &Words<'_>) -> Command {
    let settings = Settings {
        num_shards: words.named("shards").unwrap() as u32,
        replication_factor: words.named("rf").unwrap() as u32,
        failure_timeout_ms: 5_000,
        lease_ms: 4_000,
        heartbeat_interval_ms: 1_000,
    };
    Command::Found { cluster_id: "c1".to_owned(), settings }
}

fn new_migration(words: &Words<'_>, kind: Option<MigrationKind>) -> NewMigration {
    NewMigration {
        shard: words.shard(),
        kind,
        from: words.node_named("from"),
        to: words.node_named("to"),
        if_epoch: words.named("epoch").map(Epoch),
        reason: "as the script says".to_owned(),
    }
}

fn told(result: &Result<Answer, Rejection>) -> String {
    let one = |refused: &Rejection| format!("{}: {}", refused.code.as_str(), refused.detail);
    let each = |results: Vec<Option<String>>| {
        let results = results.into_iter().map(|refused| refused.unwrap_or_else(|| "ok".to_owned()));
        results.collect::<Vec<_>>().join("; ")
    };
    match result {
        Err(refused) => one(refused),
        Ok(Answer::Done | Answer::Node { .. } | Answer::Shard { .. } | Answer::Policy { .. }) => {
            "ok".to_owned()
        }
        Ok(Answer::Registered { node }) => format!("run {}", node.incarnation),
        Ok(Answer::Migrations { started, plan: _ }) => {
            let told = |started: &Result<MigrationId, Rejection>| match started {
                Ok(id) => format!("migration {id}"),
                Err(refused) => one(refused),
            };
            started.iter().map(told).collect::<Vec<_>>().join("; ")
        }
        Ok(Answer::Coordinated { changes }) => {
            each(changes.iter().map(|change| change.as_ref().err().map(one)).collect())
        }
        Ok(Answer::Reported { results }) => each(results.iter().map(|result| result.code.clone()).collect()),
    }
}

fn json(value: &[u8]) -> Value {
    serde_json::from_slice(&value[1..]).unwrap()
}

/// Fields that say when, which would only make scripts long.
const UNTOLD: [&str; 5] = ["revision", "created_ms", "started_ms", "updated_ms", "joined_ms"];

/// What the row is called: from its fields, since keys are not to be read.
fn name_of(row: &Value) -> String {
    let text = |name: &str| row.get(name).map(|value| value.to_string().replace('"', ""));
    match row {
        row if row.get("seq").is_some() => "event".to_owned(),
        row if row.get("store_id").is_some() => format!("node {}", text("id").unwrap_or_default()),
        row if row.get("in_sync").is_some() => format!("shard {}", text("id").unwrap_or_default()),
        row if row.get("phase").is_some() => format!("migration {}", text("id").unwrap_or_default()),
        row if row.get("cluster_id").is_some() => "founded".to_owned(),
        row if row.get("policy").is_some() => "policy".to_owned(),
        _ => format!(
            "left-over of {} on {}",
            text("shard").unwrap_or_default(),
            text("node").unwrap_or_default()
        ),
    }
}

fn difference(was: Option<&Value>, now: Option<&Value>) -> String {
    let Some(now) = now else { return format!("- {}", was.map(name_of).unwrap_or_default()) };
    let name = name_of(now);
    let fields = |row: &Value| row.as_object().cloned().unwrap_or_default();
    let old = was.map(fields);
    if name == "event" {
        let text = |field: &str| now.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
        return format!("event {}: {}", text("kind"), text("detail"));
    }
    let mut told = Vec::new();
    for (field, value) in fields(now).into_iter().filter(|(field, _)| !UNTOLD.contains(&field.as_str())) {
        let empty = value.is_null() || value == Value::Array(Vec::new()) || value == Value::Bool(false);
        match old.as_ref().map(|old| old.get(&field).unwrap_or(&Value::Null)) {
            Some(before) if *before == value => {}
            Some(before) => told.push(format!("{field} {before} -> {value}")),
            None if empty || field == "id" => {}
            None => told.push(format!("{field} {value}")),
        }
    }
    for (field, before) in old.iter().flatten().filter(|(field, _)| now.get(field.as_str()).is_none()) {
        told.push(format!("{field} {before} -> -"));
    }
    format!("{} {name}: {}", if was.is_some() { "~" } else { "+" }, told.join(", ")).replace('"', "")
}
