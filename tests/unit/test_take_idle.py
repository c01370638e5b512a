"""A slot for a request that nobody waits for, and when a model last answered a caller."""

from random import Random

from sollol.scheduling.limits import SchedulerLimits
from sollol.scheduling.scheduler import Scheduler
from sollol.scheduling.state import Runner
from sollol.types import Measured
from tests.scheduling import asks, assert_clean, leases, nodes_of, view


def a_scheduler(resident: str = "m") -> tuple[Scheduler, Runner]:
    scheduler = Scheduler(SchedulerLimits(10), Random(0))
    scheduler.node_changed(view("n", "m", resident=resident), 0.0)
    return scheduler, nodes_of(scheduler)["n"].by_model["m"]


def test_only_whole_answers_to_callers_are_remembered() -> None:
    scheduler, _ = a_scheduler()
    never = {"m": float("-inf")}
    assert scheduler.answered_at("unknown") == {}
    grant = scheduler.take_idle(asks("r"), 1.0)
    assert grant is not None
    assert scheduler.take_idle(asks("r2"), 1.0) is None
    scheduler.release(grant.lease, 2.0)
    assert scheduler.answered_at("n") == never
    (lease,) = leases(scheduler.submit(asks("r3"), 3.0))
    scheduler.release(lease, 4.0)
    assert scheduler.answered_at("n") == never
    (lease,) = leases(scheduler.submit(asks("r4"), 5.0))
    scheduler.release(lease, 6.0, Measured())
    assert scheduler.answered_at("n") == {"m": 6.0}
    assert_clean(scheduler, 7.0)


def test_what_nobody_waits_for_loads_nothing_and_is_never_queued() -> None:
    scheduler, runner = a_scheduler(resident="")
    assert scheduler.take_idle(asks("r"), 1.0) is None
    assert not runner.is_resident
    assert scheduler.take_idle(asks("r", model="unknown"), 1.0) is None
    assert scheduler.take_idle(asks("r", excluded=frozenset("n")), 1.0) is None
    assert scheduler.statistics().queue_length == 0
