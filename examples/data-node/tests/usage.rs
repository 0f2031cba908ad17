//! What the binary says to whom starts it wrongly. tests/cluster/hundred_lines.rs of the coordinator runs it rightly: being here, this
//! test also makes `cargo test --workspace` build the binary for it.

use std::process::{Command, Output};

fn data_node(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_data-node")).args(args).output().expect("the binary starts")
}

#[test]
fn a_start_without_all_arguments_says_which_there_are() {
    for args in [&[][..], &["d1", "127.0.0.1:7201", "data"][..]] {
        let output = data_node(args);
        assert!(!output.status.success());
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("usage: data-node NODE_ID HOST:PORT DATA_DIR COORDINATOR,..."), "{said}");
    }
}

#[test]
fn an_illegal_node_id_is_refused_by_name() {
    let output = data_node(&["no good", "127.0.0.1:7201", "data", "127.0.0.1:7101"]);
    assert!(!output.status.success());
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("no good"), "{said}");
}
