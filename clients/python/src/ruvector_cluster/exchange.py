"""One HTTP request and its answer, over connections that are kept.

Everything is bounded by a point in time (`until`, of `time.monotonic`), a peer that sends one byte now and then included: each
wait on the socket ends there. Caveat: looking a host name up is not; the system's resolver has its own bounds.
"""

from __future__ import annotations

import http.client
import io
import math
import socket
import threading
import time
from dataclasses import dataclass
from typing import Mapping, Optional, Union

from .errors import ClientClosed
from .origin import Origin

#: The largest answer that is read, in bytes: a map of 100,000 shards has about 15 MB.
MAX_ANSWER_BYTES = 256 << 20

#: Connections to one control node that are kept while nobody uses them.
MAX_IDLE = 8

_PIECE_BYTES = 64 << 10


class ExchangeFailed(Exception):
    """There is no answer. `sent`: the request may have reached the control node."""

    def __init__(self, why: str, *, sent: bool) -> None:
        super().__init__(why)
        self.sent = sent


@dataclass(frozen=True)
class Request:
    """`target` is the path with its query."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: Optional[bytes] = None


@dataclass(frozen=True)
class Answer:
    """Header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class _Reading(io.RawIOBase):
    """The receiving half of a socket, each of whose reads ends in time."""

    def __init__(self, wire: _Wire) -> None:
        self._wire = wire
        self._half = wire.sock.makefile("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Union[bytearray, memoryview]) -> Optional[int]:  # type: ignore[override]
        self._wire.arm()
        return self._half.readinto(buffer)

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._half.close()


class _Wire:
    """As much of a socket as http.client uses, with one end in time for all of it."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.until = math.inf

    def arm(self) -> None:
        left_s = self.until - time.monotonic()
        if left_s <= 0:
            raise socket.timeout("no answer in time")
        self.sock.settimeout(None if math.isinf(left_s) else left_s)

    def sendall(self, data: bytes) -> None:
        self.arm()
        self.sock.sendall(data)

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Reading(self), _PIECE_BYTES)

    def close(self) -> None:
        self.sock.close()


class Connection(http.client.HTTPConnection):
    """To one control node. Not for two threads at once, `abort` apart."""

    def __init__(self, origin: Origin) -> None:
        super().__init__(origin.host, origin.port)
        self.origin = origin
        self._wire: Optional[_Wire] = None

    def bound(self, until: float) -> None:
        """Whatever is waited for from now on ends then."""
        if self._wire is not None:
            self._wire.until = until

    def open(self, until: float) -> None:
        """Connects. Raises OSError."""
        last: OSError = OSError(f"{self.origin.host} has no address")
        for family, kind, proto, _, address in socket.getaddrinfo(*self._place(), type=socket.SOCK_STREAM):
            sock = socket.socket(family, kind, proto)
            wire = _Wire(sock)
            wire.until = until
            try:
                wire.arm()
                sock.connect(address)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            except OSError as error:
                sock.close()
                last = error
                continue
            self._wire = wire
            self.sock = wire
            return
        raise last

    def _place(self) -> tuple[str, int]:
        return self.origin.host, self.origin.port

    def is_alive(self) -> bool:
        """Whether an idle connection is still open: there is nothing to read then, not even an end."""
        if self._wire is None:
            return False
        try:
            self._wire.sock.settimeout(0)
            self._wire.sock.recv(1, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            return True
        except OSError:
            return False
        return False

    def abort(self) -> None:
        """Ends whatever waits on this connection, from another thread."""
        wire = self._wire
        if wire is not None:
            try:
                wire.sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                # It is closed already, which is what is wanted.
                return


class Pool:
    """Connections that are kept, of all control nodes. For any number of threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: dict[Origin, list[Connection]] = {}
        self._is_closed = False

    def exchange(self, origin: Origin, request: Request, until: float) -> Answer:
        """Sends `request` and reads the whole answer. Raises ExchangeFailed, and ClientClosed."""
        connection = self._take(origin)
        if connection is None:
            return self._exchange_on(connect(origin, until), request, until)
        try:
            return self._exchange_on(connection, request, until)
        except ExchangeFailed:
            # It was kept too long, perhaps. What is sent again is a read, or carries an idempotency key.
            if time.monotonic() >= until:
                raise
        try:
            return self._exchange_on(connect(origin, until), request, until)
        except ExchangeFailed as error:
            raise ExchangeFailed(str(error), sent=True) from error

    def _exchange_on(self, connection: Connection, request: Request, until: float) -> Answer:
        response = begin(connection, request, until)
        answer = finish(connection, response)
        if response.will_close:
            connection.close()
        else:
            self._keep(connection)
        return answer

    def _take(self, origin: Origin) -> Optional[Connection]:
        while True:
            with self._lock:
                if self._is_closed:
                    raise ClientClosed("the client is closed")
                idle = self._idle.get(origin)
                if not idle:
                    return None
                connection = idle.pop()
            if connection.is_alive():
                return connection
            connection.close()

    def _keep(self, connection: Connection) -> None:
        with self._lock:
            idle = self._idle.setdefault(connection.origin, [])
            if not self._is_closed and len(idle) < MAX_IDLE:
                idle.append(connection)
                return
        connection.close()

    def close(self) -> None:
        """Closes what is idle; what is in use is closed by whoever uses it."""
        with self._lock:
            self._is_closed = True
            idle = [connection for kept in self._idle.values() for connection in kept]
            self._idle.clear()
        for connection in idle:
            connection.close()


def connect(origin: Origin, until: float) -> Connection:
    """A new connection. Raises ExchangeFailed."""
    connection = Connection(origin)
    try:
        connection.open(until)
    except (OSError, UnicodeError) as error:
        raise ExchangeFailed(described(error), sent=False) from error
    return connection


def begin(connection: Connection, request: Request, until: float) -> http.client.HTTPResponse:
    """Sends `request` and reads the head of the answer. Raises ExchangeFailed; the connection is closed then."""
    connection.bound(until)
    try:
        connection.request(request.method, request.target, body=request.body, headers=dict(request.headers))
        return connection.getresponse()
    except (OSError, http.client.HTTPException) as error:
        connection.close()
        raise ExchangeFailed(described(error), sent=True) from error


def finish(connection: Connection, response: http.client.HTTPResponse) -> Answer:
    """Reads the rest of an answer. Raises ExchangeFailed; the connection is closed then."""
    try:
        body = _read_whole(response)
    except (OSError, http.client.HTTPException) as error:
        connection.close()
        raise ExchangeFailed(described(error), sent=True) from error
    return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, body)


def _read_whole(response: http.client.HTTPResponse) -> bytes:
    announced = response.length
    pieces, length = [], 0
    while piece := response.read(_PIECE_BYTES):
        pieces.append(piece)
        length += len(piece)
        if length > MAX_ANSWER_BYTES:
            raise http.client.HTTPException(f"an answer of more than {MAX_ANSWER_BYTES} bytes")
    if announced is not None and length < announced:
        raise http.client.HTTPException("the answer broke off")
    return b"".join(pieces)


def described(error: Exception) -> str:
    """An error in one line."""
    if isinstance(error, socket.timeout):
        return "no answer in time"
    text = str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
