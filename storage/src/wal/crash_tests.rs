//! Whatever is asked of a log, and whenever the power fails: what is found afterwards is what some prefix of the
//! requests made, and that prefix has all that were acknowledged.

use std::collections::BTreeMap;
use std::pin::Pin;

use futures::FutureExt;
use proptest::prelude::*;

use super::tests::small;
use super::*;
use crate::disk::SimDisk;

#[derive(Clone, Debug)]
enum Step {
    Append { count: u64, bytes: usize },
    Truncate { back: u64 },
    Purge { keep: u64 },
    Reset { ahead: u64 },
    Commit { back: u64 },
    Yield { times: u8 },
    Settle,
    Close,
    Kill,
    Crash { seed: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (1..5_u64, 0..3_000_usize).prop_map(|(count, bytes)| Step::Append { count, bytes }),
        2 => (0..8_u64).prop_map(|back| Step::Truncate { back }),
        2 => (0..8_u64).prop_map(|keep| Step::Purge { keep }),
        1 => (0..20_u64).prop_map(|ahead| Step::Reset { ahead }),
        2 => (0..4_u64).prop_map(|back| Step::Commit { back }),
        8 => (0..6_u8).prop_map(|times| Step::Yield { times }),
        2 => Just(Step::Settle),
        1 => Just(Step::Close),
        1 => Just(Step::Kill),
        4 => any::<u64>().prop_map(|seed| Step::Crash { seed }),
    ]
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    entries: BTreeMap<u64, Bytes>,
    next: u64,
    purged: Option<u64>,
}

struct Run {
    disk: SimDisk,
    wal: Wal,
    /// After each request, in the order of asking.
    states: Vec<Model>,
    /// How many requests were acknowledged.
    acked: Arc<Mutex<usize>>,
    pending: Vec<Pin<Box<dyn Future<Output = ()>>>>,
    committed: u64,
    drawn: u64,
}

fn meta(upto: u64) -> Bytes {
    Bytes::from(format!("meta {upto}"))
}

impl Run {
    async fn new() -> Self {
        let disk = SimDisk::new();
        let wal = Wal::open(Arc::new(disk.clone()), small()).await.unwrap();
        let states = vec![Model::default()];
        Self { disk, wal, states, acked: Arc::default(), pending: Vec::new(), committed: 0, drawn: 0 }
    }

    fn now(&self) -> Model {
        self.states.last().unwrap().clone()
    }

    fn asked(&mut self, state: Model) -> impl FnOnce() + Send + 'static {
        let (at, acked) = (self.states.len(), Arc::clone(&self.acked));
        self.states.push(state);
        move || {
            let mut acked = acked.lock().unwrap();
            *acked = at.max(*acked);
        }
    }

    async fn step(&mut self, step: Step) {
        let mut state = self.now();
        let purged = state.purged.map_or(0, |p| p + 1);
        match step {
            Step::Append { count, bytes } => {
                let first = state.next;
                let mut records = Vec::new();
                for index in first..first + count {
                    self.drawn += 1;
                    let record = Bytes::from(format!("{index}:{} ", self.drawn).repeat(bytes / 8));
                    state.entries.insert(index, record.clone());
                    records.push(record);
                }
                state.next += count;
                let ack = self.asked(state);
                let done = Box::new(move |outcome: Result<(), WalError>| {
                    if outcome.is_ok() {
                        ack();
                    }
                });
                self.wal.append(first, records, done).now_or_never().unwrap().unwrap();
            }
            Step::Truncate { back } => {
                let next =
                    state.next.saturating_sub(back).max(self.committed + 1).max(purged).min(state.next);
                state.entries.split_off(&next);
                state.next = next;
                let wal = self.wal.clone();
                self.change(state, async move { wal.truncate_after(next.checked_sub(1)).await });
            }
            Step::Purge { keep } => {
                let Some(upto) = state.next.checked_sub(keep + 1).filter(|upto| *upto >= purged) else {
                    return;
                };
                state.entries = state.entries.split_off(&(upto + 1));
                state.purged = Some(upto);
                let wal = self.wal.clone();
                self.change(state, async move { wal.purge(upto, meta(upto)).await });
            }
            Step::Reset { ahead } => {
                let upto = state.next + ahead;
                state = Model { entries: BTreeMap::new(), next: upto + 1, purged: Some(upto) };
                let wal = self.wal.clone();
                self.change(state, async move { wal.reset_to(upto, meta(upto)).await });
            }
            Step::Commit { back } => {
                let Some(index) = state.next.checked_sub(1 + back) else { return };
                self.committed = self.committed.max(index);
                self.wal.save_committed(self.committed, meta(self.committed));
            }
            Step::Yield { times } => {
                for _ in 0..times {
                    tokio::task::yield_now().await;
                }
            }
            Step::Settle => self.settle().await,
            Step::Close => {
                self.wal.close().await.unwrap();
                self.settle().await;
                assert_eq!(*self.acked.lock().unwrap(), self.states.len() - 1);
                self.reopen(self.disk.kill()).await;
            }
            Step::Kill => self.reopen(self.disk.kill()).await,
            Step::Crash { seed } => self.reopen(self.disk.crash(seed)).await,
        }
    }

    fn change(&mut self, state: Model, asking: impl Future<Output = Result<(), WalError>> + 'static) {
        let ack = self.asked(state);
        let mut asking = Box::pin(async move {
            asking.await.unwrap();
            ack();
        });
        // The first poll asks, so that requests are in order.
        if asking.as_mut().now_or_never().is_none() {
            self.pending.push(asking);
        }
    }

    async fn settle(&mut self) {
        for pending in self.pending.drain(..) {
            pending.await;
        }
        if let Some(last) = self.wal.last_index() {
            self.wal.wait_durable(last).await.unwrap();
        }
    }

    async fn reopen(&mut self, disk: SimDisk) {
        self.pending.clear();
        let floor = self.wal.durable_index().map(|durable| durable.min(self.committed));
        let wal = Wal::open(Arc::new(disk.clone()), WalOptions { floor, ..small() }).await.unwrap();
        let acked = *self.acked.lock().unwrap();
        let entries: BTreeMap<_, _> = wal.read(0..u64::MAX, u64::MAX).await.unwrap().into_iter().collect();
        let purged = wal.purged().map(|(upto, found)| {
            assert_eq!(found, meta(upto));
            upto
        });
        let possible = &self.states[acked..];
        let found = possible.iter().find(|s| (&s.entries, s.purged) == (&entries, purged));
        let indices: Vec<_> = entries.keys().collect();
        let found =
            found.unwrap_or_else(|| panic!("lost or invented: {indices:?} purged {purged:?}")).clone();
        // Raft never truncates what it knows to be committed, and knows no more than it has.
        self.committed = wal.committed().map_or(0, |c| c.0).max(floor.unwrap_or(0));
        self.acked = Arc::default();
        self.states = vec![found];
        (self.disk, self.wal) = (disk, wal);
    }
}

proptest! {
    #[test]
    fn no_acknowledged_request_is_lost_whenever_the_power_fails(
        steps in proptest::collection::vec(step(), 1..60),
        seed in any::<u64>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let mut run = Run::new().await;
            for step in steps {
                run.step(step).await;
            }
            run.step(Step::Crash { seed }).await;
        });
    }
}
