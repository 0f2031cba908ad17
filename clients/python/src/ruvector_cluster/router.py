"""Keeps the held map fresh: by a watch in a thread of its own where that was started, else by conditional reads when it is old.

Reads here are stale reads, as a map is better read stale than not at all: the data nodes' epochs fence whoever holds an old
one. `refresh` alone is linearizable: whoever was refused for a stale epoch finds the epoch that the data node knows.
"""

from __future__ import annotations

import threading
import time
from typing import Optional

from .caller import Backoff, Call, Caller
from .errors import ClientClosed, ClusterError, Unavailable
from .held import HeldMap
from .model import ShardMap
from .watch import SILENCE_S, Watch


class Router:
    """For any number of threads."""

    def __init__(self, caller: Caller, max_age_s: float) -> None:
        self.held = HeldMap()
        self._caller = caller
        self._max_age_s = max_age_s
        self._reading = threading.Lock()
        self._tag: Optional[tuple[tuple[int, int], str]] = None
        self._again_at = 0.0
        self._follower: Optional[Follower] = None
        self._starting = threading.Lock()

    def keep_fresh(self) -> None:
        """Returns with a map that is fresh, or as fresh as can be had now. No I/O while it is.

        Raises, where no map is held yet, as `Caller.call`; otherwise an old map does for as long as nobody answers.
        """
        if self._is_fresh():
            return
        has_map = self.held.version() is not None
        # One thread reads; others go on with what there is, if there is something.
        if not self._reading.acquire(blocking=not has_map):
            return
        try:
            if not self._is_fresh():
                self._read("stale", self._caller.timeout_s if has_map else None)
        except Unavailable as error:
            self.held.note_error(str(error))
            if not has_map:
                raise
        finally:
            # Also where nobody answered, or one that is behind: not every lookup is to ask again.
            self._again_at = time.monotonic() + self._max_age_s
            self._reading.release()

    def _is_fresh(self) -> bool:
        age_s = self.held.age_s()
        if age_s is None:
            return False
        limit_s = self._max_age_s if self._follower is None else max(self._max_age_s, SILENCE_S)
        return age_s <= limit_s or time.monotonic() < self._again_at

    def refresh(self) -> bool:
        """Reads the map, linearizably; says whether it is newer than what was held. Raises as `Caller.call`."""
        before = self.held.version()
        with self._reading:
            self._read("linearizable", None)
        return self.held.version() != before

    def _read(self, consistency: str, deadline_s: Optional[float]) -> None:
        held = self.held.version()
        headers = {}
        if self._tag is not None and self._tag[0] == held:
            headers["If-None-Match"] = self._tag[1]
        call = Call("GET", "/v1/map", {"consistency": consistency}, headers=headers, deadline_s=deadline_s)
        said = self._caller.call(call)
        if said.status == 304:
            self.held.note_current()
            return
        whole = said.read(ShardMap)
        self.held.install(whole, said.url)
        self._tag = ((whole.generation, whole.revision), said.etag) if said.etag else None

    def follow(self) -> None:
        """Starts the watch, unless it runs."""
        with self._starting:
            if self._caller.closing.is_set():
                raise ClientClosed("the client is closed")
            if self._follower is None:
                self._follower = Follower(self._caller, self.held)
                self._follower.start()

    def close(self) -> None:
        """Ends the watch and waits for its thread."""
        with self._starting:
            follower = self._follower
        if follower is not None:
            follower.stop()


class Follower(threading.Thread):
    """Follows the watch into the held map until it is stopped."""

    def __init__(self, caller: Caller, held: HeldMap) -> None:
        super().__init__(name="ruvector-cluster-map", daemon=True)
        self._caller = caller
        self._held = held
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._watch: Optional[Watch] = None

    def run(self) -> None:
        backoff = Backoff(self._caller.chance)
        while True:
            with self._lock:
                if self._stopping.is_set():
                    return
                self._watch = watch = Watch(self._caller, None, "stale")
            try:
                for event in watch:
                    self._held.take(event, "the watch")
                    backoff = Backoff(self._caller.chance)
            except ClusterError as error:
                self._held.note_error(str(error))
            finally:
                watch.close()
            self._stopping.wait(backoff.next_s())

    def stop(self) -> None:
        with self._lock:
            self._stopping.set()
            watch = self._watch
        if watch is not None:
            watch.close()
        if threading.current_thread() is not self:
            self.join()
