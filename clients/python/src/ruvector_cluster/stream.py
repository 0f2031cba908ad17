"""One long answer, read piece by piece, on a connection of its own."""

from __future__ import annotations

import http.client
from typing import Callable, Optional, Union

from .errors import Refused
from .exchange import Connection, ExchangeFailed, Request, begin, connect, described, finish
from .judge import Elsewhere, judge
from .origin import Origin

_PIECE_BYTES = 64 << 10


class Stream:
    """The body of a 200. One thread reads."""

    def __init__(self, origin: Origin, connection: Connection, response: http.client.HTTPResponse) -> None:
        self.origin = origin
        self.headers = {name.lower(): value for name, value in response.getheaders()}
        self._connection = connection
        self._response = response
        # Bytes that are to come, where that was announced; Python's own count is wrong in some of its versions.
        self._left = response.length

    def bound(self, until: float) -> None:
        """Whatever is waited for from now on ends then (`time.monotonic`)."""
        self._connection.bound(until)

    def read(self) -> bytes:
        """What there is, at least a byte; empty at the end. Raises ExchangeFailed."""
        if self._left == 0:
            return b""
        try:
            piece = self._response.read1(_PIECE_BYTES)
        except (OSError, http.client.HTTPException) as error:
            raise ExchangeFailed(described(error), sent=True) from error
        if self._left is not None:
            if not piece:
                raise ExchangeFailed("the answer broke off", sent=True)
            self._left -= len(piece)
        return piece

    def close(self) -> None:
        self._response.close()
        self._connection.close()


def open_stream(
    origin: Origin,
    request: Request,
    content_type: str,
    until: float,
    connected: Optional[Callable[[Connection], None]] = None,
) -> Union[Stream, Refused, Elsewhere]:
    """Sends `request` and reads the head of the answer, which has to be of `content_type`. `connected` is told of the connection
    before anything is waited for on it."""
    try:
        connection = connect(origin, until)
        if connected is not None:
            connected(connection)
        response = begin(connection, request, until)
        if response.status != 200:
            met = judge(finish(connection, response))
            connection.close()
            return met
    except ExchangeFailed as error:
        return Elsewhere(str(error), may_be_done=error.sent)
    stream = Stream(origin, connection, response)
    if not stream.headers.get("content-type", "").startswith(content_type):
        stream.close()
        return Elsewhere(f"an answer that is not {content_type}", may_be_done=True)
    return stream
