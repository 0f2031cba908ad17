"""The client against a real cluster: three control nodes and three data nodes, as processes."""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import functools
import http.client
import io
import json
import tempfile
import threading
import time
import unittest
from pathlib import Path
from typing import Any, Callable, Iterator, Optional
from urllib.parse import quote

from ruvector_cluster import (
    Changes, Client, Conflict, Invalid, Malformed, Migration, MigrationChanged, NotFound, PreconditionFailed,
    Refused, Route, Snapshot, WatchEvent, hashing,
)
from support.cluster import REPOSITORY, Cluster
from support.waiting import wait_for

CLUSTER: Cluster  # Started by setUpModule, for all tests.


def setUpModule() -> None:
    global CLUSTER
    CLUSTER = Cluster()
    # Also when starting it fails; and on Ctrl-C, on which unittest cleans nothing up.
    unittest.addModuleCleanup(CLUSTER.close)
    atexit.register(CLUSTER.close)
    CLUSTER.start()
    with Client(CLUSTER.seeds) as client:
        # Shards move when a test says so, and then many at once.
        many = {"max_migrations": 64, "max_in_per_node": 32, "max_out_per_node": 32}
        client.put_policy(dataclasses.replace(client.policy(), enabled=False, **many))


def at_one_revision(test: Callable[[Any], None]) -> Callable[[Any], None]:
    """Runs a test again where the map changed under it: copies are levelled when that is due."""

    @functools.wraps(test)
    def repeated(self: Any) -> None:
        give_up = time.monotonic() + 60
        while True:
            before = self.client.map().revision
            try:
                return test(self)
            except AssertionError:
                if self.client.map().revision == before or time.monotonic() > give_up:
                    raise

    return repeated


class OnCluster(unittest.TestCase):
    def setUp(self) -> None:
        self.client = self.new_client()

    def new_client(self, **options: Any) -> Client:
        client = Client(CLUSTER.seeds, **options)
        self.addCleanup(client.close)
        return client

    def outsider(self, client: Client, shard: int) -> str:
        """A data node without a copy of `shard`."""
        row = client.shard(shard)
        others = set(CLUSTER.data) - {row.primary, *row.replicas, *row.learners}
        return min(others)

    def move(self, client: Client, shard: int) -> Migration:
        """Moves the shard's primary to a node that has no copy, once what moved before is over and deleted."""
        started = wait_for(
            f"a migration of shard {shard}", lambda: client.migrate(shard, self.outsider(client, shard))
        )
        ended = client.migration(started.id, wait_ms=25_000)
        self.assertEqual((ended.phase, ended.error), ("done", None))
        return ended


class Reading(OnCluster):
    @at_one_revision
    def test_routes_are_those_of_the_control_nodes(self) -> None:
        keys = [f"vector-{n}" for n in range(300)] + ["", "ключ", "向量", "🦀", "a&b=c d%2F", "x" * 1_000]
        routes = self.client.routes(keys)
        connection = http.client.HTTPConnection(CLUSTER.seeds[0], timeout=10)
        self.addCleanup(connection.close)
        for key, route in zip(keys, routes):
            connection.request("GET", f"/v1/route?key={quote(key, safe='')}")
            told = json.load(connection.getresponse())
            # What an earlier test moved may still be deleted, which is a revision and no other route.
            self.assertLessEqual(route.revision, told["revision"])
            self.assertEqual(_as_told(route), {**told, "revision": route.revision}, key)
            self.assertEqual(self.client.shard_of(key), hashing.shard_of_key(key, CLUSTER.num_shards))
        self.assertEqual({route.revision for route in routes}, {routes[0].revision})

    @at_one_revision
    def test_shards_nodes_and_the_map_agree(self) -> None:
        whole = self.client.map()
        self.assertEqual((whole.key_hash, whole.shard_hash, whole.num_shards), ("xxh64", "jump", CLUSTER.num_shards))
        shards = list(self.client.shards(page_size=5))
        self.assertEqual([shard.id for shard in shards], list(range(CLUSTER.num_shards)))
        for shard in shards:
            row = whole.shards[shard.id]
            self.assertEqual((row.epoch, row.primary, row.replicas), (shard.epoch, shard.primary, shard.replicas))
            self.assertEqual(shard, self.client.shard(shard.id))
        nodes = {node.id: node for node in self.client.nodes(page_size=1)}
        self.assertEqual(set(nodes), set(CLUSTER.data))
        for name, node in nodes.items():
            held = [shard.id for shard in shards if name in (shard.primary, *shard.replicas)]
            self.assertEqual([shard.id for shard in self.client.shards(node=name)], held)
            self.assertEqual((list(node.shards), node.addr), (held, whole.nodes[name].addr))
            self.assertEqual(self.client.node(name).store_id, node.store_id)
        self.assertEqual(list(self.client.shards(status="unavailable")), [])
        self.assertEqual(len(list(self.client.shards(status="active"))), CLUSTER.num_shards)

    def test_what_the_control_cluster_says_of_itself(self) -> None:
        cluster = self.client.cluster()
        self.assertEqual(sorted(member.id for member in cluster.members), sorted(CLUSTER.control))
        self.assertEqual([m.id for m in self.client.members(page_size=2)], [m.id for m in cluster.members])
        health = self.client.health(wait_for="healthy", wait_ms=10_000, consistency="stale")
        self.assertEqual((health.status, health.total_nodes, health.shards.total), ("healthy", 3, CLUSTER.num_shards))
        self.assertEqual(cluster.leader and cluster.leader.id, self.client.health().leader)
        kinds = [event.kind for event in self.client.events(page_size=4)]
        self.assertEqual(kinds.count("node_registered"), 3)
        explained = self.client.explain(0)
        self.assertEqual({node.node for node in explained.nodes}, set(CLUSTER.data))
        self.assertTrue(explained.summary)
        self.assertEqual(self.client.hotspots().shards, ())

    def test_what_is_refused_says_why(self) -> None:
        for call, kind, status, code in [
            (lambda: self.client.node("d99"), NotFound, 404, "not_found"),
            (lambda: self.client.node("no such name"), Malformed, 400, "malformed"),
            (lambda: self.client.shard(CLUSTER.num_shards), NotFound, 404, "not_found"),
            (lambda: self.client.explain(CLUSTER.num_shards), NotFound, 404, "not_found"),
            (lambda: self.client.migration(999), NotFound, 404, "not_found"),
            (lambda: list(self.client.shards(node="d99")), NotFound, 404, "not_found"),
            (lambda: list(self.client.shards(status="fine")), Malformed, 400, "malformed"),
            (lambda: list(self.client.nodes(page_size=0)), Malformed, 400, "malformed"),
            (lambda: self.client.health(wait_for="heaven"), Malformed, 400, "malformed"),
            (lambda: self.client.migrate(0, "d99"), Invalid, 422, "invalid"),
            (lambda: self.client.migrate(CLUSTER.num_shards, "d1"), NotFound, 404, "not_found"),
            (lambda: self.client.migrate(0, self.outsider(self.client, 0), if_epoch=999), Conflict, 409, "stale_epoch"),
            (lambda: self.client.force_primary(0, "d1", accept_data_loss=False), Invalid, 422, "invalid"),
            (lambda: self.client.delete_node("d1"), Conflict, 409, "holds_shards"),
            (lambda: self.client.drain("d99"), NotFound, 404, "not_found"),
            (lambda: self.client.maintenance("d1", 0), Invalid, 422, "invalid"),
            (lambda: self.client.remove_member("n9"), NotFound, 404, "not_found"),
            (lambda: self.client.transfer_leader("n9"), NotFound, 404, "not_found"),
        ]:
            with self.assertRaises(Refused) as caught:
                call()
            self.assertEqual((type(caught.exception), caught.exception.status), (kind, status), str(caught.exception))
            self.assertEqual(caught.exception.code, code, str(caught.exception))
            self.assertTrue(caught.exception.detail and caught.exception.request_id)

    def test_a_backup_is_a_file(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "backup.snapshot"
            length = self.client.snapshot(path)
            self.assertEqual(path.stat().st_size, length)
            self.assertGreater(length, 1_000)


class Changing(OnCluster):
    def test_a_migration_moves_the_primary_and_a_refreshed_map_knows(self) -> None:
        client = self.new_client(max_map_age=600.0)
        before = client.route("vector-1")
        migration = self.move(client, before.shard)
        self.assertEqual(client.route("vector-1"), before, "a map that young is not read again")
        self.assertTrue(client.refresh())
        after = client.route("vector-1")
        self.assertEqual(after.primary and after.primary.id, migration.to)
        self.assertGreater(after.epoch, before.epoch)
        listed = [(row.id, row.revision) for row in client.migrations(shard=before.shard)]
        self.assertIn((migration.id, migration.revision), listed)

    def test_a_repeated_write_takes_effect_once(self) -> None:
        shard = self.client.shard_of("vector-2")
        wait_for("the shard to be at rest", lambda: self.client.shard(shard).status == "active")
        target = self.outsider(self.client, shard)
        first = self.client.migrate(shard, target, idempotency_key="test-once")
        again = self.client.migrate(shard, target, idempotency_key="test-once")
        self.assertEqual((first.id, first.revision), (again.id, again.revision))
        with self.assertRaises(Invalid) as caught:
            self.client.migrate(shard, target, if_epoch=1, idempotency_key="test-once")
        self.assertIn("Idempotency-Key", str(caught.exception))
        self.assertTrue(self.client.migration(first.id, wait_ms=25_000).is_ended)

    def test_the_policy_is_put_under_a_condition(self) -> None:
        policy = self.client.policy()
        self.addCleanup(self.client.put_policy, policy)
        put = self.client.put_policy(dataclasses.replace(policy, max_migrations=7), if_revision=policy.revision)
        self.assertEqual((put.max_migrations, self.client.policy()), (7, put))
        with self.assertRaises(PreconditionFailed):
            self.client.put_policy(policy, if_revision=policy.revision)
        with self.assertRaises(Invalid) as caught:
            self.client.put_policy(dataclasses.replace(policy, max_migrations=0))
        self.assertIn("max_migrations", caught.exception.detail)
        with self.assertRaises(Malformed):
            self.client.put_policy(dataclasses.replace(policy, strategy="fengshui"))

    def test_pausing_planning_and_what_is_known_of_nodes(self) -> None:
        self.assertLess(self.client.pause(), self.client.resume())
        plan = self.client.rebalance(dry_run=True, strategy="ketama", max_moves=3)
        self.assertLessEqual(len(plan.moves), 3)
        self.assertGreaterEqual(plan.before.max_copies, plan.before.min_copies)
        node = self.client.patch_node("d1", rack="r1", labels={"disk": "ssd"})
        self.assertEqual((node.rack, node.labels), ("r1", {"disk": "ssd"}))
        with self.assertRaises(PreconditionFailed):
            self.client.patch_node("d1", capacity=2.5, if_revision=node.revision - 1)
        self.assertIsNone(self.client.patch_node("d1", rack="", labels={}).rack)
        self.assertEqual(self.client.maintenance("d2", 60_000).intent, "maintenance")
        self.assertEqual(self.client.end_maintenance("d2").intent, "schedulable")
        wait_for("no migration", lambda: not list(self.client.migrations(active=True)))

    def test_the_example_of_the_readme_works(self) -> None:
        text = (REPOSITORY / "clients" / "python" / "README.md").read_text("utf-8")
        example = text.split("```python\n")[1].split("```")[0]
        seeds = '"127.0.0.1:7001", "127.0.0.1:7002", "127.0.0.1:7003"'
        self.assertIn(seeds, example)
        code = compile(example.replace(f"[{seeds}]", repr(CLUSTER.seeds)), "README.md", "exec")
        printed, done = io.StringIO(), threading.Event()

        def change() -> None:
            # What the example waits for.
            while not done.wait(0.05):
                self.client.patch_node("d1", labels={"changed": str(time.monotonic())})

        thread = threading.Thread(target=change, daemon=True)
        thread.start()
        try:
            with contextlib.redirect_stdout(printed):
                exec(code, {})
        finally:
            done.set()
            thread.join()
        self.assertIn("d3 alive", printed.getvalue())

    def test_a_drain_empties_a_node(self) -> None:
        self.assertGreater(len(self.client.plan_drain("d3").moves), 0)
        self.assertEqual(self.client.node("d3").intent, "schedulable", "planning changes nothing")
        self.assertEqual(self.client.drain("d3").intent, "draining")
        wait_for("d3 to be empty", lambda: self.client.node("d3").intent == "drained")
        self.assertEqual(list(self.client.shards(node="d3")), [])
        self.assertEqual(self.client.undrain("d3").intent, "schedulable")


class Surviving(OnCluster):
    """The death of control nodes; each is started again."""

    def kill(self, name: str) -> None:
        process = CLUSTER.control[name]
        process.kill()
        self.addCleanup(CLUSTER.wait_until_healthy)
        self.addCleanup(process.start)

    def leader(self) -> str:
        def look() -> Optional[str]:
            leader = self.client.cluster().leader
            return leader and leader.id

        return wait_for("a leader", look)

    def test_calls_succeed_while_the_leader_is_killed(self) -> None:
        leader, done, wrong = self.leader(), threading.Event(), []
        counts = {"reads": 0, "writes": 0, "routes": 0}

        def work(what: str, call: Any) -> None:
            try:
                while not done.is_set():
                    call()
                    counts[what] += 1
            except Exception as error:
                wrong.append(error)

        calls = {
            "reads": lambda: self.client.node("d1"),
            "writes": lambda: self.client.patch_node("d1", labels={"n": str(counts["writes"])}),
            "routes": lambda: self.client.route("vector-3"),
        }
        threads = [threading.Thread(target=work, args=call, daemon=True) for call in calls.items()]
        for thread in threads:
            thread.start()
        wait_for("calls before", lambda: min(counts.values()) > 5 or wrong)
        self.kill(leader)
        before = dict(counts)
        wait_for("calls after", lambda: all(counts[what] > before[what] + 20 for what in counts) or wrong)
        done.set()
        for thread in threads:
            thread.join()
        self.assertEqual(wrong, [])
        self.assertNotEqual(self.leader(), leader)
        self.assertEqual(self.client.node("d1").labels, {"n": str(counts["writes"] - 1)}, "the last one took effect last")

    def test_a_watch_sees_a_migration_in_order_while_its_control_node_is_killed(self) -> None:
        shard = self.client.shard_of("vector-4")
        watch = self.client.watch()
        told: list[WatchEvent] = []
        thread = threading.Thread(target=lambda: told.extend(watch), daemon=True)
        thread.start()
        wait_for("the snapshot", lambda: told)
        first = self.move(self.client, shard)
        wait_for("the migration's end", lambda: watch.revision and watch.revision >= first.revision)
        # A white box: nobody but the watch knows who serves it.
        stream = watch._stream
        assert stream is not None
        self.kill(f"n{CLUSTER.seeds.index(stream.origin.netloc) + 1}")
        second = self.move(self.client, shard)
        wait_for("the second one's end", lambda: watch.revision and watch.revision >= second.revision)
        watch.close()
        thread.join(10)
        self.assertFalse(thread.is_alive())
        self._check(told, [first, second])

    def _check(self, told: list[WatchEvent], migrations: list[Migration]) -> None:
        self.assertIsInstance(told[0], Snapshot)
        revisions = [event.revision for event in told if isinstance(event, Changes)]
        self.assertEqual(revisions, sorted(set(revisions)), "in order, none twice")
        changes = list(_migrations_in(told))
        # Another watcher, which begins behind the snapshot and is not disturbed, is told the same.
        undisturbed: list[Migration] = []
        with self.client.watch(from_revision=told[0].revision) as watch:
            while not undisturbed or undisturbed[-1].revision < changes[-1].revision:
                undisturbed.extend(_migrations_in([next(watch)]))
        self.assertEqual(changes, undisturbed, "no gap")
        order = ["queued", "preparing", "copying", "admitting", "handing_over", "done"]
        for migration in migrations:
            phases = [row.phase for row in changes if row.id == migration.id]
            self.assertEqual(phases[-1], "done")
            self.assertTrue(set(phases) <= set(order), phases)

    def test_a_followed_map_knows_of_changes_by_itself(self) -> None:
        self.client.follow()
        wait_for("the watch", lambda: self.client.freshness().revision)
        route = self.client.route("vector-5")
        migration = self.move(self.client, route.shard)
        after = wait_for("the new primary", lambda: _led_by(self.client.route("vector-5"), migration.to))
        self.assertGreater(after.epoch, route.epoch)


def _led_by(route: Route, node: Optional[str]) -> Optional[Route]:
    return route if route.primary is not None and route.primary.id == node else None


def _migrations_in(told: list[WatchEvent]) -> Iterator[Migration]:
    for event in told:
        if isinstance(event, Changes):
            for change in event.changes:
                if isinstance(change, MigrationChanged):
                    yield change.migration


def _as_told(route: Route) -> dict[str, Any]:
    told = dataclasses.asdict(route)
    return {**told, "replicas": list(told["replicas"])}
