"""Waiting for a slot: what happens when the caller leaves at an awkward moment."""

import asyncio
from random import Random

import pytest
from msgspec import structs

from sollol.errors import QueueFull, QueueTimeout
from sollol.gateway.admission import Admission
from sollol.scheduling.limits import SchedulerLimits
from sollol.scheduling.scheduler import Scheduler
from sollol.types import Engine, Model, NodeState, NodeView, RouteRequest
from tests.scheduling import acquire

NODE = NodeView(
    "a", "http://a", Engine.OLLAMA, NodeState.HEALTHY, models={"m": Model("m", "m")}
)  # fmt: skip


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def request(name: str) -> RouteRequest:
    return RouteRequest(name, "m", arrived_at=0.0, expires_at=100.0)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def admission(clock: Clock) -> Admission:
    made = Admission(Scheduler(SchedulerLimits(queue_max_length=10), Random(0)), clock)
    made.node_changed(NODE)
    return made


def assert_idle(admission: Admission) -> None:
    statistics = admission.statistics()
    assert (statistics.total_in_flight, statistics.queue_length) == (0, 0)


async def test_a_waiting_caller_gets_the_slot_that_is_released(admission: Admission) -> None:
    first = await acquire(admission, request("r1"))
    second = asyncio.ensure_future(acquire(admission, request("r2")))
    await asyncio.sleep(0)
    assert admission.statistics().queue_length == 1
    admission.release(first.lease)
    admission.release((await second).lease)
    assert_idle(admission)


async def test_a_caller_who_leaves_the_queue_is_forgotten(admission: Admission) -> None:
    first = await acquire(admission, request("r1"))
    second = asyncio.ensure_future(acquire(admission, request("r2")))
    await asyncio.sleep(0)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    assert admission.statistics().queue_length == 0
    admission.release(first.lease)
    assert_idle(admission)


@pytest.mark.parametrize("leaves_first", [True, False])
async def test_leaving_in_the_tick_of_the_grant_gives_the_slot_back(
    admission: Admission, leaves_first: bool
) -> None:
    first = await acquire(admission, request("r1"))
    second = asyncio.ensure_future(acquire(admission, request("r2")))
    third = asyncio.ensure_future(acquire(admission, request("r3")))
    await asyncio.sleep(0)
    if leaves_first:
        second.cancel()
    admission.release(first.lease)
    if not leaves_first:
        second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    lease = (await third).lease
    assert lease.request_id == "r3"
    admission.release(lease)
    assert_idle(admission)


async def test_time_passing_ends_a_wait(admission: Admission, clock: Clock) -> None:
    lease = (await acquire(admission, request("r1"))).lease
    ticking = asyncio.ensure_future(admission.run())
    waiting = asyncio.ensure_future(acquire(admission, request("r2")))
    await asyncio.sleep(0)
    clock.now = 101.0
    with pytest.raises(QueueTimeout):
        await waiting
    ticking.cancel()
    admission.release(lease)
    assert_idle(admission)


async def test_who_makes_room_in_a_full_queue_is_told_and_who_came_instead_waits(
    clock: Clock,
) -> None:
    admission = Admission(Scheduler(SchedulerLimits(queue_max_length=1), Random(0)), clock)
    admission.node_changed(NODE)
    first = await acquire(admission, request("r1"))
    batch = asyncio.ensure_future(acquire(admission, structs.replace(request("b"), priority=1)))
    await asyncio.sleep(0)
    urgent = asyncio.ensure_future(acquire(admission, structs.replace(request("u"), priority=9)))
    with pytest.raises(QueueFull):
        await batch
    assert admission.statistics().queue_length == 1
    admission.release(first.lease)
    admission.release((await urgent).lease)
    assert_idle(admission)


class WatchedClock(Clock):
    """Tells when it is read."""

    def __init__(self) -> None:
        self.is_read = asyncio.Event()

    def __call__(self) -> float:
        self.is_read.set()
        return self.now


async def test_time_passes_for_the_scheduler_though_nobody_waits() -> None:
    clock = WatchedClock()
    scheduler = Scheduler(SchedulerLimits(queue_max_length=10), Random(0))
    admission = Admission(scheduler, clock)
    admission.node_changed(NODE)
    grant = await acquire(admission, request("r1"))
    admission.node_removed("a")
    admission.release(grant.lease)
    clock.now = 100.0
    clock.is_read.clear()
    running = asyncio.ensure_future(admission.run())
    await asyncio.wait_for(clock.is_read.wait(), 10.0)
    running.cancel()
    assert not scheduler._fleet._left
