//! Control nodes in one process: a [`Transport`] that hands messages over in memory, for tests and simulations.
//!
//! A network knows listeners by `host:port`. Links between two addresses can be cut, in both directions, which also ends the
//! conversations on them. Nothing is delayed or reordered; tokio's clock and the callers' tasks decide about order.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::transport::{Envelope, Listening, Messages, PeerHandler, RpcKind, Transport, TransportError};

/// All that listen, and the links that are cut.
#[derive(Clone, Default)]
pub struct MemoryNetwork {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    listeners: BTreeMap<String, Listener>,
    next_port: u16,
    cut: Cut,
}

#[derive(Clone)]
struct Listener {
    handler: Arc<dyn PeerHandler>,
    closed: CancellationToken,
}

struct Cut {
    pairs: BTreeSet<(String, String)>,
    changed: watch::Sender<u64>,
}

impl Default for Cut {
    fn default() -> Self {
        Self { pairs: BTreeSet::new(), changed: watch::Sender::new(0) }
    }
}

impl MemoryNetwork {
    /// An empty network.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The transport of the node that listens on `addr` (`host:port`).
    #[must_use]
    pub fn transport(&self, addr: &str) -> Arc<dyn Transport> {
        Arc::new(MemoryTransport { network: self.clone(), own: addr.to_owned() })
    }

    /// Cuts all links of `addr`, or joins them again.
    pub fn set_isolated(&self, addr: &str, isolated: bool) {
        let mut inner = self.lock();
        let others: Vec<String> = inner.listeners.keys().filter(|other| *other != addr).cloned().collect();
        for other in others {
            for pair in [(addr.to_owned(), other.clone()), (other, addr.to_owned())] {
                if isolated {
                    inner.cut.pairs.insert(pair);
                } else {
                    inner.cut.pairs.remove(&pair);
                }
            }
        }
        inner.cut.changed.send_modify(|count| *count += 1);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_cut(&self, from: &str, to: &str) -> bool {
        self.lock().cut.pairs.contains(&(from.to_owned(), to.to_owned()))
    }
}

struct MemoryTransport {
    network: MemoryNetwork,
    own: String,
}

impl MemoryTransport {
    fn reach(&self, peer_url: &str) -> Result<(String, Listener), TransportError> {
        let addr = peer_url.trim_start_matches("http://").trim_end_matches('/').to_owned();
        let unreachable = |why: &str| TransportError::Unreachable { peer: addr.clone(), why: why.to_owned() };
        if self.network.is_cut(&self.own, &addr) {
            return Err(unreachable("the link is cut"));
        }
        let listener = self.network.lock().listeners.get(&addr).cloned();
        let listener = listener.filter(|listener| !listener.closed.is_cancelled());
        let listener = listener.ok_or_else(|| unreachable("nobody listens"))?;
        Ok((addr, listener))
    }

    /// Resolves when the link to `addr` is cut or its listener closes.
    fn broken(&self, addr: &str, listener: &Listener) -> impl Future<Output = ()> + Send + use<> {
        let (network, own, addr, closed) =
            (self.network.clone(), self.own.clone(), addr.to_owned(), listener.closed.clone());
        let mut changes = network.lock().cut.changed.subscribe();
        async move {
            let cut = async {
                while !network.is_cut(&own, &addr) && !network.is_cut(&addr, &own) {
                    if changes.changed().await.is_err() {
                        return;
                    }
                }
            };
            tokio::select! {
                () = cut => {}
                () = closed.cancelled() => {}
            }
        }
    }
}

#[async_trait]
impl Transport for MemoryTransport {
    async fn rpc(
        &self,
        peer_url: &str,
        kind: RpcKind,
        envelope: Envelope,
        body: Bytes,
        timeout: Duration,
    ) -> Result<Bytes, TransportError> {
        let (addr, listener) = self.reach(peer_url)?;
        let no_answer = |why: &str| TransportError::NoAnswer { peer: addr.clone(), why: why.to_owned() };
        let broken = self.broken(&addr, &listener);
        tokio::select! {
            answer = listener.handler.rpc(kind, envelope, body) => {
                answer.map_err(|refusal| TransportError::Refused { peer: addr, refusal })
            }
            () = broken => Err(no_answer("the connection broke")),
            () = tokio::time::sleep(timeout) => Err(no_answer("no answer in time")),
        }
    }

    async fn duplex(
        &self,
        peer_url: &str,
        kind: RpcKind,
        envelope: Envelope,
        messages: BoxStream<'static, Bytes>,
        timeout: Duration,
    ) -> Result<Messages, TransportError> {
        let (addr, listener) = self.reach(peer_url)?;
        let no_answer = |why: &str| TransportError::NoAnswer { peer: addr.clone(), why: why.to_owned() };
        let messages: Messages = messages.map(Ok).take_until(Box::pin(self.broken(&addr, &listener))).boxed();
        let broken = Box::pin(self.broken(&addr, &listener));
        let opened = tokio::time::timeout(timeout, listener.handler.duplex(kind, envelope, messages)).await;
        let answers = opened
            .map_err(|_| no_answer("no answer in time"))?
            .map_err(|refusal| TransportError::Refused { peer: addr.clone(), refusal })?;
        let ending = futures::stream::once(async move {
            broken.await;
            Err(no_answer_owned(addr, "the connection broke"))
        });
        let answers = answers.map(Some).chain(futures::stream::iter([None]));
        let merged = futures::stream::select(answers, ending.map(Some));
        Ok(merged
            .take_while(|item| std::future::ready(item.is_some()))
            .filter_map(std::future::ready)
            .boxed())
    }

    async fn hello(&self, seed: &str, _timeout: Duration) -> Result<Bytes, TransportError> {
        Err(TransportError::Unreachable {
            peer: seed.to_owned(),
            why: "there are no client listeners in memory".to_owned(),
        })
    }

    async fn listen(&self, addr: SocketAddr, handler: Arc<dyn PeerHandler>) -> std::io::Result<Listening> {
        let mut inner = self.network.lock();
        let mut addr = addr;
        if addr.port() == 0 {
            inner.next_port += 1;
            addr.set_port(inner.next_port);
        }
        let taken =
            inner.listeners.get(&addr.to_string()).is_some_and(|listener| !listener.closed.is_cancelled());
        if taken {
            return Err(std::io::ErrorKind::AddrInUse.into());
        }
        let closed = CancellationToken::new();
        inner.listeners.insert(addr.to_string(), Listener { handler, closed: closed.clone() });
        Ok(Listening::new(addr, closed.drop_guard()))
    }
}

fn no_answer_owned(peer: String, why: &str) -> TransportError {
    TransportError::NoAnswer { peer, why: why.to_owned() }
}
