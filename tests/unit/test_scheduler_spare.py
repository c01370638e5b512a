"""Slots for second copies of requests: only where nobody is the worse for it."""

from random import Random

import pytest

from sollol.scheduling.decision import Grant
from sollol.scheduling.limits import SchedulerLimits
from sollol.scheduling.scheduler import Scheduler
from sollol.types import RouteRequest
from tests.scheduling import asks, assert_clean, leases, view

COPY = asks("r", excluded=frozenset({"a"}))
WARM = ("m",)


def scheduler(*, slots: int = 1, resident: tuple[str, ...] = WARM) -> Scheduler:
    """Return one over two nodes."""
    made = Scheduler(SchedulerLimits(10), Random(1))
    made.node_changed(view("a", ["m"], slots=slots, resident=WARM), 0.0)
    made.node_changed(view("b", ["m"], slots=slots, resident=resident), 0.0)
    return made


def first(sut: Scheduler, request: RouteRequest) -> Grant:
    """Give a request its own slot, on the node that its copy must not be sent to."""
    request = asks(request.id, excluded=frozenset({"b"}))
    (effect,) = sut.submit(request, 0.0)
    assert isinstance(effect, Grant)
    return effect


def test_a_copy_gets_a_slot_of_another_node_and_gives_it_back() -> None:
    sut = scheduler()
    own = first(sut, COPY)
    spare = sut.spare(COPY, 1.0)
    assert spare is not None
    assert (own.lease.node_id, spare.lease.node_id) == ("a", "b")
    assert spare.decision is not None
    assert sut.statistics().in_flight == {"a": 1, "b": 1}
    for lease in (own.lease, spare.lease):
        assert sut.release(lease, 2.0) == []
    assert_clean(sut, 3.0)


def test_a_copy_does_not_wait() -> None:
    sut = scheduler()
    first(sut, COPY)
    assert leases(sut.submit(asks("other", excluded=frozenset({"a"})), 0.0))
    assert sut.spare(COPY, 1.0) is None
    assert sut.statistics().queue_length == 0


def test_a_copy_is_not_sent_past_those_who_wait() -> None:
    sut = scheduler()
    first(sut, COPY)
    assert sut.submit(asks("waits", excluded=frozenset({"b"})), 0.0) == []
    assert sut.spare(COPY, 1.0) is None


def test_no_model_is_loaded_for_a_copy() -> None:
    sut = scheduler(resident=())
    first(sut, COPY)
    assert sut.spare(COPY, 1.0) is None
    assert sut.statistics().in_flight == {"a": 1}


@pytest.mark.parametrize("excluded", [frozenset({"a", "b"}), frozenset({"b", "c", "a"})])
def test_there_may_be_no_other_node(excluded: frozenset[str]) -> None:
    sut = scheduler()
    first(sut, COPY)
    assert sut.spare(asks("r", excluded=excluded), 1.0) is None


def test_a_gateway_that_stops_sends_no_copies() -> None:
    sut = scheduler()
    first(sut, COPY)
    sut.drain()
    assert sut.spare(COPY, 1.0) is None
