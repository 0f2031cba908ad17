use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::config::Timing;

/// With the timing that ships. The bound leaves room for a machine that is busy with other tests; what is promised (under 500 ms)
/// is the median, and it is printed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_leader_is_replaced_soon() {
    let mut cluster = Cluster::over_http(3);
    cluster.adjust = |_, config| config.timing = Timing::default();
    cluster.start_all(&[0, 1, 2]).await;
    let mut times = Vec::new();
    for round in 0..7 {
        cluster.put("round", &round.to_string()).await;
        cluster.converge("round", &round.to_string()).await;
        let leader = cluster.leader().await;
        cluster.crash(leader, round);
        let begun = tokio::time::Instant::now();
        cluster.put("after", &round.to_string()).await;
        times.push(begun.elapsed());
        cluster.start(leader).await;
    }
    times.sort();
    println!("killed leader to next committed write: median {:?} of {times:?}", times[3]);
    assert!(times[3] < Duration::from_millis(1_500), "{times:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proposal_over_the_limit_is_refused() {
    let mut cluster = Cluster::in_memory(1);
    cluster.adjust = |_, config| config.seeds.clear();
    cluster.start(0).await;
    cluster.put("a", "1").await;
    let huge = Bytes::from(vec![b'x'; (16 << 20) + 1]);
    let refused = cluster.node(0).propose(huge).await;
    assert!(matches!(refused, Err(crate::error::ProposeError::TooLarge { .. })), "{refused:?}");
}
