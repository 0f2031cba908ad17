//! A register whose written values are all different, judged as a whole without a search.
//!
//! Gibbons and Korach ("Testing shared memories", 1997): a value's *cluster* is its write and its reads. If one of these
//! returned before another was called, the value stood for certain from the first return to the last call: a forward zone.
//! Otherwise it stood at one moment at least between the last call and the first return: a backward zone. There is an
//! order that explains all answers exactly if no read returned before its write was called, no two forward zones
//! overlap, and no backward zone lies within a forward one.

use std::collections::BTreeMap;

use super::history::{Event, Span};

/// The operations on one register.
#[derive(Clone, Debug, Default)]
pub(super) struct Register<'a> {
    clusters: BTreeMap<Option<&'a str>, Cluster>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Cluster {
    written: Option<Event>,
    first_return: Option<Event>,
    last_call: Event,
    /// Whether a read returned before the call of the write is told from this.
    first_read: Option<Event>,
    /// A write that nobody read, and that may never take effect, has no zone.
    counts: bool,
}

/// A value, and from when to when.
type Zone<'a> = (Event, Event, Option<&'a str>);

impl<'a> Register<'a> {
    /// A write; without a return it takes effect at any time after its call, or never.
    pub(super) fn write(&mut self, value: &'a str, call: Event, returned: Option<Event>) {
        let cluster = self.clusters.entry(Some(value)).or_default();
        cluster.written = Some(call);
        cluster.last_call = cluster.last_call.max(call);
        cluster.first_return = earlier(cluster.first_return, returned);
        cluster.counts |= returned.is_some();
    }

    /// A read; no value is what there is before the first write.
    pub(super) fn read(&mut self, value: Option<&'a str>, span: Span) {
        let cluster = self.clusters.entry(value).or_default();
        cluster.last_call = cluster.last_call.max(span.call);
        cluster.first_return = earlier(cluster.first_return, Some(span.returned));
        cluster.first_read = earlier(cluster.first_read, Some(span.returned));
        cluster.counts = true;
        if value.is_none() {
            (cluster.written, cluster.first_return) = (Some(0), Some(0));
        }
    }

    /// What can't be explained, in words.
    pub(super) fn conflicts(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        let (mut forward, mut backward): (Vec<Zone<'_>>, Vec<Zone<'_>>) = (Vec::new(), Vec::new());
        for (value, cluster) in self.clusters.iter().filter(|(_, cluster)| cluster.counts) {
            match (cluster.written, cluster.first_read) {
                (None, _) => wrong.push(format!("{value:?} was read and never written")),
                (Some(call), Some(read)) if read < call => {
                    wrong.push(format!("{value:?} was read by {read} and written only from {call} on"));
                }
                _ => {}
            }
            let Some(first_return) = cluster.first_return else { continue };
            if first_return < cluster.last_call {
                forward.push((first_return, cluster.last_call, *value));
            } else {
                backward.push((cluster.last_call, first_return, *value));
            }
        }
        forward.sort_unstable();
        for pair in forward.windows(2) {
            if pair[0].1 > pair[1].0 {
                wrong.push(format!("{:?} and {:?} (from, to, value) stood at one time", pair[0], pair[1]));
            }
        }
        for zone in backward {
            let after = forward.partition_point(|other| other.0 < zone.0);
            let around = after.checked_sub(1).map(|at| forward[at]).filter(|other| other.1 > zone.1);
            if let Some(around) = around {
                wrong.push(format!("{zone:?} fell into {around:?} (from, to, value), and left no trace"));
            }
        }
        wrong
    }
}

fn earlier(a: Option<Event>, b: Option<Event>) -> Option<Event> {
    a.into_iter().chain(b).min()
}
