"""What one attempt came to. Pure, but for the clock that a date in `Retry-After` may need."""

from __future__ import annotations

import http.client
import json
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, Mapping, Optional, Union

from .errors import REFUSALS, Refused
from .exchange import Answer

#: The longest wait that an answer can ask for, in seconds: one odd answer can't put a client to sleep.
MAX_RETRY_AFTER_S = 5.0

#: Another control node, or the same one later, may answer.
_ELSEWHERE = frozenset({408, 421, 425, 429, *range(500, 600)})

#: With one of these codes a control node says that nothing was done.
_NOTHING_DONE = frozenset({"not_leader", "overloaded", "no_leader", "disk_full", "unready", "founding"})


@dataclass(frozen=True)
class Elsewhere:
    """Another attempt may have success."""

    why: str
    retry_after_s: float = 0.0
    leader_url: Optional[str] = None
    #: It said something, so it may know who can answer.
    spoke: bool = False
    #: The request may have taken effect.
    may_be_done: bool = False


def judge(answer: Answer) -> Union[Refused, Elsewhere]:
    """What an answer means that is neither a success nor 304."""
    problem = _problem(answer)
    if answer.status not in _ELSEWHERE:
        return problem
    return Elsewhere(
        why=str(problem),
        retry_after_s=min(retry_after_s(answer.headers) or 0.0, MAX_RETRY_AFTER_S),
        leader_url=problem.leader_url,
        spoke=True,
        may_be_done=problem.code not in _NOTHING_DONE,
    )


def _problem(answer: Answer) -> Refused:
    try:
        said: Any = json.loads(answer.body)
    except ValueError:
        said = None
    if not isinstance(said, dict) or not isinstance(said.get("code"), str):
        # A proxy's page, say.
        detail = answer.body[:300].decode("utf-8", "replace")
        said = {"code": "unknown", "detail": detail, "title": http.client.responses.get(answer.status, "")}
    kind = REFUSALS.get(answer.status, Refused)
    leader_url = said.get("leader_url")
    return kind(
        answer.status,
        said["code"],
        str(said.get("detail", "")),
        title=str(said.get("title", "")),
        retryable=said.get("retryable") is True,
        request_id=str(said.get("request_id", "")),
        leader_url=leader_url if isinstance(leader_url, str) else None,
    )


def retry_after_s(headers: Mapping[str, str]) -> Optional[float]:
    """`Retry-After` in seconds: a number, or a date (RFC 9110, section 10.2.3), which is counted from the answer's own date, so
    that clocks that disagree don't matter."""
    value = headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    until = _date_s(value)
    if until is None:
        return None
    now = _date_s(headers.get("date", ""))
    return max(0.0, until - (time.time() if now is None else now))


def _date_s(text: str) -> Optional[float]:
    try:
        return parsedate_to_datetime(text).timestamp()
    except (TypeError, ValueError, IndexError, OverflowError):
        return None
