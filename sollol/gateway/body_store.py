"""How much of request bodies the gateway holds at once, and who leaves when that is too much.

Short bodies lie in memory as long as those of all requests fit ``max_memory_bytes`` together, then
in files as long ones do. Where the files are full, requests that wait and are less urgent leave for
a new one (``Scheduler.make_way``); else it is refused, where its length is known before it is read.
"""

from collections.abc import Callable, Mapping
from math import inf
from typing import NamedTuple

from sollol.errors import Overloaded
from sollol.gateway.body import Body
from sollol.gateway.body_writer import SPOOL_BYTES, BodyWriter
from sollol.types import Comer

RETRY_AFTER_S = 5.0

WhoComes = Callable[[], Comer]
"""Tells whose body it is; asked for only when it matters."""


class Waiters(NamedTuple):
    """What the store asks of those who wait for a slot (``gateway/admission.py``).

    ``make_way`` has less urgent ones leave, see :meth:`Admission.make_way`; ``retry_after_s`` says
    when one that is refused may come again.
    """

    make_way: Callable[[Mapping[str, int], int, Comer], list[str]]
    retry_after_s: Callable[[], float]


NOBODY = Waiters(lambda *_: [], lambda: RETRY_AFTER_S)


class BodyStore:
    """Sole owner of the count of what bodies take. Used in the event loop's thread only.

    Attributes:
        memory_bytes, file_bytes: what all bodies take at this moment, those still coming included.
    """

    def __init__(
        self,
        max_memory_bytes: float = inf,
        max_file_bytes: float = inf,
        waiters: Waiters = NOBODY,
    ) -> None:
        self._max_memory_bytes = max_memory_bytes
        self._max_file_bytes = max_file_bytes
        self._waiters = waiters
        self.memory_bytes = 0
        self.file_bytes = 0
        self._leaving_bytes = 0
        self._waiting: dict[str, Body] = {}
        self._release = self._let_go

    def keep(self, content: bytes) -> Body | None:
        """Return a body that has come already; None where there is no room for it in memory."""
        length = len(content)
        if self.memory_bytes + length > self._max_memory_bytes:
            return None
        self.memory_bytes += length
        body = Body(content)
        body.release = self._release
        return body

    def make_room(self, length: int, who: WhoComes) -> None:
        """Make sure that there is room for a body of a length; nothing is counted yet.

        Raises:
            Overloaded: there is none.
        """
        if length > SPOOL_BYTES or not self.has_memory(length):
            self.make_file_room(length, who)

    def has_memory(self, length: int) -> bool:
        """Whether so many bytes more may lie in memory."""
        return self.memory_bytes + length <= self._max_memory_bytes

    def make_file_room(self, length: int, who: WhoComes) -> None:
        """Make sure that so many bytes more may go to files; nothing is counted yet.

        Args:
            length: of the body, or of a piece of it.

        Raises:
            Overloaded: they may not, and too little of what waits is less urgent.
        """
        excess = self.file_bytes - self._leaving_bytes + length - self._max_file_bytes
        if excess <= 0:
            return
        sizes = {name: len(body) for name, body in self._waiting.items()}
        leaving = self._waiters.make_way(sizes, int(excess), who())
        if not leaving:
            raise Overloaded(
                f"no room for the request body: {self.file_bytes >> 20} MiB of others wait "
                "(server.max_spooled_bytes)",
                retry_after_s=self._waiters.retry_after_s(),
            )
        for name in leaving:  # their requests end soon, and their bodies with them
            body = self._waiting.pop(name)
            body.is_leaving = True
            self._leaving_bytes += len(body)

    def hold(self, body: Body) -> Body:
        """Count a body until it is closed."""
        body.release = self._release
        if body.is_in_file:
            self.file_bytes += len(body)
        else:
            self.memory_bytes += len(body)
        return body

    def waits(self, request_id: str, body: Body) -> None:
        """Take note of whose body it is, which may wait; it may have to leave for others."""
        if body.is_in_file:
            body.request_id = request_id
            self._waiting[request_id] = body

    def _let_go(self, body: Body) -> None:
        if not body.is_in_file:
            self.memory_bytes -= len(body)
            return
        self.file_bytes -= len(body)
        self._waiting.pop(body.request_id, None)
        if body.is_leaving:
            self._leaving_bytes -= len(body)


class Incoming:
    """A body as it comes in, counted piece by piece."""

    def __init__(self, store: BodyStore, who: WhoComes) -> None:
        self._store = store
        self.who = who
        self._writer = BodyWriter()

    @property
    def length(self) -> int:
        """Bytes that have come."""
        return self._writer.length

    def write(self, piece: bytes) -> None:
        """Take a piece.

        Raises:
            Overloaded: there is no room for it.
            OSError: the disk is full.
        """
        store, writer, length = self._store, self._writer, len(piece)
        is_long = writer.length + length > SPOOL_BYTES
        if not writer.is_in_file and (is_long or not store.has_memory(length)):
            self._move_to_file()
        if writer.is_in_file:
            store.make_file_room(length, self.who)
            writer.write(piece)
            store.file_bytes += length
        else:
            writer.write(piece)
            store.memory_bytes += length

    def finish(self) -> Body:
        """Return the body, which is counted until it is closed; a full disk raises OSError."""
        body = self._writer.finish()
        self._give_back()
        return self._store.hold(body)

    def _move_to_file(self) -> None:
        store, writer = self._store, self._writer
        store.make_file_room(writer.length, self.who)
        writer.write_to_disk()
        store.memory_bytes -= writer.length
        store.file_bytes += writer.length

    def discard(self) -> None:
        """Drop what came."""
        self._give_back()
        self._writer.discard()

    def _give_back(self) -> None:
        if self._writer.is_in_file:
            self._store.file_bytes -= self._writer.length
        else:
            self._store.memory_bytes -= self._writer.length
