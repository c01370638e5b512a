"""What to expect of a plan before anything is started: tokens a second, and seconds to load. Pure.

Rough on purpose: it compares plans and spares surprises. A token goes through the devices one
after the other, so the times add up; a worker adds memory, not speed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sollol.sharding.memory import DeviceMemory, MemoryModel

ROUND_TRIPS = 2
"""For each worker and token: a graph to compute, its result to fetch. Measured with delays."""
GRAPH_BYTES = 1200
"""What is sent for each layer and token, besides activations. Measured."""
FILE_BYTES_PER_S = 1e9
"""The coordinator hashes the whole file while it sends it, on one core."""
_ACTIVATION_BYTES = 4


@dataclass(frozen=True, slots=True)
class Link:
    """The network between coordinator and worker: a round trip, and how much goes through."""

    round_trip_s: float
    bytes_per_s: float


@dataclass(frozen=True, slots=True)
class Stage:
    """A device on the way of a token, with units and without a link if it is the coordinator's."""

    first: int
    end: int
    memory: DeviceMemory
    memory_bytes_per_s: float
    link: Link | None = None


@dataclass(frozen=True, slots=True)
class Expectation:
    """``cached_load_s``: when the workers have the weights in their caches."""

    tokens_per_s: float
    load_s: float
    cached_load_s: float


def expect(memory: MemoryModel, stages: Sequence[Stage]) -> Expectation:
    """Return what a model does over these stages, with its context half full."""
    facts = memory.facts
    token_s = sum(_compute_s(memory, stage) + _network_s(memory, stage) for stage in stages)
    if stages[-1].link is not None:
        token_s += _ACTIVATION_BYTES * facts.vocabulary / stages[-1].link.bytes_per_s
    read_s = facts.file_bytes / FILE_BYTES_PER_S
    sent_s = sum(
        stage.memory.weight_bytes / stage.link.bytes_per_s
        for stage in stages
        if stage.link is not None
    )
    return Expectation(1 / token_s, read_s + sent_s, read_s)


def _compute_s(memory: MemoryModel, stage: Stage) -> float:
    """Return how long the memory takes to read what one token needs."""
    facts, slots = memory.facts, memory.options.slots
    experts = sum(unit.expert_bytes for unit in facts.units[stage.first : stage.end])
    idle = experts * (1 - facts.experts_used / facts.experts) if facts.experts else 0
    context = (stage.memory.cache_bytes / 2 + stage.memory.state_bytes) / slots
    return (stage.memory.weight_bytes - idle + context) / stage.memory_bytes_per_s


def _network_s(memory: MemoryModel, stage: Stage) -> float:
    if stage.link is None:
        return 0.0
    activations = 2 * _ACTIVATION_BYTES * memory.facts.embedding_length
    sent = activations + GRAPH_BYTES * (stage.end - stage.first)
    return ROUND_TRIPS * stage.link.round_trip_s + sent / stage.link.bytes_per_s
