use std::collections::BTreeMap;

use ruvector_cluster_client::ids::NodeId;

use super::*;
use crate::metadata::{COMMAND_VERSION, Command, Envelope, Register, Settings, apply, view};

fn state() -> Metadata {
    let settings = Settings {
        num_shards: 8,
        replication_factor: 2,
        failure_timeout_ms: 5_000,
        lease_ms: 4_000,
        heartbeat_interval_ms: 1_000,
    };
    let register = |name: &str| {
        Command::Register(Register {
            node: NodeId::new(name).unwrap(),
            addr: format!("{name}:1"),
            store_id: format!("s-{name}"),
            zone: None,
            rack: None,
            labels: BTreeMap::new(),
            capacity: None,
            capacity_bytes: None,
            accept_data_loss: false,
            lease_over_of: None,
            if_match: None,
        })
    };
    let found = Command::Found { cluster_id: "c1".to_owned(), settings };
    let mut state = Metadata::new();
    for (index, command) in (1..).zip([found, register("d1"), register("d2")]) {
        let envelope = Envelope { version: COMMAND_VERSION, actor: "client".to_owned(), key: None, command };
        apply(&mut state, index, index * 1_000, &envelope).outcome.result.unwrap();
    }
    state
}

fn bytes_of(state: &Metadata) -> Vec<u8> {
    pieces(state, view::time(0)).unwrap().collect::<Vec<_>>().concat()
}

fn read_bytes(bytes: &[u8]) -> Result<Backup, BackupError> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    read(file.path())
}

fn rows_of(state: &Metadata) -> Vec<(Vec<u8>, Vec<u8>)> {
    state.to_rows().collect()
}

#[test]
fn a_backup_is_read_back_as_it_was() {
    let state = state();
    let backup = read_bytes(&bytes_of(&state)).unwrap();
    assert_eq!(rows_of(&backup.state), rows_of(&state));
    assert_eq!((backup.head.cluster_id.as_str(), backup.head.revision), ("c1", state.revision()));
    assert!(pieces(&Metadata::new(), view::time(0)).is_none(), "there is nothing before the founding");
}

#[test]
fn every_flipped_bit_and_every_cut_is_refused() {
    let bytes = bytes_of(&state());
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1 << (at % 8);
        read_bytes(&damaged).expect_err("a flipped bit");
        read_bytes(&bytes[..at]).expect_err("a cut");
    }
    let error = read_bytes(&bytes[..bytes.len() - 1]).unwrap_err().to_string();
    assert!(error.contains(&format!("byte {}", bytes.len() - 1)), "which byte is not said: {error}");
    read_bytes(&[&bytes[..], b"x"].concat()).expect_err("something follows");
}

#[test]
fn a_newer_format_and_a_snapshot_of_a_data_directory_are_told_apart_from_damage() {
    let with_head = |head: &[u8]| {
        let (encoder, first) = SnapshotEncoder::begin(3, head);
        read_bytes(&[first, encoder.end()].concat()).unwrap_err()
    };
    assert!(matches!(with_head(br#"{"backup_format":2}"#), BackupError::Newer { found: 2, .. }));
    assert!(matches!(with_head(br#"{"applied":null}"#), BackupError::Head { .. }));
}

#[test]
fn pieces_in_another_order_are_refused_although_each_is_whole() {
    let state = state();
    let head = Head {
        backup_format: FORMAT,
        version: String::new(),
        cluster_id: "c1".to_owned(),
        generation: 1,
        revision: state.revision(),
        made_at: view::time(0),
    };
    let rows = rows_of(&state);
    let written = |order: &[usize]| {
        let (mut encoder, first) = SnapshotEncoder::begin(3, &serde_json::to_vec(&head).unwrap());
        let (mut content, mut hash) = (BytesMut::new(), XxHash64::with_seed(0));
        for (key, value) in &rows {
            let mut row = BytesMut::new();
            put(&mut row, key);
            put(&mut row, value);
            hash.write(&row);
        }
        for at in order {
            put(&mut content, &rows[*at].0);
            put(&mut content, &rows[*at].1);
        }
        let end = End { rows: rows.len() as u64, xxh64: format!("{:016x}", hash.finish()) };
        put(&mut content, END_KEY);
        put(&mut content, &serde_json::to_vec(&end).unwrap());
        let content = encoder.content(&content);
        read_bytes(&[first, content, encoder.end()].concat())
    };
    let order: Vec<usize> = (0..rows.len()).collect();
    written(&order).unwrap();
    let turned: Vec<usize> = order.iter().rev().copied().collect();
    assert!(matches!(written(&turned), Err(BackupError::Damaged { .. })));
    assert!(matches!(written(&order[1..]), Err(BackupError::Damaged { .. })));
}

/// The first released format: a file that this version wrote once, and every later one reads.
#[test]
fn a_backup_of_format_1_is_read() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/backup/format-1.snapshot");
    if std::env::var_os("UPDATE_GOLDEN").is_some() && !path.exists() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes_of(&state())).unwrap();
    }
    let backup = read(&path).unwrap();
    assert_eq!((backup.head.cluster_id.as_str(), backup.head.generation), ("c1", 1));
    assert_eq!((backup.head.revision.0, backup.state.num_shards(), backup.state.num_nodes()), (3, 8, 2));
    backup.state.restored_as("c2").unwrap().unwrap();
}

/// Found by hand: a damaged backup was answered with what to do about a damaged data directory.
#[test]
fn a_damaged_backup_is_told_with_what_to_do_about_a_backup() {
    let error = read_from("b.snap", &b"nonsense\n"[..]).unwrap_err().to_string();
    assert!(
        error.contains("b.snap is damaged at byte 9") && error.contains("another copy of the backup"),
        "{error}"
    );
    assert!(!error.contains("remove this node"), "{error}");
}
