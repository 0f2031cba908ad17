//! Full load for minutes: a leader that is only busy must stay the leader.

use std::time::Duration;

use anyhow::{Result, ensure};
use reqwest::Method;
use ruvector_cluster_local::processes::Processes;
use tokio::time::Instant;

use crate::Common;
use crate::client::Client;
use crate::figures::{ms, table, whole};
use crate::load;
use crate::peers::{self, DATA_NODES, Peer};
use crate::writes;

const CONNECTIONS: usize = 256;

/// Measures and prints.
///
/// # Errors
/// When there was an election, or a request failed.
pub(crate) async fn run(common: &Common, minutes: u64, all: &mut Processes) -> Result<()> {
    let client = Client::new()?;
    let ours = peers::start_ours(&client, all).await?;
    peers::register(&client, &ours, DATA_NODES).await?;
    let before = term(&client, &ours).await?;
    let began = Instant::now();
    let time = Duration::from_secs(60 * minutes);
    let measured =
        load::put(&common.work_dir, &ours.urls[0], &writes::our_script(DATA_NODES), CONNECTIONS, time)
            .await?;
    let after = term(&client, &ours).await?;
    let row = vec![
        format!("{:.0} s", began.elapsed().as_secs_f64()),
        whole(measured.per_s()),
        ms(measured.p50),
        ms(measured.p99),
        measured.errors.to_string(),
        (after - before).to_string(),
    ];
    let head = ["time", "writes/s", "p50", "p99", "failed", "elections"];
    table(&format!("Writes without a pause at {CONNECTIONS} connections"), &head, &[row]);
    ensure!(after == before, "{} elections, with nobody dead", after - before);
    ensure!(measured.errors == 0, "{} of {} requests failed", measured.errors, measured.requests);
    println!("\ngoal met: no election, no failed request");
    Ok(())
}

async fn term(client: &Client, peer: &Peer) -> Result<u64> {
    let view = client.ask(Method::GET, &format!("{}/v1/cluster", peer.urls[0]), None).await?;
    Ok(view["term"].as_u64().unwrap_or_default())
}
