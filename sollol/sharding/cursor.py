"""Reads a file forward in bounded pieces, and knows when it ends too early."""

import struct
from typing import BinaryIO

BUFFER_BYTES = 1 << 18
_U64 = struct.Struct("<Q")


class HeaderError(Exception):
    """What is wrong with a header, as the middle of a sentence."""


class Cursor:
    """A position in a file of ``file_bytes``; nothing before it can be read again.

    At most ``BUFFER_BYTES`` of the file and one value are in memory.
    """

    def __init__(self, file: BinaryIO, file_bytes: int) -> None:
        self.file_bytes = file_bytes
        self._file = file
        self._buffer = b""
        self._at = 0  # in the buffer
        self._start = 0  # of the buffer in the file

    @property
    def position(self) -> int:
        """Bytes of the file that lie before the next one read."""
        return self._start + self._at

    @property
    def left_bytes(self) -> int:
        """Bytes of the file that are not read yet."""
        return self.file_bytes - self.position

    def take(self, size: int) -> bytes:
        """Return the next ``size`` bytes.

        Raises:
            HeaderError: the file has fewer.
        """
        self._check(size)
        if self._at + size > len(self._buffer):
            self._refill(size)
        piece = self._buffer[self._at : self._at + size]
        self._at += size
        return piece

    def skip(self, size: int) -> None:
        """Go over the next ``size`` bytes without reading those that are not in memory.

        Raises:
            HeaderError: the file has fewer.
        """
        self._check(size)
        if self._at + size <= len(self._buffer):
            self._at += size
            return
        self._start = self.position + size
        self._file.seek(self._start)
        self._buffer, self._at = b"", 0

    def skip_strings(self, count: int) -> None:
        """Go over ``count`` strings, each its length in 8 bytes and that many bytes.

        A vocabulary has hundreds of thousands: the loop looks at the buffer itself.

        Raises:
            HeaderError: the file ends before.
        """
        unpack, buffer, at, end = _U64.unpack_from, self._buffer, self._at, len(self._buffer) - 8
        for _ in range(count):
            if at > end:
                self._at = at
                self._check(8)
                self._refill(8)
                buffer, at, end = self._buffer, self._at, len(self._buffer) - 8
            at += 8 + unpack(buffer, at)[0]
            if at > end + 8:
                self._at = end + 8
                self.skip(at - self._at)
                buffer, at, end = self._buffer, self._at, len(self._buffer) - 8
        self._at = at

    def _refill(self, size: int) -> None:
        kept = self._buffer[self._at :]
        self._start += self._at
        self._at = 0
        wanted = max(size - len(kept), BUFFER_BYTES)
        self._buffer = kept + self._file.read(min(wanted, self.left_bytes - len(kept)))
        if len(self._buffer) < size:
            raise HeaderError("the file became shorter while it was read")

    def _check(self, size: int) -> None:
        if size > self.left_bytes:
            raise HeaderError(f"the file ends inside its header, at {self.file_bytes} bytes")
