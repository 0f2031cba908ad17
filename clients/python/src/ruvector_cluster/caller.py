"""Calls to the control nodes: any of them answers anything, so a request that one can't answer now goes to the next.

Everything is bounded: an attempt by `timeout_s`, a call with all its attempts by `deadline_s`. Between two rounds over all control
nodes the caller waits, longer each time, with full jitter, and no shorter than a `Retry-After` says. Every attempt of one write
carries the same Idempotency-Key, so a repeated write takes effect once, also after a 504. A refusal that repeating can't change
is raised at once.
"""

from __future__ import annotations

import json
import math
import random
import secrets
import threading
import time
from dataclasses import dataclass, field
from typing import Any, Callable, Mapping, Optional, TypeVar, Union

from .decode import BadShape, decode
from .errors import BadAnswer, ClientClosed, ConfigError, OutcomeUnknown, Refused, Unavailable
from .exchange import Answer, ExchangeFailed, Pool, Request
from .judge import Elsewhere, judge
from .known import Known
from .model import Cluster
from .origin import Origin
from .paths import encoded

T = TypeVar("T")

#: Waits between rounds are drawn from 0 to a bound that begins here and doubles, in seconds.
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.05, 2.0

#: Bytes of an Idempotency-Key that control nodes take.
_MAX_KEY_BYTES = 256


@dataclass(frozen=True)
class Call:
    """One request, whoever answers it."""

    method: str
    #: Begins with `/v1/`; its parts are encoded already.
    path: str
    #: Those that are None are left out.
    query: Mapping[str, Union[str, int, bool, None]] = field(default_factory=dict)
    body: Optional[Mapping[str, Any]] = None
    key: Optional[str] = None
    headers: Mapping[str, str] = field(default_factory=dict)
    #: How long the answer may take beyond the usual, since the control node is asked to wait, in seconds.
    wait_s: float = 0.0
    #: Instead of the caller's, in seconds.
    deadline_s: Optional[float] = None

    def request(self) -> Request:
        headers = {"Accept": "application/json", **self.headers}
        body = None
        if self.key is not None:
            headers["Idempotency-Key"] = self.key
        if self.body is not None:
            headers["Content-Type"] = "application/json"
            try:
                body = json.dumps(self.body, separators=(",", ":"), allow_nan=False).encode()
            except (TypeError, ValueError) as error:
                raise ConfigError(f"an argument has no JSON form: {error}") from error
        return Request(self.method, self.target(), headers, body)

    def target(self) -> str:
        pairs = [f"{name}={encoded(name, _text(value))}" for name, value in self.query.items() if value is not None]
        return self.path + ("?" + "&".join(pairs) if pairs else "")


@dataclass(frozen=True)
class Success:
    """A 2xx, whose body is JSON, or a 304, which has none."""

    status: int
    url: str
    data: Any
    #: The row's revision as the API quotes it.
    etag: Optional[str]

    def read(self, kind: type[T]) -> T:
        """The body as `kind`. Raises BadAnswer."""
        try:
            return decode(kind, self.data)
        except BadShape as error:
            raise BadAnswer(self.url, str(error)) from error

    def read_part(self, name: str, kind: Any) -> Any:
        """One field of the body as `kind`, which may be a tuple of things. Raises BadAnswer."""
        if not isinstance(self.data, dict) or name not in self.data:
            raise BadAnswer(self.url, f"field `{name}`: is missing")
        try:
            return decode(kind, self.data[name])
        except BadShape as error:
            raise BadAnswer(self.url, str(error.inside(name))) from error


class Backoff:
    """Growing waits with full jitter: those who failed together don't come back together."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._bound_s = _FIRST_WAIT_S

    def next_s(self) -> float:
        bound_s = self._bound_s
        self._bound_s = min(bound_s * 2, _LONGEST_WAIT_S)
        return self._chance.uniform(0, bound_s)


class Caller:
    """For any number of threads."""

    def __init__(self, seeds: tuple[Origin, ...], timeout_s: float, deadline_s: float) -> None:
        self.timeout_s = bound("timeout", timeout_s)
        self.deadline_s = bound("deadline", deadline_s)
        self.chance = random.Random()
        self.known = Known(seeds, self.chance)
        self.pool = Pool()
        #: Set once the client is closed; whoever waits, waits on it.
        self.closing = threading.Event()

    def call(self, call: Call) -> Success:
        """Sends `call` until a control node gives a final answer.

        Raises Refused, Unavailable, of a write OutcomeUnknown, and ClientClosed.
        """
        deadline_s = self.deadline_s if call.deadline_s is None else call.deadline_s
        request = call.request()
        return self.run(
            lambda origin, until: self._attempt(origin, request, until, call.wait_s),
            deadline_s + call.wait_s,
            to_leader=call.method != "GET",
            key=call.key,
        )

    def run(
        self,
        attempt: Callable[[Origin, float], Union[T, Refused, Elsewhere]],
        deadline_s: float,
        *,
        to_leader: bool = False,
        key: Optional[str] = None,
    ) -> T:
        """Makes attempts, each at a control node and until a point in time, until one is answered. Raises as `call`."""
        begun = time.monotonic()
        until = begun + deadline_s
        backoff, attempts, may_be_done = Backoff(self.chance), dict[str, str](), False
        while True:
            wait_s, spoke = 0.0, None
            targets = self.known.round(to_leader)
            for origin in targets:
                if time.monotonic() >= until:
                    break
                met = attempt(origin, until)
                if isinstance(met, Refused):
                    raise met
                if not isinstance(met, Elsewhere):
                    self.known.answered(origin)
                    self._keep_members(origin, until)
                    return met
                attempts[origin.url] = met.why
                may_be_done |= met.may_be_done
                wait_s = max(wait_s, met.retry_after_s)
                spoke = spoke or (origin if met.spoke else None)
                self.known.failed(origin)
                leader = self.known.led_by(met.leader_url) if met.leader_url else None
                if leader is not None:
                    targets.redirect(leader)
            if spoke is not None:
                # Whoever speaks without being able to answer may know who can.
                self._keep_members(spoke, until)
            wait_s += backoff.next_s()
            if time.monotonic() + wait_s >= until:
                waited_s = time.monotonic() - begun
                if key is not None and may_be_done:
                    raise OutcomeUnknown(waited_s, attempts, key)
                raise Unavailable(waited_s, attempts)
            if self.closing.wait(wait_s):
                raise ClientClosed("the client is closed")

    def _attempt(
        self, origin: Origin, request: Request, until: float, wait_s: float
    ) -> Union[Success, Refused, Elsewhere]:
        until = min(until, time.monotonic() + self.timeout_s + wait_s)
        try:
            answer = self.pool.exchange(origin, request, until)
        except ExchangeFailed as error:
            return Elsewhere(str(error), may_be_done=error.sent)
        if not (200 <= answer.status < 300 or answer.status == 304):
            return judge(answer)
        try:
            return _success(origin, answer)
        except ValueError:
            # It may be none of ours that listens there.
            return Elsewhere(f"{answer.status} with a body that is not JSON", may_be_done=True)

    def _keep_members(self, origin: Origin, until: float) -> None:
        """Asks `origin` who takes part and who leads, unless that was done lately. That it can't say so is no harm."""
        if not self.known.begin_looking():
            return
        request = Call("GET", "/v1/cluster", {"consistency": "stale"}).request()
        try:
            met = self._attempt(origin, request, until, 0.0)
            if not isinstance(met, Success):
                return
            cluster = met.read(Cluster)
        except (BadAnswer, ClientClosed):
            return
        leader_url = cluster.leader.url if cluster.leader else None
        self.known.learn([member.client_url for member in cluster.members], leader_url)

    def close(self) -> None:
        self.closing.set()
        self.pool.close()


def _success(origin: Origin, answer: Answer) -> Success:
    data = json.loads(answer.body) if answer.status != 304 else None
    return Success(answer.status, origin.url, data, answer.headers.get("etag"))


def _text(value: Union[str, int, bool, None]) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def bound(name: str, seconds: float) -> float:
    """Checks a bound in seconds. Raises ConfigError."""
    is_number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
    if not is_number or not math.isfinite(seconds) or seconds <= 0:
        raise ConfigError(f"{name} is {seconds!r}: give seconds, more than 0")
    return float(seconds)


def checked_key(key: Optional[str]) -> str:
    """An Idempotency-Key: the one given, or a fresh one of 128 random bits. Raises ConfigError."""
    if key is None:
        return secrets.token_hex(16)
    if not 0 < len(key) <= _MAX_KEY_BYTES or not all("!" <= char <= "~" for char in key):
        raise ConfigError(f"idempotency_key is {key!r}: give 1 to {_MAX_KEY_BYTES} visible ASCII characters")
    return key
