//! Clients of the control cluster: they set and read registers over HTTP, and take down what they were told.
//!
//! A register is a row that holds one value: a label of a data node, or a field of the policy, which, having no soft fields,
//! any control node answers by a read index of its own.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use reqwest::Method;
use ruvector_cluster_check::history::{
    Consistency, MetadataAct, MetadataOp, MetadataRead, Span, WriteOutcome,
};
use ruvector_cluster_client::ids::Revision;
use serde_json::{Value, json};

use crate::api::{Api, Ask, NoReply, Reply};
use crate::chance::Chance;
use crate::record::Recorder;

/// The policy's register.
const POLICY: &str = "policy";
/// Where the policy is.
pub(crate) const POLICY_PATH: &str = "/v1/rebalance/policy";
/// Requests that are kept to be repeated later.
const KEPT: usize = 16;

/// What the clients share.
#[derive(Clone)]
pub(crate) struct Registers {
    /// Client addresses of control nodes; those that are down refuse.
    pub(crate) addrs: Arc<Mutex<Vec<String>>>,
    /// Registers that are labels of these data nodes.
    pub(crate) nodes: Vec<String>,
    /// What the policy holds beside the register.
    pub(crate) policy: Value,
    pub(crate) recorder: Recorder,
    /// Set when clients are to finish what they have under way, and end.
    pub(crate) stop: Arc<AtomicBool>,
}

/// One client.
pub(crate) struct Client {
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

#[derive(Clone)]
struct Kept {
    register: String,
    value: String,
    ask: Ask,
}

impl Client {
    /// The client with this number, which no other client of the run has.
    pub(crate) fn new(shared: Registers, api: Api, chance: Chance, process: u32) -> Self {
        Self { shared, api, chance, process, written: 0, seen: BTreeMap::new(), kept: Vec::new() }
    }

    /// Reads and writes until it is stopped.
    pub(crate) async fn run(mut self) {
        while !self.shared.stop.load(Ordering::Relaxed) {
            self.chance.wait(1, 40).await;
            match self.chance.between(0, 99) {
                0..=47 => self.write().await,
                48..=52 => self.repeat().await,
                53..=84 => self.read(Consistency::Linearizable).await,
                _ => self.read(Consistency::Stale).await,
            }
        }
    }

    /// One write and one read of each register at the control node `addr`; whether all were answered.
    pub(crate) async fn round(&mut self, addr: &str) -> bool {
        let mut fine = true;
        for register in self.registers() {
            let (value, ask) = self.new_write(&register, None);
            let outcome = self.send(&register, &value, &ask, Some(addr)).await;
            fine &= matches!(outcome, WriteOutcome::Acknowledged { .. });
            fine &= self.read_at(&register, Consistency::Linearizable, addr).await;
        }
        fine
    }

    fn registers(&self) -> Vec<String> {
        self.shared.nodes.iter().cloned().chain([POLICY.to_owned()]).collect()
    }

    fn any_register(&self) -> String {
        self.chance.pick(&self.registers()).unwrap_or_else(|| POLICY.to_owned())
    }

    fn any_addr(&self) -> String {
        let addrs = self.shared.addrs.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.chance.pick(&addrs).unwrap_or_default()
    }

    fn new_write(&mut self, register: &str, if_match: Option<u64>) -> (String, Ask) {
        self.written += 1;
        let number = u64::from(self.process) * 1_000_000 + self.written;
        let mut ask = if register == POLICY {
            let mut policy = self.shared.policy.clone();
            policy["max_bytes_per_s"] = json!(number);
            Ask::write(Method::PUT, POLICY_PATH, policy)
        } else {
            let body = json!({ "labels": { "v": number.to_string() } });
            Ask::write(Method::PATCH, format!("/v1/nodes/{register}"), body)
        };
        ask.if_match = if_match;
        if self.chance.percent(80) {
            ask.key = Some(format!("c{}-{}", self.process, self.written));
        }
        (number.to_string(), ask)
    }

    async fn write(&mut self) {
        let register = self.any_register();
        // A condition on what was just read often holds, one on what was seen some time ago hardly ever.
        let is_conditional = self.chance.percent(50);
        if is_conditional && self.chance.percent(75) {
            let addr = self.any_addr();
            self.read_at(&register, Consistency::Linearizable, &addr).await;
        }
        let condition = self.seen.get(&register).copied().filter(|_| is_conditional);
        let (value, ask) = self.new_write(&register, condition);
        let outcome = self.send(&register, &value, &ask, None).await;
        let told = matches!(outcome, WriteOutcome::Acknowledged { .. } | WriteOutcome::Refused { .. });
        if told && ask.key.is_some() {
            if self.kept.len() == KEPT {
                self.kept.remove(0);
            }
            self.kept.push(Kept { register, value, ask });
        }
    }

    /// Asks again what was answered, under its key: the checker wants the same answer, and that nothing happens.
    async fn repeat(&mut self) {
        let Some(Kept { register, value, ask }) = self.chance.pick(&self.kept) else { return };
        self.send(&register, &value, &ask, None).await;
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
                // An earlier try may have been delivered, or is still under way.
                WriteOutcome::NotDone if ask.key.is_some() && answer.is_ok() => {
                    outcome = WriteOutcome::Unknown;
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
            self.chance.wait(1, 200).await;
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
        let path = match register {
            POLICY => POLICY_PATH.to_owned(),
            node => format!("/v1/nodes/{node}"),
        };
        let stale = if consistency == Consistency::Stale { "?consistency=stale" } else { "" };
        let answer = self.api.ask(addr, &Ask::get(path + stale)).await;
        let answer = answer.ok().and_then(|reply| read_of(register, &reply));
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

/// What a read tells, where it is a success, or says that there is no such row.
fn read_of(register: &str, reply: &Reply) -> Option<MetadataRead> {
    let cluster_revision = Revision(reply.revision);
    match (reply.status, reply.code()) {
        (200, _) => {
            let number = reply.body["max_bytes_per_s"].as_u64().filter(|n| *n >= 1_000_000);
            let label = reply.body["labels"]["v"].as_str().map(str::to_owned);
            let value = if register == POLICY { number.map(|n| n.to_string()) } else { label };
            Some(MetadataRead { value, row_revision: Revision(reply.etag.unwrap_or(0)), cluster_revision })
        }
        (404, "not_found") => Some(MetadataRead { value: None, row_revision: Revision(0), cluster_revision }),
        _ => None,
    }
}

/// What an answer to a write says of its effect (docs/api.md).
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
