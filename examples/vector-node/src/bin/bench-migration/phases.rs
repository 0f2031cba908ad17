//! When each phase of each migration was entered, as the control nodes' watch tells it, by the clock of this process: some
//! milliseconds after it was committed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use ruvector_cluster_client::control::{Call, ControlClient};
use ruvector_cluster_client::ids::{MigrationId, Revision};
use ruvector_cluster_client::watch::EventReader;
use ruvector_cluster_client::wire::{Phase, WatchChange, WatchEvent};
use tokio_util::task::AbortOnDropHandle;

use crate::record::{Micros, Records};

/// Before a stream that broke off is opened again.
const PAUSE: Duration = Duration::from_millis(20);

/// A phase that was entered.
#[derive(Clone, Debug)]
pub(crate) struct Entered {
    /// Which.
    pub(crate) phase: Phase,
    /// When that was heard.
    pub(crate) heard: Micros,
}

type Seen = BTreeMap<MigrationId, Vec<Entered>>;

/// Follows the watch until it is dropped.
pub(crate) struct PhaseWatch {
    seen: Arc<Mutex<Seen>>,
    _task: AbortOnDropHandle<()>,
}

impl PhaseWatch {
    /// From now on.
    pub(crate) fn start(control: ControlClient, records: Records) -> Self {
        let seen: Arc<Mutex<Seen>> = Arc::default();
        let task = tokio::spawn(follow(control, records, seen.clone()));
        Self { seen, _task: AbortOnDropHandle::new(task) }
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        lock(&self.seen)
    }

    /// The phases of a migration that has ended, in order, once its end was heard.
    pub(crate) async fn of(&self, migration: MigrationId) -> Vec<Entered> {
        // The stream resumes without a gap, so the end is always heard; the bound is for a watch that can't be opened any more.
        for _ in 0..500 {
            if let Some(entered) = self.lock().get(&migration)
                && entered.last().is_some_and(|last| last.phase.is_ended())
            {
                return entered.clone();
            }
            tokio::time::sleep(PAUSE).await;
        }
        self.lock().get(&migration).cloned().unwrap_or_default()
    }
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn follow(control: ControlClient, records: Records, seen: Arc<Mutex<Seen>>) {
    let mut from = Revision(0);
    for turn in 0_usize.. {
        let call = Call::get("/v1/watch").at(turn);
        let call = if from > Revision(0) { call.query("from", from) } else { call };
        if let Ok(mut answer) = control.open_stream(&call).await {
            let mut reader = EventReader::default();
            while let Some(Ok(chunk)) = answer.body.next().await {
                let heard = records.now();
                for event in reader.push(&chunk).unwrap_or_default() {
                    if event.name == "change"
                        && let Ok(event) = serde_json::from_str::<WatchEvent>(&event.data)
                    {
                        from = event.revision;
                        note(&mut lock(&seen), event, heard);
                    }
                }
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn note(seen: &mut Seen, event: WatchEvent, heard: Micros) {
    for change in event.changes {
        if let WatchChange::Migration(row) = change {
            let entered = seen.entry(row.id).or_default();
            if entered.last().is_none_or(|last| last.phase != row.phase) {
                entered.push(Entered { phase: row.phase, heard });
            }
        }
    }
}
