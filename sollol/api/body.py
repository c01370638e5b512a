"""Reads request bodies, within bounds of size and patience."""

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Self

from sollol.api.request import Request
from sollol.errors import BodyTooSlow, RequestTooLarge
from sollol.gateway.body import Body
from sollol.gateway.body_store import BodyStore, Incoming
from sollol.gateway.body_writer import no_room
from sollol.gateway.gateway import Gateway
from sollol.types import LOWEST_PRIORITY, Comer
from sollol.upstream.waits import within
from sollol.wire.urgency import priority_of

LEAST_BYTES_PER_S = 1024
"""How fast a body has to come, on average and after a pause that it may make anyway."""


class BodyReader:
    """Reads whole bodies into a store.

    Args:
        max_bytes: longest body accepted; what is counted is what arrives.
        stall_timeout_s: longest pause between two pieces of it; see :class:`Pieces`.
        priority_of: returns the priority that the headers of a request name.
    """

    def __init__(
        self,
        store: BodyStore,
        *,
        max_bytes: int,
        stall_timeout_s: float,
        priority_of: Callable[[Mapping[bytes, bytes]], int] = lambda _: LOWEST_PRIORITY,
    ) -> None:
        self._store = store
        self._max_bytes = max_bytes
        self._stall_timeout_s = stall_timeout_s
        self._priority_of = priority_of

    @classmethod
    def of(cls, gateway: Gateway) -> Self:
        """Return the reader of a gateway's requests."""
        server, queue = gateway.settings.server, gateway.settings.queue
        return cls(
            gateway.bodies,
            max_bytes=server.max_body_bytes,
            stall_timeout_s=server.body_stall_timeout_s,
            priority_of=partial(
                priority_of, field=None, default=queue.default_priority, maximum=queue.max_priority
            ),
        )

    def whole(self, request: Request) -> Body:
        """Return a body that has come already, as most do with the head.

        Raises:
            RequestTooLarge: it is longer than ``max_bytes``.
            Overloaded: there is no room for it.
        """
        content = request.take()
        if len(content) > self._max_bytes:
            raise self._too_large()
        kept = self._store.keep(content)
        return self._spool(request, content) if kept is None else kept

    async def read(self, request: Request) -> Body:
        """Return the whole body.

        Raises:
            RequestTooLarge: it is longer than ``max_bytes``.
            BodyTooSlow: it stopped coming, or nearly so.
            ClientDisconnected: the caller left before its end.
            Overloaded: there is no room for it, or the server stops.
        """
        declared = int(request.headers.get(b"content-length", b"0"))
        if declared > self._max_bytes:
            raise self._too_large()
        if request.is_complete:
            return self.whole(request)
        incoming = self._incoming(request)
        with _discarded_on_failure(incoming):
            self._store.make_room(declared, incoming.who)
            pieces = Pieces(request, self._stall_timeout_s)
            while piece := await pieces.next():
                incoming.write(piece)
                if incoming.length > self._max_bytes:
                    raise self._too_large()
            return incoming.finish()

    def _spool(self, request: Request, content: bytes) -> Body:
        incoming = self._incoming(request)
        with _discarded_on_failure(incoming):
            incoming.write(content)
            return incoming.finish()

    def _incoming(self, request: Request) -> Incoming:
        return Incoming(self._store, partial(self._comer, request))

    def _comer(self, request: Request) -> Comer:
        return Comer(request.connection.peer, self._priority_of(request.headers))

    def _too_large(self) -> RequestTooLarge:
        return RequestTooLarge(
            f"request body too large: the limit is {self._max_bytes} bytes (server.max_body_bytes)"
        )


@contextlib.contextmanager
def _discarded_on_failure(incoming: Incoming) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        incoming.discard()
        raise no_room(error) from error
    except BaseException:
        incoming.discard()
        raise


class Pieces:
    """The pieces of a body as they come; only the time that is waited for the caller counts.

    Args:
        stall_timeout_s: longest pause between two of them, and how far the whole may be behind
            ``LEAST_BYTES_PER_S``: else one byte now and then would keep a connection for ever.
    """

    def __init__(self, request: Request, stall_timeout_s: float) -> None:
        self._request = request
        self._stall_timeout_s = stall_timeout_s
        self._left_s = stall_timeout_s
        """What may yet be waited for; each byte adds to it."""

    async def next(self) -> bytes:
        """Return what has come since the last piece, or ``b""`` at the end.

        Raises:
            BodyTooSlow: it stopped coming, or nearly so.
            ClientDisconnected: the caller left before its end.
            ShuttingDown: the server stops, and the body is not passed on while it comes.
        """
        clock = asyncio.get_running_loop().time
        begun_at = clock()
        try:
            piece = await within(min(self._stall_timeout_s, self._left_s), self._request.read())
        except TimeoutError:
            raise BodyTooSlow(self._why()) from None
        self._left_s += len(piece) / LEAST_BYTES_PER_S - (clock() - begun_at)
        return piece

    def _why(self) -> str:
        if self._left_s >= self._stall_timeout_s:
            return f"no more of the request body came for {self._stall_timeout_s:g} s"
        return f"the request body came at less than {LEAST_BYTES_PER_S} bytes a second"
