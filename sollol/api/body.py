"""Reads a request body, within bounds of size and patience."""

import asyncio
import tempfile
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from sollol.errors import ClientDisconnected, InvalidRequest, Overloaded, RequestTooLarge
from sollol.gateway.body import Body, BodyWriter

RETRY_AFTER_S = 10.0

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


async def read_body(
    receive: Receive,
    declared: bytes | None,
    *,
    is_complete: bool,
    max_bytes: int,
    stall_timeout_s: float,
) -> Body:
    """Return the whole body.

    Args:
        declared: the ``Content-Length`` header, if any.
        is_complete: all of it has come already, so there is nothing to wait for.
        max_bytes: longest body accepted; what is counted is what arrives.
        stall_timeout_s: longest pause between two pieces of it.

    Raises:
        RequestTooLarge: it is longer than ``max_bytes``.
        InvalidRequest: it stopped coming.
        ClientDisconnected: the caller left before its end.
        Overloaded: the disk is full.
    """
    if declared is not None and int(declared) > max_bytes:
        raise _too_large(max_bytes)
    message = await receive() if is_complete else await _next(receive, stall_timeout_s)
    if not message.get("more_body", False):  # most requests: one piece
        return _checked(message.get("body", b""), max_bytes)
    writer = BodyWriter()
    try:
        writer.write(message.get("body", b""))
        while message.get("more_body", False):
            message = await _next(receive, stall_timeout_s)
            writer.write(message.get("body", b""))
            if writer.length > max_bytes:
                raise _too_large(max_bytes)
        return writer.finish()
    except OSError as error:
        writer.discard()
        text = f"no room for the request body in {tempfile.gettempdir()}: {error.strerror}"
        raise Overloaded(text, retry_after_s=RETRY_AFTER_S) from error
    except BaseException:
        writer.discard()
        raise


class BodyPieces:
    """A body that is passed on as it comes: nothing of it is kept, and no length is too much."""

    def __init__(self, receive: Receive, stall_timeout_s: float) -> None:
        self._receive = receive
        self._stall_timeout_s = stall_timeout_s
        self._has_more = True

    async def read(self) -> bytes:
        """Return the next piece, empty at the end. Until it is asked for, the caller is held back.

        Raises:
            InvalidRequest: it stopped coming.
            ClientDisconnected: the caller left before its end.
        """
        while self._has_more:
            message = await _next(self._receive, self._stall_timeout_s)
            self._has_more = message.get("more_body", False)
            piece: bytes = message.get("body", b"")
            if piece:
                return piece
        return b""


async def _next(receive: Receive, stall_timeout_s: float) -> MutableMapping[str, Any]:
    try:
        async with asyncio.timeout(stall_timeout_s):
            message = await receive()
    except TimeoutError:
        text = f"no more of the request body came for {stall_timeout_s:g} s"
        raise InvalidRequest(text) from None
    if message["type"] == "http.disconnect":
        raise ClientDisconnected("the client closed the connection")
    return message


def _checked(body: bytes, max_bytes: int) -> Body:
    if len(body) > max_bytes:
        raise _too_large(max_bytes)
    return Body(body)


def _too_large(max_bytes: int) -> RequestTooLarge:
    return RequestTooLarge(
        f"request body too large: the limit is {max_bytes} bytes (server.max_body_bytes)"
    )
