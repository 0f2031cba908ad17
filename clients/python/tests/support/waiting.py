"""Waiting for conditions, never for a time."""

from __future__ import annotations

import time
from typing import Callable, TypeVar

T = TypeVar("T")

#: Far more than anything here takes; reached only where something is wrong. In seconds.
DEADLINE_S = 30.0


def wait_for(what: str, look: Callable[[], T]) -> T:
    """The first truthy answer of `look`; an exception counts as none. Fails after DEADLINE_S, saying what it waited for."""
    until = time.monotonic() + DEADLINE_S
    last: object = None
    while time.monotonic() < until:
        try:
            last = look()
            if last:
                return last  # type: ignore[return-value]
        except Exception as error:
            last = error
        time.sleep(0.02)
    raise AssertionError(f"waited in vain for {what}; last: {last!r}")
