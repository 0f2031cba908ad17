"""`GET /v1/watch`, followed: every change in order, without gap or duplicate, across the death of the control node that serves it."""

from __future__ import annotations

import threading
import time
from collections import deque
from types import TracebackType
from typing import Iterator, Optional

from .caller import Backoff, Call, Caller
from .changes import Bookmark, Snapshot, WatchEvent, read_event
from .decode import BadShape
from .errors import BadAnswer, Compacted, Refused, Unavailable
from .exchange import Connection, ExchangeFailed, Request
from .sse import EventReader
from .stream import Stream, open_stream

#: A stream without an event for so long is taken for dead, in seconds. Control nodes send one every 5 s.
SILENCE_S = 15.0


class Watch(Iterator[WatchEvent]):
    """An iterator over what changes, made by `Client.watch`. One thread iterates; any may `close`, which ends the iteration.

    A stream that breaks off is resumed (`Last-Event-ID`) at the next control node. Raises Unavailable where that has not
    succeeded for the client's deadline; `client.watch(from_revision=watch.revision)` goes on later. What is no longer kept
    (410) raises Compacted if `from_revision` was given; otherwise a new Snapshot comes. Other refusals raise Refused, and
    what is not understood BadAnswer.
    """

    def __init__(self, caller: Caller, from_revision: Optional[int], consistency: str) -> None:
        self._caller = caller
        self._consistency = consistency
        self._has_snapshots = from_revision is None
        #: Up to here everything was told; None before the first event of a watch that begins with a snapshot.
        self.revision = from_revision
        # From where a stream is resumed; None: with a snapshot.
        self._through = from_revision
        # (generation, revision) of what came last: never falls.
        self._version = (0, from_revision if from_revision is not None else -1)
        self._told: deque[WatchEvent] = deque()
        self._stream: Optional[Stream] = None
        self._reader = EventReader()
        # Be it still opening.
        self._connection: Optional[Connection] = None
        self._turn = 0
        self._backoff = Backoff(caller.chance)
        self._attempts: dict[str, str] = {}
        # Since when there is no stream; None before one was missed, and while events come.
        self._lost_at: Optional[float] = None
        self._closed = threading.Event()
        self._iterating = threading.Lock()

    def __next__(self) -> WatchEvent:
        try:
            with self._iterating:
                return self._next()
        finally:
            if self._closed.is_set():
                self._drop_if_idle()

    def _next(self) -> WatchEvent:
        try:
            while not self._told:
                if self._closed.is_set():
                    raise StopIteration
                if self._stream is None:
                    self._open()
                else:
                    self._read(self._stream)
        except Exception:
            # Whatever is raised, no connection stays behind.
            self._drop()
            raise
        event = self._told.popleft()
        self.revision = event.revision
        return event

    def _open(self) -> None:
        """One turn over the control nodes, and a pause if none has a stream."""
        wait_s = 0.0
        for origin in self._caller.known.origins_from(self._turn):
            if self._closed.is_set():
                return
            until = time.monotonic() + self._caller.timeout_s
            met = open_stream(origin, self._request(), "text/event-stream", until, self._connected)
            if isinstance(met, Stream):
                met.bound(time.monotonic() + SILENCE_S)
                self._stream, self._reader = met, EventReader()
                return
            if isinstance(met, Refused):
                if not (isinstance(met, Compacted) and self._has_snapshots and self._through is not None):
                    raise met
                self._through = None
                return
            self._attempts[origin.url] = met.why
            wait_s = max(wait_s, met.retry_after_s)
        self._pause(wait_s)

    def _connected(self, connection: Connection) -> None:
        self._connection = connection
        if self._closed.is_set():
            # Who closed it may not have seen the connection.
            connection.abort()

    def _request(self) -> Request:
        headers = {"Accept": "text/event-stream", "Cache-Control": "no-store"}
        if self._through is not None:
            headers["Last-Event-ID"] = str(self._through)
        return Call("GET", "/v1/watch", {"consistency": self._consistency}, headers=headers).request()

    def _read(self, stream: Stream) -> None:
        try:
            piece = stream.read()
            if not piece:
                raise ExchangeFailed("the stream ended", sent=True)
        except ExchangeFailed as error:
            self._drop()
            self._attempts[stream.origin.url] = str(error)
            self._turn += 1
            self._pause(0.0)
            return
        try:
            events = [read_event(event) for event in self._reader.push(piece)]
        except (BadShape, ValueError) as error:
            raise BadAnswer(stream.origin.url, str(error)) from error
        if events:
            # Comments, which only keep the connection, don't count.
            stream.bound(time.monotonic() + SILENCE_S)
            self._lost_at = None
            self._backoff = Backoff(self._caller.chance)
        self._told.extend(event for event in events if event is not None and self._is_news(event))

    def _is_news(self, event: WatchEvent) -> bool:
        if isinstance(event, Snapshot):
            version = (event.map.generation, event.map.revision)
            is_news = version >= self._version
        else:
            version = (self._version[0], event.revision)
            # A bookmark may say of what is known that it is still all.
            is_news = version > self._version or (version == self._version and isinstance(event, Bookmark))
        if is_news:
            self._version = version
        self._through = self._version[1]
        return is_news

    def _pause(self, seconds: float) -> None:
        now = time.monotonic()
        if self._lost_at is None:
            self._lost_at = now
        if now - self._lost_at >= self._caller.deadline_s:
            raise Unavailable(now - self._lost_at, self._attempts)
        self._closed.wait(seconds + self._backoff.next_s())

    def close(self) -> None:
        """Ends the watch, and an iteration that waits in another thread. More than once is harmless."""
        self._closed.set()
        connection = self._connection
        if connection is not None:
            connection.abort()
        self._drop_if_idle()

    def _drop_if_idle(self) -> None:
        if self._iterating.acquire(blocking=False):
            try:
                self._drop()
            finally:
                self._iterating.release()

    def _drop(self) -> None:
        if self._stream is not None:
            self._stream.close()
        self._stream = self._connection = None

    def __enter__(self) -> Watch:
        return self

    def __exit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.close()
