"""What the kernel tells of a process that talks to workers: who has closed, for whom it waits."""

import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sollol.sharding.silence import Wait
from sollol.sharding.sockets import closed, waits

ME = os.getpid()


@contextmanager
def connected() -> Iterator[tuple[int, socket.socket, socket.socket]]:
    """Give the port of a worker, and both ends of a connection to it: ours, and the worker's."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            accepted, _ = server.accept()
            with accepted:
                yield port, client, accepted


def test_only_a_closed_far_end_of_our_own_counts() -> None:
    with connected() as (port, client, accepted):
        workers = {f"127.0.0.1:{port}"}
        assert closed(ME, workers, served=0) == []
        accepted.close()
        assert closed(ME, workers, served=0) == list(workers)
        assert closed(ME, {f"127.0.0.2:{port}"}, served=0) == []
        own = client.getsockname()[1]
        assert closed(ME, workers, served=own) == []
        assert closed(os.getppid(), workers, served=0) == []


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_a_thread_that_waits_for_a_worker_is_told() -> None:
    with connected() as (port, client, accepted):
        workers = {f"127.0.0.1:{port}"}
        assert waits(ME, workers, served=0) == []
        reader = threading.Thread(target=client.recv, args=(2, socket.MSG_WAITALL))
        reader.start()
        first = until_waits(workers)
        assert first.worker == f"127.0.0.1:{port}"
        assert first.thread == reader.native_id
        assert waits(ME, workers, served=0) == [first]
        assert waits(ME, {"127.0.0.1:1"}, served=0) == []
        accepted.sendall(b"xy")
        reader.join()


def until_waits(workers: set[str]) -> Wait:
    deadline = time.monotonic() + 10
    while not (found := waits(ME, workers, served=0)):
        assert time.monotonic() < deadline
    return found[0]


def test_where_nothing_is_told_nothing_is_known(tmp_path: Path) -> None:
    assert closed(1, {"127.0.0.1:1"}, served=0, proc=tmp_path) == []
    assert waits(1, {"127.0.0.1:1"}, served=0, proc=tmp_path) == []
