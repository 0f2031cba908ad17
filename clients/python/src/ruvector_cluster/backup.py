"""`GET /v1/snapshot` into a file."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import BinaryIO, Union

from .caller import Call, Caller
from .errors import Refused
from .exchange import ExchangeFailed
from .judge import Elsewhere
from .origin import Origin
from .stream import Stream, open_stream

#: A control node that sends nothing for so long is given up, in seconds: it checks its whole state before it begins.
_SILENCE_S = 30.0


def save_snapshot(caller: Caller, path: Path, consistency: str, deadline_s: float) -> int:
    """Saves a backup under `path`; its length in bytes. The file is there whole and on disk, or, on any error, as it was before.

    Raises as `Caller.call`, and OSError of the file.
    """
    request = Call("GET", "/v1/snapshot", {"consistency": consistency}).request()
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:

            def attempt(origin: Origin, until: float) -> Union[int, Refused, Elsewhere]:
                opened = open_stream(origin, request, "application/octet-stream", _silence_until(until))
                return _copy(opened, file, until) if isinstance(opened, Stream) else opened

            length = caller.run(attempt, deadline_s)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    _sync_folder(path.parent)
    return length


def _copy(stream: Stream, file: BinaryIO, until: float) -> Union[int, Elsewhere]:
    file.seek(0)
    file.truncate()
    length = 0
    try:
        while True:
            if time.monotonic() >= until:
                return Elsewhere("the backup was read too slowly", spoke=True)
            stream.bound(_silence_until(until))
            piece = stream.read()
            if not piece:
                return length
            file.write(piece)
            length += len(piece)
    except ExchangeFailed as error:
        return Elsewhere(f"the backup broke off: {error}")
    finally:
        stream.close()


def _silence_until(until: float) -> float:
    """When to give up waiting for the next piece: after a silence, and at the end of all."""
    return min(until, time.monotonic() + _SILENCE_S)


def _sync_folder(folder: Path) -> None:
    """The new name is on disk too. (Windows opens no folders, and has no way to ask for that.)"""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
