"""A node's answer as the fault proxy sees it: its head, and its body in the pieces it was sent in."""

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass

_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
_CHUNKED = re.compile(rb"(?i)\r\ntransfer-encoding: *chunked")
_CLOSE = re.compile(rb"(?i)\r\nconnection: *close")
_FRAMING = re.compile(rb"(?i)\r\n(?:content-length|transfer-encoding):[^\r]*")
END = b"\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Piece:
    """A chunk with its framing, or a half of a body that has a length."""

    raw: bytes
    start: int
    end: int
    """Where in ``raw`` the content begins and ends."""

    @property
    def content(self) -> bytes:
        """What the piece carries."""
        return self.raw[self.start : self.end]

    @property
    def first_half(self) -> bytes:
        """The piece broken off in the middle of its content."""
        return self.raw[: (self.start + self.end) // 2]


@dataclass(frozen=True, slots=True)
class Request:
    """A request as it came."""

    path: str
    raw: bytes


async def read_request(reader: asyncio.StreamReader) -> Request:
    """Return the next request of a connection.

    Raises:
        IncompleteReadError: the client has left.
    """
    head = await reader.readuntil(END)
    path = head.split(b" ", 2)[1].partition(b"?")[0].decode("latin-1")
    if _CHUNKED.search(head):
        return Request(path, head + b"".join([piece.raw async for piece in _chunks(reader)]))
    return Request(path, head + await reader.readexactly(_length_of(head)))


class NodeAnswer:
    """The answer to one request, read from the node as it is asked for."""

    def __init__(self, reader: asyncio.StreamReader, head: bytes) -> None:
        self.head = head
        self._pieces = _chunks(reader) if self.is_chunked else _halves(reader, _length_of(head))

    @classmethod
    async def read(cls, reader: asyncio.StreamReader) -> "NodeAnswer":
        """Return an answer once its head is here."""
        return cls(reader, await reader.readuntil(END))

    @property
    def is_chunked(self) -> bool:
        """Whether its pieces are chunks; the last of them is the empty one."""
        return _CHUNKED.search(self.head) is not None

    @property
    def is_last(self) -> bool:
        """Whether the node closes the connection after it."""
        return _CLOSE.search(self.head) is not None

    def head_framed(self, framing: bytes) -> bytes:
        """Return the head with another header in place of the one that says how long the body is."""
        return _FRAMING.sub(b"", self.head)[: -len(END)] + b"\r\n" + framing + END

    async def next_piece(self) -> Piece | None:
        """Return the next piece of the body; None at its end."""
        return await anext(self._pieces, None)

    async def rest(self) -> list[Piece]:
        """Return all pieces that are left."""
        return [piece async for piece in self._pieces]


def _length_of(head: bytes) -> int:
    found = _LENGTH.search(head)
    return int(found[1]) if found else 0


async def _chunks(reader: asyncio.StreamReader) -> AsyncIterator[Piece]:
    size = 1
    while size:
        line = await reader.readuntil(b"\r\n")
        size = int(line, 16)
        raw = line + await reader.readexactly(size + len(b"\r\n"))
        yield Piece(raw, len(line), len(line) + size)


async def _halves(reader: asyncio.StreamReader, length: int) -> AsyncIterator[Piece]:
    for size in (length // 2, length - length // 2):
        if size:
            yield Piece(await reader.readexactly(size), 0, size)
