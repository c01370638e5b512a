"""Which workers have closed their connection to a process, as the kernel tells."""

import os
import socket
from pathlib import Path

from sollol.sharding.sockets import closed_ports


def test_only_a_closed_far_end_of_our_own_counts() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            accepted, _ = server.accept()
            assert closed_ports(os.getpid(), {port}, served=0) == []
            accepted.close()
            assert closed_ports(os.getpid(), {port}, served=0) == [port]
            assert closed_ports(os.getpid(), {port + 1}, served=0) == []
            own = client.getsockname()[1]
            assert closed_ports(os.getpid(), {port}, served=own) == []
            assert closed_ports(os.getppid(), {port}, served=0) == []


def test_where_nothing_is_told_nothing_is_closed(tmp_path: Path) -> None:
    assert closed_ports(1, {1}, served=0, proc=tmp_path) == []
