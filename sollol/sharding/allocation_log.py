"""Collects what a starting llama-server says of the memory it took."""

import asyncio
from contextlib import suppress

from sollol.sharding.allocations import Allocation, allocations

LOG_TIMEOUT_S = 5.0
"""How long the log, which a thread of its own writes, may be behind the first answer."""
_LAST_LINE = "listening on http"


class AllocationLog:
    """Reads the lines up to the one that says that the server listens; what follows is not kept."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._is_whole = asyncio.Event()

    @property
    def has_begun(self) -> bool:
        """Whether all workers have room for their parts; before that they only answer short questions."""
        return bool(self._lines)

    def read(self, line: str) -> None:
        """Take the next line of output."""
        if self._is_whole.is_set():
            return
        if "buffer size" in line:
            self._lines.append(line)
        elif _LAST_LINE in line:
            self._is_whole.set()

    async def allocations(self) -> dict[str, Allocation]:
        """Return what each device holds, once a server that answers has said all of it."""
        with suppress(TimeoutError):
            async with asyncio.timeout(LOG_TIMEOUT_S):
                await self._is_whole.wait()
        return allocations(self._lines)
