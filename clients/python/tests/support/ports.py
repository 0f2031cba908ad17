"""Ports for test clusters: pairs (p, p + 1000) below the ephemeral range, each held by a lock file.

The same folder and ranges as tests/support/ports.rs, so that Rust's tests may run beside these.
"""

from __future__ import annotations

import fcntl
import os
import socket
import tempfile
from pathlib import Path

_FIRST = 10_000
_BLOCKS = 11


class PortPair:
    """Two ports that no other test uses until it is closed, or the process ends."""

    def __init__(self) -> None:
        folder = Path(tempfile.gettempdir()) / "ruvector-cluster-ports"
        folder.mkdir(exist_ok=True)
        pairs = _BLOCKS * 1_000
        start = os.getpid() * 37 % pairs
        for n in range(pairs):
            place = (start + n) % pairs
            port = _FIRST + place // 1_000 * 2_000 + place % 1_000
            if self._lock(folder / str(port)):
                if _is_free(port) and _is_free(port + 1_000):
                    self.port = port
                    return
                self.close()
        raise AssertionError(f"no free pair of ports in {folder}")

    def _lock(self, path: Path) -> bool:
        self._file = open(path, "w")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            return False
        return True

    @property
    def addr(self) -> str:
        return f"127.0.0.1:{self.port}"

    def close(self) -> None:
        self._file.close()


def _is_free(port: int) -> bool:
    with socket.socket() as sock:
        # As Rust's standard library binds; what is merely closing does not count as taken.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
