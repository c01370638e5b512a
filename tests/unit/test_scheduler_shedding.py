"""Who leaves, and who is not let in, when there are too many."""

from random import Random

import pytest

from sollol.errors import QueueFull, ShuttingDown, SollolError
from sollol.scheduling.decision import Effect, Refusal
from sollol.scheduling.limits import SchedulerLimits
from sollol.scheduling.scheduler import MAX_RETRY_AFTER_S, Scheduler
from sollol.types import Comer, Lease
from tests.scheduling import asks, assert_clean, leases, refused, view


def full_scheduler(places: int, share: float = 1.0) -> tuple[Scheduler, Lease]:
    """Return one whose only slot is taken."""
    sut = Scheduler(SchedulerLimits(places, max_share_per_caller=share), Random(1))
    sut.node_changed(view("a", ["m"], resident=["m"]), 0.0)
    (lease,) = leases(sut.submit(asks("first"), 0.0))
    return sut, lease


def errors(effects: list[Effect]) -> list[SollolError]:
    return [effect.error for effect in effects if isinstance(effect, Refusal)]


def finish(sut: Scheduler, lease: Lease, now: float) -> list[str]:
    """End one request after the other; return who was served, in order."""
    served, granted = [], [lease]
    while granted:
        granted = leases(sut.release(granted[0], now))
        served += [one.request_id for one in granted]
    return served


def test_a_full_queue_sheds_by_priority_and_then_by_age() -> None:
    sut, lease = full_scheduler(4)
    for at, (name, priority) in enumerate(
        [("old", 5), ("low", 1), ("middle", 5), ("young", 5)], start=1
    ):
        assert sut.submit(asks(name, at=at, priority=priority, caller=name), at) == []
    shed = [
        refused(sut.submit(asks(f"high{n}", at=5.0 + n, priority=9, caller=f"h{n}"), 5.0 + n))
        for n in range(5)
    ]
    assert shed == [["low"], ["young"], ["middle"], ["old"], ["high4"]]
    assert finish(sut, lease, 20.0) == ["high0", "high1", "high2", "high3"]
    assert_clean(sut, 30.0)


def test_who_is_shed_learns_its_own_wait() -> None:
    sut, lease = full_scheduler(1)
    sut.submit(asks("low", at=1.0, priority=1), 1.0)
    (error,) = errors(sut.submit(asks("high", at=2.0, priority=9), 2.0))
    assert isinstance(error, QueueFull)
    assert error.retry_after_s is not None
    assert 1.0 <= error.retry_after_s <= MAX_RETRY_AFTER_S
    finish(sut, lease, 9.0)


def test_a_caller_has_its_share_of_the_places_while_others_wait() -> None:
    sut, lease = full_scheduler(8, share=0.25)
    flood = [asks(f"f{n}", at=1.0, caller="flood") for n in range(5)]
    assert [sut.submit(one, 1.0) for one in flood] == [[]] * 5  # nobody else waits
    assert sut.submit(asks("other", at=2.0, caller="other"), 2.0) == []
    assert refused(sut.submit(asks("f5", at=3.0, caller="flood"), 3.0)) == ["f5"]
    urgent = asks("f6", at=3.0, caller="flood", priority=9)
    assert refused(sut.submit(urgent, 3.0)) == ["f4"]
    assert sut.submit(asks("other2", at=3.0, caller="other"), 3.0) == []
    assert refused(sut.submit(asks("other3", at=3.0, caller="other"), 3.0)) == ["other3"]
    assert sut.submit(asks("third", at=3.0, caller="third"), 3.0) == []  # there is a place left
    assert sut.cancel("other")
    assert sut.cancel("other2")
    assert sut.cancel("third")
    assert sut.submit(asks("f7", at=4.0, caller="flood"), 4.0) == []
    finish(sut, lease, 9.0)
    assert_clean(sut, 30.0)


def test_a_queue_without_places_takes_nobody() -> None:
    sut, lease = full_scheduler(0, share=0.25)
    assert refused(sut.submit(asks("r", at=1.0), 1.0)) == ["r"]
    finish(sut, lease, 9.0)


def waiting(sut: Scheduler) -> None:
    """Have three requests wait, the least urgent in the middle."""
    for at, (name, priority) in enumerate([("a", 5), ("b", 1), ("c", 5)], start=1):
        sut.submit(asks(name, at=at, priority=priority, caller=name), at)


@pytest.mark.parametrize(
    ("needed_bytes", "priority", "expected"),
    [
        (1, 5, ["b"]),
        (10, 5, ["b"]),
        (11, 5, []),
        (11, 9, ["b", "c"]),
        (30, 9, ["b", "c", "a"]),
        (31, 9, []),
        (1, 1, []),
    ],
)
def test_bodies_make_way_for_a_more_urgent_one_or_not_at_all(
    needed_bytes: int, priority: int, expected: list[str]
) -> None:
    sut, lease = full_scheduler(9)
    waiting(sut)
    sizes = dict.fromkeys("abc", 10)
    assert refused(sut.make_way(sizes, needed_bytes, Comer("d", priority), 4.0)) == expected
    assert sut.statistics().queue_length == 3 - len(expected)
    finish(sut, lease, 9.0)
    assert_clean(sut, 30.0)


def test_a_caller_over_its_share_does_not_push_itself_out() -> None:
    sut, lease = full_scheduler(9)
    for n in range(3):
        sut.submit(asks(f"r{n}", at=1.0, caller="flood"), 1.0)
    sizes = {"r0": 10, "r1": 10, "r2": 10}
    assert sut.make_way(sizes, 5, Comer("flood", 5), 2.0) == []
    assert refused(sut.make_way(sizes, 5, Comer("other", 5), 2.0)) == ["r2"]
    finish(sut, lease, 9.0)


def test_only_those_with_something_to_give_make_way() -> None:
    sut, lease = full_scheduler(9)
    waiting(sut)
    assert refused(sut.make_way({"a": 10, "gone": 10}, 5, Comer("d", 9), 4.0)) == ["a"]
    finish(sut, lease, 9.0)


def test_when_to_come_again_is_the_wait_of_the_last() -> None:
    sut, lease = full_scheduler(9)
    alone = sut.retry_after_s()
    for n in range(5):
        sut.submit(asks(f"r{n}", at=1.0 + n), 1.0 + n)
    assert 1.0 <= alone < sut.retry_after_s() <= MAX_RETRY_AFTER_S
    finish(sut, lease, 9.0)


def test_a_gateway_that_stops_refuses_who_waits_and_who_would_have_to() -> None:
    sut, lease = full_scheduler(9)
    waiting(sut)
    refusals = sut.drain()
    assert refused(refusals) == ["a", "c", "b"]
    assert all(isinstance(one.error, ShuttingDown) for one in refusals)
    (error,) = errors(sut.submit(asks("late", at=5.0), 5.0))
    assert isinstance(error, ShuttingDown)
    assert error.retry_after_s
    assert sut.release(lease, 6.0) == []
    (again,) = leases(sut.submit(asks("lucky", at=7.0), 7.0))  # there is a slot at once
    sut.release(again, 8.0)
    assert_clean(sut, 30.0)
