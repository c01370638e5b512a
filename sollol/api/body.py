"""Reads a request body, within bounds of size and patience."""

import asyncio

from sollol.api.request import Request
from sollol.errors import InvalidRequest, RequestTooLarge
from sollol.gateway.body import Body, BodyWriter, no_room


async def read_body(request: Request, *, max_bytes: int, stall_timeout_s: float) -> Body:
    """Return the whole body.

    Args:
        max_bytes: longest body accepted; what is counted is what arrives.
        stall_timeout_s: longest pause between two pieces of it.

    Raises:
        RequestTooLarge: it is longer than ``max_bytes``.
        InvalidRequest: it stopped coming.
        ClientDisconnected: the caller left before its end.
        Overloaded: the disk is full.
    """
    if int(request.headers.get(b"content-length", b"0")) > max_bytes:
        raise _too_large(max_bytes)
    if request.is_complete:
        return whole_body(request, max_bytes)
    writer = BodyWriter()
    try:
        while piece := await next_piece(request, stall_timeout_s):
            writer.write(piece)
            if writer.length > max_bytes:
                raise _too_large(max_bytes)
        return writer.finish()
    except OSError as error:
        writer.discard()
        raise no_room(error) from error
    except BaseException:
        writer.discard()
        raise


def whole_body(request: Request, max_bytes: int) -> Body:
    """Return a body that has come already, as most do with the head.

    Raises:
        RequestTooLarge: it is longer than ``max_bytes``.
    """
    content = request.take()
    if len(content) > max_bytes:
        raise _too_large(max_bytes)
    return Body(content)


async def next_piece(request: Request, stall_timeout_s: float) -> bytes:
    """Return what has come of the body, or ``b""`` at its end.

    Raises:
        InvalidRequest: it stopped coming.
        ClientDisconnected: the caller left before its end.
    """
    try:
        async with asyncio.timeout(stall_timeout_s):
            return await request.read()
    except TimeoutError:
        text = f"no more of the request body came for {stall_timeout_s:g} s"
        raise InvalidRequest(text) from None


def _too_large(max_bytes: int) -> RequestTooLarge:
    return RequestTooLarge(
        f"request body too large: the limit is {max_bytes} bytes (server.max_body_bytes)"
    )
