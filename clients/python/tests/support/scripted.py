"""A control node that follows a script: for what a real one does too seldom to be tested."""

from __future__ import annotations

import json
import socket
import sys
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Callable, Mapping, Optional, Union


@dataclass(frozen=True)
class Asked:
    """A request."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Reply:
    """An answer: a body in JSON, or bytes as they are. With `length` another length than the body's is announced, and what is
    missing never comes: the connection is closed, or `stays_open` until the control node is closed."""

    status: int = 200
    body: Any = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    length: Optional[int] = None
    stays_open: bool = False


#: Instead of an answer: the connection is closed; nothing is ever said; bytes that are no HTTP.
HANG_UP, SILENCE, GARBAGE = "hang up", "silence", "garbage"

Script = Callable[[Asked], Union[Reply, str]]


def problem(status: int, code: str, *, retry_after: Optional[str] = None, **more: Any) -> Reply:
    """An RFC 9457 answer."""
    body = {"type": "about:blank", "title": code, "status": status, "detail": f"for a test: {code}", "code": code}
    headers = {} if retry_after is None else {"Retry-After": retry_after}
    return Reply(status, {**body, "retryable": status >= 500, "request_id": "r-1", **more}, headers)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *of: Any) -> None:
        # A client that has given up is what is tested.
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(*of)


class ScriptedNode:
    """Answers what `script` says, but for `GET /v1/cluster`, unless `tells_members`. `asked` has all requests of the script."""

    def __init__(self, script: Script, *, tells_members: bool = False) -> None:
        self.asked: list[Asked] = []
        self.connections = 0
        self._script = script
        self._tells_members = tells_members
        self._stopping = threading.Event()
        self._sockets: set[socket.socket] = set()
        node = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def setup(self) -> None:
                super().setup()
                node.connections += 1
                node._sockets.add(self.connection)

            def answer(self) -> None:
                node._answer(self)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer

            def log_message(self, *_: object) -> None:
                return

        self._server = _Server(("127.0.0.1", 0), Handler)
        self.addr = f"127.0.0.1:{self._server.server_address[1]}"
        self.url = f"http://{self.addr}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in handler.headers.items()}
        asked = Asked(handler.command, handler.path, headers, body)
        if asked.target.startswith("/v1/cluster") and not self._tells_members:
            reply: Union[Reply, str] = problem(404, "not_found")
        else:
            self.asked.append(asked)
            reply = self._script(asked)
        if isinstance(reply, str):
            self._misbehave(handler, reply)
            return
        raw = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
        handler.send_response(reply.status)
        for name, value in {"Content-Type": "application/json", **reply.headers}.items():
            handler.send_header(name, value)
        if reply.status != 304:
            handler.send_header("Content-Length", str(len(raw) if reply.length is None else reply.length))
        handler.end_headers()
        if reply.status != 304:
            handler.wfile.write(raw)
        if reply.stays_open:
            self._stopping.wait()
        if reply.length is not None:
            handler.close_connection = True

    def _misbehave(self, handler: BaseHTTPRequestHandler, how: str) -> None:
        if how == SILENCE:
            self._stopping.wait()
        elif how == GARBAGE:
            handler.wfile.write(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")
        handler.close_connection = True
        _hang_up(handler.connection)

    def hang_up_on_all(self) -> None:
        """Closes all connections, as a restart does."""
        for sock in list(self._sockets):
            _hang_up(sock)

    def close(self) -> None:
        self._stopping.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self.hang_up_on_all()


def _hang_up(sock: socket.socket) -> None:
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        # The other side was first.
        return


def nobody() -> str:
    """An address where nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{sock.getsockname()[1]}"
