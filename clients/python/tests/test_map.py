"""The held map and the watch, against scripted control nodes."""

from __future__ import annotations

import json
import threading
import time
from typing import Any, Optional, Union

from ruvector_cluster import BadAnswer, Bookmark, Changes, Compacted, Snapshot, Unavailable, UnknownHash
from support.scripted import HANG_UP, Asked, Reply, problem
from support.waiting import wait_for
from test_retry import Scripted

STREAM = {"Content-Type": "text/event-stream"}


def map_at(revision: int, *, generation: int = 1, primary: str = "d1", **more: Any) -> dict[str, Any]:
    nodes = {id_: {"addr": f"{id_}:1", "zone": None, "rack": None, "status": "alive"} for id_ in ("d1", "d2")}
    shards = [{"epoch": revision, "primary": primary, "replicas": ["d2", "gone"], "in_sync": [primary]}] * 4
    whole = {"generation": generation, "revision": revision, "cluster_id": "c", "key_hash": "xxh64", "shard_hash": "jump"}
    return {**whole, "num_shards": 4, "replication_factor": 2, "nodes": nodes, "shards": shards, **more}


def shard(id_: int, primary: str, epoch: int) -> dict[str, Any]:
    row = {"type": "shard", "id": id_, "epoch": epoch, "primary": primary, "replicas": [], "learners": [], "in_sync": []}
    return {**row, "in_sync_version": 1, "status": "active", "size_bytes": None, "vectors": None, "revision": epoch}


def events(*told: tuple[str, int, Any]) -> bytes:
    return "".join(f"event: {name}\nid: {id_}\ndata: {json.dumps(data)}\n\n" for name, id_, data in told).encode()


def change(revision: int, *changes: Any) -> tuple[str, int, Any]:
    return "change", revision, {"revision": revision, "changes": changes}


def bookmark(revision: int) -> tuple[str, int, Any]:
    return "bookmark", revision, {"revision": revision}


def snapshot(revision: int, **more: Any) -> tuple[str, int, Any]:
    return "snapshot", revision, map_at(revision, **more)


class Routing(Scripted):
    def test_a_fresh_map_costs_no_request_and_an_old_one_a_conditional_one(self) -> None:
        def script(asked: Asked) -> Reply:
            if asked.headers.get("if-none-match") == '"7"':
                return Reply(304)
            return Reply(200, map_at(7), {"ETag": '"7"'})

        node = self.node(script)
        client = self.client(node.addr, max_map_age=0.2)
        for n in range(100):
            client.route(f"key-{n}")
        self.assertLessEqual(len(node.asked), 2)
        wait_for("a conditional read", lambda: client.route("k") and "if-none-match" in node.asked[-1].headers)
        route = client.route("k")
        self.assertEqual((route.revision, route.epoch, route.generation), (7, 7, 1))
        self.assertEqual([node.addr for node in route.replicas], ["d2:1"], "a node that is gone has no address")
        self.assertIn("consistency=stale", node.asked[0].target)

    def test_an_older_map_is_ignored_and_not_asked_for_again_and_again(self) -> None:
        said = [map_at(9), *[map_at(8)] * 1_000]
        node = self.node(lambda _: Reply(200, said.pop(0)))
        client = self.client(node.addr, max_map_age=0.2)
        client.route("k")
        wait_for("another read", lambda: client.route("k") and len(node.asked) > 1)
        for _ in range(50):
            self.assertEqual(client.route("k").revision, 9)
        self.assertLessEqual(len(node.asked), 4)
        self.assertFalse(client.refresh())

    def test_a_map_of_a_higher_generation_is_newer_whatever_its_revision(self) -> None:
        said = [map_at(9), map_at(3, generation=2, primary="d2")]
        node = self.node(lambda _: Reply(200, said.pop(0)))
        client = self.client(node.addr, max_map_age=60.0)
        client.route("k")
        self.assertTrue(client.refresh())
        route = client.route("k")
        self.assertEqual((route.generation, route.revision, route.primary and route.primary.id), (2, 3, "d2"))
        self.assertIn("consistency=linearizable", node.asked[-1].target)

    def test_an_old_map_does_while_nobody_answers(self) -> None:
        replies: list[Any] = [Reply(200, map_at(7))]
        node = self.node(lambda _: replies.pop(0) if replies else HANG_UP)
        client = self.client(node.addr, max_map_age=0.1, timeout=0.2)
        client.route("k")
        wait_for("the failure to be noted", lambda: client.route("k") and client.freshness().last_error)
        self.assertEqual(client.route("k").revision, 7)
        with self.assertRaises(Unavailable):
            self.client(node.addr, deadline=0.2).route("k")

    def test_maps_that_must_not_be_routed_by_are_refused(self) -> None:
        for wrong, kind in [
            (map_at(1, key_hash="xxh128"), UnknownHash),
            (map_at(1, shard_hash="rendezvous"), UnknownHash),
            (map_at(1, num_shards=5), BadAnswer),
        ]:
            node = self.node(lambda _, wrong=wrong: Reply(200, wrong))
            with self.assertRaises(kind):
                self.client(node.addr).route("k")
        said = [map_at(1), map_at(2, cluster_id="another")]
        node = self.node(lambda _: Reply(200, said.pop(0)))
        client = self.client(node.addr)
        client.route("k")
        with self.assertRaises(BadAnswer):
            client.refresh()

    def test_one_thread_reads_for_all(self) -> None:
        def script(_: Asked) -> Reply:
            time.sleep(0.1)
            return Reply(200, map_at(7))

        node = self.node(script)
        client, routes = self.client(node.addr, max_map_age=60.0), []
        threads = [threading.Thread(target=lambda: routes.append(client.route("k")), daemon=True) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual((len(routes), len(node.asked)), (8, 1))


class Watching(Scripted):
    def streams(self, *replies: Union[Reply, bytes, str]) -> Any:
        """A control node that serves these streams, one after the other, and ends each; then it hangs up."""
        left = [Reply(200, reply, STREAM) if isinstance(reply, bytes) else reply for reply in replies]
        return self.node(lambda _: left.pop(0) if left else HANG_UP)

    def test_a_stream_that_breaks_is_resumed_without_gap_or_duplicate(self) -> None:
        node = self.streams(
            events(snapshot(5), change(6, shard(1, "d2", 6))) + b"event: change\nid: 7\ndata: {",
            HANG_UP,
            events(change(6, shard(1, "d1", 6)), change(7, shard(2, "d2", 7)), bookmark(8)),
        )
        with self.client(node.addr).watch() as watch:
            told = [next(watch) for _ in range(4)]
            self.assertEqual([type(event) for event in told], [Snapshot, Changes, Changes, Bookmark])
            self.assertEqual([event.revision for event in told], [5, 6, 7, 8])
            self.assertEqual(watch.revision, 8)
        self.assertEqual([asked.headers.get("last-event-id") for asked in node.asked[:3]], [None, "6", "6"])
        self.assertNotIn("from=", "".join(asked.target for asked in node.asked))

    def test_the_next_control_node_goes_on(self) -> None:
        def script(asked: Asked) -> Reply:
            after_4 = asked.headers["last-event-id"] == "4"
            return Reply(200, events(change(5), change(6)) if after_4 else events(change(7)), STREAM)

        nodes = [self.node(script), self.node(script)]
        with self.client(nodes[0].addr, nodes[1].addr).watch(from_revision=4) as watch:
            self.assertEqual([next(watch).revision for _ in range(3)], [5, 6, 7])
        self.assertEqual([len(node.asked) for node in nodes], [1, 1])

    def test_what_is_compacted_raises_where_a_revision_was_named(self) -> None:
        node = self.node(lambda _: problem(410, "compacted"))
        with self.client(node.addr).watch(from_revision=3) as watch, self.assertRaises(Compacted):
            next(watch)
        self.assertEqual(node.asked[0].headers.get("last-event-id"), "3")

    def test_what_is_compacted_brings_a_new_snapshot_elsewhere(self) -> None:
        node = self.streams(events(snapshot(5)), problem(410, "compacted"), events(snapshot(2, generation=2)))
        with self.client(node.addr).watch() as watch:
            told = [next(watch), next(watch)]
        self.assertEqual([event.map.generation for event in told if isinstance(event, Snapshot)], [1, 2])

    def test_a_new_snapshot_that_is_older_than_what_was_told_is_ignored(self) -> None:
        node = self.streams(
            events(snapshot(5), change(9)),
            problem(410, "compacted"),
            events(snapshot(7), change(8), change(9), change(10)),
        )
        with self.client(node.addr).watch() as watch:
            self.assertEqual([next(watch).revision for _ in range(3)], [5, 9, 10])

    def test_it_ends_when_nobody_serves_it_for_the_deadline(self) -> None:
        node = self.streams(events(snapshot(5)))
        with self.client(node.addr, deadline=0.4).watch() as watch:
            self.assertEqual(next(watch).revision, 5)
            with self.assertRaises(Unavailable) as caught:
                next(watch)
        self.assertIn(node.url, caught.exception.attempts)

    def test_close_ends_an_iteration_that_waits_in_another_thread(self) -> None:
        node = self.node(lambda _: Reply(200, events(snapshot(5)), STREAM, length=1_000_000, stays_open=True))
        client = self.client(node.addr)
        watch, told = client.watch(), []
        thread = threading.Thread(target=lambda: told.extend(watch), daemon=True)
        thread.start()
        wait_for("the snapshot", lambda: told)
        client.close()
        thread.join(5)
        self.assertFalse(thread.is_alive())
        self.assertEqual(len(told), 1)

    def test_events_that_are_not_understood_are_said(self) -> None:
        node = self.streams(events(("change", 6, {"revision": "six", "changes": []})))
        with self.client(node.addr).watch() as watch, self.assertRaises(BadAnswer):
            next(watch)


class Following(Scripted):
    def test_routes_follow_the_watch_without_further_requests(self) -> None:
        removed = {"type": "node_removed", "id": "d2"}
        told = events(snapshot(5), change(6, shard(0, "d2", 6), shard(1, "d2", 6)), change(7, removed), bookmark(9))
        node = self.node(lambda _: Reply(200, told, STREAM, length=1_000_000, stays_open=True))
        client = self.client(node.addr, max_map_age=0.05)
        client.follow()
        wait_for("the watch", lambda: client.freshness().revision == 9)
        for n in range(100):
            route = client.route(f"key-{n}")
            self.assertEqual((route.revision, route.replicas), (9, ()))
            expected: Optional[str] = None if route.shard < 2 else "d1"
            self.assertEqual(route.primary and route.primary.id, expected)
        self.assertEqual([asked.target.split("?")[0] for asked in node.asked], ["/v1/watch"])
        client.close()
        self.assertNotIn("ruvector-cluster-map", [thread.name for thread in threading.enumerate()])
