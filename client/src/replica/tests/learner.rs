//! A learner copy that is to be filled, by itself.

use super::world::*;
use super::*;

/// A learner copy that is to be filled, alone with its store; effects other than the store's come back.
pub(super) struct Learner {
    pub(super) replica: Replica,
    store: memory::MemoryStore,
    pub(super) coordinator: coordinator::Coordinator,
}

impl Learner {
    pub(super) fn new() -> Self {
        let mut coordinator = coordinator::Coordinator::new(&[node("n1"), node("n2"), node("n3")], 2);
        coordinator.founding = false;
        coordinator.migrate(MigrationKind::Add, &node("n3"), None);
        let replica = Replica::new(node("n3"), ShardId(0), Limits::default(), None);
        let mut learner = Self { replica, store: memory::MemoryStore::default(), coordinator };
        learner.assign(Phase::Preparing);
        learner
    }

    pub(super) fn assign(&mut self, phase: Phase) -> Vec<Effect> {
        self.coordinator.migration.as_mut().unwrap().phase = phase;
        let assignment = self.coordinator.assignment(&node("n3")).unwrap();
        self.step(Event::Assigned(Box::new(assignment)))
    }

    pub(super) fn step(&mut self, event: Event) -> Vec<Effect> {
        let mut todo = self.replica.step(1, event);
        let mut others = Vec::new();
        while !todo.is_empty() {
            match todo.remove(0) {
                Effect::Store { op, action } => {
                    let result = self.store.carry_out(&action).unwrap();
                    todo.extend(self.replica.step(1, Event::Stored { op, result }));
                }
                other => others.push(other),
            }
        }
        others
    }

    pub(super) fn ask(&mut self, request: Request) -> Vec<Effect> {
        self.step(Event::Request { ticket: Ticket(1), from: node("n1"), request })
    }

    pub(super) fn open(&mut self) -> CallId {
        self.ask(Request::Open { epoch: Epoch(1), base: position(0, 0) });
        let asked = self.assign(Phase::Copying);
        let call = asked.iter().find_map(|effect| match effect {
            Effect::Send { call, .. } => Some(*call),
            _ => None,
        });
        call.expect("the first chunk is asked for")
    }

    pub(super) fn forward(&mut self, n: u64, key: &str) -> Vec<Effect> {
        let prev = if n == 1 { position(0, 0) } else { position(1, n - 1) };
        let write = wire::Write { position: position(1, n), key: key.into(), value: Some(Value::from("v")) };
        self.ask(Request::forward(Epoch(1), prev, vec![write]))
    }

    /// The source has these, after what it was asked for.
    pub(super) fn answer(&mut self, call: CallId, upto: Option<Key>, at: Position, writes: Vec<wire::Write>) {
        let chunk = wire::Chunk { after: None, upto, at, writes, total_bytes: None };
        let answer = Answer::Chunk { epoch: Epoch(1), chunk, same: Vec::new(), digest: None };
        self.step(Event::Answer { call, answer });
    }

    pub(super) fn is_full(&self) -> bool {
        self.store.state().unwrap().unwrap().full
    }
}

#[test]
fn a_copy_is_not_full_before_the_stream_is_past_what_its_source_had() {
    let mut learner = Learner::new();
    let call = learner.open();
    let ahead = wire::Write { position: position(1, 2), key: "k".into(), value: Some(Value::from("v")) };
    learner.answer(call, None, position(1, 2), vec![ahead]);
    assert!(!learner.is_full());
    learner.forward(1, "j");
    assert!(!learner.is_full());
    learner.forward(2, "k");
    assert!(learner.is_full());
}

#[test]
fn a_gap_in_the_forwards_ends_the_filling_and_is_reported() {
    let mut learner = Learner::new();
    let call = learner.open();
    learner.forward(1, "j");
    let effects = learner.forward(3, "l");
    let gap = Answer::Gap { epoch: Epoch(1), last: position(1, 1) };
    assert!(effects.contains(&Effect::Answer { ticket: Ticket(1), answer: gap }), "{effects:?}");
    let reported =
        |e: &Effect| matches!(e, Effect::Report { body, .. } if body.error.as_deref() == Some("gap"));
    assert!(effects.iter().any(reported), "{effects:?}");
    learner.answer(call, None, position(1, 1), Vec::new());
    assert!(!learner.is_full());
}
