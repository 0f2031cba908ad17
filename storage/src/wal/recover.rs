//! Reading the log back: which segments count, what they hold, and what at the end is an unfinished write.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::frame::{self, FORMAT, HEAD_BYTES, Head, Unreadable};
use super::index::{Index, Place};
use super::{Record, Segment, WalError, WalOptions};
use crate::disk::{Disk, OpenMode, read_all};
use crate::error::Damage;

/// What the files say.
pub(super) struct Recovered {
    pub(super) index: Index,
    pub(super) segments: BTreeMap<u64, Segment>,
    /// The sequence number that the next frame gets.
    pub(super) sequence: u64,
    /// Where the next frame goes: segment and offset. `None` when a new segment is due.
    pub(super) end: Option<(u64, u64)>,
    /// The number for the next new segment.
    pub(super) next_number: u64,
}

/// The file of segment `number`.
pub(super) fn segment_name(number: u64) -> String {
    format!("wal-{number:016x}.log")
}

/// The number of the segment in a file of this name.
fn segment_number(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("wal-")?.strip_suffix(".log")?;
    (digits.len() == 16).then(|| u64::from_str_radix(digits, 16).ok()).flatten()
}

pub(crate) fn first_segment_name() -> String {
    segment_name(1)
}

pub(crate) fn is_segment(name: &str) -> bool {
    segment_number(name).is_some()
}

pub(super) fn failed(what: String) -> impl FnOnce(io::Error) -> WalError {
    move |source| WalError::Failed { what, source: Arc::new(source) }
}

/// Reads the log. `marked` is how many parts it had when it was last closed.
pub(super) async fn recover(
    disk: &Arc<dyn Disk>,
    options: &WalOptions,
    marked: Option<u64>,
) -> Result<Recovered, WalError> {
    let listing = failed(format!("cannot list {}", disk.describe("")));
    let mut numbers: Vec<u64> =
        disk.list().await.map_err(listing)?.iter().filter_map(|n| segment_number(n)).collect();
    numbers.sort_unstable();
    let mut replay = Replay {
        disk,
        salt: options.salt,
        known: Known { floor: options.floor, parts: marked.unwrap_or(0) },
        recovered: Recovered {
            index: Index::default(),
            segments: BTreeMap::new(),
            sequence: 0,
            end: None,
            next_number: 1,
        },
        previous_end: Default::default(),
    };
    let (leftover, live) = numbers.split_at(contiguous_from(&numbers));
    let unused = replay.unused_last(live).await?;
    check_active_is_there(disk, &numbers, live.len() - usize::from(unused))?;
    replay.recovered.next_number = numbers.last().map_or(1, |last| last + u64::from(!unused));
    for (at, number) in live[..live.len() - usize::from(unused)].iter().enumerate() {
        let last = at + 1 + usize::from(unused) == live.len();
        replay.segment(*number, at == 0, last).await?;
    }
    let (mut recovered, known) = (replay.recovered, replay.known);
    if let Some(missing) = recovered.index.first_missing() {
        let first = live.first().copied().unwrap_or(1);
        let file = disk.describe(&segment_name(first.saturating_sub(1)));
        return Err(Damage::new(file, 0, format!("the file with log entry {missing} is missing")).into());
    }
    known.check(disk, &recovered)?;
    // Only now is it certain that the older files beyond a gap are not needed: their removal was under way.
    let stale = leftover.iter().chain(live.last().filter(|_| unused));
    for number in stale {
        let name = segment_name(*number);
        disk.remove(&name).await.map_err(failed(format!("cannot remove {}", disk.describe(&name))))?;
    }
    recovered.index.durable();
    Ok(recovered)
}

/// Where the last run of contiguous numbers begins.
fn contiguous_from(numbers: &[u64]) -> usize {
    let mut from = numbers.len().saturating_sub(1);
    while from > 0 && numbers[from - 1] + 1 == numbers[from] {
        from -= 1;
    }
    from
}

/// A segment is allocated only once the one before is in use, and that one stays until another is: an unused last segment
/// without its predecessor says that the newest part of the log was taken away.
fn check_active_is_there(disk: &Arc<dyn Disk>, numbers: &[u64], in_use: usize) -> Result<(), WalError> {
    match numbers.last() {
        Some(last) if in_use == 0 && *last > 1 => {
            let file = disk.describe(&segment_name(last - 1));
            Err(Damage::new(file, 0, "the file with the end of the log is missing").into())
        }
        _ => Ok(()),
    }
}

/// What the log must hold, by what is known from elsewhere.
struct Known {
    /// An index that was committed or applied.
    floor: Option<u64>,
    /// Parts that were on disk when the log was last closed.
    parts: u64,
}

impl Known {
    fn check(&self, disk: &Arc<dyn Disk>, recovered: &Recovered) -> Result<(), WalError> {
        let extent = &recovered.index.extent;
        let (number, offset) = recovered.end.unwrap_or((recovered.next_number.saturating_sub(1).max(1), 0));
        let refuse = |why: String| Err(Damage::new(disk.describe(&segment_name(number)), offset, why).into());
        let floor = self.floor.max(extent.committed.as_ref().map(|c| c.0));
        if let Some(floor) = floor
            && extent.end().is_none_or(|end| end < floor)
        {
            let ends = extent.end().map_or("is empty".to_owned(), |end| format!("ends at entry {end}"));
            return refuse(format!("the log {ends}, but entry {floor} was committed"));
        }
        if recovered.sequence < self.parts {
            let lost = self.parts - recovered.sequence;
            return refuse(format!("the last {lost} parts that the log had when it was closed are missing"));
        }
        Ok(())
    }
}

struct Replay<'a> {
    disk: &'a Arc<dyn Disk>,
    salt: u64,
    known: Known,
    recovered: Recovered,
    /// The segment before, and where it ends.
    previous_end: (String, u64),
}

impl Replay<'_> {
    async fn load(&self, number: u64) -> Result<(Segment, Bytes), WalError> {
        let name = segment_name(number);
        let path = self.disk.describe(&name);
        let what = format!("cannot read {path}");
        let file = self.disk.open(&name, OpenMode::Existing).await.map_err(failed(what.clone()))?;
        let bytes = read_all(file.as_ref()).await.map_err(failed(what))?;
        Ok((Segment { name: path, file, max_index: None }, bytes))
    }

    /// Whether the last segment was prepared but never came into use: its head was not completely written.
    async fn unused_last(&self, live: &[u64]) -> Result<bool, WalError> {
        let Some(number) = live.last() else { return Ok(false) };
        let (segment, bytes) = self.load(*number).await?;
        if frame::decode_head(&bytes, self.salt, *number) != Head::Unreadable
            && frame::check_frame(&bytes[HEAD_BYTES..], self.salt).is_some()
        {
            return Ok(false);
        }
        match frame::decode_head(&bytes, self.salt, *number) {
            Head::Newer(_) | Head::Foreign => return Ok(false),
            Head::Ours | Head::Unreadable => {}
        }
        match frame::find_frame(&bytes, 0, self.salt) {
            None => Ok(true),
            Some(at) => {
                let why = format!("the segment's head is unreadable, but a later part at byte {at} is whole");
                Err(Damage::new(&segment.name, 0, why).into())
            }
        }
    }

    async fn segment(&mut self, number: u64, first: bool, last: bool) -> Result<(), WalError> {
        let (mut segment, bytes) = self.load(number).await?;
        match frame::decode_head(&bytes, self.salt, number) {
            Head::Ours => {}
            Head::Newer(found) => {
                return Err(WalError::Newer { file: segment.name, offset: 7, found, supported: FORMAT });
            }
            Head::Foreign => {
                let why = "it is a log segment of another directory, or was renamed";
                return Err(Damage::new(&segment.name, 8, why).into());
            }
            Head::Unreadable => {
                return Err(Damage::new(&segment.name, 0, "the segment's head is unreadable").into());
            }
        }
        let (mut offset, mut last_frame) = (HEAD_BYTES, 0);
        let mut begun = false;
        loop {
            match frame::decode_frame(&bytes, offset, self.salt) {
                Ok(found) if (first && !begun) || found.sequence == self.recovered.sequence => {
                    self.frame(&mut segment, number, offset, &found, !begun && first)?;
                    last_frame = if begun { offset } else { 0 };
                    offset += found.len;
                    begun = true;
                }
                Ok(found) if begun => {
                    let why = format!(
                        "part {} stands where part {} should",
                        found.sequence, self.recovered.sequence
                    );
                    return Err(Damage::new(&segment.name, offset as u64, why).into());
                }
                Ok(found) => {
                    let lost = found.sequence.saturating_sub(self.recovered.sequence);
                    let (file, offset) = self.previous_end.clone();
                    return Err(
                        Damage::new(file, offset, format!("its last {lost} parts are missing")).into()
                    );
                }
                Err(Unreadable::Newer { offset: at, format, kind }) => {
                    tracing::error!(file = segment.name, kind, "record of a newer version");
                    let offset = (offset + at) as u64;
                    return Err(WalError::Newer {
                        file: segment.name,
                        offset,
                        found: format,
                        supported: FORMAT,
                    });
                }
                Err(Unreadable::NoFrame) => break,
            }
        }
        if last {
            self.end(&segment, number, &bytes, offset).await?;
            self.make_durable(&segment, last_frame as u64, bytes.slice(last_frame..offset)).await?;
        } else if frame::written_bytes(&bytes) > offset {
            return Err(Damage::new(&segment.name, offset as u64, "a part of the log is unreadable").into());
        }
        self.previous_end = (segment.name.clone(), offset as u64);
        self.recovered.segments.insert(number, segment);
        Ok(())
    }

    fn frame(
        &mut self,
        segment: &mut Segment,
        number: u64,
        offset: usize,
        found: &frame::Frame,
        base: bool,
    ) -> Result<(), WalError> {
        for (at, record) in &found.records {
            let offset = (offset as u64) + u64::from(*at);
            // Each segment begins with the state so far; only the oldest one's is news.
            if let Record::State { first, next } = record {
                let extent = &self.recovered.index.extent;
                if !base && (extent.first, extent.next) != (*first, *next) {
                    let why = format!(
                        "the log should hold {first}..{next} here, not {}..{}",
                        extent.first, extent.next
                    );
                    return Err(Damage::new(&segment.name, offset, why).into());
                }
                if !base {
                    continue;
                }
            }
            if let Record::Entry { index, .. } = record {
                segment.max_index = segment.max_index.max(Some(*index));
            }
            if let Record::Reset { .. } = record {
                segment.max_index = None;
                self.recovered.segments.values_mut().for_each(|s| s.max_index = None);
            }
            if self.recovered.index.apply(record, Some(Place { segment: number, offset })).is_none() {
                let why = "a record does not continue the log";
                return Err(Damage::new(&segment.name, offset, why).into());
            }
        }
        self.recovered.sequence = found.sequence + 1;
        Ok(())
    }

    /// What was read may stand in the page cache alone: written by a process that was killed before its sync, or whose
    /// sync failed. Only the last frame can be such, and writing it again makes the next sync mean it.
    async fn make_durable(&self, segment: &Segment, offset: u64, last_frame: Bytes) -> Result<(), WalError> {
        let what = failed(format!("cannot sync {}", segment.name));
        segment.file.write_synced(offset, last_frame).await.map_err(|e| what(e.into()))
    }

    /// The end of the last segment: nothing more, an unfinished write (cut), or damage.
    async fn end(
        &mut self,
        segment: &Segment,
        number: u64,
        bytes: &[u8],
        offset: usize,
    ) -> Result<(), WalError> {
        self.recovered.end = Some((number, offset as u64));
        if frame::written_bytes(bytes) <= offset {
            return Ok(());
        }
        if let Some(at) = frame::find_frame(bytes, offset, self.salt) {
            let why = format!("a part of the log is unreadable, but a later one at byte {at} is whole");
            return Err(Damage::new(&segment.name, offset as u64, why).into());
        }
        // What is refused is left as it was.
        self.known.check(self.disk, &self.recovered)?;
        tracing::warn!(file = segment.name, offset, "cut an unfinished write at the end of the log");
        let what = || failed(format!("cannot cut {}", segment.name));
        segment.file.truncate(offset as u64).await.map_err(what())?;
        segment.file.preallocate(bytes.len() as u64).await.map_err(what())?;
        segment.file.sync_data().await.map_err(what())
    }
}
