"""How calls are repeated, against scripted control nodes."""

from __future__ import annotations

import json
import tempfile
import threading
import time
import unittest
from pathlib import Path
from typing import Any

from ruvector_cluster import (
    BadAnswer, Client, ClientClosed, ConfigError, Conflict, Invalid, NotFound, OutcomeUnknown, Refused, Unavailable,
)
from support.scripted import GARBAGE, HANG_UP, SILENCE, Asked, Reply, Script, ScriptedNode, nobody, problem
from support.waiting import wait_for

PAUSED = Reply(200, {"paused": True, "revision": 5})
HEALTH = {
    "status": "healthy", "reasons": [], "healthy_nodes": 0, "total_nodes": 0, "leader": "n1", "failures_tolerated": 1,
    "shards": {"total": 0, "active": 0, "degraded": 0, "migrating": 0, "unavailable": 0, "unassigned": 0},
}


class Scripted(unittest.TestCase):
    def node(self, script: Script, **more: Any) -> ScriptedNode:
        node = ScriptedNode(script, **more)
        self.addCleanup(node.close)
        return node

    def client(self, *seeds: str, **options: Any) -> Client:
        client = Client(seeds, **{"timeout": 0.5, "deadline": 5.0, **options})
        self.addCleanup(client.close)
        return client

    def in_turn(self, *replies: Any) -> Script:
        """Each reply once, and the last one for ever."""
        left = list(replies)
        return lambda _: left.pop(0) if len(left) > 1 else left[0]


class Repeating(Scripted):
    def test_a_503_is_repeated_no_sooner_than_it_says(self) -> None:
        node = self.node(self.in_turn(problem(503, "no_leader", retry_after="1"), PAUSED))
        begun = time.monotonic()
        self.assertEqual(self.client(node.addr).pause(), 5)
        self.assertGreaterEqual(time.monotonic() - begun, 1.0)
        self.assertEqual(len(node.asked), 2)

    def test_every_attempt_of_a_write_has_the_same_key_and_body(self) -> None:
        replies = [problem(504, "outcome_unknown"), HANG_UP, SILENCE, GARBAGE, Reply(502, b"<html>"), PAUSED]
        node = self.node(self.in_turn(*replies))
        self.assertEqual(self.client(node.addr).pause(), 5)
        self.assertEqual(len({(asked.headers["idempotency-key"], asked.body) for asked in node.asked}), 1)
        self.assertGreaterEqual(len(node.asked), len(replies))

    def test_another_write_has_another_key_and_reads_have_none(self) -> None:
        node = self.node(lambda asked: Reply(200, HEALTH) if asked.method == "GET" else PAUSED)
        client = self.client(node.addr)
        client.pause()
        client.pause()
        client.health()
        client.pause(idempotency_key="mine")
        keys = [asked.headers.get("idempotency-key") for asked in node.asked]
        self.assertEqual(len(keys[0] or ""), 32)
        self.assertNotEqual(keys[0], keys[1])
        self.assertEqual(keys[2:], [None, "mine"])

    def test_a_write_that_may_have_happened_says_so_and_with_which_key_to_repeat_it(self) -> None:
        silent, absent = self.node(lambda _: SILENCE), nobody()
        with self.assertRaises(OutcomeUnknown) as caught:
            self.client(silent.addr, absent, timeout=0.2, deadline=0.6).pause()
        error = caught.exception
        self.assertEqual(error.idempotency_key, silent.asked[0].headers["idempotency-key"])
        self.assertIn(error.idempotency_key, str(error))
        self.assertEqual(set(error.attempts), {silent.url, f"http://{absent}"})
        self.assertEqual(error.attempts[silent.url], "no answer in time")
        self.assertIn("ConnectionRefused", error.attempts[f"http://{absent}"])

    def test_a_write_that_certainly_did_not_happen_is_unavailable(self) -> None:
        node = self.node(lambda _: problem(503, "no_leader", retry_after="4"))
        with self.assertRaises(Unavailable) as caught:
            # There is no time for what it asks for, so nothing is waited for.
            self.client(node.addr, nobody(), deadline=3.0).pause()
        self.assertIn("503 no_leader", caught.exception.attempts[node.url])
        self.assertLess(caught.exception.waited_s, 2.0)

    def test_the_deadline_bounds_a_node_that_sends_a_byte_now_and_then(self) -> None:
        def drip(_: Asked) -> Reply:
            return Reply(200, b"{", length=1_000)

        node, begun = self.node(drip), time.monotonic()
        with self.assertRaises(Unavailable):
            self.client(node.addr, deadline=0.4).health()
        self.assertLess(time.monotonic() - begun, 2.0)

    def test_refusals_are_raised_at_once_by_their_class(self) -> None:
        for status, code, kind in [(404, "not_found", NotFound), (409, "already_migrating", Conflict), (418, "tea", Refused)]:
            node = self.node(lambda _, status=status, code=code: problem(status, code))
            with self.assertRaises(Refused) as caught:
                self.client(node.addr, nobody()).health()
            self.assertIs(type(caught.exception), kind)
            self.assertEqual((caught.exception.status, caught.exception.code), (status, code))
            self.assertEqual(caught.exception.request_id, "r-1")
            self.assertEqual(len(node.asked), 1)

    def test_a_refusal_that_is_no_problem_document(self) -> None:
        node = self.node(lambda _: Reply(404, b"<h1>nothing here</h1>"))
        with self.assertRaises(NotFound) as caught:
            self.client(node.addr).health()
        self.assertEqual((caught.exception.code, caught.exception.detail), ("unknown", "<h1>nothing here</h1>"))

    def test_an_answer_of_another_shape_names_the_field(self) -> None:
        node = self.node(lambda _: Reply(200, {**HEALTH, "healthy_nodes": "three"}))
        with self.assertRaises(BadAnswer) as caught:
            self.client(node.addr).health()
        self.assertIn("field `healthy_nodes`", str(caught.exception))

    def test_who_answers_no_json_is_passed_over(self) -> None:
        odd, fine = self.node(lambda _: Reply(200, b"It works!")), self.node(lambda _: Reply(200, HEALTH))
        for _ in range(4):
            self.assertEqual(self.client(odd.addr, fine.addr).health().status, "healthy")

    def test_a_body_that_breaks_off_is_no_answer(self) -> None:
        cut = Reply(200, json.dumps(HEALTH).encode(), length=5_000)
        node = self.node(self.in_turn(cut, Reply(200, HEALTH)))
        self.assertEqual(self.client(node.addr).health().leader, "n1")
        self.assertEqual(len(node.asked), 2)


class Leaders(Scripted):
    def test_a_421_leads_to_the_leader_which_is_asked_first_from_then_on(self) -> None:
        leader = self.node(lambda _: PAUSED)
        other = self.node(lambda _: problem(421, "not_leader", leader_url=leader.url))
        client = self.client(other.addr)
        client.pause()
        client.pause()
        self.assertEqual((len(other.asked), len(leader.asked)), (1, 2))

    def test_members_are_learned_so_that_a_dead_seed_is_no_harm(self) -> None:
        second = self.node(lambda _: Reply(200, HEALTH))
        member = {"id": "n2", "raft_id": 1, "role": "voter", "peer_url": "", "matched": None, "last_contact_ms": None}
        cluster = {
            "cluster_id": "c", "generation": 1, "version": "1", "leader": None, "term": 1, "revision": 1,
            "members": [{**member, "client_url": second.url}], "num_shards": 1, "replication_factor": 1, "lease_ms": 1,
        }
        first = ScriptedNode(
            lambda asked: Reply(200, cluster if "/cluster" in asked.target else HEALTH), tells_members=True
        )
        client = self.client(first.addr)
        client.health()
        first.close()
        self.assertEqual(client.health().status, "healthy")
        self.assertEqual(len(second.asked), 1)


class Connections(Scripted):
    def test_they_are_kept_and_replaced_when_the_other_side_closed_them(self) -> None:
        node = self.node(lambda _: PAUSED)
        client = self.client(node.addr)
        for _ in range(5):
            client.pause()
        before = node.connections
        self.assertEqual(before, 1)
        node.hang_up_on_all()
        for _ in range(5):
            client.pause()
        self.assertEqual(node.connections, 2)

    def test_threads_share_a_client(self) -> None:
        node = self.node(lambda _: PAUSED)
        client, wrong = self.client(node.addr), []

        def work() -> None:
            try:
                for _ in range(20):
                    client.pause()
            except Exception as error:
                wrong.append(error)

        threads = [threading.Thread(target=work, daemon=True) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual((wrong, len(node.asked)), ([], 160))

    def test_a_closed_client_says_so_also_to_who_waits(self) -> None:
        node = self.node(lambda _: problem(503, "no_leader", retry_after="5"))
        client, met = self.client(node.addr, deadline=60.0), []

        def wait() -> None:
            try:
                client.pause()
            except ClientClosed as error:
                met.append(error)

        thread = threading.Thread(target=wait, daemon=True)
        thread.start()
        wait_for("the first attempt", lambda: node.asked)
        client.close()
        client.close()
        thread.join(5)
        self.assertEqual(len(met), 1)
        for call in (client.health, client.follow, client.watch, lambda: client.route("k")):
            with self.assertRaises(ClientClosed):
                call()


class Arguments(Scripted):
    def test_what_can_not_work_is_refused_before_anything_is_sent(self) -> None:
        node = self.node(lambda _: PAUSED)
        client = self.client(node.addr)
        for call in [
            lambda: client.node(""),
            lambda: client.node("\ud800"),
            lambda: client.shards(node="\ud800").__next__(),
            lambda: client.shard(-1),
            lambda: client.shard(True),
            lambda: client.health(consistency="fresh"),  # type: ignore[arg-type]
            lambda: client.health(wait_ms=-1),
            lambda: client.watch(from_revision=-1),
            lambda: client.pause(idempotency_key=""),
            lambda: client.pause(idempotency_key="a\nb"),
            lambda: client.patch_node("d1", capacity=float("nan")),
            lambda: Client(node.addr, timeout=0),
            lambda: Client(node.addr, deadline=float("inf")),
            lambda: Client(node.addr, consistency="fresh"),  # type: ignore[arg-type]
        ]:
            with self.assertRaises(ConfigError):
                call()
        self.assertEqual(node.asked, [])

    def test_a_policy_is_put_as_it_was_read_with_what_is_unknown(self) -> None:
        policy = {
            "enabled": True, "max_migrations": 16, "max_in_per_node": 2, "max_out_per_node": 2, "max_bytes_per_s": 0,
            "start_imbalance": 1.1, "stop_imbalance": 1.05, "down_grace_ms": 1, "phase_timeout_ms": 1,
            "mass_failure_share": 0.34, "mass_failure_hold_ms": 1, "hot_factor": 2.0, "disk_watermark": 0.9,
            "strategy": "balanced", "moon_phase": "full",
        }
        node = self.node(lambda _: Reply(200, policy, {"ETag": '"44"'}))
        client = self.client(node.addr)
        read = client.policy()
        self.assertEqual(read.revision, 44)
        client.put_policy(read, if_revision=read.revision)
        self.assertEqual(json.loads(node.asked[-1].body), policy)
        self.assertEqual(node.asked[-1].headers["if-match"], '"44"')

    def test_requests_are_what_the_api_says(self) -> None:
        node = self.node(lambda _: problem(422, "invalid"))
        client = self.client(node.addr)
        for call, expected in [
            (lambda: client.node("a/b c"), ("GET", "/v1/nodes/a%2Fb%20c?consistency=linearizable", b"", None)),
            (lambda: list(client.shards(node="d&1", status="active", consistency="stale")),
             ("GET", "/v1/shards?node=d%261&status=active&limit=1000&consistency=stale", b"", None)),
            (lambda: list(client.migrations(active=True, shard=0)),
             ("GET", "/v1/migrations?active=true&shard=0&limit=1000&consistency=linearizable", b"", None)),
            (lambda: client.migrate(3, "d2", if_epoch=0), ("POST", "/v1/migrations", b'{"shard":3,"to":"d2","if_epoch":0}', None)),
            (lambda: client.patch_node("d1", rack="", labels={}, if_revision=4), ("PATCH", "/v1/nodes/d1", b'{"rack":"","labels":{}}', '"4"')),
            (lambda: client.undrain("d1"), ("DELETE", "/v1/nodes/d1/drain", b"{}", None)),
        ]:
            with self.assertRaises(Invalid):
                call()
            asked = node.asked[-1]
            self.assertEqual((asked.method, asked.target, asked.body, asked.headers.get("if-match")), expected)


class Backups(Scripted):
    def test_a_backup_that_breaks_off_leaves_the_file_as_it_was(self) -> None:
        kind = {"Content-Type": "application/octet-stream"}
        node = self.node(lambda _: Reply(200, b"half", kind, length=1_000))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "backup"
            path.write_bytes(b"before")
            with self.assertRaises(Unavailable):
                self.client(node.addr).snapshot(path, deadline=0.3)
            self.assertEqual(path.read_bytes(), b"before")
            self.assertEqual([entry.name for entry in Path(folder).iterdir()], ["backup"])
