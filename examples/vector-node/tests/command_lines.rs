//! The binaries' refusals. (That this test exists also makes cargo build the binaries, which the cluster tests start.)

use std::process::{Command, Output};

fn run(program: &str, args: &[&str]) -> Output {
    Command::new(program).args(args).output().expect("the binary was built with this test")
}

fn complaint(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_vector_node_names_the_flag_that_is_bad() {
    let line = ["--node-id", "a/b", "--coordinators", "127.0.0.1:1", "--data-dir", "x", "--dimensions", "4"];
    let output = run(env!("CARGO_BIN_EXE_vector-node"), &line);
    assert_eq!(output.status.code(), Some(2));
    assert!(complaint(&output).contains("--node-id"), "{}", complaint(&output));
}

#[test]
fn the_demo_names_the_file_that_it_misses() {
    let line = ["--bin-dir", "/nowhere", "--digits", "/nowhere/digits.csv", "--work-dir", "/nowhere"];
    let output = run(env!("CARGO_BIN_EXE_demo-client"), &line);
    assert_eq!(output.status.code(), Some(1));
    assert!(complaint(&output).contains("/nowhere/digits.csv"), "{}", complaint(&output));
}
