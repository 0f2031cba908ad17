"""The parts that need no control node: answers, seeds, event streams, Retry-After."""

from __future__ import annotations

import json
import random
import unittest
from datetime import datetime, timezone

from ruvector_cluster import ClusterError, ConfigError, MigrationChanged, NodeRemoved, OtherChange, ShardMap
from ruvector_cluster.changes import Changes, read_event
from ruvector_cluster.decode import BadShape, decode
from ruvector_cluster.judge import retry_after_s
from ruvector_cluster.known import MAX_LEARNED, Known
from ruvector_cluster.model import Cluster, Event, MapNode, Migration, Policy
from ruvector_cluster.origin import Origin, parse_seeds
from ruvector_cluster.sse import EventReader, StreamEvent

MIGRATION = {
    "id": 3, "shard": 7, "kind": "move", "from": "d1", "to": "d2", "epoch": 4, "phase": "done", "reason": "asked",
    "bytes_done": None, "bytes_total": None, "eta_ms": None, "error": None, "created_at": "2026-01-02T03:04:05Z",
    "updated_at": "2026-01-02T03:04:05.678Z", "revision": 9,
}


class Decoding(unittest.TestCase):
    def test_an_answer_becomes_a_dataclass_with_times_and_what_is_unknown(self) -> None:
        migration = decode(Migration, {**MIGRATION, "mood": "good"})
        self.assertEqual((migration.from_, migration.to, migration.is_ended), ("d1", "d2", True))
        self.assertEqual(migration.updated_at, datetime(2026, 1, 2, 3, 4, 5, 678_000, timezone.utc))
        self.assertEqual(migration.extra, {"mood": "good"})
        self.assertEqual(migration, decode(Migration, MIGRATION), "what is unknown is not compared")

    def test_optional_fields_may_be_missing_and_defaults_stand(self) -> None:
        event = {"revision": 1, "seq": 0, "at": "2026-01-02T03:04:05Z", "kind": "k", "detail": "d", "actor": "client"}
        self.assertIsNone(decode(Event, event).shard)
        cluster = {
            "cluster_id": "c", "generation": 1, "version": "1", "leader": None, "term": 1, "revision": 1, "members": [],
            "num_shards": 1, "replication_factor": 1, "lease_ms": 1,
        }
        self.assertFalse(decode(Cluster, cluster).suspended)

    def test_what_does_not_fit_is_named(self) -> None:
        node = {"addr": "h:1", "zone": None, "rack": None, "status": "alive"}
        whole = {
            "generation": 1, "revision": 1, "cluster_id": "c", "key_hash": "xxh64", "shard_hash": "jump", "num_shards": 1,
            "replication_factor": 1, "nodes": {"d1": node},
            "shards": [{"epoch": 1, "primary": "d1", "replicas": [], "in_sync": ["d1"]}],
        }
        self.assertEqual(decode(ShardMap, whole).nodes["d1"], MapNode("h:1", None, None, "alive"))
        shard = {"epoch": True, "primary": "d1", "replicas": [], "in_sync": []}
        for name, value, told in [
            ("shards", [shard], "field `shards.0.epoch`: an integer was expected, not True"),
            ("nodes", {"d1": {**node, "addr": 7}}, "field `nodes.d1.addr`: a string was expected, not 7"),
            ("revision", 1.5, "field `revision`: an integer was expected, not 1.5"),
            ("shards", {}, "field `shards`: a list was expected, not {}"),
        ]:
            with self.assertRaises(BadShape) as caught:
                decode(ShardMap, {**whole, name: value})
            self.assertEqual(str(caught.exception), told)
        with self.assertRaises(BadShape) as caught:
            decode(Migration, {name: value for name, value in MIGRATION.items() if name != "epoch"})
        self.assertEqual(str(caught.exception), "field `epoch`: is missing")
        for bad in ["2026-13-02T03:04:05Z", "2026-01-02 03:04:05", "2026-01-02T03:04:05+02:00", 0]:
            with self.assertRaises(BadShape):
                decode(Migration, {**MIGRATION, "created_at": bad})

    def test_a_policy_takes_whole_numbers_for_decimals(self) -> None:
        numbers = ["max_migrations", "max_in_per_node", "max_out_per_node", "max_bytes_per_s", "start_imbalance"]
        numbers += ["stop_imbalance", "down_grace_ms", "phase_timeout_ms", "mass_failure_share", "mass_failure_hold_ms"]
        given = {name: 1 for name in [*numbers, "hot_factor", "disk_watermark"]}
        policy = decode(Policy, {**given, "enabled": True, "strategy": "balanced", "revision": 77})
        self.assertIsInstance(policy.start_imbalance, float)
        self.assertIsNone(policy.revision, "it does not stand in the body")


class Seeds(unittest.TestCase):
    def test_addresses_of_all_kinds(self) -> None:
        given = ["127.0.0.1:7001", "http://Control-1.example:7001/", "[::1]:7001", "HTTP://[FE80::0:1]:80", "127.0.0.1:7001"]
        origins = parse_seeds(given)
        urls = ["http://127.0.0.1:7001", "http://control-1.example:7001", "http://[::1]:7001", "http://[fe80::1]:80"]
        self.assertEqual([origin.url for origin in origins], urls)
        self.assertEqual(parse_seeds(" h:1, h:2 "), (Origin("h", 1), Origin("h", 2)))

    def test_bad_ones_are_named_with_what_to_do(self) -> None:
        for seeds, told in [
            ([], "seeds is empty"),
            ("", "seeds[0] is ''"),
            (["h:1", "h"], "seeds[1] is 'h': give HOST:PORT"),
            (["h:0"], "seeds[0]"),
            (["h:65536"], "seeds[0]"),
            (["h:1/v1"], "seeds[0]"),
            (["u@h:1"], "seeds[0]"),
            (["https://h:1"], "no TLS"),
            (["::1:7001"], "brackets"),
            (["[::1::2]:7001"], "seeds[0]"),
            ([7001], "seeds[0] is 7001: give a string"),
        ]:
            with self.assertRaises(ConfigError, msg=repr(seeds)) as caught:
                parse_seeds(seeds)  # type: ignore[arg-type]
            self.assertIn(told, str(caught.exception))
            self.assertIsInstance(caught.exception, ValueError)
            self.assertIsInstance(caught.exception, ClusterError)


class ControlNodes(unittest.TestCase):
    def test_what_is_learned_does_not_grow_for_ever_and_seeds_stay(self) -> None:
        known = Known((Origin("seed", 1),), random.Random(1))
        for port in range(1, 1_000):
            known.led_by(f"http://h:{port}")
        self.assertEqual(len(known.origins_from(0)), 1 + MAX_LEARNED)
        known.learn(["http://n1:1", "not a url", "http://seed:1"], "http://n1:1")
        self.assertEqual(known.origins_from(0), [Origin("seed", 1), Origin("n1", 1)])
        self.assertEqual(list(known.round(to_leader=True))[0], Origin("n1", 1))
        known.failed(Origin("n1", 1))
        self.assertEqual(list(known.round(to_leader=True))[0], Origin("seed", 1))

    def test_a_round_makes_one_detour(self) -> None:
        known = Known((Origin("a", 1), Origin("b", 1)), random.Random(1))
        asked = []
        targets = known.round(to_leader=False)
        for origin in targets:
            asked.append(origin)
            targets.redirect(Origin("leader", len(asked)))
        self.assertEqual(asked[1], Origin("leader", 1))
        self.assertEqual(len(asked), 3)


class EventStreams(unittest.TestCase):
    def test_events_come_out_whole_wherever_the_bytes_are_cut(self) -> None:
        text = ': hello\n\nevent: change\nid: 7\ndata: {"a":\ndata: 1}\n\nevent: bookmark\r\ndata: {}\r\n\r\nevent: none\n\n'
        whole = [StreamEvent("change", '{"a":\n1}', "7"), StreamEvent("bookmark", "{}", None)]
        for size in [*range(1, 9), 1_000]:
            reader = EventReader()
            cut = [text.encode()[at : at + size] for at in range(0, len(text), size)]
            self.assertEqual([event for piece in cut for event in reader.push(piece)], whole)

    def test_changes_are_typed_and_unknown_ones_are_let_pass(self) -> None:
        changes = [{"type": "node_removed", "id": "d1"}, {"type": "mood", "level": 3}, {"type": "migration", **MIGRATION}]
        event = read_event(StreamEvent("change", json.dumps({"revision": 9, "changes": changes}), "9"))
        assert isinstance(event, Changes)
        self.assertEqual(event.changes[:2], (NodeRemoved("d1"), OtherChange("mood", {"level": 3})))
        self.assertIsInstance(event.changes[2], MigrationChanged)
        self.assertIsNone(read_event(StreamEvent("weather", "rain", None)))
        for bad in ["[]", '{"revision":1}', '{"revision":1,"changes":[{}]}', "{"]:
            with self.assertRaises(BadShape):
                read_event(StreamEvent("change", bad, None))


class RetryAfter(unittest.TestCase):
    def test_seconds_and_dates(self) -> None:
        date = {"date": "Sun, 06 Nov 1994 08:49:37 GMT"}
        for value, seconds in [
            ("3", 3.0),
            ("Sun, 06 Nov 1994 08:49:41 GMT", 4.0),
            ("Sun, 06 Nov 1994 08:49:31 GMT", 0.0),
            ("soon", None),
            ("-1", None),
            ("", None),
        ]:
            self.assertEqual(retry_after_s({**date, "retry-after": value}), seconds, value)
        self.assertEqual(retry_after_s({"retry-after": "Sun, 06 Nov 1994 08:49:41 GMT"}), 0.0, "by our own clock too")
        self.assertGreater(retry_after_s({"retry-after": "9" * 30}) or 0, 1e6)
