//! The network between simulated processes: what is sent arrives late, twice, out of order, or not at all.
//!
//! A message that is lost is never answered: bounds in time are the asker's. A request to an address where nobody listens is
//! refused, as a machine that runs refuses it. What arrives is acted upon in the receiver's process, so that pausing and killing
//! it has the effect it should. Links are directed, between names of processes.

mod exchange;
mod gate;
mod stream;
mod transport;

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use ruvector_cluster_raft::transport::PeerHandler;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};

use crate::chance::Chance;
use crate::host::Host;
use crate::trace::Trace;

use gate::{Gate, is_withheld};

pub use exchange::NetExchange;
pub use gate::{KeptReports, Withheld};
pub use transport::NetTransport;

/// How well the network works.
#[derive(Clone, Copy, Debug)]
pub struct Quality {
    /// The shortest and the longest time that a message takes, in microseconds.
    pub delay_us: (u64, u64),
    /// So many of a thousand messages take up to fifty times as long, and are overtaken.
    pub straggle_per_mille: u32,
    /// So many of a thousand are lost.
    pub loss_per_mille: u32,
    /// So many of a thousand arrive twice.
    pub repeat_per_mille: u32,
}

impl Quality {
    /// A local network without faults.
    pub const GOOD: Self =
        Self { delay_us: (100, 500), straggle_per_mille: 0, loss_per_mille: 0, repeat_per_mille: 0 };
}

/// What was done to messages.
#[derive(Clone, Copy, Debug, Default)]
pub struct NetCounts {
    /// Sent.
    pub sent: u64,
    /// Lost by chance.
    pub lost: u64,
    /// Arrived twice.
    pub repeated: u64,
    /// Swallowed by a link that was cut.
    pub cut: u64,
    /// Took much longer than others.
    pub straggled: u64,
    /// Snapshots that a control node took over from another.
    pub snapshots: u64,
}

/// Acts on messages between data nodes and of their clients.
#[async_trait]
pub trait DataService: Send + Sync + 'static {
    /// Answers one message; both are JSON.
    async fn serve(&self, message: bytes::Bytes) -> bytes::Bytes;
}

/// What listens at an address.
#[derive(Clone)]
pub(crate) enum Service {
    Peer(Arc<dyn PeerHandler>),
    Http(Router),
    Data(Arc<dyn DataService>),
}

/// Why a call has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallError {
    /// Nobody listens there: nothing was delivered.
    Refused,
    /// Whoever got it ended before it answered.
    Broken,
}

/// The network; clones share it.
#[derive(Clone)]
pub struct Net {
    state: Arc<Mutex<State>>,
    trace: Trace,
}

struct State {
    chance: Chance,
    quality: Quality,
    services: BTreeMap<String, (Host, Service)>,
    cut: BTreeSet<(String, String)>,
    /// By how much longer messages take than elsewhere, in microseconds.
    slow: BTreeMap<(String, String), u64>,
    gate: Gate,
    counts: NetCounts,
}

impl Net {
    /// A good network.
    #[must_use]
    pub fn new(chance: Chance, trace: Trace) -> Self {
        let state = State {
            chance,
            quality: Quality::GOOD,
            services: BTreeMap::new(),
            cut: BTreeSet::new(),
            slow: BTreeMap::new(),
            gate: Gate::open(),
            counts: NetCounts::default(),
        };
        Self { state: Arc::new(Mutex::new(state)), trace }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How well it works from now on.
    pub fn set_quality(&self, quality: Quality) {
        self.state().quality = quality;
    }

    /// Swallows what `from` sends to `to`, or no longer.
    pub fn set_cut(&self, from: &str, to: &str, cut: bool) {
        let link = (from.to_owned(), to.to_owned());
        let mut state = self.state();
        if cut {
            state.cut.insert(link);
        } else {
            state.cut.remove(&link);
        }
    }

    /// Lets what `from` sends to `to` take longer by so many microseconds.
    pub fn set_slow(&self, from: &str, to: &str, us: u64) {
        self.state().slow.insert((from.to_owned(), to.to_owned()), us);
    }

    /// Joins every link, and makes it as fast as the others.
    pub fn heal(&self) {
        let mut state = self.state();
        state.cut.clear();
        state.slow.clear();
    }

    /// Withholds reports of data nodes from now on, or lets those that wait go on.
    pub fn withhold(&self, rule: Option<Withheld>) {
        self.state().gate.set(rule);
    }

    /// The requests with reports that were withheld so far.
    #[must_use]
    pub fn kept_reports(&self) -> Vec<KeptReports> {
        self.state().gate.kept()
    }

    /// Waits as long as reports of this request are withheld.
    async fn pass_gate(&self, path: &str, body: &bytes::Bytes) {
        let mut rules = self.state().gate.rules();
        loop {
            let waits = is_withheld(rules.borrow_and_update().as_ref(), body);
            if !waits {
                return;
            }
            self.state().gate.keep(path, body);
            if rules.changed().await.is_err() {
                return;
            }
        }
    }

    /// What was done to messages so far.
    #[must_use]
    pub fn counts(&self) -> NetCounts {
        self.state().counts
    }

    /// Lets `service` answer at `addr`, in the process of `host`, as long as that lives.
    pub(crate) fn listen(&self, addr: &str, host: &Host, service: Service) {
        self.state().services.insert(addr.to_owned(), (host.clone(), service));
    }

    /// Lets a data node answer at `addr`.
    pub fn listen_data(&self, addr: &str, host: &Host, service: Arc<dyn DataService>) {
        self.listen(addr, host, Service::Data(service));
    }

    /// Lets a control node's client API answer at `addr`.
    pub fn listen_http(&self, addr: &str, host: &Host, router: Router) {
        self.listen(addr, host, Service::Http(router));
    }

    /// A control node's way to the others.
    #[must_use]
    pub fn transport(&self, host: &Host) -> Arc<NetTransport> {
        Arc::new(NetTransport::new(self.clone(), host.clone()))
    }

    /// The way of `host` to the client APIs.
    #[must_use]
    pub fn exchange(&self, host: &Host) -> Arc<NetExchange> {
        Arc::new(NetExchange::new(self.clone(), host.clone()))
    }

    pub(crate) fn count_snapshot(&self) {
        self.state().counts.snapshots += 1;
    }

    fn close(&self, addr: &str) {
        self.state().services.remove(addr);
    }

    /// Nobody answers any more, and what answered is freed: it holds the network that holds it.
    pub fn end(&self) {
        self.state().services.clear();
    }

    fn service(&self, addr: &str) -> Option<(Host, Service)> {
        self.state().services.get(addr).filter(|(host, _)| !host.is_killed()).cloned()
    }

    /// Who is meant by an address, alive or not.
    fn name_at(&self, addr: &str) -> Option<String> {
        self.state().services.get(addr).map(|(host, _)| host.name().to_owned())
    }

    /// When a message that is sent now arrives; None: never.
    fn arrival(&self, from: &str, to: &str) -> Option<Instant> {
        let mut state = self.state();
        state.counts.sent += 1;
        let link = (from.to_owned(), to.to_owned());
        if state.cut.contains(&link) {
            state.counts.cut += 1;
            return None;
        }
        let Quality { delay_us, straggle_per_mille, loss_per_mille, .. } = state.quality;
        if state.chance.per_mille(loss_per_mille) {
            state.counts.lost += 1;
            return None;
        }
        let mut us = state.chance.between(delay_us.0, delay_us.1);
        if state.chance.per_mille(straggle_per_mille) {
            state.counts.straggled += 1;
            us *= state.chance.between(2, 50);
        }
        us += state.slow.get(&link).copied().unwrap_or(0);
        Some(Instant::now() + Duration::from_micros(us))
    }

    /// When a second copy of a message arrives, if one does.
    fn repetition(&self) -> Option<Instant> {
        let mut state = self.state();
        let (per_mille, delay_us) = (state.quality.repeat_per_mille, state.quality.delay_us);
        if !state.chance.per_mille(per_mille) {
            return None;
        }
        state.counts.repeated += 1;
        let us = state.chance.between(delay_us.0, delay_us.1 * 40);
        Some(Instant::now() + Duration::from_micros(us))
    }

    /// Asks whoever listens at `addr`; `act` answers in that process. Waits forever for what was lost. With `repeatable` the
    /// request may arrive twice.
    pub(crate) async fn call<T, A, F>(
        &self,
        from: &Host,
        addr: &str,
        repeatable: Repeatable,
        what: &str,
        act: A,
    ) -> Result<T, CallError>
    where
        T: Send + 'static,
        A: Fn(Service, Host) -> F + Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let to = self.name_at(addr).ok_or(CallError::Refused)?;
        let arrival = self.arrival(from.name(), &to);
        if repeatable == Repeatable::Yes
            && let Some(at) = self.repetition()
            && let Some((host, service)) = self.service(addr)
        {
            let again = act(service, host.clone());
            let late = host;
            // On its way it belongs to nobody; it is acted upon in the process that was meant, or not at all.
            tokio::spawn(async move {
                sleep_until(at).await;
                drop(late.spawn(again));
            });
        }
        // On its way it belongs to nobody either: whoever sent it may end, or give up, and it arrives all the same.
        let (send, receive) = oneshot::channel();
        let (net, own, what_of) = (self.clone(), from.name().to_owned(), what.to_owned());
        let (target, addr_of) = (to.clone(), addr.to_owned());
        tokio::spawn(async move {
            wait_for(arrival).await;
            net.trace.note(&[&own, &target, &what_of]);
            let Some((host, service)) = net.service(&addr_of) else {
                drop(send.send(Err(CallError::Refused)));
                return;
            };
            let acting = act(service, host.clone());
            drop(host.spawn(async move {
                let answer = acting.await;
                // Whoever asked may have given up.
                drop(send.send(Ok(answer)));
            }));
        });
        let answer = match receive.await {
            Ok(answer) => answer,
            Err(_) => Err(CallError::Broken),
        };
        wait_for(self.arrival(&to, from.name())).await;
        self.trace.note(&[&to, from.name(), what, "answered"]);
        answer
    }

    /// Sends `message` to a data node's address and waits for its answer.
    ///
    /// # Errors
    /// [`CallError`]; what was lost is waited for without end.
    pub async fn ask_data(
        &self,
        from: &Host,
        addr: &str,
        repeatable: Repeatable,
        message: bytes::Bytes,
    ) -> Result<bytes::Bytes, CallError> {
        let answer = self.call(from, addr, repeatable, "data", move |service, _| {
            let message = message.clone();
            async move {
                match service {
                    Service::Data(service) => Some(service.serve(message).await),
                    Service::Peer(_) | Service::Http(_) => None,
                }
            }
        });
        answer.await?.ok_or(CallError::Refused)
    }
}

/// Whether a request may arrive twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeatable {
    /// The protocol says that it is harmless.
    Yes,
    /// The connection sees to it that it does not.
    No,
}

async fn wait_for(arrival: Option<Instant>) {
    match arrival {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// `host:port` of a URL or an address.
pub(crate) fn address_of(url: &str) -> String {
    let rest = url.strip_prefix("http://").unwrap_or(url);
    rest.split('/').next().unwrap_or_default().to_owned()
}

/// The address of a listener.
pub(crate) fn text_of(addr: SocketAddr) -> String {
    addr.to_string()
}
