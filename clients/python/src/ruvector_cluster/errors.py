"""Everything that this package raises on purpose: one tree under `ClusterError`."""

from __future__ import annotations

from typing import Mapping, Optional


class ClusterError(Exception):
    """The base of all of them."""


class ConfigError(ClusterError, ValueError):
    """An argument that can't work, such as a bad seed: the text names it and says what to give instead. Nothing was sent."""


class ClientClosed(ClusterError):
    """The client was closed before or during the call. A write that was under way may have taken effect."""


class Refused(ClusterError):
    """A control node understood the request and refuses it, as it would again: an RFC 9457 problem.

    Programs branch on the class or on `code`, people read `detail`. Where `retryable`, the same request may succeed later.
    """

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        title: str = "",
        retryable: bool = False,
        request_id: str = "",
        leader_url: Optional[str] = None,
    ) -> None:
        super().__init__(f"{status} {code}: {detail}")
        #: The HTTP status.
        self.status = status
        #: Stable; `unknown` where the answer was no problem document.
        self.code = code
        self.detail = detail
        self.title = title
        self.retryable = retryable
        #: Under which the request stands in the control node's log.
        self.request_id = request_id
        self.leader_url = leader_url


class Malformed(Refused):
    """400: a wrong type, an unknown field or parameter, an id outside the alphabet; named in `detail`."""


class NotFound(Refused):
    """404: no such node, shard, migration or control node."""


class Conflict(Refused):
    """409: what is there now is in the way. `code` says more precisely: `already_migrating`, `stale_epoch`, `too_late`,
    `holds_shards`, `last_copy`, `quorum_lost`, `conflict` and others."""


class Compacted(Refused):
    """410: what was asked for is no longer kept. Of a watch: read the map anew."""


class PreconditionFailed(Refused):
    """412: the row is at another revision than `if_revision`."""


class TooLarge(Refused):
    """413: the body is over the limit."""


class Invalid(Refused):
    """422: well formed, not possible; `detail` says why."""


#: By HTTP status; all others are plain `Refused`.
REFUSALS: Mapping[int, type[Refused]] = {
    400: Malformed,
    404: NotFound,
    409: Conflict,
    410: Compacted,
    412: PreconditionFailed,
    413: TooLarge,
    422: Invalid,
}


class Unavailable(ClusterError):
    """No control node gave an answer within the deadline. If it was a write, it certainly did not take effect."""

    def __init__(self, waited_s: float, attempts: Mapping[str, str]) -> None:
        super().__init__(f"no control node answered within {waited_s:.1f} s; last attempts: {_told(attempts)}")
        #: How long was tried, in seconds.
        self.waited_s = waited_s
        #: Of each control node by its URL: what the last attempt met.
        self.attempts = dict(attempts)


class OutcomeUnknown(ClusterError):
    """A write got no answer within the deadline, and may have taken effect, or still may.

    To find out, make the same call with `idempotency_key` set to this one's: it takes effect once, however often it is sent.
    """

    def __init__(self, waited_s: float, attempts: Mapping[str, str], idempotency_key: str) -> None:
        super().__init__(
            f"no answer within {waited_s:.1f} s, and it may have taken effect: repeat it with "
            f"idempotency_key={idempotency_key!r}; last attempts: {_told(attempts)}"
        )
        self.waited_s = waited_s
        self.attempts = dict(attempts)
        self.idempotency_key = idempotency_key


class BadAnswer(ClusterError):
    """A control node's answer is not what the API says: a field is missing or of another type, or another cluster answered."""

    def __init__(self, url: str, why: str) -> None:
        super().__init__(f"{url} sent an answer that is not understood: {why}")
        self.url = url
        self.why = why


class UnknownHash(ClusterError):
    """The map names a hash function that this version does not have: nothing may be routed. Take a newer version."""


def _told(attempts: Mapping[str, str]) -> str:
    return "; ".join(f"{url}: {why}" for url, why in attempts.items()) or "none was made"
