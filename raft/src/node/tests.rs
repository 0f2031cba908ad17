//! Clusters in one process, over the in-memory network and over real sockets.

mod cluster;
mod damage;
mod disk_use;
mod durability;
mod failover;
mod founding;
mod full_disk;
mod life;
mod restored;

use cluster::{Cluster, eventually};
