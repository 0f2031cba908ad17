use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

/// Which addresses datagrams are sent to: the seam at which a test cuts links.
#[derive(Clone)]
pub struct Reach(Arc<dyn Fn(SocketAddr) -> bool + Send + Sync>);

impl Reach {
    /// Those for which `reaches` says true, asked for each datagram.
    pub fn new(reaches: impl Fn(SocketAddr) -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(reaches))
    }

    /// Whether datagrams are sent there now.
    pub(super) fn reaches(&self, to: SocketAddr) -> bool {
        (self.0)(to)
    }
}

impl Default for Reach {
    /// All.
    fn default() -> Self {
        Self::new(|_| true)
    }
}

impl fmt::Debug for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reach")
    }
}
