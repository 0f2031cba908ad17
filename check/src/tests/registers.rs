//! The checkers of registers against histories of a real register, and against brute force.
//!
//! A history is made from a sequence of operations that took effect one after the other, each called some time before that and
//! returned some time after. So it is linearizable, whatever overlaps.

use proptest::prelude::*;
use ruvector_cluster_client::ids::{Epoch, NodeId, Position, Revision, ShardId};

use super::super::history::{
    Consistency, DataAct, DataOp, DataRead, DataWriteOutcome, MetadataAct, MetadataOp, MetadataRead, Span,
    WriteOutcome,
};
use super::super::zones::Register;
use super::super::{data, linearizable, wgl};
use super::{assert_broken, assert_kept};

#[derive(Clone, Copy, Debug)]
enum Kind {
    Write,
    /// Its first request took effect and was not answered; a repetition was.
    Repeated,
    /// Took effect, was not answered.
    UnknownDone,
    UnknownLost,
    Refused,
    Read,
    /// Of the state before the last few effects.
    Stale(usize),
    /// Another change of the row.
    RowChange,
}

/// What happens, to which of two keys, and how long before and after its effect it was called and returned.
type Planned = (Kind, bool, u64, u64);

fn planned(stale: bool) -> impl Strategy<Value = Planned> {
    let kind = prop_oneof![
        4 => Just(Kind::Write),
        1 => Just(Kind::Repeated),
        1 => Just(Kind::UnknownDone),
        1 => Just(Kind::UnknownLost),
        1 => Just(Kind::Refused),
        6 => Just(Kind::Read),
        u32::from(stale) => (0_usize..4).prop_map(Kind::Stale),
        1 => Just(Kind::RowChange),
    ];
    (kind, any::<bool>(), 1_u64..5_000, 1_u64..5_000)
}

/// The state of both keys: value, revision of the row; and the state's revision.
#[derive(Clone, Default)]
struct State {
    rows: [(Option<String>, u64); 2],
    revision: u64,
}

impl State {
    fn change(&mut self, key: usize, value: Option<String>) -> u64 {
        self.revision += 1;
        let row = &mut self.rows[key];
        *row = (value.or_else(|| row.0.clone()), self.revision);
        self.revision
    }

    fn read(&self, key: usize, consistency: Consistency) -> MetadataAct {
        let (value, row_revision) = self.rows[key].clone();
        let (row_revision, cluster_revision) = (Revision(row_revision), Revision(self.revision));
        let answer = Some(MetadataRead { value, row_revision, cluster_revision });
        MetadataAct::Read { consistency, answer }
    }
}

fn history(plan: &[Planned]) -> Vec<MetadataOp> {
    let mut states = vec![State::default()];
    let mut ops = Vec::new();
    for (at, (kind, second, before, after)) in plan.iter().enumerate() {
        let (key, effect) = (usize::from(*second), 10_000 + 1_000 * at as u64);
        let mut state = states.last().unwrap().clone();
        let span = Span::new(effect - before, effect + after);
        let value = format!("v{at}");
        let mut record = |span, act| {
            let key = if *second { "b" } else { "a" };
            ops.push(MetadataOp { process: at as u32, span, key: String::from(key), act });
        };
        let write = |idempotency, outcome| MetadataAct::Write {
            value: value.clone(),
            if_match: None,
            idempotency,
            outcome,
        };
        match kind {
            Kind::Write => {
                let revision = Revision(state.change(key, Some(value.clone())));
                record(span, write(None, WriteOutcome::Acknowledged { revision }));
            }
            Kind::Repeated => {
                let revision = Revision(state.change(key, Some(value.clone())));
                record(span, write(Some(value.clone()), WriteOutcome::Unknown));
                let again = Span::new(effect - before / 2, effect + 2 * after);
                record(again, write(Some(value.clone()), WriteOutcome::Acknowledged { revision }));
            }
            Kind::UnknownDone => {
                state.change(key, Some(value.clone()));
                // It was given up before it took effect.
                let span = Span::new(effect - 2 * before.min(&4_000), effect - before.min(&4_000));
                record(span, write(None, WriteOutcome::Unknown));
            }
            Kind::UnknownLost => record(span, write(None, WriteOutcome::Unknown)),
            Kind::Refused => {
                record(span, write(None, WriteOutcome::Refused { code: String::from("invalid") }));
            }
            Kind::Read => record(span, state.read(key, Consistency::Linearizable)),
            Kind::Stale(back) => {
                let old = &states[states.len().saturating_sub(1 + back)];
                record(span, old.read(key, Consistency::Stale));
            }
            Kind::RowChange => {
                state.change(key, None);
            }
        }
        states.push(state);
    }
    number_events(&mut ops);
    ops
}

/// Event numbers in place of times, of which several may be equal.
fn number_events(ops: &mut [MetadataOp]) {
    let calls = ops.iter().enumerate().map(|(at, op)| (op.span.call, at, true));
    let returns = ops.iter().enumerate().map(|(at, op)| (op.span.returned, at, false));
    let mut times: Vec<_> = calls.chain(returns).collect();
    times.sort_unstable();
    for (number, (_, at, is_call)) in (1..).zip(times) {
        let span = &mut ops[at].span;
        *(if is_call { &mut span.call } else { &mut span.returned }) = number;
    }
}

/// An operation as brute force sees it. Its return is `u64::MAX` if it may be left out.
#[derive(Clone, Debug)]
struct Plain {
    call: u64,
    returned: u64,
    written: Option<String>,
    read: Option<String>,
}

/// The operations on one key. Repetitions don't occur in what is given here.
fn plain(ops: &[MetadataOp], key: &str) -> Vec<Plain> {
    let of_key = ops.iter().filter(|op| op.key == key);
    let plain = of_key.filter_map(|op| {
        let (call, returned) = (op.span.call, op.span.returned);
        match &op.act {
            MetadataAct::Write { value, outcome, .. } => {
                let returned = match outcome {
                    WriteOutcome::Acknowledged { .. } => returned,
                    WriteOutcome::Unknown => u64::MAX,
                    WriteOutcome::Refused { .. } | WriteOutcome::NotDone => return None,
                };
                Some(Plain { call, returned, written: Some(value.clone()), read: None })
            }
            MetadataAct::Read { consistency: Consistency::Linearizable, answer: Some(answer) } => {
                Some(Plain { call, returned, written: None, read: answer.value.clone() })
            }
            MetadataAct::Read { .. } => None,
        }
    });
    plain.collect()
}

/// Tries every order of every choice of the operations that may be left out, and looks at each as a whole.
fn some_order_explains(ops: &[Plain]) -> bool {
    (0_u32..1 << ops.len()).any(|chosen| {
        let is_in = |at: usize| chosen & (1 << at) != 0;
        let complete = (0..ops.len()).all(|at| is_in(at) || ops[at].returned == u64::MAX);
        let chosen: Vec<&Plain> = (0..ops.len()).filter(|at| is_in(*at)).map(|at| &ops[at]).collect();
        complete && permutations(chosen.len()).iter().any(|order| explains(&chosen, order))
    })
}

fn explains(ops: &[&Plain], order: &[usize]) -> bool {
    for (at, first) in order.iter().enumerate() {
        if order[at..].iter().any(|later| ops[*later].returned < ops[*first].call) {
            return false;
        }
    }
    let mut value = None;
    order.iter().all(|at| match &ops[*at].written {
        Some(written) => {
            value = Some(written.clone());
            true
        }
        None => ops[*at].read == value,
    })
}

fn permutations(of: usize) -> Vec<Vec<usize>> {
    let mut all = vec![Vec::new()];
    for next in 0..of {
        let longer = all.iter().flat_map(|shorter: &Vec<usize>| {
            (0..=shorter.len()).map(move |at| {
                let mut longer = shorter.clone();
                longer.insert(at, next);
                longer
            })
        });
        all = longer.collect();
    }
    all
}

/// Whether the zones of a key's operations agree.
fn zones_agree(ops: &[Plain]) -> bool {
    let mut register = Register::default();
    for op in ops {
        match &op.written {
            Some(value) => {
                register.write(value, op.call, (op.returned != u64::MAX).then_some(op.returned));
            }
            None => register.read(op.read.as_deref(), Span::new(op.call, op.returned)),
        }
    }
    register.conflicts().is_empty()
}

fn searched(ops: &[MetadataOp]) -> bool {
    wgl::check_metadata(ops, wgl::Bounds::default()).is_empty()
}

/// The same as operations on data: the first revision of each value is its position.
fn as_data(ops: &[MetadataOp]) -> Vec<DataOp> {
    let by = NodeId::new("d1").unwrap();
    let at = |revision: Revision| Position { epoch: Epoch(1), n: revision.0 };
    let of = |op: &MetadataOp| {
        let act = match &op.act {
            MetadataAct::Write { value, outcome, .. } => {
                let outcome = match outcome {
                    WriteOutcome::Acknowledged { revision } => {
                        DataWriteOutcome::Acknowledged { by: by.clone(), position: at(*revision) }
                    }
                    WriteOutcome::Unknown => DataWriteOutcome::Unknown,
                    WriteOutcome::Refused { .. } | WriteOutcome::NotDone => DataWriteOutcome::NotDone,
                };
                DataAct::Write { value: value.clone(), outcome }
            }
            MetadataAct::Read { answer, .. } => DataAct::Read(answer.as_ref().map(|answer| DataRead {
                by: by.clone(),
                epoch: Epoch(1),
                value: answer.value.clone(),
                position: None,
            })),
        };
        DataOp { process: op.process, span: op.span, shard: ShardId(0), key: op.key.clone(), act }
    };
    ops.iter().map(of).collect()
}

fn is_repeated((kind, ..): &Planned) -> bool {
    matches!(kind, Kind::Repeated)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn histories_of_a_real_register_are_accepted(plan in prop::collection::vec(planned(true), 0..120)) {
        let ops = history(&plan);
        assert_kept(&linearizable::check(&ops));
        assert_kept(&wgl::check_metadata(&ops, wgl::Bounds::default()));
    }

    #[test]
    fn data_histories_of_a_real_register_are_accepted(plan in prop::collection::vec(planned(false), 0..120)) {
        let plan: Vec<_> = plan.into_iter().filter(|planned| !is_repeated(planned)).collect();
        let ops = as_data(&history(&plan));
        assert_kept(&data::check(&ops));
        assert_kept(&wgl::check_data(&ops, wgl::Bounds::default()));
    }

    /// Whether a read's value was exchanged to good effect is for brute force to say. Revisions may tell more.
    #[test]
    fn a_corrupted_read_is_judged_as_by_brute_force(
        plan in prop::collection::vec(planned(false), 2..7),
        which in any::<prop::sample::Index>(),
        other in any::<prop::sample::Index>(),
    ) {
        let plan: Vec<_> = plan.into_iter().filter(|planned| !is_repeated(planned)).collect();
        let mut ops = history(&plan);
        let mut values: Vec<Option<String>> = vec![None, Some(String::from("never written"))];
        values.extend(ops.iter().filter_map(|op| match &op.act {
            MetadataAct::Write { value, .. } => Some(Some(value.clone())),
            MetadataAct::Read { .. } => None,
        }));
        let mut reads: Vec<&mut MetadataRead> = ops.iter_mut().filter_map(|op| match &mut op.act {
            MetadataAct::Read { answer, .. } => answer.as_mut(),
            MetadataAct::Write { .. } => None,
        }).collect();
        prop_assume!(!reads.is_empty());
        let at = which.index(reads.len());
        reads[at].value = values[other.index(values.len())].clone();
        let keys = [plain(&ops, "a"), plain(&ops, "b")];
        let right = keys.iter().all(|ops| some_order_explains(ops));
        prop_assert_eq!(searched(&ops), right, "{:#?}", ops);
        prop_assert_eq!(keys.iter().all(|ops| zones_agree(ops)), right, "{:#?}", ops);
        prop_assert!(right || !linearizable::check(&ops).is_empty(), "{:#?}", ops);
        let data = as_data(&ops);
        prop_assert_eq!(wgl::check_data(&data, wgl::Bounds::default()).is_empty(), right, "{:#?}", data);
        prop_assert!(right || !data::check(&data).is_empty(), "{:#?}", data);
    }

    /// Reads of anything at all, at any time: far more of these are wrong in ways that one exchange can't bring about.
    #[test]
    fn arbitrary_histories_are_judged_as_by_brute_force(
        spans in prop::collection::vec((0_u64..12, 1_u64..8, 0_usize..4, any::<prop::sample::Index>()), 1..7),
    ) {
        let mut ops = Vec::new();
        for (at, (call, length, kind, other)) in spans.iter().enumerate() {
            let span = Span::new(*call, call + length);
            let value = other.index(spans.len() + 1).checked_sub(1).map(|of| format!("v{of}"));
            let (row_revision, cluster_revision) = (Revision(0), Revision(0));
            let act = match kind {
                0 => MetadataAct::Write {
                    value: format!("v{at}"),
                    if_match: None,
                    idempotency: None,
                    outcome: WriteOutcome::Unknown,
                },
                1 => MetadataAct::Write {
                    value: format!("v{at}"),
                    if_match: None,
                    idempotency: None,
                    outcome: WriteOutcome::Acknowledged { revision: Revision(0) },
                },
                _ => MetadataAct::Read {
                    consistency: Consistency::Linearizable,
                    answer: Some(MetadataRead { value, row_revision, cluster_revision }),
                },
            };
            ops.push(MetadataOp { process: at as u32, span, key: String::from("a"), act });
        }
        number_events(&mut ops);
        let register = plain(&ops, "a");
        let right = some_order_explains(&register);
        prop_assert_eq!(searched(&ops), right, "{:#?}", ops);
        prop_assert_eq!(zones_agree(&register), right, "{:#?}", ops);
    }
}

fn unread_writes(count: u64) -> Vec<MetadataOp> {
    // All overlap, each is read by nobody, and a read of what was never written can't be explained.
    let mut ops: Vec<MetadataOp> = (1..=count)
        .map(|at| MetadataOp {
            process: at as u32,
            span: Span::new(at, 1_000 + at),
            key: String::from("a"),
            act: MetadataAct::Write {
                value: format!("v{at}"),
                if_match: None,
                idempotency: None,
                outcome: WriteOutcome::Acknowledged { revision: Revision(at) },
            },
        })
        .collect();
    let state = State { rows: [(Some(String::from("never")), 1), (None, 0)], revision: count };
    let act = state.read(0, Consistency::Linearizable);
    ops.push(MetadataOp { process: 0, span: Span::new(3_000, 3_001), key: String::from("a"), act });
    ops
}

#[test]
fn a_register_that_is_too_large_is_no_success() {
    let bounds = wgl::Bounds { ops: 100, steps: 1_000 };
    assert_broken(&wgl::check_metadata(&unread_writes(4), bounds), &[wgl::NOT_LINEARIZABLE]);
    assert_broken(&wgl::check_metadata(&unread_writes(20), bounds), &[wgl::TOO_LARGE]);
    let few = wgl::Bounds { ops: 4, ..bounds };
    assert_broken(&wgl::check_metadata(&unread_writes(4), few), &[wgl::TOO_LARGE]);
}

/// Ten thousand operations on one register by five clients, as long as the bounds allow.
#[test]
fn a_long_history_is_judged_within_the_bounds() {
    let kinds = [Kind::Write, Kind::Read, Kind::UnknownDone, Kind::Read, Kind::Read, Kind::UnknownLost];
    let spread = |at: usize, by: u64| 1 + (at as u64 * by) % 2_500;
    let plan: Vec<Planned> =
        (0..10_000).map(|at| (kinds[at % 6], false, spread(at, 7_919), spread(at, 104_729))).collect();
    let mut ops = history(&plan);
    assert_kept(&linearizable::check(&ops));
    assert_kept(&wgl::check_metadata(&ops, wgl::Bounds::default()));
    let lost = ops.iter().position(|op| matches!(op.act, MetadataAct::Write { .. })).unwrap();
    let act = MetadataAct::Read {
        consistency: Consistency::Linearizable,
        answer: Some(MetadataRead {
            value: Some(String::from("v0")),
            row_revision: Revision(1),
            cluster_revision: Revision(1),
        }),
    };
    let late = Span::new(1_000_000, 1_000_001);
    ops.push(MetadataOp { process: 0, span: late, key: ops[lost].key.clone(), act });
    assert_broken(&linearizable::check(&ops), &[linearizable::STALE]);
    assert_broken(&wgl::check_metadata(&ops, wgl::Bounds::default()), &[wgl::NOT_LINEARIZABLE]);
}
