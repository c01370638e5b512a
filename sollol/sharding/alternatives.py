"""What else could be done with a model: less context, smaller keys and values, a worker here. Pure.

Shown beside a plan, and in place of one where the model does not fit.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

from sollol.errors import InvalidRequest
from sollol.sharding.facts import ModelFacts
from sollol.sharding.memory import CELL_STEP, GIB, MemoryModel, RunOptions
from sollol.sharding.misfit import memory_gb
from sollol.sharding.plan import Coordinator, Fleet, Plan, Worker, find_plan
from sollol.sharding.prediction import Link

_STEP_BYTES = GIB // 10
"""How finely the memory of a worker beside the coordinator is searched."""
_SMALLER_TYPES = {"f32": "f16", "f16": "q8_0", "bf16": "q8_0", "q8_0": "q4_0"}


@dataclass(frozen=True, slots=True)
class Alternative:
    """Another way to run a model: what is given up, and the plan that makes possible."""

    what: str
    plan: Plan


def alternatives(
    facts: ModelFacts,
    options: RunOptions,
    fleet: Fleet,
    plan: Plan | None,
    local: tuple[str, Link],
) -> tuple[Alternative, ...]:
    """Return what would need fewer workers than ``plan``, or would fit where there is none.

    Args:
        local: name and link of a worker that the gateway would run beside the coordinator.
    """
    ways = (_smaller_cache, _less_context, partial(_local_worker, local))
    return tuple(
        alternative
        for way in ways
        if (alternative := way(facts, options, fleet)) and _is_better(alternative.plan, plan)
    )


def _is_better(other: Plan, plan: Plan | None) -> bool:
    return plan is None or len(other.shares) < len(plan.shares)


def _smaller_cache(facts: ModelFacts, options: RunOptions, fleet: Fleet) -> Alternative | None:
    """Return the plan with the largest type of keys and values that needs the fewest workers."""
    best: Alternative | None = None
    for smaller in _smaller(options):
        try:
            plan = find_plan(facts, smaller, fleet)
        except InvalidRequest:  # its heads do not divide into blocks of this type
            continue
        if plan is not None and (best is None or _is_better(plan, best.plan)):
            best = Alternative(f"keys and values as {smaller.key_type}", plan)
    return best


def _smaller(options: RunOptions) -> Iterator[RunOptions]:
    kind = options.key_type
    while (kind := _SMALLER_TYPES.get(kind, "")) != "":
        yield replace(options, key_type=kind, value_type=kind)


def _less_context(facts: ModelFacts, options: RunOptions, fleet: Fleet) -> Alternative | None:
    """Return the plan with the most context that needs as few workers as the least context does."""
    least = find_plan(facts, replace(options, context_length=CELL_STEP), fleet)
    if least is None:
        return None
    fewest = len(least.shares)

    def is_enough(steps: int) -> bool:
        shorter = replace(options, context_length=steps * CELL_STEP)
        plan = find_plan(facts, shorter, fleet)
        return plan is not None and len(plan.shares) == fewest

    steps = _most(is_enough, options.context_length // CELL_STEP)
    shorter = replace(options, context_length=steps * CELL_STEP)
    plan = find_plan(facts, shorter, fleet)
    assert plan is not None
    return Alternative(f"{shorter.context_length} tokens of context for each slot", plan)


def _local_worker(
    local: tuple[str, Link], facts: ModelFacts, options: RunOptions, fleet: Fleet
) -> Alternative | None:
    """Return the plan with the smallest worker beside the coordinator that spares most others."""
    hosts = [host for host in fleet.coordinators if all(w.host != host.name for w in fleet.workers)]
    if not hosts:
        return None
    host = hosts[0]

    def plan_with(steps: int) -> Plan | None:
        return find_plan(facts, options, _beside(fleet, host, local, steps * _STEP_BYTES))

    room = host.memory_bytes - MemoryModel(facts, options).coordinator_bytes()
    low, high = 1, room // _STEP_BYTES
    plan = plan_with(high) if high >= low else None
    if plan is None:
        return None
    fewest = len(plan.shares)
    while low < high:
        middle = (low + high) // 2
        smaller = plan_with(middle)
        if smaller is not None and len(smaller.shares) == fewest:
            plan, high = smaller, middle
        else:
            low = middle + 1
    return Alternative(f"sharding.local_worker_gb={memory_gb(high * _STEP_BYTES):g}", plan)


def _beside(fleet: Fleet, host: Coordinator, local: tuple[str, Link], size_bytes: int) -> Fleet:
    """Return a fleet with one worker more, which takes its memory from the coordinator's host."""
    name, link = local
    own = Worker(name, host.name, size_bytes, host.memory_bytes_per_s)
    left = host.memory_bytes - size_bytes
    links = {**host.links, name: link}
    return Fleet((*fleet.workers, own), (replace(host, memory_bytes=left, links=links),))


def _most(is_enough: Callable[[int], bool], limit: int) -> int:
    """Return the largest number up to ``limit`` that is enough; 1 is, and less than one that is."""
    low, high = 1, max(limit, 1)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if is_enough(middle) else (low, middle - 1)
    return low
