//! Clusters in one process, over the in-memory network and over real sockets.

mod cluster;
mod failover;
mod founding;
mod life;
mod restored;

use cluster::{Cluster, eventually};
