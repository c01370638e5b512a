"""When a model counts as far slower than it can be."""

from random import Random

from sollol.scheduling.limits import SchedulerLimits
from sollol.scheduling.pace import Pace
from sollol.scheduling.rates import RateBook
from sollol.scheduling.scheduler import Scheduler
from sollol.scheduling.state import Runner
from sollol.types import Measured
from tests.scheduling import asks, leases, nodes_of, view

FAST, BARELY, SLOW = 0.01, 0.019, 0.041


def took(pace: Pace, *seconds: float, count: int = 8) -> list[bool]:
    return [pace.take(each, 0.01, count) for each in seconds]


def test_three_slow_answers_in_a_row_make_it_slow_and_a_good_one_ends_it() -> None:
    pace = Pace()
    assert took(pace, FAST, SLOW, SLOW, FAST, SLOW, SLOW) == [False] * 6
    assert took(pace, SLOW) == [True]
    assert (pace.is_slow, pace.best_s, pace.latest_s) == (True, 0.01, SLOW)
    assert took(pace, SLOW, 0.02) == [False, False]
    assert (pace.is_slow, pace.latest_s) == (True, 0.02)
    assert took(pace, BARELY) == [False]
    assert (pace.is_slow, pace.latest_s) == (False, BARELY)
    assert took(pace, SLOW, SLOW, SLOW) == [False, False, True]


def test_a_quarter_is_not_slow_yet() -> None:
    pace = Pace()
    assert took(pace, *[0.04] * 9) == [False] * 9


def test_nothing_is_slow_while_the_best_is_not_known() -> None:
    pace = Pace()
    assert took(pace, *[SLOW] * 9, count=2) == [False] * 9


def test_the_best_stays_what_it_was_when_slow_answers_began() -> None:
    pace = Pace()
    for best_s in (0.01, 0.02, 0.03, 0.04, 0.05):
        pace.take(0.1, best_s, 8)
    assert pace.is_slow
    assert pace.best_s == 0.01


def a_scheduler(resident: str = "m") -> tuple[Scheduler, Runner]:
    scheduler = Scheduler(SchedulerLimits(10), Random(0))
    scheduler.node_changed(view("n", "m", resident=resident), 0.0)
    return scheduler, nodes_of(scheduler)["n"].by_model["m"]


def answer(scheduler: Scheduler, number: int, token_s: float) -> None:
    at = float(number)
    (lease,) = leases(scheduler.submit(asks(f"r{number}", at=at), at))
    seconds = 20 * token_s
    measured = Measured(output_tokens=20, output_s=seconds, total_s=seconds)
    scheduler.release(lease, at + 0.5, measured)


def test_the_scheduler_tells_of_models_that_are_slow_and_that_were() -> None:
    scheduler, _ = a_scheduler()
    for number in range(5):
        answer(scheduler, number, 0.01)
    assert scheduler.slow() == []
    for number in range(5, 100):  # long enough for the average's own best to be forgotten
        answer(scheduler, number, 0.2)
    (slow,) = scheduler.slow()
    assert (slow.node_id, slow.runner, slow.models, slow.is_slow) == ("n", "m", ("m",), True)
    assert round(slow.tokens_per_s, 3) == 5.0
    assert round(slow.best_tokens_per_s, 3) == 100.0
    assert scheduler.estimates()[0].models[0].is_slow
    answer(scheduler, 100, 0.011)
    (slow,) = scheduler.slow()
    assert not slow.is_slow
    scheduler.node_changed(view("n", "x"), 101.0)
    assert scheduler.slow() == []
    scheduler.node_removed("n")
    assert scheduler.slow() == []


def test_a_node_that_is_gone_is_forgotten() -> None:
    rates = RateBook()
    scheduler, runner = a_scheduler()
    rates.join(runner.node)
    for each_s in (0.01,) * 4 + (0.2,) * 3:
        rates.learn_decode(runner, each_s, 1.0, 1.0)
    assert list(rates.slow()) == [("n", "m")]
    rates.forget_node("n")
    assert list(rates.slow()) == []
    assert scheduler.slow() == []
