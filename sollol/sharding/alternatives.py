"""What else could be done with a model: less context, smaller keys and values, one node alone. Pure.

Shown beside a plan, and in place of one where the model does not fit.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from sollol.errors import InvalidRequest
from sollol.sharding.facts import ModelFacts
from sollol.sharding.memory import CELL_STEP, RunOptions
from sollol.sharding.plan import Fleet, Plan, find_plan

_SMALLER_TYPES = {"f32": "f16", "f16": "q8_0", "bf16": "q8_0", "q8_0": "q4_0"}


@dataclass(frozen=True, slots=True)
class Alternative:
    """Another way to run a model: what is given up, and the plan that makes possible."""

    what: str
    plan: Plan


def alternatives(
    facts: ModelFacts, options: RunOptions, fleet: Fleet, plan: Plan | None
) -> tuple[Alternative, ...]:
    """Return what would need fewer workers than ``plan``, or would fit where there is none."""
    ways = (_smaller_cache, _less_context, _one_node)
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


def _one_node(facts: ModelFacts, options: RunOptions, fleet: Fleet) -> Alternative | None:
    """Return the plan with the largest worker at most, and as few layers on the CPU as that needs."""
    largest = sorted(fleet.workers, key=lambda worker: worker.memory_bytes)[-1:]
    alone = replace(fleet, workers=tuple(largest))
    for layers in range(1, len(facts.units) + 1):
        plan = find_plan(facts, options, alone, cpu_layers=layers)
        if plan is not None:
            where = f"{layers} of {len(facts.units)} layers" if plan.shares else "all layers"
            return Alternative(f"{where} on the CPU of {plan.coordinator.name}", plan)
    return None


def _most(is_enough: Callable[[int], bool], limit: int) -> int:
    """Return the largest number up to ``limit`` that is enough; 1 is, and less than one that is."""
    low, high = 1, max(limit, 1)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if is_enough(middle) else (low, middle - 1)
    return low
