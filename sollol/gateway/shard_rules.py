"""When a model is run over workers, and which one makes room for another. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import inf

from sollol.errors import SollolError
from sollol.llamacpp.restarts import restart_delay_s
from sollol.sharding.facts import ModelFacts
from sollol.sharding.memory import RunOptions
from sollol.sharding.plan import Fleet, Plan, find_plan, plan_shards
from sollol.types import NodeView

PAUSE_S = 60.0
"""After one that keeps failing was given up, requests are refused for so long; then it is tried again."""


def needs_workers(key: str, holders: Iterable[NodeView], *, is_listed: bool) -> bool:
    """Whether a model is to be run over workers, provided that its files are here.

    1. The settings say so.
    2. No node has it.
    3. Every node that has it has less memory for its models than its weights take, by the settings.
    """
    return is_listed or all(_is_too_small(view, key) for view in holders)


def _is_too_small(view: NodeView, key: str) -> bool:
    return view.memory_bytes is not None and view.memory_bytes < view.models[key].size_bytes


@dataclass(frozen=True, slots=True)
class Occupant:
    """A model that holds workers: how, whether requests use it, and when one last did."""

    key: str
    plan: Plan
    is_idle: bool
    used_at: float


def to_leave(
    facts: ModelFacts, options: RunOptions, fleet: Fleet, occupants: Sequence[Occupant]
) -> tuple[str, ...]:
    """Return the keys of the models that make room for another one, in the order in which they go.

    Idle ones go first, then the one that was not used for longest; as few as are needed, and none
    that does not help.

    Args:
        fleet: what is free.

    Raises:
        DoesNotFit: it would not fit if all of them went.
        InvalidRequest: the model's keys or values cannot be stored as the options say.
    """
    leaving: list[Occupant] = []
    for occupant in sorted(occupants, key=lambda one: (not one.is_idle, one.used_at)):
        leaving.append(occupant)
        if _fits(facts, options, fleet, leaving):
            break
    else:
        plan_shards(facts, options, _without(fleet, leaving))
        return ()
    for occupant in leaving[:-1]:
        others = [other for other in leaving if other is not occupant]
        if _fits(facts, options, fleet, others):
            leaving = others
    return tuple(occupant.key for occupant in leaving)


def _fits(
    facts: ModelFacts, options: RunOptions, fleet: Fleet, leaving: Sequence[Occupant]
) -> bool:
    return find_plan(facts, options, _without(fleet, leaving)) is not None


def _without(fleet: Fleet, leaving: Sequence[Occupant]) -> Fleet:
    """Return what is free once some have left."""
    shares = [share for occupant in leaving for share in occupant.plan.shares]
    freed = sum(occupant.plan.coordinator_bytes for occupant in leaving)
    links = {
        worker: link
        for occupant in leaving
        for worker, link in occupant.plan.coordinator.links.items()
    }
    hosts = tuple(
        replace(host, memory_bytes=host.memory_bytes + freed, links={**links, **host.links})
        for host in fleet.coordinators
    )
    return Fleet((*fleet.workers, *(share.worker for share in shares)), hosts)


def wait_to_start_s(deaths: Sequence[float], now: float) -> float | None:
    """Return how long to wait before a model that was lost is started again; None to give up.

    The first time it is not waited at all: a worker was lost, and the others do.

    Args:
        deaths: when it was lost, the latest one included; monotonic seconds.
        now: the same clock.
    """
    delay_s = restart_delay_s(deaths, now)
    return 0.0 if len(deaths) == 1 else delay_s


def rest_s(deaths: Sequence[float], now: float) -> float:
    """Return for how long requests are refused after a model could not be started."""
    delay_s = restart_delay_s(deaths, now)
    return PAUSE_S if delay_s is None else delay_s


def left_s(keep_alive_s: float, used_at: float, now: float) -> float:
    """Return how long an idle model is kept; negative once its time is over.

    Args:
        keep_alive_s: negative for ever.
        used_at: when the last request ended; monotonic seconds.
        now: the same clock.
    """
    return inf if keep_alive_s < 0 else used_at + keep_alive_s - now


def with_reasons(error: SollolError, unusable: Iterable[tuple[str, str]]) -> SollolError:
    """Return the error with what is wrong with the workers that cannot be used."""
    reasons = "; ".join(why if address in why else f"{address}: {why}" for address, why in unusable)
    return type(error)(f"{error} Not used: {reasons}.") if reasons else error


def naming(name: str, error: SollolError, retry_after_s: float | None = None) -> SollolError:
    """Return an error anew whose text names the model; one that is raised twice would grow its traceback."""
    text = str(error)
    told = text if name in text else f"{name}: {text}"
    return type(error)(told, retry_after_s=retry_after_s)
