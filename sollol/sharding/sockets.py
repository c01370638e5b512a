"""Tells which workers have closed their connections to a coordinator, which does not notice while idle.

Linux only: elsewhere nothing is known.

Source: proc_pid_net(5); Linux, include/net/tcp_states.h.
"""

import os
import re
from collections.abc import Container, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

PROC = Path("/proc")
_CLOSE_WAIT = "08"
_SOCKET = re.compile(r"socket:\[(\d+)\]").fullmatch


def closed_ports(pid: int, ports: Container[int], served: int, proc: Path = PROC) -> list[int]:
    """Return those of some ports whose far end has closed a connection of a process. Blocks.

    Args:
        pid: of the coordinator.
        ports: on which its workers listen.
        served: the port that the coordinator itself listens on: its clients may close theirs.
        proc: the file system of the kernel.
    """
    try:
        own = set(_inodes(proc / str(pid) / "fd"))
        lines = (proc / str(pid) / "net" / "tcp").read_text(encoding="ascii").splitlines()[1:]
    except OSError:  # it has ended, or this is not Linux
        return []
    return sorted({port for port in _closed(lines, own, served) if port in ports})


def _inodes(descriptors: Path) -> Iterator[str]:
    for descriptor in descriptors.iterdir():
        with suppress(FileNotFoundError):  # it was closed just now
            match = _SOCKET(os.readlink(descriptor))
            if match is not None:
                yield match[1]


def _closed(lines: Iterable[str], own: Container[str], served: int) -> Iterator[int]:
    for line in lines:
        _, local, remote, state, *others = line.split()
        if state == _CLOSE_WAIT and others[5] in own and _port(local) != served:
            yield _port(remote)


def _port(address: str) -> int:
    return int(address.rpartition(":")[2], 16)
