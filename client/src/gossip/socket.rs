//! chitchat's socket, with a gate before it ([`super::datagram`]).
//!
//! chitchat's messages can be neither read nor made outside of it, only carried by its own UDP socket. So that one is bound to an
//! address of the loopback interface that nobody is told, and datagrams come to it, and leave it, through a socket that stands
//! before it. What costs that: two more system calls a datagram, some ten microseconds.

use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use async_trait::async_trait;
use chitchat::ChitchatEnvelope;
use chitchat::transport::{RecvOutcome, SendOutcome, Socket, Transport, UdpSocket};
use tokio::time::Instant;

use super::datagram::{MemberId, Own, Refusal, admit};
use super::reach::Reach;

/// The largest payload of a UDP datagram over IPv4, in bytes.
const MAX_DATAGRAM_BYTES: usize = 65_507;
/// How long a datagram may take within this process: many times what it does.
const WITHIN: Duration = Duration::from_millis(500);

/// What the gate knows and learns.
#[derive(Debug)]
pub(super) struct Gate {
    remembered: Mutex<Remembered>,
    /// Somebody tells of this member what only it may.
    is_spoken_for: AtomicBool,
}

/// What chitchat has, as it was told last and what came in since.
#[derive(Debug)]
struct Remembered {
    own: Own,
    known: BTreeSet<MemberId>,
}

impl Gate {
    pub(super) fn new(own: MemberId) -> Self {
        let remembered = Remembered { own: Own { id: own, heartbeat: 0 }, known: BTreeSet::new() };
        Self { remembered: Mutex::new(remembered), is_spoken_for: AtomicBool::new(false) }
    }

    /// Who is remembered now, and what this member counts of its own heartbeats.
    pub(super) fn remember(&self, members: BTreeSet<MemberId>, heartbeat: u64) {
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        remembered.known = members;
        remembered.own.heartbeat = heartbeat;
    }

    /// Whether somebody told values of this member, so that others may believe them: a new generation is to begin.
    pub(super) fn is_spoken_for(&self) -> bool {
        self.is_spoken_for.load(Ordering::Relaxed)
    }

    fn lets_in(&self, bytes: &[u8], from: SocketAddr) -> bool {
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        match admit(bytes, &remembered.own, &remembered.known) {
            Ok(named) => {
                remembered.known.extend(named);
                true
            }
            Err(refusal) => {
                if refusal == Refusal::AboutSelf {
                    self.is_spoken_for.store(true, Ordering::Relaxed);
                }
                tracing::debug!(%from, ?refusal, bytes = bytes.len(), "a gossip datagram is dropped");
                false
            }
        }
    }
}

/// Opens gated sockets.
pub(super) struct Gated {
    pub(super) gate: Arc<Gate>,
    pub(super) reach: Reach,
}

#[async_trait]
impl Transport for Gated {
    async fn open(&self, listen: SocketAddr) -> anyhow::Result<Box<dyn Socket>> {
        let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let outside = tokio::net::UdpSocket::bind(listen).await;
        let outside = outside.with_context(|| format!("can't listen for gossip on {listen}/UDP"))?;
        let inner = UdpSocket::open(loopback).await?;
        let relay = tokio::net::UdpSocket::bind(loopback).await?;
        relay.connect(inner.local_addr()?).await?;
        let relay_addr = relay.local_addr()?;
        let (gate, reach) = (self.gate.clone(), self.reach.clone());
        let buffer = vec![0; MAX_DATAGRAM_BYTES];
        Ok(Box::new(GatedSocket { outside, inner, relay, relay_addr, gate, reach, buffer, under_way: None }))
    }
}

struct GatedSocket {
    outside: tokio::net::UdpSocket,
    inner: UdpSocket,
    /// Connected to `inner`.
    relay: tokio::net::UdpSocket,
    relay_addr: SocketAddr,
    gate: Arc<Gate>,
    reach: Reach,
    buffer: Vec<u8>,
    /// Who sent the datagram that is on its way to `inner`, and until when it is waited for.
    under_way: Option<(SocketAddr, Instant)>,
}

impl GatedSocket {
    /// Passes the next datagram that is let in on to `inner`.
    async fn pass_in(&mut self) -> anyhow::Result<(SocketAddr, Instant)> {
        loop {
            let (length, from) = match self.outside.recv_from(&mut self.buffer).await {
                Ok(received) => received,
                Err(error) if is_passing(&error) => continue,
                Err(error) => return Err(error).context("gossip can't be received"),
            };
            if self.gate.lets_in(&self.buffer[..length], from) {
                self.relay.send(&self.buffer[..length]).await?;
                return Ok((from, Instant::now() + WITHIN));
            }
        }
    }
}

/// What other processes or a moment's lack of memory cause.
fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::OutOfMemory
            | io::ErrorKind::Interrupted
    )
}

#[async_trait]
impl Socket for GatedSocket {
    fn local_addr(&self) -> anyhow::Result<SocketAddr> {
        Ok(self.outside.local_addr()?)
    }

    async fn send(&mut self, to: SocketAddr, envelope: ChitchatEnvelope) -> anyhow::Result<SendOutcome> {
        // One that was given up before must not go out in the place of this one.
        while self.relay.try_recv(&mut self.buffer).is_ok() {}
        self.inner.send(self.relay_addr, envelope).await?;
        let length = tokio::time::timeout(WITHIN, self.relay.recv(&mut self.buffer)).await;
        let length = length.context("a datagram was lost within this process")??;
        if self.reach.reaches(to)
            && let Err(error) = self.outside.send_to(&self.buffer[..length], to).await
        {
            // No way there, a firewall, another family of addresses: whoever can't be reached is missed.
            tracing::debug!(%to, %error, "a gossip datagram can't be sent");
        }
        Ok(SendOutcome { num_bytes_sent: length })
    }

    /// May be dropped at any await: what is under way is waited for by the next call.
    async fn recv(&mut self) -> anyhow::Result<RecvOutcome> {
        loop {
            let (from, until) = match self.under_way {
                Some(under_way) => under_way,
                None => self.pass_in().await?,
            };
            self.under_way = Some((from, until));
            match tokio::time::timeout_at(until, self.inner.recv()).await {
                Ok(Ok(outcome)) if outcome.from_addr == self.relay_addr => {
                    self.under_way = None;
                    return Ok(RecvOutcome { from_addr: from, ..outcome });
                }
                // From another process of this machine, past the gate.
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return Err(error),
                Err(_) => self.under_way = None,
            }
        }
    }
}
