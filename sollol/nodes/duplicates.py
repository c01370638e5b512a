"""Whether two addresses lead to one server; pure.

Counted twice, a server would get twice the requests it has slots for. Ollama has no identity that
could be asked for, so there are two kinds of evidence: where a server is, and what it says.
"""

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import combinations, islice

from sollol.types import Engine, Model, Resident


class Verdict(StrEnum):
    """What is known of two addresses."""

    SAME = "same address and port"
    LIKELY = "same models in memory until the same instant"
    POSSIBLE = "same models of the same age"
    UNKNOWN = "nothing to tell by"
    DIFFERENT = "different"

    @property
    def is_suspect(self) -> bool:
        """Whether they may be one server: enough to leave a found one out."""
        return self in (Verdict.SAME, Verdict.LIKELY, Verdict.POSSIBLE)

    @property
    def is_certain(self) -> bool:
        """Whether they are one server: enough to let a found one go."""
        return self in (Verdict.SAME, Verdict.LIKELY)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a server is. ``is_here``: all of its addresses are this machine's own."""

    addresses: frozenset[str]
    port: int
    path: str = ""
    is_here: bool = False


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What a server says of itself.

    ``models`` are names, digests and times of the last change, which Ollama tells to the
    nanosecond; ``resident`` are names and times of leaving the memory.
    """

    engine: Engine
    version: str
    models: frozenset[tuple[str, str, str]]
    resident: frozenset[tuple[str, str]]

    @classmethod
    def of(
        cls, engine: Engine, version: str, models: Iterable[Model], resident: Iterable[Resident]
    ) -> "Fingerprint":
        """Return the fingerprint of what a probe has read."""
        return cls(
            engine,
            version,
            frozenset((model.key, model.digest, model.modified_at) for model in models),
            frozenset((loaded.key, loaded.expires_at) for loaded in resident),
        )

    @property
    def has_times(self) -> bool:
        """Whether its models tell when they were changed; without that all fresh nodes are alike."""
        return self.engine is Engine.OLLAMA and any(time for _, _, time in self.models)

    def stock(self) -> tuple[Engine, str, frozenset[tuple[str, str, str]]]:
        """Return what does not change with traffic."""
        return self.engine, self.version, self.models


def is_same_place(one: Place, other: Place) -> bool:
    """Whether two places share an address, a port and a path."""
    is_alike = (one.port, one.path) == (other.port, other.path)
    return is_alike and not one.addresses.isdisjoint(other.addresses)


def could_be_here(one: Place, other: Place) -> bool:
    """Whether a server that listens on all addresses of this machine would be at both places."""
    is_alike = (one.port, one.path) == (other.port, other.path)
    return is_alike and one.is_here and other.is_here


def compare(
    before: Fingerprint, other: Fingerprint, after: Fingerprint, *, is_here: bool
) -> Verdict:
    """Judge two servers by what they said one after the other.

    Args:
        before, other, after: one server, the other, and the first one again: only if the first
            has not changed meanwhile does a difference mean anything.
        is_here: ``could_be_here`` of them.

    Models of the same age are no proof: servers may share a store, or copies of one. What they
    have in memory tells those apart once they work, and proves the same server too.
    """
    if before != after:
        return Verdict.UNKNOWN
    if before != other:
        return Verdict.DIFFERENT
    if before.has_times and before.resident:
        return Verdict.LIKELY
    if before.has_times or is_here:
        return Verdict.POSSIBLE
    return Verdict.UNKNOWN


def suspects(
    places: Mapping[str, Place], prints: Mapping[str, Fingerprint]
) -> list[tuple[str, str]]:
    """Return pairs of nodes that a closer look is worth, in the order of ``places``.

    Args:
        places: by node id.
        prints: by node id, of those that are up.
    """
    groups: dict[Hashable, list[str]] = {}
    for node_id, place in places.items():
        for address in place.addresses:
            groups.setdefault((address, place.port, place.path), []).append(node_id)
        told = prints.get(node_id)
        if told is None:
            continue
        if told.has_times:
            groups.setdefault(told.stock(), []).append(node_id)
        if place.is_here:
            groups.setdefault((told.stock(), place.port, place.path), []).append(node_id)
    pairs: dict[tuple[str, str], None] = {}
    for members in groups.values():
        for first, second in islice(combinations(members, 2), MAX_PAIRS):
            pairs[first, second] = None
    return list(pairs)


MAX_PAIRS = 256
"""Pairs looked at of one group: of many alike, each is compared with the first ones at least."""
