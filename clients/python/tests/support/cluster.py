"""A real cluster: the built binaries as processes on loopback. They die, and their files go, with `close`.

`RUVECTOR_CLUSTER_BIN` names the folder of the binaries; else it is target/debug of the repository.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Optional

from ruvector_cluster import Client

from .ports import PortPair
from .waiting import wait_for

REPOSITORY = Path(__file__).resolve().parents[4]

_LOG_TAIL_BYTES = 3_000


def program(name: str) -> Path:
    folder = Path(os.environ.get("RUVECTOR_CLUSTER_BIN") or REPOSITORY / "target" / "debug")
    path = folder / name
    if not path.exists():
        raise AssertionError(f"{path} is missing: cargo build -p ruvector-cluster -p data-node")
    return path


class _Process:
    """One program; what it prints goes to a file, and is shown if it ended by itself."""

    def __init__(self, name: str, args: list[str], log: Path) -> None:
        self.name = name
        self._args = args
        self._log = log
        self._child: Optional[subprocess.Popen[bytes]] = None

    def start(self) -> None:
        with open(self._log, "ab") as log:
            self._child = subprocess.Popen(self._args, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def kill(self) -> None:
        """SIGKILL; one that is dead stays so."""
        if self._child is not None:
            if self._child.poll() not in (None, -signal.SIGKILL):
                tail = self._log.read_bytes()[-_LOG_TAIL_BYTES:].decode("utf-8", "replace")
                print(f"---- {self.name} ended by itself, and logged ----\n{tail}", file=sys.stderr)
            self._child.kill()
            self._child.wait()
            self._child = None


class Cluster:
    """`control` control nodes, n1 and on, and `data` data nodes, d1 and on."""

    def __init__(self, control: int = 3, data: int = 3, num_shards: int = 32) -> None:
        # A test run that is told to end does so with its processes; unittest lets nothing else than KeyboardInterrupt end it.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        self._folder = tempfile.TemporaryDirectory(prefix="ruvector-python.")
        self._ports = [PortPair() for _ in range(control + data)]
        self.num_shards = num_shards
        self.seeds = [ports.addr for ports in self._ports[:control]]
        folder = Path(self._folder.name)
        self.control = {
            f"n{n}": _Process(f"n{n}", self._control_args(f"n{n}", ports.addr), folder / f"n{n}.log")
            for n, ports in enumerate(self._ports[:control], 1)
        }
        self.data = {
            f"d{n}": _Process(f"d{n}", self._data_args(f"d{n}", ports.addr), folder / f"d{n}.log")
            for n, ports in enumerate(self._ports[control:], 1)
        }

    def _control_args(self, name: str, addr: str) -> list[str]:
        folder = str(Path(self._folder.name) / name)
        args = [str(program("ruvector-cluster")), "server", "--node-id", name, "--listen", addr, "--data-dir", folder]
        args += ["--seeds", ",".join(self.seeds), "--num-shards", str(self.num_shards), "--replication-factor", "2"]
        return [*args, "--failure-timeout", "2500ms", "--heartbeat-interval", "300ms"]

    def _data_args(self, name: str, addr: str) -> list[str]:
        return [str(program("data-node")), name, addr, str(Path(self._folder.name) / name), ",".join(self.seeds)]

    def start(self) -> None:
        """Returns once every shard has all its copies in sync."""
        for process in [*self.control.values(), *self.data.values()]:
            process.start()
        self.wait_until_healthy()

    def wait_until_healthy(self) -> None:
        """All nodes alive, all shards active, nothing moving."""
        with Client(self.seeds) as client:
            wait_for("a healthy cluster", lambda: self._is_healthy(client))

    def _is_healthy(self, client: Client) -> bool:
        health = client.health(wait_for="healthy", wait_ms=1_000)
        return health.status == "healthy" and health.healthy_nodes == len(self.data) and health.failures_tolerated == 1

    def addr_of(self, control_node: str) -> str:
        return self.seeds[int(control_node[1:]) - 1]

    def close(self) -> None:
        """More than once is harmless."""
        for process in [*self.data.values(), *self.control.values()]:
            process.kill()
        for ports in self._ports:
            ports.close()
        self._folder.cleanup()
