"""Plans of the rebalancer, its policy, hot spots."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from ..decode import Extra, extra_field, local


@dataclass(frozen=True)
class Move:
    """One move of a plan. `kind`: move, promote, add or remove."""

    shard: int
    kind: str
    from_: Optional[str]
    to: Optional[str]
    #: Bytes to copy, as far as known.
    bytes: int
    reason: str
    extra: Extra = extra_field()


@dataclass(frozen=True)
class Balance:
    """How even the copies lie."""

    #: The fullest node over the mean.
    imbalance: float
    max_copies: int
    min_copies: int


@dataclass(frozen=True)
class Infeasible:
    """What a plan can't place, and why."""

    shard: int
    code: str
    detail: str


@dataclass(frozen=True)
class Plan:
    """Moves in the order of their execution."""

    #: The revision that it was computed from.
    base_revision: int
    moves: tuple[Move, ...]
    before: Balance
    after: Balance
    #: No plan can do with fewer.
    lower_bound_moves: int
    infeasible: tuple[Infeasible, ...]
    extra: Extra = extra_field()


@dataclass(frozen=True)
class Policy:
    """How the cluster balances. `dataclasses.replace(policy, max_migrations=4)` makes another one to put.

    Durations are in milliseconds; ratios have at most three decimal places. `strategy`: balanced, ketama or jump.
    """

    enabled: bool
    max_migrations: int
    max_in_per_node: int
    max_out_per_node: int
    #: Copying speed of the cluster; 0: unlimited.
    max_bytes_per_s: int
    start_imbalance: float
    stop_imbalance: float
    down_grace_ms: int
    phase_timeout_ms: int
    mass_failure_share: float
    mass_failure_hold_ms: int
    hot_factor: float
    disk_watermark: float
    strategy: str
    #: Of the policy, for `if_revision`; not part of what is put.
    revision: Optional[int] = local(None)
    #: Fields of a newer control node; they are put as they were read.
    extra: Extra = extra_field()


@dataclass(frozen=True)
class HotShard:
    """A shard that carries more than its share."""

    id: int
    primary: Optional[str]
    #: Reads and writes a second at its primary.
    load: float
    #: Over the mean of all shards.
    factor: float
    advice: str
    extra: Extra = extra_field()


@dataclass(frozen=True)
class HotNode:
    """A node that carries more than its share."""

    id: str
    #: Reads of its primaries and writes of all its copies, a second.
    load: float
    #: Over the mean of all nodes, by capacity.
    factor: float
    advice: str
    extra: Extra = extra_field()


@dataclass(frozen=True)
class Hotspots:
    """The hottest first."""

    shards: tuple[HotShard, ...]
    nodes: tuple[HotNode, ...]
    extra: Extra = extra_field()
