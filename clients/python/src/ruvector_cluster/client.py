"""The client: routing from a cached map, and every call of the API that is not a data node's."""

from __future__ import annotations

import os
import threading
import weakref
from pathlib import Path
from types import TracebackType
from typing import Iterable, Optional, Union

from .backup import save_snapshot
from .caller import Caller, bound
from .errors import ClientClosed
from .held import Freshness
from .model import Route
from .origin import parse_seeds
from .paths import Consistency, consistency_of, number
from .reads import Reads
from .router import Router
from .watch import Watch
from .writes import Writes


class Client(Reads, Writes):
    """Asks the control nodes of one cluster; connects on first use. For any number of threads, and to be closed.

    `seeds`: `host:port` of control nodes (IPv6 in brackets), a list or one string with commas; the others are learned from
    them. Seconds, more than 0: `timeout` bounds one attempt at one control node, `deadline` a call with all its attempts,
    `max_map_age` how old the map may be by which keys are routed. `consistency`: of reads that don't say another.

    Raises ConfigError, which names the argument.
    """

    def __init__(
        self,
        seeds: Union[str, Iterable[str]],
        *,
        timeout: float = 2.0,
        deadline: float = 15.0,
        max_map_age: float = 1.0,
        consistency: Consistency = "linearizable",
    ) -> None:
        self._caller = Caller(parse_seeds(seeds), timeout, deadline)
        self._consistency = consistency_of(consistency)
        self._router = Router(self._caller, bound("max_map_age", max_map_age))
        self._watches: weakref.WeakSet[Watch] = weakref.WeakSet()
        self._lock = threading.Lock()

    def route(self, key: str) -> Route:
        """Where `key` belongs, by the held map: no I/O while that is fresh.

        It is read when it is older than `max_map_age`, as a whole and only if it changed, unless `follow` keeps it fresh. Where
        nobody answers, an older one does; the epoch that goes with each data request makes that harmless.

        Raises Unavailable, UnknownHash, BadAnswer and ClientClosed, and UnicodeEncodeError for a key that has no UTF-8 form.
        """
        return self.routes([key])[0]

    def routes(self, keys: Iterable[str]) -> list[Route]:
        """As `route`, in the order of the keys, all by one revision of the map."""
        keys = list(keys)
        self._router.keep_fresh()
        found = self._router.held.routes(keys)
        assert found is not None, "keep_fresh returned without a map"
        return found

    def shard_of(self, key: str) -> int:
        """The shard of `key`, which never changes. Reads the map once, for the number of shards. Raises as `route`."""
        shard = self._router.held.shard_of(key)
        return self.route(key).shard if shard is None else shard

    def refresh(self) -> bool:
        """Reads the map, linearizably; says whether it is newer than what was held.

        For whoever was refused by a data node that knows of a newer epoch: `refresh`, then `route` again. Raises as `route`.
        """
        return self._router.refresh()

    def follow(self) -> None:
        """From now on a thread follows the watch, so that `route` does no I/O and knows of a change within milliseconds."""
        self._router.follow()

    def freshness(self) -> Freshness:
        """How old the held map may be, and what went wrong last."""
        return self._router.held.freshness()

    def watch(
        self, from_revision: Optional[int] = None, *, consistency: Optional[Consistency] = None
    ) -> Watch:
        """Every change after `from_revision`, in order, without gap or duplicate; without it the whole map first, as a Snapshot.

        It survives the death of the control node that serves it. Where what comes next is no longer kept, `from_revision`
        makes it raise Compacted; without it there comes a new Snapshot, from which on everything counts anew.
        """
        if from_revision is not None:
            number("from_revision", from_revision)
        with self._lock:
            if self._caller.closing.is_set():
                raise ClientClosed("the client is closed")
            watch = Watch(self._caller, from_revision, consistency_of(consistency or self._consistency))
            self._watches.add(watch)
        return watch

    def snapshot(
        self,
        path: Union[str, os.PathLike[str]],
        *,
        deadline: float = 600.0,
        consistency: Optional[Consistency] = None,
    ) -> int:
        """Saves a checked backup of the whole state as a file, which `ruvector-cluster snapshot restore` reads; its length in
        bytes. On an error the file is as it was. `deadline`: of all of it, in seconds. Raises OSError too."""
        chosen = consistency_of(consistency or self._consistency)
        return save_snapshot(self._caller, Path(path), chosen, bound("deadline", deadline))

    def close(self) -> None:
        """Closes connections and ends watches; calls in other threads raise ClientClosed. More than once is harmless."""
        with self._lock:
            self._caller.close()
            watches = list(self._watches)
        for watch in watches:
            watch.close()
        self._router.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.close()
