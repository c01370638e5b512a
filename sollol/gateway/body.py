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
        return self._content if isinstance(self._content, bytes) else self._pieces()

    async def _pieces(self) -> AsyncIterator[bytes]:
        for start in range(0, len(self._content), PIECE_BYTES):
            yield self._content[start : start + PIECE_BYTES]


def spooled(content: bytes) -> Body:
    """Return a body of what is in memory, without keeping a long one there; nobody counts it yet.

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
    try:
        folder = tempfile.gettempdir()
    except OSError:  # it tries to write there, when it is asked for the first time
        folder = "the temporary directory"
    text = f"no room for the request body in {folder}: {error.strerror}"
    return Overloaded(text, retry_after_s=RETRY_AFTER_S)


class BodyWriter:
    """Takes a body as it comes in, to memory first; ``body_store.py`` decides how long.

    Attributes:
        length: what came so far.
        is_in_file: whether it lies in a file by now.
    """

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(prefix="sollol-body-")  # noqa: SIM115
        self.length = 0
        self.is_in_file = False

    def write(self, piece: bytes) -> None:
        """Append a piece; a file on a full disk raises OSError."""
        self._file.write(piece)
        self.length += len(piece)

    def write_to_disk(self) -> None:
        """Keep nothing in memory from now on; a full disk raises OSError."""
        self._file.rollover()
        self.is_in_file = True

    def finish(self) -> Body:
        """Return the body."""
        if not self.is_in_file or not self.length:  # nothing cannot be mapped
            with self._file:
                self._file.seek(0)
                return Body(self._file.read())
        self._file.flush()
        return Body(mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ), self._file)

    def discard(self) -> None:
        """Drop what came."""
        with contextlib.suppress(OSError):  # closing a file on a full disk tries to write the rest
            self._file.close()
