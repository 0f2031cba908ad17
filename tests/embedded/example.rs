//! The example of three processes does what it says.

use crate::Places;
use crate::support::DEADLINE;
use crate::support::process::program;

#[tokio::test(flavor = "multi_thread")]
async fn three_processes_form_a_cluster_and_end_by_themselves() {
    let places = Places::new(3);
    let binary = program("examples/embedded");
    let addrs = places.addrs().into_iter().map(|addr| addr.to_string());
    let mut example = tokio::process::Command::new(binary);
    let output = example.args(addrs).kill_on_drop(true).output();
    let output = tokio::time::timeout(DEADLINE, output).await.expect("it ends").unwrap();
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{told}\n{}", String::from_utf8_lossy(&output.stderr));
    for line in
        ["node-3: cluster ready with 3 nodes", "Healthy: 3/3 nodes", "node-1: stopped", "node-3: stopped"]
    {
        assert!(told.contains(line), "{line} is missing: {told}");
    }
    assert_eq!(told.matches("leads: true").count(), 1, "{told}");
}
