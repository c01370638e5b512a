"""Sends what lies in a file piece by piece."""

import mmap
from collections.abc import AsyncIterator

PIECE_BYTES = 256 * 1024
"""How much of a file is sent at a time."""


async def pieces(content: mmap.mmap) -> AsyncIterator[bytes]:
    """Yield all of a mapped file."""
    for start in range(0, len(content), PIECE_BYTES):
        yield content[start : start + PIECE_BYTES]
