"""The virtual clock, and sequences that share an accelerator."""

import pytest

from sollol.bench.virtual.decode import Decoder
from sollol.bench.virtual.loop import EventLoop


def never() -> bool:
    return False


def test_actions_run_in_the_order_of_their_moments() -> None:
    loop, seen = EventLoop(), list[tuple[str, float]]()
    loop.at(2.0, lambda: seen.append(("late", loop.now)))
    loop.at(1.0, lambda: seen.append(("first", loop.now)))
    loop.at(1.0, lambda: seen.append(("second", loop.now)))
    loop.run(never)
    assert seen == [("first", 1.0), ("second", 1.0), ("late", 2.0)]


def test_what_is_cancelled_does_not_happen_and_takes_no_time() -> None:
    loop = EventLoop()
    loop.at(5.0, lambda: pytest.fail("it was cancelled")).cancel()
    loop.run(never)
    assert loop.now == 0.0


def test_a_moment_that_is_past_is_now() -> None:
    loop, seen = EventLoop(), list[float]()
    loop.at(3.0, lambda: loop.at(1.0, lambda: seen.append(loop.now)))
    loop.run(never)
    assert seen == [3.0]


def test_it_stops_when_all_is_done() -> None:
    loop, seen = EventLoop(), list[int]()
    for number in range(5):
        loop.at(number, lambda: seen.append(1))
    loop.run(lambda: len(seen) == 2)
    assert loop.now == 1.0


def test_two_sequences_slow_each_other_down_while_both_run() -> None:
    """Alone 1 s; from 1 s to 3 s two run at 1/1.5; the longer one ends alone."""
    loop, ends = EventLoop(), dict[str, float]()
    decoder = Decoder(loop, batch_slowdown=0.5)
    decoder.add(3.0, lambda: ends.setdefault("long", loop.now))
    loop.at(1.0, lambda: decoder.add(4 / 3, lambda: ends.setdefault("short", loop.now)))
    loop.run(never)
    assert ends == pytest.approx({"short": 3.0, "long": 3.0 + (3.0 - 1.0 - 4 / 3)})
    assert len(decoder) == 0


def test_a_node_that_becomes_slower_takes_longer_from_then_on() -> None:
    loop, ends = EventLoop(), list[float]()
    decoder = Decoder(loop, batch_slowdown=0.25)
    decoder.add(2.0, lambda: ends.append(loop.now))
    loop.at(1.0, lambda: decoder.set_slowdown(5.0))
    loop.run(never)
    assert ends == [pytest.approx(6.0)]
