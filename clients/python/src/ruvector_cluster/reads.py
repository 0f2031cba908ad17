"""The calls that read. Each takes `consistency` where it is not to be the client's."""

from __future__ import annotations

import dataclasses
import time
from typing import Any, Iterator, Mapping, Optional, Union

from .caller import Call, Caller, Success
from .errors import BadAnswer
from .model import Cluster, Event, Explanation, Health, Hotspots, Member, Migration, Node, Policy, Shard, ShardMap
from .paths import Consistency, consistency_of, migration_path, node_path, number, shard_path

#: Control nodes wait at most 60 s in one request; shorter waits are noticed sooner when one dies. In milliseconds.
_WAIT_SLICE_MS = 10_000

_RANK = {"healthy": 0, "degraded": 1}

Query = Mapping[str, Union[str, int, bool, None]]


class Reads:
    """Part of `Client`. All of these raise Refused, Unavailable, BadAnswer, ConfigError and ClientClosed."""

    _caller: Caller
    _consistency: str

    def shards(
        self,
        *,
        node: Optional[str] = None,
        status: Optional[str] = None,
        page_size: int = 1_000,
        consistency: Optional[Consistency] = None,
    ) -> Iterator[Shard]:
        """All shards, those with a copy on `node`, those of a `status`; page by page (1 to 1,000 shards), as they are consumed."""
        query = {"node": node, "status": status}
        return self._pages("shards", Shard, query, page_size, consistency)

    def shard(self, id: int, *, consistency: Optional[Consistency] = None) -> Shard:
        """One shard."""
        return self._get(shard_path(id), {}, consistency).read(Shard)

    def explain(self, id: int, *, consistency: Optional[Consistency] = None) -> Explanation:
        """Why each copy of a shard is where it is, and for every node why it may or may not take one."""
        return self._get(f"{shard_path(id)}/explain", {}, consistency).read(Explanation)

    def nodes(self, *, page_size: int = 1_000, consistency: Optional[Consistency] = None) -> Iterator[Node]:
        """All data nodes, page by page."""
        return self._pages("nodes", Node, {}, page_size, consistency)

    def node(self, id: str, *, consistency: Optional[Consistency] = None) -> Node:
        """One data node."""
        return self._get(node_path(id), {}, consistency).read(Node)

    def map(self, *, consistency: Optional[Consistency] = None) -> ShardMap:
        """The whole map, read anew; `route` has one of its own."""
        return self._get("/v1/map", {}, consistency).read(ShardMap)

    def migrations(
        self,
        *,
        active: bool = False,
        shard: Optional[int] = None,
        page_size: int = 1_000,
        consistency: Optional[Consistency] = None,
    ) -> Iterator[Migration]:
        """Migrations by id, page by page: those that are kept, or only those that have not ended."""
        query = {"active": active or None, "shard": None if shard is None else number("shard", shard)}
        return self._pages("migrations", Migration, query, page_size, consistency)

    def migration(self, id: int, *, wait_ms: int = 0, consistency: Optional[Consistency] = None) -> Migration:
        """One migration; with `wait_ms` once it has ended, or as it is after so long."""
        path, until = migration_path(id), _after_ms(wait_ms)
        while True:
            slice_ms = _slice_ms(until)
            query = {"wait_ms": slice_ms or None}
            migration = self._get(path, query, consistency, slice_ms).read(Migration)
            if migration.is_ended or _slice_ms(until) == 0:
                return migration

    def health(
        self,
        *,
        wait_for: Optional[str] = None,
        wait_ms: int = 0,
        consistency: Optional[Consistency] = None,
    ) -> Health:
        """How the cluster does; with `wait_for` ("healthy" or "degraded") once it does so well, or as it is after `wait_ms`.

        Without a quorum of control nodes that is `unavailable`, and not an exception.
        """
        until = _after_ms(wait_ms)
        while True:
            slice_ms = _slice_ms(until)
            query = {"wait_for": wait_for, "wait_ms": slice_ms or None}
            health = self._get("/v1/health", query, consistency, slice_ms).read(Health)
            is_met = wait_for is None or _RANK.get(health.status, 2) <= _RANK.get(wait_for, 2)
            if is_met or _slice_ms(until) == 0:
                return health

    def cluster(self, *, consistency: Optional[Consistency] = None) -> Cluster:
        """The control cluster: its id, its leader, its members, what was fixed at bootstrap."""
        return self._get("/v1/cluster", {}, consistency).read(Cluster)

    def members(self, *, page_size: int = 1_000, consistency: Optional[Consistency] = None) -> Iterator[Member]:
        """All control nodes, page by page."""
        return self._pages("members", Member, {}, page_size, consistency)

    def events(
        self, *, since: int = 0, page_size: int = 1_000, consistency: Optional[Consistency] = None
    ) -> Iterator[Event]:
        """What happened after revision `since`, page by page. Raises Compacted where that is no longer kept."""
        return self._pages("events", Event, {"since": number("since", since)}, page_size, consistency)

    def policy(self, *, consistency: Optional[Consistency] = None) -> Policy:
        """The rebalance policy."""
        return policy_of(self._get("/v1/rebalance/policy", {}, consistency))

    def hotspots(self) -> Hotspots:
        """What carries more than its share, by what the leader heard of load; always linearizable."""
        return self._caller.call(Call("GET", "/v1/hotspots")).read(Hotspots)

    def _get(self, path: str, query: Query, consistency: Optional[str], wait_ms: int = 0) -> Success:
        chosen = consistency_of(consistency or self._consistency)
        return self._caller.call(Call("GET", path, {**query, "consistency": chosen}, wait_s=wait_ms / 1_000))

    def _pages(
        self, name: str, kind: Any, query: Query, page_size: int, consistency: Optional[str]
    ) -> Iterator[Any]:
        cursor: Optional[str] = ""
        while cursor is not None:
            page = self._get(f"/v1/{name}", {**query, "limit": page_size, "cursor": cursor or None}, consistency)
            yield from page.read_part(name, tuple[kind, ...])
            before, cursor = cursor, page.read_part("next_cursor", Optional[str])
            if cursor == before:
                raise BadAnswer(page.url, f"field `next_cursor`: {cursor!r} leads to the same page")


def policy_of(said: Success) -> Policy:
    """A policy with the revision that stands in the ETag."""
    policy = said.read(Policy)
    tag = (said.etag or "").strip('"')
    return dataclasses.replace(policy, revision=int(tag)) if tag.isascii() and tag.isdigit() else policy


def _after_ms(wait_ms: int) -> float:
    return time.monotonic() + number("wait_ms", wait_ms) / 1_000


def _slice_ms(until: float) -> int:
    return max(0, min(_WAIT_SLICE_MS, round((until - time.monotonic()) * 1_000)))
