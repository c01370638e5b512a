"""Tells which workers have closed their connections to a coordinator, which does not notice while idle.

Linux only: elsewhere nothing is known.

Source: proc_pid_net(5); Linux, include/net/tcp_states.h.
"""

import os
import re
import socket
import struct
from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

PROC = Path("/proc")
_CLOSE_WAIT = "08"
_SOCKET = re.compile(r"socket:\[(\d+)\]").fullmatch


def closed_workers(pid: int, workers: Sequence[str], served: int, proc: Path = PROC) -> list[str]:
    """Return those of some workers that have closed a connection of a process. Blocks.

    Where names hide which of several workers with one port it is, all of these are returned.

    Args:
        pid: of the coordinator.
        workers: its workers, by ``host:port``.
        served: the port that the coordinator itself listens on: its clients may close theirs.
        proc: the file system of the kernel.
    """
    try:
        own = set(_inodes(proc / str(pid) / "fd"))
        lines = (proc / str(pid) / "net" / "tcp").read_text(encoding="ascii").splitlines()[1:]
    except OSError:  # it has ended, or this is not Linux
        return []
    peers = dict.fromkeys(_closed(lines, own, served))
    closed = {name for peer in peers for name in _named(peer, workers)}
    return [worker for worker in workers if worker in closed]


def _named(peer: str, workers: Sequence[str]) -> Sequence[str]:
    """Return the worker with an address, else those that may have it, as they have its port."""
    port = peer.rpartition(":")[2]
    same_port = [worker for worker in workers if worker.rpartition(":")[2] == port]
    return [peer] if peer in workers else same_port


def _inodes(descriptors: Path) -> Iterator[str]:
    for descriptor in descriptors.iterdir():
        with suppress(FileNotFoundError):  # it was closed just now
            match = _SOCKET(os.readlink(descriptor))
            if match is not None:
                yield match[1]


def _closed(lines: Iterable[str], own: Container[str], served: int) -> Iterator[str]:
    for line in lines:
        _, local, remote, state, *others = line.split()
        if state == _CLOSE_WAIT and others[5] in own and _port(local) != served:
            yield f"{_host(remote)}:{_port(remote)}"


def _host(address: str) -> str:
    return socket.inet_ntoa(struct.pack("=I", int(address.partition(":")[0], 16)))


def _port(address: str) -> int:
    return int(address.rpartition(":")[2], 16)
