"""Collects what a starting llama-server says of the memory it took."""

import asyncio
from contextlib import suppress

from sollol.sharding.allocations import Allocation, allocations

LOG_TIMEOUT_S = 5.0
"""How long the log, which a thread of its own writes, may be behind the first answer."""
_FIRST_LINE = "load_tensors:"
_LAST_LINE = "listening on http"


class AllocationLog:
    """Reads the lines up to the one that says that the server listens; what follows is not kept."""

    def __init__(self) -> None:
        self.has_begun = False
        """The model is being put into memory; before that workers only say what they have."""
        self._lines: list[str] = []
        self._is_whole = asyncio.Event()

    def read(self, line: str) -> None:
        """Take the next line of output."""
        if self._is_whole.is_set():
            return
        self.has_begun = self.has_begun or _FIRST_LINE in line
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
