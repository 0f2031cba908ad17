"""What control nodes answer, as frozen dataclasses.

Names, units and meanings are the API's. Enumerations stay strings, since a newer control node may name more. Unknown fields are
kept in `extra`. Soft fields are None where nobody has reported them, and in stale answers of a control node that does not lead.
"""

from .cluster import Cluster, Event, Health, HealthReason, Leader, Member, ResumeReport, ShardCounts
from .explain import CopyExplained, Explanation, NodeExplained, Origin, PendingMigration, Reason
from .nodes import Node
from .plans import Balance, HotNode, HotShard, Hotspots, Infeasible, Move, Plan, Policy
from .shards import MapNode, MapShard, Migration, NodeAddr, Route, Shard, ShardMap

__all__ = [
    "Balance",
    "Cluster",
    "CopyExplained",
    "Event",
    "Explanation",
    "Health",
    "HealthReason",
    "HotNode",
    "HotShard",
    "Hotspots",
    "Infeasible",
    "Leader",
    "MapNode",
    "MapShard",
    "Member",
    "Migration",
    "Move",
    "Node",
    "NodeAddr",
    "NodeExplained",
    "Origin",
    "PendingMigration",
    "Plan",
    "Policy",
    "Reason",
    "ResumeReport",
    "Route",
    "Shard",
    "ShardCounts",
    "ShardMap",
]
