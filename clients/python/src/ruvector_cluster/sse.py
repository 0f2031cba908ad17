"""The event stream format (WHATWG HTML, section 9.2), as much of it as control nodes send. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

#: The longest line that is taken, in bytes: a snapshot's data is one line.
MAX_LINE_BYTES = 256 << 20


@dataclass(frozen=True)
class StreamEvent:
    """One event: `event:` (or `message`), the `data:` lines joined by line feeds, and `id:` if it had one."""

    name: str
    data: str
    id: Optional[str]


class EventReader:
    """Cuts bytes, as they arrive, into events."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._name = ""
        self._data: list[str] = []
        self._id: Optional[str] = None

    def push(self, piece: bytes) -> list[StreamEvent]:
        """The events that `piece` completes. Raises ValueError for what is no event stream; the reader is of no use then."""
        look, begin = len(self._rest), 0
        self._rest += piece
        if len(self._rest) > MAX_LINE_BYTES:
            raise ValueError(f"a line of more than {MAX_LINE_BYTES} bytes")
        events: list[StreamEvent] = []
        while (end := self._rest.find(b"\n", look)) >= 0:
            line = self._rest[begin:end].decode("utf-8")
            self._line(line[:-1] if line.endswith("\r") else line, events)
            begin = look = end + 1
        del self._rest[:begin]
        return events

    def _line(self, line: str, events: list[StreamEvent]) -> None:
        if not line:
            if self._data:
                events.append(StreamEvent(self._name or "message", "\n".join(self._data), self._id))
            self._name, self._data, self._id = "", [], None
            return
        name, _, value = line.partition(":")
        value = value[1:] if value.startswith(" ") else value
        if name == "event":
            self._name = value
        elif name == "data":
            self._data.append(value)
        elif name == "id":
            self._id = value
        # Comments (an empty name) keep the connection alive; the standard says to ignore all others.
