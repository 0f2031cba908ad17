//! Clients of the control cluster: they set and read registers, and take down what they were told.
//!
//! A register is a row that holds one value: a label of a data node, or a field of the policy, which, having no soft fields,
//! any control node answers by a read index of its own.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::{join, join_all};
use http::Method;
use ruvector_cluster::client::ids::Revision;
use serde_json::{Value, json};

use crate::api::{Api, Ask, NoReply, Reply};
use crate::chance::Chance;
use crate::host::Host;
use crate::net::Net;
use crate::record::Recorder;
use ruvector_cluster_check::history::{
    Consistency, MetadataAct, MetadataOp, MetadataRead, Span, WriteOutcome,
};

/// The policy's register.
const POLICY: &str = "policy";
/// Requests that are kept to be repeated later.
const KEPT: usize = 16;
/// Reads at once of one control node, and how often each is repeated.
const BURST: (u32, u32) = (4, 6);

/// What the clients share.
#[derive(Clone)]
pub struct Registers {
    /// Client addresses of control nodes; those that are gone refuse.
    pub addrs: Arc<Mutex<Vec<String>>>,
    /// Those of them that are told late what is committed.
    pub late: Arc<Mutex<Vec<String>>>,
    /// Registers that are labels of these data nodes.
    pub nodes: Vec<String>,
    /// What the policy holds beside the register.
    pub policy: Value,
    /// Where it is taken down.
    pub recorder: Recorder,
    /// Set when clients are to finish what they have under way, and end.
    pub stop: Arc<AtomicBool>,
}

/// One client.
pub struct Client {
    shared: Registers,
    api: Api,
    chance: Chance,
    process: u32,
    written: u64,
    /// Row revisions that it saw, for conditions.
    seen: BTreeMap<String, u64>,
    /// Writes that were answered, to be asked again.
    kept: Vec<Kept>,
}

struct Kept {
    register: String,
    value: String,
    ask: Ask,
    outcome: WriteOutcome,
}

impl Client {
    /// The client with this number, in a process of its own.
    #[must_use]
    pub fn new(shared: Registers, net: &Net, chance: Chance, process: u32) -> Self {
        let api = Api::new(net, &Host::new(&format!("c{process}")));
        Self { shared, api, chance, process, written: 0, seen: BTreeMap::new(), kept: Vec::new() }
    }

    /// Reads and writes until it is stopped.
    pub async fn run(mut self) {
        while !self.shared.stop.load(Ordering::Relaxed) {
            let pause = self.chance.between(1, 120);
            tokio::time::sleep(Duration::from_millis(pause)).await;
            match self.chance.between(0, 99) {
                0..=44 => self.write().await,
                45..=50 => self.repeat().await,
                51..=54 => self.burst().await,
                55..=84 => self.read(Consistency::Linearizable).await,
                _ => self.read(Consistency::Stale).await,
            }
        }
    }

    /// One write and one read of each register by each of the control nodes `addrs`; whether all were answered.
    pub async fn round(&mut self, addrs: &[String]) -> bool {
        let mut fine = true;
        for addr in addrs {
            for register in self.registers() {
                let (value, ask) = self.new_write(&register, None);
                let outcome = self.send(&register, &value, &ask, Some(addr)).await;
                fine &= matches!(outcome, WriteOutcome::Acknowledged { .. });
                fine &= self.read_at(&register, Consistency::Linearizable, addr).await;
            }
        }
        fine
    }

    /// A client that does something while this one does something else.
    fn lane(&self, n: u32) -> Self {
        Self {
            shared: self.shared.clone(),
            api: self.api.clone(),
            chance: self.chance.clone(),
            process: self.process * 100 + n,
            written: 0,
            seen: BTreeMap::new(),
            kept: Vec::new(),
        }
    }

    fn registers(&self) -> Vec<String> {
        self.shared.nodes.iter().cloned().chain([POLICY.to_owned()]).collect()
    }

    fn any_register(&self) -> String {
        self.chance.pick(&self.registers()).cloned().unwrap_or_else(|| POLICY.to_owned())
    }

    fn any_addr(&self) -> String {
        let addrs = self.shared.addrs.lock().unwrap_or_else(PoisonError::into_inner);
        self.chance.pick(&addrs).cloned().unwrap_or_default()
    }

    fn late_addr(&self) -> Option<String> {
        self.chance.pick(&self.shared.late.lock().unwrap_or_else(PoisonError::into_inner)).cloned()
    }

    fn new_write(&mut self, register: &str, if_match: Option<u64>) -> (String, Ask) {
        self.written += 1;
        let number = u64::from(self.process) * 1_000_000 + self.written;
        let (method, path, body) = if register == POLICY {
            let mut policy = self.shared.policy.clone();
            policy["max_bytes_per_s"] = json!(number);
            (Method::PUT, "/v1/rebalance/policy".to_owned(), policy)
        } else {
            (Method::PATCH, format!("/v1/nodes/{register}"), json!({ "labels": { "v": number.to_string() } }))
        };
        let mut ask = Ask::write(method, path, Some(body));
        ask.if_match = if_match;
        if self.chance.per_mille(800) {
            ask.key = Some(format!("c{}-{}", self.process, self.written));
        }
        (number.to_string(), ask)
    }

    async fn write(&mut self) {
        let register = self.any_register();
        let condition = if self.chance.per_mille(300) { self.seen.get(&register).copied() } else { None };
        let (value, ask) = self.new_write(&register, condition);
        let outcome = self.send(&register, &value, &ask, None).await;
        let told = matches!(outcome, WriteOutcome::Acknowledged { .. } | WriteOutcome::Refused { .. });
        if told && ask.key.is_some() {
            if self.kept.len() == KEPT {
                self.kept.remove(0);
            }
            self.kept.push(Kept { register, value, ask, outcome });
        }
    }

    /// Asks again what was answered, under its key: the answer is the same, and nothing happens.
    async fn repeat(&mut self) {
        let last = self.kept.len().saturating_sub(1) as u64;
        let at = usize::try_from(self.chance.between(0, last)).unwrap_or(0);
        let Some(kept) = self.kept.get(at) else { return };
        let (register, value, ask, first) =
            (kept.register.clone(), kept.value.clone(), kept.ask.clone(), kept.outcome.clone());
        let outcome = self.send(&register, &value, &ask, None).await;
        let told = matches!(outcome, WriteOutcome::Acknowledged { .. } | WriteOutcome::Refused { .. });
        if told && outcome != first {
            let detail = format!("{ask:?} was answered {first:?}, and then {outcome:?}");
            self.shared.recorder.violation("one-answer-for-each-key", detail);
        }
    }

    /// Reads of one control node that meet each other, while the register is written; whoever wrote reads there, too.
    /// Of the policy, since reads of data nodes are passed on to the leader; where that is told late, a round lasts longer.
    async fn burst(&mut self) {
        let (register, addr) = (POLICY.to_owned(), self.late_addr().unwrap_or_else(|| self.any_addr()));
        let (value, ask) = self.new_write(&register, None);
        let reads = (1..=BURST.0).map(|n| {
            let (mut reader, register, addr) = (self.lane(n), &register, &addr);
            async move {
                for _ in 0..BURST.1 {
                    let pause = reader.chance.between(0, 2_000);
                    tokio::time::sleep(Duration::from_micros(pause)).await;
                    reader.read_at(register, Consistency::Linearizable, addr).await;
                }
            }
        });
        let mut writer = self.lane(0);
        let writes = async {
            writer.send(&register, &value, &ask, None).await;
            writer.read_at(&register, Consistency::Linearizable, &addr).await;
        };
        join(join_all(reads), writes).await;
    }

    /// Sends until there is an outcome, or, without a key, once.
    async fn send(&mut self, register: &str, value: &str, ask: &Ask, at: Option<&str>) -> WriteOutcome {
        let call = self.shared.recorder.event();
        let tries = if ask.key.is_some() { self.chance.between(1, 6) } else { 1 };
        let mut outcome = WriteOutcome::NotDone;
        for _ in 0..tries {
            let addr = at.map_or_else(|| self.any_addr(), str::to_owned);
            let answer = self.api.ask(&addr, ask).await;
            match judge(&answer) {
                // An earlier try may have been delivered, and of one under a key the network may have made two.
                WriteOutcome::NotDone if ask.key.is_some() && answer.is_ok() => {
                    outcome = WriteOutcome::Unknown
                }
                WriteOutcome::NotDone => {}
                WriteOutcome::Unknown => outcome = WriteOutcome::Unknown,
                told => {
                    outcome = told;
                    if let Ok(Reply { etag: Some(etag), .. }) = answer {
                        self.seen.insert(register.to_owned(), etag);
                    }
                    break;
                }
            }
            let pause = self.chance.between(1, 300);
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
        let act = MetadataAct::Write {
            value: value.to_owned(),
            if_match: ask.if_match.map(Revision),
            idempotency: ask.key.clone(),
            outcome: outcome.clone(),
        };
        self.take_down(register, call, act);
        outcome
    }

    async fn read(&mut self, consistency: Consistency) {
        let (register, addr) = (self.any_register(), self.any_addr());
        self.read_at(&register, consistency, &addr).await;
    }

    async fn read_at(&mut self, register: &str, consistency: Consistency, addr: &str) -> bool {
        let call = self.shared.recorder.event();
        let path = if register == POLICY {
            "/v1/rebalance/policy".to_owned()
        } else {
            format!("/v1/nodes/{register}")
        };
        let stale = if consistency == Consistency::Stale { "?consistency=stale" } else { "" };
        let answer = self.api.ask(addr, &Ask::get(path + stale)).await;
        let answer = match &answer {
            Ok(reply) if reply.status == 200 => {
                let number = reply.body["max_bytes_per_s"].as_u64().filter(|n| *n > 0).map(|n| n.to_string());
                let label = reply.body["labels"]["v"].as_str().map(str::to_owned);
                Some(MetadataRead {
                    value: if register == POLICY { number } else { label },
                    row_revision: Revision(reply.etag.unwrap_or(0)),
                    cluster_revision: Revision(reply.revision),
                })
            }
            Ok(reply) if reply.status == 404 && reply.code() == "not_found" => Some(MetadataRead {
                value: None,
                row_revision: Revision(0),
                cluster_revision: Revision(reply.revision),
            }),
            _ => None,
        };
        if let Some(read) = &answer {
            self.seen.insert(register.to_owned(), read.row_revision.0);
        }
        let answered = answer.is_some();
        self.take_down(register, call, MetadataAct::Read { consistency, answer });
        answered
    }

    fn take_down(&self, register: &str, call: u64, act: MetadataAct) {
        let span = Span { call, returned: self.shared.recorder.event() };
        let op = MetadataOp { process: self.process, span, key: register.to_owned(), act };
        self.shared.recorder.metadata(op);
    }
}

/// What an answer to a write says of its effect (API.md, "Conventions").
fn judge(answer: &Result<Reply, NoReply>) -> WriteOutcome {
    match answer {
        Err(NoReply::Refused) => WriteOutcome::NotDone,
        Err(NoReply::Silence) => WriteOutcome::Unknown,
        Ok(reply) => match reply.status {
            200..=299 => WriteOutcome::Acknowledged { revision: Revision(reply.revision) },
            421 | 429 | 503 => WriteOutcome::NotDone,
            404 | 409 | 412 | 422 => WriteOutcome::Refused { code: reply.code().to_owned() },
            _ => WriteOutcome::Unknown,
        },
    }
}
