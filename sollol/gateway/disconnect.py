"""Stops the work for a caller who left: cancels the task that serves it, at once.

A caller who leaves must free its slot whatever the request is doing: waiting in the queue, for a
connection, for the first token or for the client's socket to drain. All of these are awaits of one
task, so cancelling that task is the one mechanism that covers them.
"""

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self

from sollol.errors import ClientDisconnected


class ClientConnection(Protocol):
    """What the server tells of the caller's connection (``api/protocol.py``)."""

    @property
    def task(self) -> asyncio.Task[None] | None:
        """The task that serves the caller's present request."""
        ...

    def watch(self, callback: Callable[[], None] | None) -> None:
        """Call ``callback()`` when the connection is lost; None ends the watch."""
        ...


class CancelWhenGone:
    """``with CancelWhenGone(connection):`` turns the caller's leaving into an exception.

    Raises:
        ClientDisconnected: the caller left inside the block. A cancellation from elsewhere (the
            gateway shutting down) is not confused with it, as in :func:`asyncio.timeout`.
    """

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._task = connection.task
        self._is_gone = False
        self._cancelling = 0

    def __enter__(self) -> Self:
        assert self._task is not None
        self._cancelling = self._task.cancelling()
        self._connection.watch(self._cancel)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._connection.watch(None)
        if not self._is_gone or self._task is None:
            return
        is_only_ours = self._task.uncancel() <= self._cancelling
        if is_only_ours and exc_type is not None and issubclass(exc_type, asyncio.CancelledError):
            raise ClientDisconnected("the client closed the connection") from exc

    def _cancel(self) -> None:
        if self._task is not None and not self._is_gone:
            self._is_gone = True
            self._task.cancel()
