"""What is seen of a coordinator from outside, with a process of our own in its place."""

import os
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from sollol.gateway.shard_watch import ShardWatch, addresses
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


async def test_workers_are_known_by_address() -> None:
    told = ["localhost:50052", "10.0.0.2:50052", "no-such-host.invalid:50052", "8.8.8.8:1"]
    assert await addresses(told) == {
        "127.0.0.1:50052": "localhost:50052",
        "10.0.0.2:50052": "10.0.0.2:50052",
        "no-such-host.invalid:50052": "no-such-host.invalid:50052",
        "8.8.8.8:1": "8.8.8.8:1",
    }
