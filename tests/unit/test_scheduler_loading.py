"""What the scheduler tells of loads under way, to those who wait for a silent node."""

from random import Random

import msgspec

from sollol.scheduling.limits import SchedulerLimits
from sollol.scheduling.scheduler import Scheduler
from tests.scheduling import asks, leases, view


def a_scheduler(*resident: str) -> Scheduler:
    scheduler = Scheduler(SchedulerLimits(queue_max_length=10), Random(0))
    scheduler.node_changed(view("a", ["m", "n"], slots=2, resident=resident), 0.0)
    return scheduler


def test_a_load_lasts_until_somebody_has_seen_its_end() -> None:
    scheduler = a_scheduler()
    (first,) = leases(scheduler.submit(asks("1"), 0.0))
    (second,) = leases(scheduler.submit(asks("2"), 1.0))
    late = 1000.0  # long after what was predicted
    assert first.loads
    assert not second.loads
    assert scheduler.is_loading(first, late)
    assert scheduler.is_loading(second, late)
    assert scheduler.is_node_loading("a", late)
    scheduler.loaded(first, late)
    scheduler.node_changed(view("a", ["m", "n"], slots=2, resident=["m"]), late)
    assert not scheduler.is_loading(first, late)
    assert not scheduler.is_loading(second, late)
    assert not scheduler.is_node_loading("a", late)


def test_a_model_that_the_node_does_not_list_may_be_loading() -> None:
    scheduler = a_scheduler("m")
    (lease,) = leases(scheduler.submit(asks("1"), 0.0))
    assert not scheduler.is_loading(lease, 20.0)
    scheduler.node_changed(view("a", ["m", "n"], slots=2), 20.0)
    assert scheduler.is_loading(lease, 20.0)


def test_company_are_others_on_the_same_model() -> None:
    scheduler = a_scheduler("m", "n")
    (lease,) = leases(scheduler.submit(asks("1"), 0.0))
    assert not scheduler.has_company(lease)
    scheduler.submit(asks("2", "n"), 0.0)
    assert not scheduler.has_company(lease)
    scheduler.submit(asks("3"), 0.0)
    assert scheduler.has_company(lease)


def test_nothing_is_known_of_a_lease_that_was_given_back_or_takes_no_slot() -> None:
    scheduler = a_scheduler("m")
    (lease,) = leases(scheduler.submit(asks("1"), 0.0))
    scheduler.release(lease, 1.0)
    beside = msgspec.structs.replace(asks("2"), takes_slot=False)
    for one in (lease, *leases(scheduler.submit(beside, 1.0))):
        assert not scheduler.is_loading(one, 1.0)
        assert not scheduler.has_company(one)
        assert scheduler.loaded(one, 1.0) == []
    assert not scheduler.is_node_loading("gone", 1.0)
