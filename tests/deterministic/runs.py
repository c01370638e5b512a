"""Many schedules after one another, and what to do with one that fails."""

import hashlib
import logging
import traceback
from collections.abc import Iterable

import structlog

from tests.deterministic.schedule import make_schedule
from tests.deterministic.world import World


class ScheduleFailed(AssertionError):
    """Something did not hold in a schedule. ``trace`` tells what happened up to there."""

    def __init__(self, seed: int, error: BaseException, trace: list[str]) -> None:
        while isinstance(error, BaseExceptionGroup):  # of the gateway's task group
            error = error.exceptions[0]
        said = str(error) or _where(error)
        again = f"python -m tests.deterministic --seed {seed} --trace"
        super().__init__(f"schedule {seed}: {type(error).__name__}: {said}\nto see it: {again}")
        self.seed = seed
        self.said = said
        self.trace = trace


def _where(error: BaseException) -> str:
    """Return where an error without words comes from."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{last.name}: {last.line}"


def play(seed: int) -> tuple[str, list[str]]:
    """Play one schedule; return its digest and its trace.

    Raises:
        ScheduleFailed: something did not hold.
    """
    world = World(make_schedule(seed))
    try:
        return world.run(), world.trace
    except Exception as error:
        raise ScheduleFailed(seed, error, world.trace) from error


def digest(seeds: Iterable[int]) -> str:
    """Play schedules; return what stands for all that happened in them."""
    whole = hashlib.sha256()
    for seed in seeds:
        whole.update(play(seed)[0].encode())
    return whole.hexdigest()


def be_quiet() -> None:
    """Log nothing: a thousand schedules of faults are a million warnings."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL),
    )
