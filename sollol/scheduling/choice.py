"""Which of the nodes that have a model is best for a request. Reads state, changes none."""

from collections.abc import Callable, Sequence
from operator import attrgetter
from random import Random

from sollol.scheduling.policies.policy import Policy
from sollol.scheduling.state import Runner
from sollol.scheduling.work import Priced

_PRICED = float("inf")
total_s = attrgetter("total_s")

MOST_ALIKE = 24
"""So many nodes are looked at closely at most, where more look as good."""

ALIKE = 1.01
"""Nodes whose costs differ by less are alike: predictions are not that exact."""


def by_cost(
    runners: Sequence[Runner],
    bounds: list[float],
    price: Callable[[Runner], Priced],
    rng: Random,
    *,
    at_least: int = 2,
) -> list[Priced]:
    """Return the cheapest runners, the cheapest first.

    Pricing one takes microseconds and there may be hundreds, so they are priced in the order of
    what they cost at least, until no other can be the best; of many that are alike, only some.

    Args:
        bounds: what each costs at least, in seconds; it is used up.
        at_least: how many to price in any case, so that people see what else there was.
    """
    start = int(rng.random() * len(runners))  # of those alike, not always the first ones
    priced: list[Priced] = []
    best_s = float("inf")
    for count in range(min(len(runners), max(at_least, MOST_ALIKE))):
        bound = min(bounds)
        if count >= at_least and bound > best_s * ALIKE:
            break
        at = _index(bounds, bound, start)
        bounds[at] = _PRICED
        candidate = price(runners[at])
        priced.append(candidate)
        if candidate.total_s < best_s:
            best_s = candidate.total_s
    priced.sort(key=total_s)
    return priced


def _index(bounds: list[float], bound: float, start: int) -> int:
    try:
        return bounds.index(bound, start)
    except ValueError:
        return bounds.index(bound)


def pick(priced: Sequence[Priced], rng: Random) -> Priced:
    """Return the best of those that are priced, the cheapest first; among those alike, any.

    Of those alike, one that can start now goes before one that cannot.
    """
    best = priced[0]
    if len(priced) == 1 or priced[1].total_s > best.total_s * ALIKE:
        return best
    alike = [p for p in priced if p.total_s <= best.total_s * ALIKE]
    return rng.choice([p for p in alike if p.can_start] or alike)


def by_rank(policy: Policy, runners: Sequence[Runner], rng: Random) -> Runner | None:
    """Return the best by a policy's rank among the runners with a free slot; None without one."""
    assert policy.rank is not None
    free = [(policy.rank(runner), runner) for runner in runners if not runner.is_full]
    if not free:
        return None
    best = min(rank for rank, _ in free)
    return rng.choice([runner for rank, runner in free if rank == best])
