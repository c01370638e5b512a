"""Reads a request body, within bounds of size and patience."""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from sollol.errors import ClientDisconnected, InvalidRequest, RequestTooLarge

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


async def read_body(
    receive: Receive, declared: bytes | None, *, max_bytes: int, stall_timeout_s: float
) -> bytes:
    """Return the whole body.

    Args:
        declared: the ``Content-Length`` header, if any.
        max_bytes: longest body accepted; what is counted is what arrives.
        stall_timeout_s: longest pause between two pieces of it.

    Raises:
        RequestTooLarge: it is longer than ``max_bytes``.
        InvalidRequest: it stopped coming.
        ClientDisconnected: the caller left before its end.
    """
    if declared is not None and int(declared) > max_bytes:
        raise _too_large(max_bytes)
    message = await _next(receive, stall_timeout_s)
    body: bytes = message.get("body", b"")
    if not message.get("more_body", False):
        if len(body) > max_bytes:
            raise _too_large(max_bytes)
        return body
    pieces = bytearray(body)
    while message.get("more_body", False):
        message = await _next(receive, stall_timeout_s)
        pieces += message.get("body", b"")
        if len(pieces) > max_bytes:
            raise _too_large(max_bytes)
    return bytes(pieces)


async def _next(receive: Receive, stall_timeout_s: float) -> MutableMapping[str, Any]:
    try:
        async with asyncio.timeout(stall_timeout_s):
            message = await receive()
    except TimeoutError:
        raise InvalidRequest(
            f"no more of the request body came for {stall_timeout_s:g} s"
        ) from None
    if message["type"] == "http.disconnect":
        raise ClientDisconnected("the client closed the connection")
    return message


def _too_large(max_bytes: int) -> RequestTooLarge:
    return RequestTooLarge(
        f"request body too large: the limit is {max_bytes} bytes (server.max_body_bytes)"
    )
