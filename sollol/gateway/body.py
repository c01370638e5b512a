"""A request body that may be large: short ones stay in memory, long ones wait in a file.

A request can wait minutes in the queue, hundreds of them at once, and one with images is tens of
megabytes. A body in a file is mapped: reading it costs page cache, which the system takes back.
"""

import asyncio
import contextlib
import mmap
from collections.abc import AsyncIterator, Callable
from typing import IO, Any, Self, TypeVar

from sollol.gateway.pieces import pieces

Result = TypeVar("Result")

ASIDE_BYTES = 64 * 1024
"""Longer bodies are read in a thread: a millisecond and more, and seconds when made to be slow."""


async def aside(body: "Body", read: Callable[..., Result], *args: Any) -> Result:
    """Return ``read(*args)``; of a long body in a thread, so that no other request stands still."""
    if not body.is_long:
        return read(*args)
    return await asyncio.to_thread(read, *args)


class Body:
    """A body, byte for byte as it came. Close it when the request is done.

    Attributes:
        is_long: it is longer than ``ASIDE_BYTES``.
        release: told once when it is closed, by whoever counts it (``body_store.py``).
        request_id, is_leaving: whose it is, and whether that one was told to leave; for the same.
    """

    __slots__ = ("_content", "_file", "is_leaving", "is_long", "release", "request_id")

    def __init__(self, content: bytes | mmap.mmap, file: IO[bytes] | None = None) -> None:
        self._content = content
        self._file = file
        self.is_long = len(content) > ASIDE_BYTES
        self.release: Callable[[Body], None] | None = None
        self.request_id = ""
        self.is_leaving = False

    @property
    def is_in_file(self) -> bool:
        """Whether it lies in a file, not in memory."""
        return self._file is not None

    def __len__(self) -> int:
        return len(self._content)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give its file back; it must not be read any more."""
        release, self.release = self.release, None
        if release is not None:
            release(self)
        if self._file is not None:
            self._file.close()
        if isinstance(self._content, mmap.mmap):  # an error's traceback may refer to it for long
            with contextlib.suppress(BufferError):  # it is looked at; then it goes with that view
                self._content.close()

    def view(self) -> bytes:
        """Return the whole for reading; of a body in a file this is a copy, so do not keep it."""
        return self._content if isinstance(self._content, bytes) else self._content[:]

    def upstream(self) -> bytes | AsyncIterator[bytes]:
        """Return the body as ``upstream/http.py`` sends it; may be called for every attempt."""
        return self._content if isinstance(self._content, bytes) else pieces(self._content)
