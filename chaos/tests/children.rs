//! What `chaos` starts ends with it, whatever ends it. (That there is a test here is also why `cargo test` builds the binary.)

#![allow(clippy::unwrap_used, reason = "a test that meets an error has failed")]

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

#[test]
fn a_child_is_killed_with_its_parent() {
    // The shell stands for a run that is killed; what it starts becomes a sleep that would outlast the test.
    let script = format!("{} as-child $$ /bin/sleep 600 & echo $!; wait", env!("CARGO_BIN_EXE_chaos"));
    let mut shell = Command::new("sh").args(["-c", &script]).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(shell.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let child = line.trim().to_owned();
    let command = || std::fs::read_to_string(format!("/proc/{child}/cmdline")).unwrap_or_default();
    let is_zombie = || {
        let stat = std::fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
        stat.contains(") Z ")
    };
    let wait = |what: &str, look: &dyn Fn() -> bool| {
        for _ in 0..2_000 {
            if look() {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("{what}: {}", command());
    };
    wait("it becomes the program", &|| command().starts_with("/bin/sleep"));
    shell.kill().unwrap();
    shell.wait().unwrap();
    wait("it ends", &|| command().is_empty() || is_zombie());
}
