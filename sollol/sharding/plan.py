"""Decides which workers hold which layers of a model, and what to expect of it. Pure.

The fewest workers that hold it are used, as every one more makes each token slower; of those the
ones that answer soonest, each filled to the same part of its memory.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sollol.errors import DoesNotFit
from sollol.sharding.facts import ModelFacts
from sollol.sharding.memory import DeviceMemory, MemoryModel, RunOptions
from sollol.sharding.misfit import misfit_text, size_text
from sollol.sharding.placing import MOST_WORKERS, Packer, Packing
from sollol.sharding.prediction import ROUND_TRIPS, Expectation, Link, Stage, expect

_COMPARED_SETS = 16
"""Of sets of equal size, those with the fastest and nearest workers are compared in full."""


@dataclass(frozen=True, slots=True)
class Worker:
    """An RPC server: where it runs, what it may give, and how fast it reads its memory."""

    name: str
    host: str
    memory_bytes: int
    memory_bytes_per_s: float


@dataclass(frozen=True, slots=True)
class Coordinator:
    """A host that can run the llama-server, with its link to every worker by name."""

    name: str
    memory_bytes: int
    memory_bytes_per_s: float
    links: Mapping[str, Link]


@dataclass(frozen=True, slots=True)
class Fleet:
    """What a plan may use."""

    workers: tuple[Worker, ...]
    coordinators: tuple[Coordinator, ...]


@dataclass(frozen=True, slots=True)
class Share:
    """The units ``first`` to ``end - 1`` on one worker."""

    worker: Worker
    first: int
    end: int
    memory: DeviceMemory


@dataclass(frozen=True, slots=True)
class Plan:
    """How a model is run: which host coordinates, and the shares in the order of the layers.

    The first ``cpu_layers`` are computed by the coordinator itself.
    """

    facts: ModelFacts
    options: RunOptions
    coordinator: Coordinator
    coordinator_bytes: int
    cpu_layers: int
    shares: tuple[Share, ...]
    expectation: Expectation

    @property
    def tensor_split(self) -> str:
        """What ``--tensor-split`` makes llama-server place exactly these shares."""
        return ",".join(str(share.end - share.first) for share in self.shares)

    @property
    def gpu_layers(self) -> int:
        """What ``--n-gpu-layers`` leaves the first layers to the coordinator; counts the output."""
        return len(self.facts.units) - self.cpu_layers


def plan_shards(facts: ModelFacts, options: RunOptions, fleet: Fleet) -> Plan:
    """Return the best plan.

    Raises:
        DoesNotFit: no coordinator, or the workers, have too little memory.
        InvalidRequest: the model's keys or values cannot be stored as the options say.
    """
    plan = find_plan(facts, options, fleet)
    if plan is not None:
        return plan
    memory = MemoryModel(facts, options)
    needed = memory.coordinator_bytes()
    if all(host.memory_bytes < needed for host in fleet.coordinators):
        most = max((host.memory_bytes for host in fleet.coordinators), default=0)
        raise DoesNotFit(
            f"The coordinator of this model needs {size_text(needed)} on its own host, which has "
            f"{size_text(most)} for it. Give it more with sharding.memory_gb, free some, or ask for less "
            f"context than {options.slots} x {options.context_length} tokens (sharding.context_length)."
        )
    workers = {worker.name: worker.memory_bytes for worker in fleet.workers}
    raise DoesNotFit(misfit_text(memory, workers))


def find_plan(
    facts: ModelFacts, options: RunOptions, fleet: Fleet, cpu_layers: int = 0
) -> Plan | None:
    """Return the best plan with so many layers on the coordinator's CPU, or None.

    The one that needs the fewest workers is the best, then the one with the most of the weights on
    the coordinator's host, then the fastest.

    Raises:
        InvalidRequest: the model's keys or values cannot be stored as the options say.
    """
    memory = MemoryModel(facts, options)
    needed = memory.coordinator_bytes(cpu_layers)
    plans = [
        plan
        for host in fleet.coordinators
        if host.memory_bytes >= needed
        for plan in _plans(memory, fleet.workers, host, cpu_layers)
    ]
    return min(plans, key=_rank, default=None)


def _rank(plan: Plan) -> tuple[float, ...]:
    local = sum(
        share.memory.weight_bytes
        for share in plan.shares
        if share.worker.host == plan.coordinator.name
    )
    return len(plan.shares), -local, -plan.expectation.tokens_per_s


def _plans(
    memory: MemoryModel, workers: Sequence[Worker], host: Coordinator, cpu_layers: int
) -> list[Plan]:
    if cpu_layers == len(memory.facts.units):
        return [_plan(memory, (), Packing((), ()), host, cpu_layers)]
    considered = sorted(workers, key=lambda one: (-one.memory_bytes, _nearness(one, host)))
    considered = considered[:MOST_WORKERS]
    memories = [worker.memory_bytes for worker in considered]
    packer = Packer(memory, cpu_layers)
    sets = sorted(
        packer.smallest_sets(memories),
        key=lambda order: sum(_slowness_s(memory, considered[i], host) for i in order) / len(order),
    )
    return [
        _plan(memory, considered, packer.evenly(order, memories), host, cpu_layers)
        for order in sets[:_COMPARED_SETS]
    ]


def _plan(
    memory: MemoryModel,
    workers: Sequence[Worker],
    packing: Packing,
    host: Coordinator,
    cpu_layers: int,
) -> Plan:
    starts = (cpu_layers, *packing.ends)
    shares = tuple(
        Share(workers[index], first, end, memory.device(first, end))
        for index, first, end in zip(packing.workers, starts, packing.ends, strict=False)
    )
    return Plan(
        facts=memory.facts,
        options=memory.options,
        coordinator=host,
        coordinator_bytes=memory.coordinator_bytes(cpu_layers),
        cpu_layers=cpu_layers,
        shares=shares,
        expectation=expect(memory, _stages(memory, shares, host, cpu_layers)),
    )


def _stages(
    memory: MemoryModel, shares: Sequence[Share], host: Coordinator, cpu_layers: int
) -> list[Stage]:
    own = Stage(0, cpu_layers, memory.device(0, cpu_layers), host.memory_bytes_per_s)
    return [own] * (cpu_layers > 0) + [
        Stage(
            share.first,
            share.end,
            share.memory,
            share.worker.memory_bytes_per_s,
            host.links[share.worker.name],
        )
        for share in shares
    ]


def _slowness_s(memory: MemoryModel, worker: Worker, host: Coordinator) -> float:
    """Return about how long a token takes on a worker that has the whole model."""
    read_s = memory.facts.weight_bytes / worker.memory_bytes_per_s
    return read_s + ROUND_TRIPS * host.links[worker.name].round_trip_s


def _nearness(worker: Worker, host: Coordinator) -> tuple[float, str]:
    return host.links[worker.name].round_trip_s, worker.name
