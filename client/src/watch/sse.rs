//! The event stream format (WHATWG HTML, section 9.2), as much of it as control nodes send.

/// The longest line that is taken, in bytes: a snapshot's data is one line.
const MAX_LINE_BYTES: usize = 256 << 20;

/// One event of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// `event:`, or `message`.
    pub name: String,
    /// `data:` lines, joined by line feeds.
    pub data: String,
    /// `id:`, if it had one.
    pub id: Option<String>,
}

/// Why a stream can't be read on.
#[derive(Debug, thiserror::Error)]
pub enum EventError {
    /// A line beyond all bounds.
    #[error("a line of more than {MAX_LINE_BYTES} bytes")]
    TooLong,
    /// Not UTF-8.
    #[error("a line that is no UTF-8")]
    NotText,
}

/// Cuts bytes, as they arrive, into events.
#[derive(Debug, Default)]
pub struct EventReader {
    rest: Vec<u8>,
    event: Event,
    has_data: bool,
}

impl EventReader {
    /// Takes the next bytes; returns the events that they complete.
    ///
    /// # Errors
    /// `EventError`; the reader is of no use afterwards.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Vec<Event>, EventError> {
        let scanned = self.rest.len();
        self.rest.extend_from_slice(bytes);
        if self.rest.len() > MAX_LINE_BYTES {
            return Err(EventError::TooLong);
        }
        let (mut events, mut begin, mut look) = (Vec::new(), 0, scanned);
        while let Some(length) = self.rest[look..].iter().position(|b| *b == b'\n') {
            let end = look + length;
            let line = std::str::from_utf8(&self.rest[begin..end]).map_err(|_| EventError::NotText)?;
            let line = line.strip_suffix('\r').unwrap_or(line).to_owned();
            self.line(&line, &mut events);
            begin = end + 1;
            look = begin;
        }
        self.rest.drain(..begin);
        Ok(events)
    }

    fn line(&mut self, line: &str, events: &mut Vec<Event>) {
        if line.is_empty() {
            let mut event = std::mem::take(&mut self.event);
            if std::mem::take(&mut self.has_data) {
                if event.name.is_empty() {
                    "message".clone_into(&mut event.name);
                }
                events.push(event);
            }
            return;
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.event.name),
            "id" => self.event.id = Some(value.to_owned()),
            "data" => {
                if self.has_data {
                    self.event.data.push('\n');
                }
                self.event.data.push_str(value);
                self.has_data = true;
            }
            // Comments (an empty field) keep the connection alive; the standard says to ignore all others.
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_out_whole_wherever_the_bytes_are_cut() {
        let text = ": hello\n\nevent: change\nid: 7\ndata: {\"a\":\ndata: 1}\n\nevent: bookmark\r\ndata: {}\r\n\r\nevent: none\n\n";
        let whole = EventReader::default().push(text.as_bytes()).unwrap();
        assert_eq!(whole.len(), 2);
        assert_eq!(whole[0].data, "{\"a\":\n1}");
        assert_eq!(whole[0].id.as_deref(), Some("7"));
        assert_eq!(whole[1].name, "bookmark");
        for size in 1..9 {
            let mut reader = EventReader::default();
            let cut: Vec<Event> =
                text.as_bytes().chunks(size).flat_map(|c| reader.push(c).unwrap()).collect();
            assert_eq!(cut, whole, "chunks of {size}");
        }
    }
}
