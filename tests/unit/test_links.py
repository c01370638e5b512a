"""Measured links: what is sent, what is not when the version is another, and nothing left behind."""

import asyncio

import pytest
import uvloop

from sollol.sharding.links import MeasuredLink, measure_link
from tests.fake_worker import FakeWorker, fake_worker

ALLOC, FREE, SET, HELLO, COUNT = 0, 4, 6, 14, 15


async def test_a_link_is_measured_with_a_buffer_that_is_freed() -> None:
    async with fake_worker(FakeWorker()) as worker:
        link = await measure_link(worker.address, 30)
    assert link.round_trip_s is not None
    assert link.bytes_per_s is not None
    assert link.round_trip_s > 0
    assert link.bytes_per_s > 0
    assert worker.commands[0] == HELLO
    assert worker.commands.count(ALLOC) == worker.commands.count(FREE) == 1
    assert worker.commands[-1] == FREE
    assert 1 << 16 <= worker.received_bytes < 1 << 24


async def test_other_versions_are_sent_nothing_they_might_misread() -> None:
    async with fake_worker(FakeWorker(version=(5, 0, 0))) as worker:
        link = await measure_link(worker.address, 30)
    assert link.round_trip_s is not None
    assert link.bytes_per_s is None
    assert set(worker.commands) == {HELLO, COUNT}


async def test_a_worker_without_room_has_no_measured_bandwidth() -> None:
    async with fake_worker(FakeWorker(buffer_bytes=1000)) as worker:
        link = await measure_link(worker.address, 30)
    assert link.bytes_per_s is None
    assert SET not in worker.commands


@pytest.mark.parametrize(("breaks_at", "has_round_trip"), [(HELLO, False), (SET, True)])
async def test_a_worker_that_breaks_off_leaves_what_was_measured(
    breaks_at: int, has_round_trip: bool
) -> None:
    async with fake_worker(FakeWorker(breaks_at=breaks_at)) as worker:
        link = await measure_link(worker.address, 30)
    assert (link.round_trip_s is not None) == has_round_trip
    assert link.bytes_per_s is None


async def test_a_worker_that_says_nothing_is_given_up() -> None:
    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(say_nothing, "127.0.0.1", 0) as server:
        address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        assert await measure_link(address, 0.05) == MeasuredLink()


def test_a_round_trip_of_a_moment_is_not_nothing() -> None:
    async def measure() -> MeasuredLink:
        async with fake_worker(FakeWorker()) as worker:
            return await measure_link(worker.address, 30)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        link = runner.run(measure())
    assert link.round_trip_s
    assert link.bytes_per_s
