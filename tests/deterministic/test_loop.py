"""The virtual clock: it jumps, it stays on its grid, and it sees when nothing is left to happen."""

import asyncio
from collections.abc import Iterator

import pytest

from tests.deterministic.loop import Deadlock, OutOfTime, VirtualLoop


@pytest.fixture
def loop() -> Iterator[VirtualLoop]:
    made = VirtualLoop()
    yield made
    made.close()


def test_a_day_passes_at_once(loop: VirtualLoop) -> None:
    loop.run_until_complete(asyncio.sleep(86_400))
    assert loop.time() == 86_400


def test_what_is_due_in_one_step_of_the_grid_happens_in_one_moment(loop: VirtualLoop) -> None:
    times: list[float] = []

    async def note(delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        times.append(loop.time())

    async def both() -> None:
        await asyncio.gather(note(0.011), note(0.0199), note(0.02))

    loop.run_until_complete(both())
    assert times == [0.02, 0.02, 0.02]


def test_a_timer_is_never_due_in_the_moment_it_is_set(loop: VirtualLoop) -> None:
    loop.run_until_complete(asyncio.sleep(1e-9))
    assert loop.time() == 0.01


def test_waiting_for_nothing_is_an_error(loop: VirtualLoop) -> None:
    with pytest.raises(Deadlock):
        loop.run_until_complete(loop.create_future())


def test_a_run_has_an_end(loop: VirtualLoop) -> None:
    loop.end = 10.0
    with pytest.raises(OutOfTime):
        loop.run_until_complete(asyncio.sleep(11))


def test_a_pause_can_bring_something_to_do(loop: VirtualLoop) -> None:
    waiter = loop.create_future()
    loop.on_pause = lambda: waiter.set_result(loop.time()) if not waiter.done() else None

    async def wait() -> float:
        await asyncio.gather(asyncio.sleep(5.0), waiter)
        return float(waiter.result())

    assert loop.run_until_complete(wait()) == 0.0
