"""Where a control node is: host and port."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Iterable, Optional, Union

from .errors import ConfigError

_ORIGIN = re.compile(r"(?:http://)?(\[[^\]]*\]|[A-Za-z0-9._-]+):([0-9]{1,5})/?", re.IGNORECASE)


@dataclass(frozen=True)
class Origin:
    """One control node's address. `host` is a name, an IPv4 address, or an IPv6 address without brackets."""

    host: str
    port: int

    @property
    def netloc(self) -> str:
        """As it stands in a URL and in `Host`."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        return f"http://{self.netloc}"


def parse_origin(text: str) -> Optional[Origin]:
    """`host:port`, `[v6]:port`, or either behind `http://`; None for anything else."""
    match = _ORIGIN.fullmatch(text.strip())
    if match is None or not 0 < int(match[2]) < 65_536:
        return None
    host = match[1]
    if host.startswith("["):
        try:
            host = str(ipaddress.IPv6Address(host[1:-1]))
        except ValueError:
            return None
    return Origin(host.lower(), int(match[2]))


def parse_seeds(seeds: Union[str, Iterable[str]]) -> tuple[Origin, ...]:
    """Distinct seeds in their order; one string may hold several, with commas between them.

    Raises ConfigError, which names the one that is wrong.
    """
    given = seeds.split(",") if isinstance(seeds, str) else list(seeds)
    origins: dict[Origin, None] = {}
    for place, seed in enumerate(given):
        if not isinstance(seed, str):
            raise ConfigError(f"seeds[{place}] is {seed!r}: give a string such as '10.0.0.1:7001'")
        origin = parse_origin(seed)
        if origin is None:
            raise ConfigError(f"seeds[{place}] is {seed!r}: {_remedy(seed)}")
        origins[origin] = None
    if not origins:
        raise ConfigError("seeds is empty: give the address of at least one control node, such as '10.0.0.1:7001'")
    return tuple(origins)


def _remedy(seed: str) -> str:
    seed = seed.strip()
    if seed.lower().startswith("https://"):
        return "control nodes have no TLS; give HOST:PORT or http://HOST:PORT"
    if seed.count(":") > 1 and "[" not in seed and "//" not in seed:
        return "an IPv6 address stands in brackets, as in '[::1]:7001'"
    return "give HOST:PORT, the address that a control node listens on for clients, such as '10.0.0.1:7001'"
