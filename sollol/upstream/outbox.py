"""Short pieces for many connections: written together when there are many, at once when there are few."""

import asyncio
import os
from collections.abc import Callable

MAX_HELD_BYTES = 262_144
"""With more than this held, it is written at once."""
NO_FD = -1


def fd_of(transport: asyncio.BaseTransport) -> int:
    """Return the descriptor that plain bytes may be written to beside a transport, or ``NO_FD``."""
    sock = transport.get_extra_info("socket")
    if sock is None or transport.get_extra_info("sslcontext") is not None:
        return NO_FD
    return int(sock.fileno())


class Outbox:
    """Writes what is put: in a busy turn of the event loop when it is over, in a quiet one at once.

    To write to a process on this machine that sleeps costs more than to parse a request: the kernel
    has to wake it up. The pieces of one turn, written one right after the other, wake it once. But
    where turns have one piece each, whoever waits for it need not wait for the rest of the turn, nor
    for the loop, which has writes of its own wait for the turn's end: such a piece goes to the
    kernel at once.

    Pieces for one transport are written in the order they were put, so whoever closes a transport
    that something was put for calls :meth:`flush` first. An outbox belongs to one event loop.
    """

    def __init__(self) -> None:
        self._held: list[tuple[asyncio.Transport, bytes]] = []
        self._held_bytes = 0
        self._pieces = 0
        """Put in this turn."""
        self._is_quiet = True
        """Whether the last turn with a piece had no other."""
        self._call_soon: Callable[[Callable[[], None]], object] | None = None

    def put(self, transport: asyncio.Transport, data: bytes, fd: int = NO_FD) -> None:
        """Write ``data`` now or soon, unless the transport is closed by then.

        Args:
            fd: of the transport, see :func:`fd_of`.
        """
        if not self._pieces:
            if self._call_soon is None:  # asked once: before Python 3.12 it is a system call
                self._call_soon = asyncio.get_running_loop().call_soon
            self._call_soon(self._turn_over)
        self._pieces += 1
        if self._is_quiet and fd != NO_FD and self._pieces == 1:  # so nothing is held
            data = _unsent(transport, data, fd)
            if not data:
                return
        self._held.append((transport, data))
        self._held_bytes += len(data)
        if self._held_bytes > MAX_HELD_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what is held now."""
        held, self._held = self._held, []
        self._held_bytes = 0
        for transport, data in held:
            try:
                if not transport.is_closing():
                    transport.write(data)
            except (OSError, RuntimeError):  # that one is broken; the others get theirs
                transport.abort()

    def _turn_over(self) -> None:
        self._is_quiet = self._pieces == 1
        self._pieces = 0
        self.flush()


def _unsent(transport: asyncio.Transport, data: bytes, fd: int) -> bytes:
    """Write to the kernel what it takes at once; return the rest, all of it if anything is amiss."""
    if transport.is_closing() or transport.get_write_buffer_size():
        return data
    try:
        return data[os.write(fd, data) :]
    except OSError:  # it is full, or broken: the transport finds out
        return data
