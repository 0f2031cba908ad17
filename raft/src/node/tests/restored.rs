//! A cluster that begins from a backup.

use std::sync::Arc;

use bytes::Bytes;
use ruvector_cluster_storage::{MemRows, OpenError, OpenOptions, SimDisk, Storage};

use super::cluster::{Cluster, Member};
use super::eventually;
use crate::member::MemberRole;
use crate::model::KvView;
use crate::restore::{Beginning, RestoreDirectoryError, restore_directory};

const INDEX: u64 = (1 << 32) + 77;

fn beginning(cluster: &Cluster) -> Beginning {
    Beginning {
        cluster_id: "again".to_owned(),
        name: "n0".to_owned(),
        client_url: format!("http://{}", cluster.client(0)),
        // As it was planned; the node tells where it really listens.
        peer_url: "http://127.0.0.1:1".to_owned(),
        index: INDEX,
        time_ms: 5,
    }
}

async fn restore(disk: &SimDisk, beginning: Beginning) -> Result<u64, RestoreDirectoryError> {
    let options = OpenOptions { segment_bytes: 256 << 10, ..OpenOptions::new("n0") };
    let content = (0..1_000).map(|n| (format!("key{n:04}").into_bytes(), Bytes::from(format!("value{n}"))));
    let (disk, rows) = (Arc::new(disk.clone()), Arc::new(MemRows::new()));
    restore_directory(disk, rows, options, beginning, Box::new(content)).await
}

#[tokio::test]
async fn a_restored_node_founds_a_cluster_of_its_own_which_empty_ones_join() {
    let mut cluster = Cluster::in_memory(3);
    let disk = SimDisk::new();
    let raft_id = restore(&disk, beginning(&cluster)).await.unwrap();
    // Durable when told: a power failure right after it takes nothing.
    let disk = disk.crash(3);
    cluster.members.insert(0, Member { disk, rows: MemRows::new(), view: KvView::default(), node: None });
    cluster.start_all(&[0, 1, 2]).await;
    let committed = cluster.put("new", "1").await;
    assert!(committed.index > INDEX, "{committed:?}");
    assert_eq!(cluster.node(0).raft_id(), raft_id);
    eventually("the others are voters", async || {
        let members = cluster.node(0).members();
        members.len() == 3 && members.iter().all(|member| member.role == MemberRole::Voter)
    })
    .await;
    for at in 0..3 {
        assert_eq!(cluster.node(at).cluster_id().as_deref(), Some("again"));
        assert_eq!(cluster.get(at, "key0999").await.as_deref(), Some("value999"), "on n{at}");
    }
    // The first one is a member like any other.
    cluster.crash(0, 9);
    cluster.put("new", "2").await;
    cluster.start(0).await;
    cluster.converge("new", "2").await;
}

#[tokio::test]
async fn a_restore_that_was_cut_short_is_refused_until_the_directory_is_emptied() {
    let cluster = Cluster::in_memory(1);
    let disk = SimDisk::new();
    let options = || OpenOptions::new("n0");
    let begun = Storage::begin_restore(Arc::new(disk.clone()), Arc::new(MemRows::new()), options()).await;
    begun.unwrap().identity.bind("again").await.unwrap();
    for disk in [disk.crash(1), disk.kill()] {
        let opened = Storage::open(Arc::new(disk.clone()), Arc::new(MemRows::new()), options()).await;
        assert!(matches!(opened, Err(OpenError::Unfinished { .. })));
        let again = restore(&disk.kill(), beginning(&cluster)).await.unwrap_err();
        assert!(matches!(again, RestoreDirectoryError::Open(OpenError::Unfinished { .. })), "{again}");
    }
}

#[tokio::test]
async fn a_directory_that_has_data_is_not_restored_into() {
    let mut cluster = Cluster::in_memory(1);
    cluster.start(0).await;
    cluster.put("a", "1").await;
    cluster.stop(0).await;
    let disk = cluster.members[&0].disk.clone();
    let refused = restore(&disk, beginning(&cluster)).await.unwrap_err();
    assert!(matches!(refused, RestoreDirectoryError::Open(OpenError::NotEmpty { .. })), "{refused}");
    cluster.members.get_mut(&0).unwrap().disk = disk.kill();
    cluster.start(0).await;
    assert_eq!(cluster.get(0, "a").await.as_deref(), Some("1"));
}
