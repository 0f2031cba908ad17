"""The calls that change something.

Each carries an Idempotency-Key, the same in all its attempts, so it takes effect once however often it is sent: a fresh one, or
`idempotency_key` for whoever repeats a call of before. Control nodes keep keys for 24 h. `if_revision` is a row's revision as it
was read: PreconditionFailed when it moved on.

Caveat: membership (`add_member`, `remove_member`, `transfer_leader`) is not kept with its key. A repeat of one that took effect
may be refused (`conflict`, `not_found`): look at `members` then.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Iterable, Mapping, Optional

from .caller import Call, Caller, Success, checked_key
from .model import Leader, Member, Migration, Node, Plan, Policy, ResumeReport, Shard
from .paths import member_path, migration_path, node_path, number, shard_path
from .reads import policy_of


class Writes:
    """Part of `Client`. All of these raise Refused, Unavailable, OutcomeUnknown, BadAnswer, ConfigError and ClientClosed."""

    _caller: Caller

    def migrate(
        self,
        shard: int,
        to: str,
        *,
        from_: Optional[str] = None,
        if_epoch: Optional[int] = None,
        idempotency_key: Optional[str] = None,
    ) -> Migration:
        """Queues a migration of a shard to node `to`; `from_` is who gives its copy, else the primary. Raises Conflict where
        the shard is migrating already, or its epoch is not `if_epoch`, and Invalid where the target can't take it."""
        body = {"shard": number("shard", shard), "to": to, "from": from_, "if_epoch": if_epoch}
        return self._write("POST", "/v1/migrations", body, idempotency_key).read(Migration)

    def cancel_migration(
        self, id: int, *, if_revision: Optional[int] = None, idempotency_key: Optional[str] = None
    ) -> Migration:
        """Raises Conflict (`too_late`) from handing_over on."""
        return self._write("DELETE", migration_path(id), {}, idempotency_key, if_revision).read(Migration)

    def rebalance(
        self,
        *,
        dry_run: bool = False,
        max_moves: Optional[int] = None,
        strategy: Optional[str] = None,
        idempotency_key: Optional[str] = None,
    ) -> Plan:
        """Plans moves and queues them; with `dry_run` only plans. `strategy` (balanced, ketama, jump): instead of the policy's."""
        body = {"dry_run": dry_run, "max_moves": max_moves, "strategy": strategy}
        return self._write("POST", "/v1/rebalance", body, idempotency_key).read(Plan)

    def put_policy(
        self, policy: Policy, *, if_revision: Optional[int] = None, idempotency_key: Optional[str] = None
    ) -> Policy:
        """Replaces the rebalance policy, by one made from `policy()` with `dataclasses.replace`. Raises Invalid, naming the field."""
        given = {field.name: getattr(policy, field.name) for field in dataclasses.fields(policy)}
        del given["revision"]
        # What a newer control node told is given back to it.
        body = {**given.pop("extra"), **given}
        return policy_of(self._write("PUT", "/v1/rebalance/policy", body, idempotency_key, if_revision))

    def pause(self, *, idempotency_key: Optional[str] = None) -> int:
        """No migration begins by itself until `resume`. The revision of that."""
        return self._revision("POST", "/v1/rebalance/pause", idempotency_key)

    def resume(self, *, idempotency_key: Optional[str] = None) -> int:
        """Ends a pause. The revision of that."""
        return self._revision("POST", "/v1/rebalance/resume", idempotency_key)

    def drain(
        self, node: str, *, if_revision: Optional[int] = None, idempotency_key: Optional[str] = None
    ) -> Node:
        """Begins to move everything off a node. Raises Invalid with reasons where that could not finish."""
        return self._node("POST", f"{node_path(node)}/drain", {}, idempotency_key, if_revision)

    def plan_drain(self, node: str) -> Plan:
        """What `drain` would take; changes nothing. Raises as it."""
        return self._write("POST", f"{node_path(node)}/drain", {"dry_run": True}, None).read(Plan)

    def undrain(
        self, node: str, *, if_revision: Optional[int] = None, idempotency_key: Optional[str] = None
    ) -> Node:
        """The node takes copies again."""
        return self._node("DELETE", f"{node_path(node)}/drain", {}, idempotency_key, if_revision)

    def maintenance(
        self,
        node: str,
        duration_ms: int,
        *,
        if_revision: Optional[int] = None,
        idempotency_key: Optional[str] = None,
    ) -> Node:
        """The node is expected to be away for so long: its copies are not rebuilt meanwhile, its primaries are handed over."""
        body = {"duration_ms": number("duration_ms", duration_ms)}
        return self._node("POST", f"{node_path(node)}/maintenance", body, idempotency_key, if_revision)

    def end_maintenance(
        self, node: str, *, if_revision: Optional[int] = None, idempotency_key: Optional[str] = None
    ) -> Node:
        """The node is back."""
        return self._node("DELETE", f"{node_path(node)}/maintenance", {}, idempotency_key, if_revision)

    def patch_node(
        self,
        node: str,
        *,
        capacity: Optional[float] = None,
        zone: Optional[str] = None,
        rack: Optional[str] = None,
        labels: Optional[Mapping[str, str]] = None,
        if_revision: Optional[int] = None,
        idempotency_key: Optional[str] = None,
    ) -> Node:
        """Changes what is given: `capacity` has at most three decimal places, an empty `zone` or `rack` clears it, `labels`
        replaces all of them."""
        given = {"capacity": capacity, "zone": zone, "rack": rack, "labels": None if labels is None else dict(labels)}
        return self._node("PATCH", node_path(node), given, idempotency_key, if_revision)

    def delete_node(
        self, node: str, *, if_revision: Optional[int] = None, idempotency_key: Optional[str] = None
    ) -> int:
        """Forgets a data node. The revision of that. Raises Conflict (`holds_shards`) while it holds some."""
        return self._revision("DELETE", node_path(node), idempotency_key, if_revision)

    def force_primary(
        self, shard: int, node: str, *, accept_data_loss: bool, idempotency_key: Optional[str] = None
    ) -> Shard:
        """Makes a node primary, alone in sync, where no in-sync copy will come back: writes that only others have are given up,
        so `accept_data_loss` has to be True."""
        body = {"node": node, "accept_data_loss": accept_data_loss}
        return self._write("POST", f"{shard_path(shard)}/force-primary", body, idempotency_key).read(Shard)

    def transfer_leader(self, to: Optional[str] = None, *, idempotency_key: Optional[str] = None) -> Optional[Leader]:
        """Hands leadership to control node `to`, else to the voter that is furthest. Who leads then, if that is known yet."""
        said = self._write("POST", "/v1/leader/transfer", {"to": to}, idempotency_key)
        leader: Optional[Leader] = said.read_part("leader", Optional[Leader])
        return leader

    def add_member(
        self,
        id: str,
        client_url: str,
        peer_url: str,
        *,
        replaces: Optional[str] = None,
        learner_only: bool = False,
        idempotency_key: Optional[str] = None,
    ) -> Member:
        """Takes a control node in, which has to run: as learner, promoted once it has caught up, in the seat of `replaces` if
        that is given. URLs read `http://host:port`."""
        body = {
            "id": id,
            "client_url": client_url,
            "peer_url": peer_url,
            "replaces": replaces,
            "learner_only": learner_only,
        }
        return self._write("POST", "/v1/members", body, idempotency_key).read(Member)

    def remove_member(self, id: str, *, idempotency_key: Optional[str] = None) -> tuple[Member, ...]:
        """Removes a control node; the members that are left. Raises Conflict (`quorum_lost`) where too few would be."""
        said = self._write("DELETE", member_path(id), {}, idempotency_key)
        members: tuple[Member, ...] = said.read_part("members", tuple[Member, ...])
        return members

    def resume_cluster(
        self,
        *,
        dry_run: bool = False,
        without: Iterable[str] = (),
        accept_data_loss: bool = False,
        idempotency_key: Optional[str] = None,
    ) -> ResumeReport:
        """Says of a restored cluster that its data nodes are back, those `without` apart, which will not come back. Raises
        Conflict (`nodes_missing`, `last_copy`) where some are not, unless `accept_data_loss`."""
        body = {"dry_run": dry_run, "without": list(without), "accept_data_loss": accept_data_loss}
        return self._write("POST", "/v1/cluster/resume", body, idempotency_key).read(ResumeReport)

    def _node(
        self, method: str, path: str, body: Mapping[str, Any], key: Optional[str], if_revision: Optional[int]
    ) -> Node:
        return self._write(method, path, body, key, if_revision).read(Node)

    def _revision(self, method: str, path: str, key: Optional[str], if_revision: Optional[int] = None) -> int:
        revision: int = self._write(method, path, {}, key, if_revision).read_part("revision", int)
        return revision

    def _write(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any],
        key: Optional[str],
        if_revision: Optional[int] = None,
    ) -> Success:
        """Arguments that are None are left out of the body."""
        headers = {} if if_revision is None else {"If-Match": f'"{number("if_revision", if_revision)}"'}
        given = {name: value for name, value in body.items() if value is not None}
        return self._caller.call(Call(method, path, body=given, key=checked_key(key), headers=headers))
