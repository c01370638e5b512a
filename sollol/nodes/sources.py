"""Where nodes may be found: each source returns candidates when it is asked.

A candidate is only a hint; ``discovery.py`` looks at it before it becomes a node.
"""

from dataclasses import dataclass
from typing import Protocol

from sollol.nodes.addresses import Resolve, url_of
from sollol.settings.address import normalize_url
from sollol.types import Engine, Source


@dataclass(frozen=True, slots=True)
class Candidate:
    """An address at which a node may be. ``engine``: the only one it may have, if given."""

    url: str
    source: Source
    engine: Engine | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """What a source sees. ``is_complete``: a node it found before and does not see now is gone."""

    candidates: tuple[Candidate, ...]
    is_complete: bool = False


class Finder(Protocol):
    """A source that is asked every ``interval_s`` seconds."""

    source: Source
    interval_s: float

    async def find(self) -> Finding:
        """Look once; bounded in time."""
        ...

    async def close(self) -> None:
        """Let go of what the source holds."""
        ...


class LocalFinder:
    """The Ollama of this machine."""

    source = Source.LOCAL

    def __init__(self, url: str, interval_s: float) -> None:
        self.interval_s = interval_s
        self._candidate = Candidate(url, Source.LOCAL, Engine.OLLAMA)

    async def find(self) -> Finding:
        """Return its address; whether it is there is seen when it is looked at."""
        return Finding((self._candidate,))

    async def close(self) -> None:
        """Do nothing: it holds nothing."""


class DnsFinder:
    """Names of which each address is a node."""

    source = Source.DNS

    def __init__(self, names: tuple[str, ...], look_up: Resolve, interval_s: float) -> None:
        self.interval_s = interval_s
        self._names = names
        self._look_up = look_up

    async def find(self) -> Finding:
        """Return every address; nothing is said to be gone while a name cannot be looked up."""
        found: list[Candidate] = []
        is_complete = True
        for name in self._names:
            host, _, port = name.rpartition(":")
            try:
                addresses = await self._look_up(host.strip("[]"), int(port))
            except OSError:
                is_complete = False
                continue
            found += [
                Candidate(normalize_url(url_of(address, int(port))), Source.DNS)
                for address in sorted(addresses)
                if "%" not in address  # link-local: of use on one interface only
            ]
        return Finding(tuple(found), is_complete)

    async def close(self) -> None:
        """Do nothing: it holds nothing."""
