"""Tells how a coordinator stands with its workers: who has left it, and for whom it waits.

Both are seen from outside, in what the kernel tells of the process: an idle coordinator does not notice
that a worker has gone, and none ever notices one that hangs, as that one's connection stays whole.
Linux only: elsewhere, and where a process may not look at its children, nothing is known.

Source: proc_pid_net(5), proc_pid_syscall(5); Linux, include/net/tcp_states.h.
"""

import os
import re
import sys
from collections.abc import Container, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from socket import inet_ntoa
from typing import NamedTuple

from sollol.sharding.silence import Wait

PROC = Path("/proc")
_CLOSE_WAIT = "08"
_SOCKET = re.compile(r"socket:\[(\d+)\]").fullmatch
_WAKES = re.compile(r"voluntary_ctxt_switches:\s*(\d+)").search
_UNSEEN = (FileNotFoundError, ProcessLookupError)
"""What a thread or a descriptor is that has just gone."""


class _Socket(NamedTuple):
    worker: str
    is_closed: bool


def closed(pid: int, workers: Container[str], served: int, proc: Path = PROC) -> list[str]:
    """Return those workers that have closed a connection of a process. Blocks.

    Args:
        pid: of the coordinator.
        workers: addresses and ports on which they listen, such as ``10.0.0.2:50052``.
        served: the port that the coordinator itself listens on: its clients may close theirs.
        proc: the file system of the kernel.
    """
    found = _sockets(proc / str(pid), workers, served)
    return sorted({socket.worker for socket in found.values() if socket.is_closed})


def waits(pid: int, workers: Container[str], served: int, proc: Path = PROC) -> list[Wait]:
    """Return which threads of a process wait for which workers. Blocks; see :func:`closed`."""
    process = proc / str(pid)
    sockets = _sockets(process, workers, served)
    found: list[Wait] = []
    with suppress(OSError):
        for thread in (process / "task").iterdir():
            with suppress(*_UNSEEN):
                socket = sockets.get(_waits_at(thread))
                if socket is not None:
                    found.append(Wait(socket.worker, int(thread.name), _wakes(thread)))
    return found


def _waits_at(thread: Path) -> int:
    """Return the descriptor that a thread's system call has for its first argument; -1 without one.

    Of calls that take no descriptor it is something else, which none is equal to but by a chance
    that does not last: a wait is one only while nothing changes.
    """
    number, *arguments = (thread / "syscall").read_text(encoding="ascii").split()
    return int(arguments[0], 16) if len(arguments) > 2 and number != "-1" else -1


def _wakes(thread: Path) -> int:
    match = _WAKES((thread / "status").read_text(encoding="utf-8", errors="replace"))
    return 0 if match is None else int(match[1])


def _sockets(process: Path, workers: Container[str], served: int) -> dict[int, _Socket]:
    """Return the sockets of a process that lead to workers, by descriptor."""
    try:
        own = {inode: number for number, inode in _inodes(process / "fd")}
        lines = (process / "net" / "tcp").read_text(encoding="ascii").splitlines()[1:]
    except OSError:  # it has ended, or this is not Linux
        return {}
    return {
        own[inode]: socket
        for inode, socket in _connections(lines, served)
        if inode in own and socket.worker in workers
    }


def _inodes(descriptors: Path) -> Iterator[tuple[int, str]]:
    for descriptor in descriptors.iterdir():
        with suppress(*_UNSEEN):
            match = _SOCKET(os.readlink(descriptor))
            if match is not None:
                yield int(descriptor.name), match[1]


def _connections(lines: Iterable[str], served: int) -> Iterator[tuple[str, _Socket]]:
    """Yield inode and far end of each."""
    for line in lines:
        _, local, remote, state, *others = line.split()
        if not _address(local).endswith(f":{served}"):
            yield others[5], _Socket(_address(remote), state == _CLOSE_WAIT)


def _address(text: str) -> str:
    """Return an address as people write it; the kernel has the bytes of a number in its own order."""
    address, _, port = text.rpartition(":")
    return f"{inet_ntoa(int(address, 16).to_bytes(4, sys.byteorder))}:{int(port, 16)}"
