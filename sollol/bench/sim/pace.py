"""Speaking at the speed of a model."""

import asyncio
from collections.abc import Iterator
from itertools import islice

from sollol.bench.sim.exchange import Exchange
from sollol.bench.sim.lease import Lease

Item = tuple[bytes, int]
"""A record, and how many tokens the model decodes after it before the next."""
_BATCH_RECORDS = 64
_SILENT_TOKENS = 8


async def write_at_once(exchange: Exchange, items: Iterator[Item]) -> None:
    """Write all records as fast as the client reads them."""
    while batch := [record for record, _ in islice(items, _BATCH_RECORDS)]:
        if not exchange.write_records(batch):
            return
        await exchange.connection.drain()


async def write_paced(exchange: Exchange, items: Iterator[Item], lease: Lease) -> None:
    """Write each record when the model has decoded it; a slow client holds the model up."""
    while True:
        ticker = _Ticker(exchange, items, lease)
        if await ticker.run():
            return
        await exchange.connection.drain()


async def decode_silently(lease: Lease, tokens: int) -> None:
    """Let the time for an answer in one piece pass; in steps, since others come and go."""
    loop = asyncio.get_running_loop()
    due = loop.time()
    while tokens > 0:
        step = min(tokens, _SILENT_TOKENS)
        tokens -= step
        due += lease.decode(step)
        await asyncio.sleep(max(0.0, due - loop.time()))


class _Ticker:
    """Writes records from timer callbacks: a wake-up of the task for each would cost twice that.

    Moments are absolute, so that a late timer is made up for and the whole takes what it should.
    """

    def __init__(self, exchange: Exchange, items: Iterator[Item], lease: Lease) -> None:
        self._exchange = exchange
        self._items = items
        self._lease = lease
        self._loop = asyncio.get_running_loop()
        self._due = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self._ended: asyncio.Future[bool] = self._loop.create_future()

    async def run(self) -> bool:
        """Return whether everything is written; false if the client does not keep up."""
        self._tick()
        try:
            return await self._ended
        finally:
            if self._timer is not None:
                self._timer.cancel()

    def _tick(self) -> None:
        if self._ended.done():  # cancelled in the same turn of the loop
            return
        try:
            self._write_due()
        except Exception as error:  # a callback's error belongs to the task that waits
            self._ended.set_exception(error)

    def _write_due(self) -> None:
        while self._due <= self._loop.time():
            item = next(self._items, None)
            if item is None or not self._exchange.write_record(item[0]):
                self._ended.set_result(True)
                return
            if item[1]:
                self._due += self._lease.decode(item[1])
            if self._exchange.connection.is_paused:
                self._ended.set_result(False)
                return
        self._timer = self._loop.call_at(self._due, self._tick)
