//! Looks at each control node again and again: who leads which term, which state it has at which revision.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use ruvector_cluster_check::history::Seen;
use ruvector_cluster_client::wire::ClusterView;

use crate::api::{Api, Ask};
use crate::cluster::Face;
use crate::record::Recorder;
use crate::watcher::hash_of;

/// Between two looks at all.
const LOOK: Duration = Duration::from_millis(100);

/// What was counted; clones share it.
#[derive(Clone, Default)]
pub(crate) struct Looks(Arc<Mutex<Counted>>);

#[derive(Default)]
struct Counted {
    terms: BTreeSet<u64>,
    /// At a revision: the hash's first owner, and whether another one was seen there.
    states: BTreeMap<u64, (u64, bool)>,
}

impl Looks {
    /// Terms in which somebody led, but for the first.
    pub(crate) fn elections(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).terms.len().saturating_sub(1)
    }

    /// Revisions at which the states of two control nodes were compared.
    pub(crate) fn compared(&self) -> usize {
        let counted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counted.states.values().filter(|(_, twice)| *twice).count()
    }

    fn note(&self, raft_id: u64, view: &ClusterView) {
        let mut counted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if view.leader.is_some() {
            counted.terms.insert(view.term);
        }
        if view.state_hash.is_some() {
            let (first, twice) = counted.states.entry(view.revision.0).or_insert((raft_id, false));
            *twice |= *first != raft_id;
        }
    }
}

/// Looks without end.
pub(crate) async fn run(faces: Vec<Face>, api: Api, recorder: Recorder, looks: Looks) {
    // How far each run of each process was seen.
    let mut published: BTreeMap<(String, u32), u64> = BTreeMap::new();
    loop {
        tokio::time::sleep(LOOK).await;
        // All at once, so that many are seen at one revision.
        let views = join_all(faces.iter().map(|face| look(face, &api))).await;
        for (face, run, view) in views.into_iter().flatten() {
            let before = published.insert((face.name.clone(), run), view.revision.0).unwrap_or(0);
            if view.revision.0 < before {
                let detail = format!("{}: {} after {before}", face.name, view.revision);
                recorder.violation("a run's published revision never goes back", detail);
            }
            take_down(face, &view, &recorder, &looks);
        }
    }
}

/// What a control node says, with the number of its run.
async fn look<'a>(face: &'a Face, api: &Api) -> Option<(&'a Face, u32, ClusterView)> {
    let run = face.run.load(Ordering::Relaxed);
    let ask = Ask::get("/v1/cluster?consistency=stale&state_hash=true");
    let reply = api.ask(&face.addr, &ask).await.ok()?;
    let view = serde_json::from_value::<ClusterView>(reply.body).ok()?;
    (face.run.load(Ordering::Relaxed) == run).then_some((face, run, view))
}

fn take_down(face: &Face, view: &ClusterView, recorder: &Recorder, looks: &Looks) {
    let raft_id = |name: &str| {
        view.members.iter().find(|member| member.id.as_str() == name).map(|member| member.raft_id)
    };
    let Some(own) = raft_id(&face.name) else { return };
    if let Some(leader) = view.leader.as_ref().and_then(|leader| raft_id(leader.id.as_str())) {
        recorder.node(leader, Seen::Leads { term: view.term });
    }
    if let Some(hash) = &view.state_hash {
        recorder.node(own, Seen::State { index: view.revision.0, hash: hash_of(hash) });
    }
    looks.note(own, view);
}
