//! The binary as an operator meets it: `dev`, signals, exit codes.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::http::Api;
use crate::support::ports::PortPair;
use crate::support::{DEADLINE, wait_for};

const PROGRAM: &str = env!("CARGO_BIN_EXE_ruvector-cluster");

/// Ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn run(args: &[&str], env: &[(&str, &str)]) -> Output {
    Command::new(PROGRAM).args(args).envs(env.iter().copied()).output().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn dev_prints_its_url_first_and_ends_with_grace() {
    let ports = PortPair::reserve();
    let mut command = Command::new(PROGRAM);
    command.args(["dev", "--listen", &ports.addr()]).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut running = Running(command.spawn().unwrap());
    let mut line = String::new();
    BufReader::new(running.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, format!("http://{}\n", ports.addr()));
    let api = Api::new(&ports.addr());
    wait_for("dev to be ready", DEADLINE, async || api.get("/readyz").await?.ok::<serde_json::Value>()).await;
    // A watch is open and must not hold the process up.
    let watch = api.http().get(format!("{}/v1/watch", api.base())).send().await.unwrap();
    kill_process(Pid::from_child(&running.0), Signal::TERM).unwrap();
    let status =
        wait_for("dev to end", DEADLINE, async || running.0.try_wait().unwrap().ok_or("it runs")).await;
    assert_eq!(status.code(), Some(0));
    drop(watch);
}

/// Flags, environment, and what the error names.
type Case<'a> = (&'a [&'a str], &'a [(&'a str, &'a str)], &'a str);

#[test]
fn a_bad_flag_environment_or_file_exits_2_and_names_the_key() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("c.toml");
    std::fs::write(&file, "num_shards = 0\n").unwrap();
    let file = file.to_str().unwrap();
    let data = folder.path().join("data");
    let base = ["server", "--node-id", "n1", "--data-dir", data.to_str().unwrap()];
    let cases: [Case<'_>; 5] = [
        (&["--num-shards", "0"], &[], "--num-shards"),
        (&["--colour", "red"], &[], "--colour"),
        (&["--listen", "10.1.2.3:7000"], &[], "--insecure-listen"),
        (&[], &[("RUVECTOR_CLUSTER_FAILURE_TIMEOUT", "soon")], "RUVECTOR_CLUSTER_FAILURE_TIMEOUT"),
        (&["--config", file], &[], "num_shards in "),
    ];
    for (flags, env, named) in cases {
        let output = run(&[&base, flags].concat(), env);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(named), "{named} is not named: {said}");
    }
    assert!(!data.exists(), "something was opened before the flags were checked");
}

#[test]
fn a_directory_that_is_not_ours_exits_1_and_says_what_and_where() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("holiday.txt"), "sun").unwrap();
    let ports = PortPair::reserve();
    let dir = folder.path().to_str().unwrap();
    let output = run(&["server", "--node-id", "n1", "--listen", &ports.addr(), "--data-dir", dir], &[]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(dir) && said.contains("holiday.txt"), "{said}");
}

#[test]
fn help_suffices() {
    let output = run(&["--help"], &[]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0));
    for part in ["server", "dev", "--seeds"] {
        assert!(said.contains(part), "{part}: {said}");
    }
}
