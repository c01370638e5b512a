"""What is seen of a coordinator from outside, with a process of our own in its place."""

import asyncio
import os
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pytest

from sollol.errors import CoordinatorFailed
from sollol.gateway.shard_watch import LoadLimits, ShardWatch, addresses, start_watched
from sollol.sharding.allocations import Allocation
from sollol.sharding.silence import FLOOR_S, Silence

ONLY_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@contextmanager
def waiting() -> Iterator[tuple[str, socket.socket]]:
    """Have a thread that waits for a worker; yield the worker's address and its end."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        with socket.create_connection(server.getsockname()) as client:
            worker, _ = server.accept()
            reader = threading.Thread(target=client.recv, args=(1,))
            reader.start()
            try:
                yield f"127.0.0.1:{server.getsockname()[1]}", worker
            finally:
                worker.close()
                reader.join()


def watch(address: str, clock: Clock, pid: int | None = os.getpid()) -> ShardWatch:
    return ShardWatch(pid, 0, {address: "gpu1:50052"}, 100.0, Silence(), clock)


@ONLY_LINUX
async def test_a_worker_that_keeps_the_coordinator_waiting_hangs() -> None:
    clock = Clock()
    with waiting() as (address, _):
        watched = watch(address, clock)
        assert await watched.hung(100) == ""
        clock.now += FLOOR_S
        assert await watched.hung(100) == ""
        clock.now += 1
        assert await watched.hung(100) == "worker gpu1:50052 hangs: it was silent for 26 s"
        assert await watched.left() == ""
        assert await watched.hung(100) == ""  # a wait while it had nothing to do does not count


@ONLY_LINUX
async def test_a_worker_that_closes_is_lost() -> None:
    with waiting() as (address, worker):
        watched = watch(address, Clock())
        worker.shutdown(socket.SHUT_WR)
        assert await watched.left() == "worker gpu1:50052 was lost"


async def test_without_a_process_nothing_is_seen() -> None:
    watched = watch("127.0.0.1:1", Clock(), pid=None)
    assert (await watched.left(), await watched.hung(1)) == ("", "")


class Starting:
    """A coordinator that is this process, and has loaded its model once it is told so."""

    url = "http://127.0.0.1:0"
    api_key = "key"
    pid = os.getpid()
    is_sending = True

    def __init__(self, *, is_loaded: bool = False, failure: Exception | None = None) -> None:
        self.placement: Mapping[str, Allocation] = {}
        self.is_loaded = is_loaded
        self.failure = failure
        self.was_cancelled = False

    async def start(self, timeout_s: float) -> None:
        if self.failure is not None:
            raise self.failure
        try:
            if not self.is_loaded:
                await asyncio.sleep(timeout_s)
        except asyncio.CancelledError:
            self.was_cancelled = True
            raise

    async def wait(self) -> str:
        return ""

    async def stop(self, grace_s: float) -> None:
        pass


class HastyClock(Clock):
    """Seven seconds go by from one look to the next."""

    def __call__(self) -> float:
        self.now += 7
        return self.now


@ONLY_LINUX
async def test_a_load_that_a_worker_keeps_waiting_is_given_up() -> None:
    coordinator = Starting()
    with waiting() as (address, _):
        load = LoadLimits(600.0, 20.0, 20.0, look_s=0.001)
        with pytest.raises(CoordinatorFailed, match=r"gpu1:50052 said nothing for 2\d s"):
            await start_watched(coordinator, {address: "gpu1:50052"}, load, HastyClock())
    assert coordinator.was_cancelled


@ONLY_LINUX
async def test_a_load_that_a_worker_does_not_let_begin_is_given_up_sooner() -> None:
    coordinator = Starting()
    coordinator.is_sending = False
    with waiting() as (address, _):
        load = LoadLimits(600.0, 600.0, 20.0, look_s=0.001)
        with pytest.raises(
            CoordinatorFailed, match=r"gpu1:50052 let nobody in for 2.*another gateway"
        ):
            await start_watched(coordinator, {address: "gpu1:50052"}, load, HastyClock())
    assert coordinator.was_cancelled


async def test_a_load_that_goes_on_is_left_alone() -> None:
    load = LoadLimits(600.0, 20.0, 20.0)
    await start_watched(Starting(is_loaded=True), {}, load, Clock())
    failure = CoordinatorFailed("no room")
    with pytest.raises(CoordinatorFailed, match=r"^no room$"):
        await start_watched(Starting(failure=failure), {}, load, Clock())


async def test_a_load_may_be_cancelled() -> None:
    coordinator = Starting()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await start_watched(
                coordinator, {}, LoadLimits(600.0, 20.0, 20.0, look_s=0.001), Clock()
            )
    assert coordinator.was_cancelled


async def test_workers_are_known_by_address() -> None:
    told = ["localhost:50052", "10.0.0.2:50052", "no-such-host.invalid:50052", "8.8.8.8:1"]
    assert await addresses(told) == {
        "127.0.0.1:50052": "localhost:50052",
        "10.0.0.2:50052": "10.0.0.2:50052",
        "no-such-host.invalid:50052": "no-such-host.invalid:50052",
        "8.8.8.8:1": "8.8.8.8:1",
    }
