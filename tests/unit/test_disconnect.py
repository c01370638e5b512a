"""A caller who leaves stops the work for it, and nothing else does so in its name."""

import asyncio
from collections.abc import Callable

import pytest

from sollol.errors import ClientDisconnected
from sollol.gateway.disconnect import CancelWhenGone


class Connection:
    """A caller's connection that is lost on demand."""

    def __init__(self) -> None:
        self.callback: Callable[[], None] | None = None

    @property
    def task(self) -> asyncio.Task[None] | None:
        return asyncio.current_task()

    def watch(self, callback: Callable[[], None] | None) -> None:
        self.callback = callback

    def lose(self) -> None:
        assert self.callback is not None
        self.callback()


async def test_leaving_ends_whatever_is_awaited() -> None:
    connection = Connection()
    asyncio.get_running_loop().call_soon(connection.lose)
    with pytest.raises(ClientDisconnected):
        with CancelWhenGone(connection):
            await asyncio.Event().wait()
    assert connection.callback is None
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    await asyncio.sleep(0)  # and the task goes on


async def test_work_that_ends_in_time_is_not_disturbed() -> None:
    connection = Connection()
    with CancelWhenGone(connection):
        await asyncio.sleep(0)
    assert connection.callback is None


async def test_a_cancellation_from_elsewhere_stays_one() -> None:
    connection = Connection()

    async def serve() -> None:
        with CancelWhenGone(connection):
            await asyncio.Event().wait()

    task = asyncio.ensure_future(serve())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_both_at_once_stay_a_cancellation() -> None:
    connection = Connection()

    async def serve() -> None:
        with CancelWhenGone(connection):
            await asyncio.Event().wait()

    task = asyncio.ensure_future(serve())
    await asyncio.sleep(0)
    connection.lose()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_an_error_in_the_block_is_not_hidden() -> None:
    connection = Connection()
    with pytest.raises(KeyError):
        with CancelWhenGone(connection):
            connection.lose()
            raise KeyError
