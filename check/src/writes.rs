//! Metadata writes with their repetitions folded together: what each one of them did, as its clients know it.

use std::collections::BTreeMap;

use ruvector_cluster_client::ids::Revision;

use super::Violation;
use super::history::{Event, MetadataAct, MetadataOp, WriteOutcome};

/// Repetitions under one key got different answers.
pub const REPEAT_DIFFERS: &str = "a repeated request gets the answer that it had";
/// The history breaks its own rules.
pub const MALFORMED: &str = "a value names its write";

/// Whether a write took effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Done,
    Maybe,
    Never,
}

/// A write and all its repetitions.
#[derive(Clone, Debug)]
pub(super) struct Write<'a> {
    pub(super) key: &'a str,
    pub(super) value: &'a str,
    pub(super) if_match: Option<Revision>,
    /// Its first request's.
    pub(super) call: Event,
    /// Of its first acknowledgement; without one it may take effect at any time.
    pub(super) returned: Event,
    pub(super) fate: Fate,
    pub(super) revision: Option<Revision>,
    refusal: Option<&'a str>,
}

/// The writes of a history, in no order.
pub(super) fn writes<'a>(ops: &'a [MetadataOp], found: &mut Vec<Violation>) -> Vec<Write<'a>> {
    let mut all: Vec<Write<'a>> = Vec::new();
    let mut repeated: BTreeMap<&str, usize> = BTreeMap::new();
    let mut by_value: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for op in ops {
        let MetadataAct::Write { value, if_match, idempotency, outcome } = &op.act else { continue };
        let known = idempotency.as_deref().and_then(|key| repeated.get(key).copied());
        let at = known.unwrap_or(all.len());
        if known.is_none() {
            all.push(Write {
                key: &op.key,
                value,
                if_match: *if_match,
                call: op.span.call,
                returned: Event::MAX,
                fate: Fate::Never,
                revision: None,
                refusal: None,
            });
        }
        let write = &mut all[at];
        if (write.key, write.value, write.if_match) != (&op.key, value, *if_match) {
            found.push(Violation::new(MALFORMED, format!("one idempotency key, two bodies: {op:?}")));
        }
        if *by_value.entry((&op.key, value)).or_insert(at) != at {
            found.push(Violation::new(MALFORMED, format!("another write has this value: {op:?}")));
        }
        if let Some(key) = idempotency {
            repeated.insert(key, at);
        }
        write.call = write.call.min(op.span.call);
        fold(write, op, outcome, found);
    }
    all
}

fn fold<'a>(write: &mut Write<'a>, op: &MetadataOp, outcome: &'a WriteOutcome, found: &mut Vec<Violation>) {
    let differs = |before: String| Violation::new(REPEAT_DIFFERS, format!("{before} before, and now {op:?}"));
    match outcome {
        WriteOutcome::Acknowledged { revision } => {
            if let Some(code) = write.refusal {
                found.push(differs(format!("refused with {code}")));
            }
            if let Some(before) = write.revision.filter(|before| before != revision) {
                found.push(differs(format!("revision {before}")));
            }
            write.fate = Fate::Done;
            write.revision.get_or_insert(*revision);
            write.returned = write.returned.min(op.span.returned);
        }
        WriteOutcome::Refused { code } => {
            if let Some(before) = write.revision {
                found.push(differs(format!("revision {before}")));
            }
            if let Some(before) = write.refusal.filter(|before| before != code) {
                found.push(differs(format!("refused with {before}")));
            }
            write.refusal = Some(code);
            if write.fate == Fate::Maybe {
                write.fate = Fate::Never;
            }
        }
        WriteOutcome::Unknown if write.fate == Fate::Never && write.refusal.is_none() => {
            write.fate = Fate::Maybe;
        }
        WriteOutcome::Unknown | WriteOutcome::NotDone => {}
    }
}
