"""Which workers have closed their connection to a process, as the kernel tells."""

import os
import socket
from pathlib import Path

from sollol.sharding.sockets import closed_workers


def test_only_a_closed_far_end_of_our_own_counts() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        worker, other = f"127.0.0.1:{port}", f"127.0.0.1:{port + 1}"
        with socket.create_connection(("127.0.0.1", port)) as client:
            accepted, _ = server.accept()
            assert closed_workers(os.getpid(), [worker], served=0) == []
            accepted.close()
            assert closed_workers(os.getpid(), [other, worker], served=0) == [worker]
            assert closed_workers(os.getpid(), [other], served=0) == []
            own = client.getsockname()[1]
            assert closed_workers(os.getpid(), [worker], served=own) == []
            assert closed_workers(os.getppid(), [worker], served=0) == []


def test_workers_with_one_port_are_told_apart_by_their_addresses() -> None:
    with socket.create_server(("127.0.0.2", 0)) as server:
        port = server.getsockname()[1]
        workers = [f"{host}:{port}" for host in ("127.0.0.1", "127.0.0.2", "127.0.0.3")]
        named = [f"{host}:{port}" for host in ("gpu1", "gpu2")]
        with socket.create_connection(("127.0.0.2", port)):
            server.accept()[0].close()
            assert closed_workers(os.getpid(), workers, served=0) == [workers[1]]
            assert closed_workers(os.getpid(), named, served=0) == named


def test_where_nothing_is_told_nothing_is_closed(tmp_path: Path) -> None:
    assert closed_workers(1, ["127.0.0.1:1"], served=0, proc=tmp_path) == []
