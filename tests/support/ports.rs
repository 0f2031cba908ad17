//! Ports for test clusters: pairs (p, p + 1000) below the ephemeral range, each held by a lock file.

use std::fs::{self, File};
use std::net::TcpListener;

/// The first port of the first block; blocks of 1,000 clients' ports alternate with blocks of peers' ports.
const FIRST: u16 = 10_000;
/// How many blocks of 2,000 ports lie between [`FIRST`] and the ephemeral range (32,768 on Linux).
const BLOCKS: u16 = 11;

/// Two ports that no other test uses while this lives.
#[derive(Debug)]
pub struct PortPair {
    /// For clients; control nodes listen for their peers on this plus 1,000.
    pub port: u16,
    /// Unlocked when it is closed, also by the process's death.
    _lock: File,
}

impl PortPair {
    /// Takes a free pair.
    pub fn reserve() -> Self {
        let folder = std::env::temp_dir().join("ruvector-cluster-ports");
        fs::create_dir_all(&folder).unwrap();
        let pairs = BLOCKS * 1_000;
        let start = u16::try_from(std::process::id() * 37 % u32::from(pairs)).unwrap();
        for n in (0..pairs).map(|n| (start + n) % pairs) {
            let port = FIRST + (n / 1_000) * 2_000 + n % 1_000;
            let lock = File::create(folder.join(port.to_string())).unwrap();
            let is_free = |port| TcpListener::bind(("127.0.0.1", port)).is_ok();
            if lock.try_lock().is_ok() && is_free(port) && is_free(port + 1_000) {
                return Self { port, _lock: lock };
            }
        }
        panic!("no free pair of ports in {}", folder.display());
    }

    /// `127.0.0.1:port`.
    pub fn addr(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

#[test]
fn two_pairs_never_share_a_port() {
    let pairs: Vec<PortPair> = (0..20).map(|_| PortPair::reserve()).collect();
    let mut ports: Vec<u16> = pairs.iter().flat_map(|pair| [pair.port, pair.port + 1_000]).collect();
    ports.sort_unstable();
    ports.dedup();
    assert_eq!(ports.len(), 40);
    assert!(ports.iter().all(|port| (FIRST..32_768).contains(port)));
}
