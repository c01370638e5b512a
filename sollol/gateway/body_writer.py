"""Takes request bodies in: short ones to memory, long ones to a file."""

import contextlib
import mmap
import tempfile

from sollol.errors import Overloaded
from sollol.gateway.body import Body

RETRY_AFTER_S = 10.0

SPOOL_BYTES = 1024 * 1024
"""Longer bodies go to a file."""


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
