"""A request body that may be large: short ones stay in memory, long ones wait in a file.

A request can wait minutes in the queue, hundreds of them at once, and one with images is tens of
megabytes. A body in a file is mapped: reading it costs page cache, which the system takes back.
"""

import asyncio
import contextlib
import mmap
import tempfile
from collections.abc import AsyncIterator, Callable
from typing import IO, Any, Self, TypeVar

from sollol.errors import Overloaded

Result = TypeVar("Result")

RETRY_AFTER_S = 10.0

SPOOL_BYTES = 1024 * 1024
"""Longer bodies go to a file."""

ASIDE_BYTES = 64 * 1024
"""Longer bodies are read in a thread: a millisecond and more, and seconds when made to be slow."""

PIECE_BYTES = 256 * 1024
"""How much of a file is sent at a time."""


async def aside(body: "Body", read: Callable[..., Result], *args: Any) -> Result:
    """Return ``read(*args)``; of a long body in a thread, so that no other request stands still."""
    if not body.is_long:
        return read(*args)
    return await asyncio.to_thread(read, *args)


class Body:
    """A body, byte for byte as it came. Close it when the request is done.

    Attributes:
        is_long: it is longer than ``ASIDE_BYTES``.
    """

    __slots__ = ("_content", "_file", "is_long")

    def __init__(self, content: bytes | mmap.mmap, file: IO[bytes] | None = None) -> None:
        self._content = content
        self._file = file
        self.is_long = len(content) > ASIDE_BYTES

    def __len__(self) -> int:
        return len(self._content)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give its file back; it must not be read any more."""
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
        return self._content if isinstance(self._content, bytes) else self._pieces()

    async def _pieces(self) -> AsyncIterator[bytes]:
        for start in range(0, len(self._content), PIECE_BYTES):
            yield self._content[start : start + PIECE_BYTES]


def spooled(content: bytes) -> Body:
    """Return a body of what is in memory, without keeping a long one there.

    Raises:
        Overloaded: the disk is full.
    """
    if len(content) <= SPOOL_BYTES:
        return Body(content)
    writer = BodyWriter()
    try:
        writer.write_to_disk()
        writer.write(content)
        return writer.finish()
    except OSError as error:
        writer.discard()
        raise no_room(error) from error


def no_room(error: OSError) -> Overloaded:
    """Return what a caller is told whose body could not be written to a file."""
    text = f"no room for the request body in {tempfile.gettempdir()}: {error.strerror}"
    return Overloaded(text, retry_after_s=RETRY_AFTER_S)


class BodyWriter:
    """Takes a body as it comes in."""

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES, prefix="sollol-body-")  # noqa: SIM115
        self.length = 0

    def write(self, piece: bytes) -> None:
        """Append a piece; a file on a full disk raises OSError."""
        self._file.write(piece)
        self.length += len(piece)

    def write_to_disk(self) -> None:
        """Keep nothing in memory first."""
        self._file.rollover()

    def finish(self) -> Body:
        """Return the body."""
        if self.length <= SPOOL_BYTES:
            with self._file:
                self._file.seek(0)
                return Body(self._file.read())
        self._file.flush()
        return Body(mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ), self._file)

    def discard(self) -> None:
        """Drop what came."""
        self._file.close()
