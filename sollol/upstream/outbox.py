"""Short pieces for many connections, written together."""

import asyncio
from collections.abc import Callable

MAX_HELD_BYTES = 262_144
"""With more than this held, it is written at once."""


class Outbox:
    """Holds what is to be written until the end of the event loop's turn.

    To write to a process on this machine that sleeps costs more than to parse a request: the kernel
    has to wake it up. The pieces of one turn, written one right after the other, wake it once. A
    turn with one piece writes it as soon as the turn is over.

    Pieces for one transport are written in the order they were put, so whoever closes a transport
    that something was put for calls :meth:`flush` first. An outbox belongs to one event loop.
    """

    def __init__(self) -> None:
        self._held: list[tuple[asyncio.Transport, bytes]] = []
        self._held_bytes = 0
        self._call_soon: Callable[[Callable[[], None]], object] | None = None

    def put(self, transport: asyncio.Transport, data: bytes) -> None:
        """Write ``data`` soon, unless the transport is closed by then."""
        if not self._held:
            if self._call_soon is None:  # asked once: before Python 3.12 it is a system call
                self._call_soon = asyncio.get_running_loop().call_soon
            self._call_soon(self.flush)
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
