//! A proxy before each control node's peer listener: one switch for each directed link between two control nodes.
//!
//! Control nodes tell others the proxy's address (`--peer-advertise`). Who opened a connection is found in /proc: the socket's
//! owner is one of our processes, so the nodes need not know that there is a proxy. On a connection that `a` opened to `b`, what
//! `a` sends goes by the link a -> b, and what comes back by b -> a. Gossip's datagrams come from their sender's own peer port,
//! and are passed on from the proxy's port for that sender, so that the answer finds its way back.
//!
//! What a link that drops has swallowed is sent when it is healed, as TCP would send it again; datagrams are gone. Caveats: the proxy
//! accepts a connection before it knows whether the other side does, so a dead node looks like one that hangs up; what control
//! nodes ask each other's client listeners (`/v1/hello`, while they look for the cluster) goes past the proxy.

mod owner;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::record::Trace;

/// What a link does with what is sent over it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Link {
    /// Passes it on.
    #[default]
    Open,
    /// Passes it on later.
    Delay(Duration),
    /// Keeps it, and the connection.
    Drop,
    /// Ends connections and lets none come.
    Cut,
}

/// Pieces under way on one half of a connection.
const PIECES: usize = 256;
const PIECE_BYTES: usize = 64 << 10;

/// One end: a control node as the proxy sees it.
pub(crate) struct End {
    /// Where it really listens for its peers.
    pub(crate) peer_port: u16,
    /// Where it says that it does.
    pub(crate) proxy_port: u16,
    /// Its process's id, 0 while there is none.
    pub(crate) pid: AtomicU32,
}

/// All links between some control nodes.
pub(crate) struct Links {
    shared: Arc<Shared>,
    // Ends with it.
    _tasks: JoinSet<()>,
}

struct Shared {
    ends: Vec<End>,
    trace: Trace,
    /// By sender, then receiver.
    links: Vec<Vec<watch::Sender<Link>>>,
    gossip: Vec<UdpSocket>,
}

impl Links {
    /// Listens before all of `ends`; all links are open.
    pub(crate) async fn listen(ends: Vec<End>, trace: Trace) -> Result<Self> {
        let row = || ends.iter().map(|_| watch::Sender::new(Link::Open)).collect();
        let links = ends.iter().map(|_| row()).collect();
        let (mut listeners, mut gossip) = (Vec::new(), Vec::new());
        for end in &ends {
            let addr = loopback(end.proxy_port);
            listeners.push(TcpListener::bind(addr).await.context("the proxy cannot listen")?);
            gossip.push(UdpSocket::bind(addr).await.context("the proxy cannot listen")?);
        }
        let shared = Arc::new(Shared { ends, trace, links, gossip });
        let mut tasks = JoinSet::new();
        for (to, listener) in listeners.into_iter().enumerate() {
            tasks.spawn(accept(listener, to, shared.clone()));
            tasks.spawn(pass_gossip(to, shared.clone()));
        }
        Ok(Self { shared, _tasks: tasks })
    }

    /// From now on the process of `node` has this id.
    pub(crate) fn is_process(&self, node: usize, pid: u32) {
        self.shared.ends[node].pid.store(pid, Ordering::Relaxed);
    }

    /// Switches one link.
    pub(crate) fn set(&self, from: usize, to: usize, link: Link) {
        self.shared.trace.note(&format!("link n{} -> n{}: {link:?}", from + 1, to + 1));
        self.shared.links[from][to].send_replace(link);
    }

    /// All links work.
    pub(crate) fn heal(&self) {
        self.shared.links.iter().flatten().for_each(|link| {
            link.send_replace(Link::Open);
        });
    }
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

async fn accept(listener: TcpListener, to: usize, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok((stream, peer)) = listener.accept().await else { continue };
        connections.spawn(connect(stream, peer, to, shared.clone()));
    }
}

async fn connect(stream: TcpStream, peer: SocketAddr, to: usize, shared: Arc<Shared>) {
    let pids: Vec<u32> = shared.ends.iter().map(|end| end.pid.load(Ordering::Relaxed)).collect();
    let proxy_port = shared.ends[to].proxy_port;
    // Reads files of the kernel.
    let found = tokio::task::spawn_blocking(move || owner::owner(peer.port(), proxy_port, &pids)).await;
    // Whoever is gone already, or is none of ours, gets nothing.
    let Ok(Some(from)) = found else { return };
    let (there, mut back) = (shared.links[from][to].subscribe(), shared.links[to][from].subscribe());
    if *there.borrow() == Link::Cut || *back.borrow_and_update() == Link::Cut {
        return;
    }
    let Ok(target) = TcpStream::connect(loopback(shared.ends[to].peer_port)).await else { return };
    if stream.set_nodelay(true).is_err() || target.set_nodelay(true).is_err() {
        return;
    }
    let ((near_in, near_out), (far_in, far_out)) = (stream.into_split(), target.into_split());
    // When one direction ends, so does the other: a half-closed connection says nothing of a cut.
    tokio::select! {
        () = pump(near_in, far_out, there) => {}
        () = pump(far_in, near_out, back) => {}
    }
}

/// One direction of one connection, until it ends or is cut.
async fn pump(from: OwnedReadHalf, to: OwnedWriteHalf, link: watch::Receiver<Link>) {
    let (pieces, arriving) = mpsc::channel(PIECES);
    tokio::join!(read(from, pieces), write(to, arriving, link));
}

async fn read(mut from: OwnedReadHalf, pieces: mpsc::Sender<(Instant, Vec<u8>)>) {
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let read = tokio::select! {
            read = from.read(&mut piece) => read,
            () = pieces.closed() => return,
        };
        let Ok(n @ 1..) = read else { return };
        if pieces.send((Instant::now(), piece[..n].to_vec())).await.is_err() {
            return;
        }
    }
}

async fn write(
    mut to: OwnedWriteHalf,
    mut arriving: mpsc::Receiver<(Instant, Vec<u8>)>,
    mut link: watch::Receiver<Link>,
) {
    loop {
        let next = tokio::select! {
            next = arriving.recv() => next,
            () = is_cut(&mut link) => return,
        };
        let Some((at, piece)) = next else { return };
        if !may_pass(at, &mut link).await || to.write_all(&piece).await.is_err() {
            return;
        }
    }
}

async fn is_cut(link: &mut watch::Receiver<Link>) {
    if link.wait_for(|link| *link == Link::Cut).await.is_err() {
        std::future::pending().await
    }
}

/// Waits until what arrived at `at` may go on; false when it never will.
async fn may_pass(at: Instant, link: &mut watch::Receiver<Link>) -> bool {
    loop {
        let now = *link.borrow_and_update();
        let wait = match now {
            Link::Open => return true,
            Link::Cut => return false,
            Link::Delay(delay) if at.elapsed() >= delay => return true,
            Link::Delay(delay) => delay.saturating_sub(at.elapsed()),
            Link::Drop => Duration::from_secs(3_600),
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            changed = link.changed() => if changed.is_err() { return false },
        }
    }
}

async fn pass_gossip(to: usize, shared: Arc<Shared>) {
    let mut datagram = vec![0; PIECE_BYTES];
    loop {
        let Ok((n, sender)) = shared.gossip[to].recv_from(&mut datagram).await else {
            // An answer to a datagram for a dead node: nothing to pass on.
            continue;
        };
        let Some(from) = shared.ends.iter().position(|end| end.peer_port == sender.port()) else { continue };
        let target = loopback(shared.ends[to].peer_port);
        let link = *shared.links[from][to].borrow();
        match link {
            // Whether it arrives is not known of a datagram anyway.
            Link::Open => drop(shared.gossip[from].send_to(&datagram[..n], target).await),
            Link::Delay(delay) => {
                let (shared, datagram) = (shared.clone(), datagram[..n].to_vec());
                tokio::spawn(async move {
                    tokio::time::sleep(delay).await;
                    drop(shared.gossip[from].send_to(&datagram, target).await);
                });
            }
            Link::Drop | Link::Cut => {}
        }
    }
}

#[cfg(test)]
mod tests;
