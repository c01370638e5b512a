"""Waits with an end, for modules that are compiled: those must have no ``async with`` (docs/decisions/0008)."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from typing import TypeVar

from sollol.upstream.connection import Connection

Result = TypeVar("Result")


async def within(seconds: float, awaited: Awaitable[Result]) -> Result:
    """Await something for a time.

    Raises:
        TimeoutError: it took longer, and was cancelled.
    """
    async with asyncio.timeout(seconds):
        return await awaited


async def send_stream(
    connection: Connection, head: bytes, body: AsyncIterator[bytes], content_length: int | None
) -> None:
    """Send a body while it comes, until it ends or the head of an answer is there.

    The sender is the one task of this client: the node may answer while the iterator waits.
    """

    def sender_ended(sender: asyncio.Task[None]) -> None:
        error = asyncio.CancelledError() if sender.cancelled() else sender.exception()
        if error is not None and not connection.answer.has_head:
            connection.fail(error)

    sender = asyncio.create_task(connection.stream_body(head, body, content_length))
    sender.add_done_callback(sender_ended)
    try:
        await connection.wait_head()
    finally:
        sender.cancel()
        await asyncio.wait([sender])
