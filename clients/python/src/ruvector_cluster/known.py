"""Which control nodes are known, who answered last, who leads.

Invariant: the seeds come first and stay; what was learned is replaced whole by what is learned next.
"""

from __future__ import annotations

import random
import threading
import time
from typing import Iterable, Iterator, Optional

from .origin import Origin, parse_origin

#: Members that are taken in beside the seeds.
MAX_LEARNED = 32

#: How often members are asked for, in seconds: they change when an operator changes them.
LOOK_EVERY_S = 60.0

#: The same after something failed.
LOOK_SOON_S = 1.0


class Known:
    """For any number of threads."""

    def __init__(self, seeds: tuple[Origin, ...], chance: random.Random) -> None:
        self._lock = threading.Lock()
        self._seeds = seeds
        self._origins = list(seeds)
        # Clients that start together should not all ask the same control node.
        self._preferred = chance.choice(seeds)
        self._leader: Optional[Origin] = None
        self._looked_at: Optional[float] = None
        self._is_doubtful = False

    def origins_from(self, turn: int) -> list[Origin]:
        """All of them, beginning `turn` places behind the preferred one."""
        with self._lock:
            first = self._origins.index(self._preferred) + turn
            return _rotated(self._origins, first)

    def round(self, to_leader: bool) -> Round:
        """Whom to ask, in order."""
        with self._lock:
            first = self._leader if to_leader and self._leader else self._preferred
            return Round(_rotated(self._origins, self._origins.index(first)))

    def answered(self, origin: Origin) -> None:
        with self._lock:
            if origin in self._origins:
                self._preferred = origin

    def failed(self, origin: Origin) -> None:
        """It could not answer, so it leads no longer, as far as is known."""
        with self._lock:
            self._is_doubtful = True
            if self._leader == origin:
                self._leader = None

    def led_by(self, url: str) -> Optional[Origin]:
        """A control node says who leads; the leader, if it can be taken in."""
        origin = parse_origin(url)
        with self._lock:
            if origin is None or not self._take_in(origin):
                return None
            self._leader = origin
            return origin

    def learn(self, urls: Iterable[str], leader_url: Optional[str]) -> None:
        """Takes what a control node says of all."""
        members = [origin for origin in map(parse_origin, urls) if origin is not None]
        leader = parse_origin(leader_url) if leader_url else None
        with self._lock:
            self._origins = list(self._seeds)
            for origin in members:
                self._take_in(origin)
            self._leader = leader if leader in self._origins else None
            if self._preferred not in self._origins:
                self._preferred = self._leader or self._origins[0]
            self._is_doubtful = False

    def _take_in(self, origin: Origin) -> bool:
        if origin not in self._origins and len(self._origins) < len(self._seeds) + MAX_LEARNED:
            self._origins.append(origin)
        return origin in self._origins

    def begin_looking(self) -> bool:
        """Whether it is time to ask for members; who is told so is to ask."""
        with self._lock:
            now = time.monotonic()
            every_s = LOOK_SOON_S if self._is_doubtful else LOOK_EVERY_S
            is_due = self._looked_at is None or now - self._looked_at >= every_s
            if is_due:
                self._looked_at = now
            return is_due


class Round:
    """One turn over all control nodes, with at most one detour to who is said to lead."""

    def __init__(self, origins: list[Origin]) -> None:
        self._left = origins
        self._was_redirected = False

    def __iter__(self) -> Iterator[Origin]:
        while self._left:
            yield self._left.pop(0)

    def redirect(self, leader: Origin) -> None:
        if not self._was_redirected:
            self._was_redirected = True
            self._left.insert(0, leader)


def _rotated(origins: list[Origin], first: int) -> list[Origin]:
    first %= len(origins)
    return origins[first:] + origins[:first]
