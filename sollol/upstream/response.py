"""A node's answer as its reader sees it."""

import math
from collections.abc import Callable

from sollol.upstream import failures
from sollol.upstream.connection import Connection, IsOver, Sink
from sollol.upstream.drip import Drip


class UpstreamResponse:
    """A node's answer, whose body is read by one task while it comes.

    Attributes:
        authority: the node's host and port.
        status: 200 to 599.
        headers: in the order sent, names in lower case, without trailers.
        content_type: empty if there is none.
        content_length: bytes, or None if the node did not say.
    """

    __slots__ = (
        "_connection",
        "_give_back",
        "authority",
        "content_length",
        "content_type",
        "headers",
        "status",
    )

    def __init__(self, connection: Connection, give_back: Callable[[Connection], None]) -> None:
        answer = connection.answer
        self.status = answer.status
        self.headers = answer.headers
        self.content_type = answer.content_type
        self.content_length = answer.content_length
        self.authority = connection.authority
        self._connection: Connection | None = connection
        self._give_back = give_back

    @property
    def buffered_bytes(self) -> int:
        """How much of the body has come and was not read yet."""
        return self._connection.answer.buffered_bytes if self._connection else 0

    def drip(self) -> Drip:
        """Return what is to be told of pieces that complete nothing."""
        connection = self._connection
        limit_s = math.inf if connection is None else connection.most_silent_s
        return Drip(self.authority, limit_s)

    def take_whole(self) -> bytes | None:
        """Return the whole body if all of it is here, else None."""
        if self._connection is None or not self._connection.answer.complete:
            return None
        return self._connection.answer.take()

    async def read(self) -> bytes:
        """Return the next piece of the body as soon as one is there, ``b""`` at the end.

        Pieces that came together are joined. What came before a failure is returned before the
        failure is raised. Cancelling a read closes the connection.

        Raises:
            UpstreamCut: the connection ended inside the body. The end of a body without a
                length is the end of the connection, so there a cut may look like the end.
            UpstreamTimeout: nothing came for ``stall_s``.
            ProtocolViolation: the body is not framed as HTTP.
            RuntimeError: the response is closed.
        """
        if self._connection is None:
            raise RuntimeError("the response is closed")
        return await self._connection.read()

    async def pump(self, sink: Sink, is_over: IsOver | None = None) -> bool:
        """Give the body to ``sink`` as it comes, without waking a task for each piece.

        Args:
            sink: takes a piece and returns whether it has enough for now. It is called from the
                event loop's callback; an error it raises ends the answer and is raised here.
            is_over: says whether what has come needs no more to follow it. Asked when nothing has come
                for ``lull_s``; then UpstreamTimeout is raised without waiting for ``stall_s``.

        Returns:
            Whether the body is at its end. If not, call again once ``sink`` takes more.

        Raises:
            UpstreamCut, UpstreamTimeout, ProtocolViolation, RuntimeError: see :meth:`read`.
        """
        if self._connection is None:
            raise RuntimeError("the response is closed")
        return await self._connection.pump(sink, is_over)

    async def read_all(self, limit: int) -> bytes:
        """Return the whole of a small body.

        Raises:
            ProtocolViolation: it is longer than ``limit`` bytes; also what :meth:`read` raises.
            UpstreamTimeout: it comes too slowly, see :class:`Drip`.
        """
        pieces: list[bytes] = []
        size_bytes = 0
        drip = self.drip()
        while piece := await self.read():
            size_bytes += len(piece)
            drip.came(size_bytes)
            if size_bytes > limit:
                raise failures.too_long(self.authority, limit)
            pieces.append(piece)
        return b"".join(pieces)

    def close(self) -> None:
        """Give the connection back if the answer is complete, else close it at once.

        Closing makes the node cancel the request. Every response must be closed; closing it
        again does nothing.
        """
        connection, self._connection = self._connection, None
        if connection is not None:
            self._give_back(connection)
