use tokio_util::sync::CancellationToken;

use super::Gossip;
use crate::control::ControlClient;
use crate::map::MapCache;

/// Until `shutdown`, tells `control` of the control nodes that gossip shows, and gossip of the cluster that `map` is of. They are
/// asked only when none of those that are known answers, and not where they name another cluster than the map's.
pub async fn find_control_nodes(
    gossip: Gossip,
    control: ControlClient,
    map: MapCache,
    shutdown: CancellationToken,
) {
    let (mut seen, mut held) = (gossip.sightings(), map.subscribe());
    loop {
        if let Some(map) = map.get() {
            gossip.set_cluster_id(map.cluster_id());
        }
        let urls = seen.borrow_and_update().control_urls(gossip.cluster_id().as_deref());
        control.hear_of(&urls);
        tokio::select! {
            () = shutdown.cancelled() => return,
            changed = seen.changed() => if changed.is_err() { return },
            changed = held.changed() => if changed.is_err() { return },
        }
    }
}
