"""Sits between a client and a server, passes all bytes on, and notes what was asked and answered."""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import httptools


@dataclass
class Exchange:
    """One request; ``status`` is 0 until an answer has begun."""

    method: str
    path: str
    status: int = 0


@dataclass
class Wiretap:
    """``url`` is where to send requests; ``exchanges`` are in the order of their arrival."""

    url: str = ""
    exchanges: list[Exchange] = field(default_factory=list)


class _Asked:
    """What httptools calls with the requests of one connection."""

    def __init__(self, tap: Wiretap, unanswered: deque[Exchange]) -> None:
        self.parser = httptools.HttpRequestParser(self)
        self._tap = tap
        self._unanswered = unanswered
        self._url = b""

    def on_message_begin(self) -> None:
        self._url = b""

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_headers_complete(self) -> None:
        exchange = Exchange(self.parser.get_method().decode(), self._url.decode())
        self._tap.exchanges.append(exchange)
        self._unanswered.append(exchange)


class _Answered:
    """What httptools calls with the answers on one connection."""

    def __init__(self, unanswered: deque[Exchange]) -> None:
        self.parser = httptools.HttpResponseParser(self)
        self._unanswered = unanswered

    def on_headers_complete(self) -> None:
        status = self.parser.get_status_code()
        if status >= 200:
            self._unanswered.popleft().status = status


@contextlib.asynccontextmanager
async def tapped(server_url: str) -> AsyncIterator[Wiretap]:
    """Listen on a free port and pass everything on to ``server_url``."""
    target = urlsplit(server_url)
    tap = Wiretap()
    open_now: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        open_now.add(task)
        try:
            onward = await asyncio.open_connection(target.hostname, target.port)
            await _join(tap, (reader, writer), onward)
        finally:
            writer.close()
            open_now.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    tap.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield tap
    finally:
        server.close()
        for task in open_now:
            task.cancel()
        await asyncio.gather(*open_now, return_exceptions=True)


Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def _join(tap: Wiretap, client: Ends, server: Ends) -> None:
    """Pass bytes both ways until one side leaves, which the other then sees."""
    unanswered: deque[Exchange] = deque()
    asked, answered = _Asked(tap, unanswered), _Answered(unanswered)
    ways = [
        asyncio.ensure_future(_pass_on(client[0], server[1], asked.parser.feed_data)),
        asyncio.ensure_future(_pass_on(server[0], client[1], answered.parser.feed_data)),
    ]
    try:
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        server[1].close()


async def _pass_on(
    source: asyncio.StreamReader, sink: asyncio.StreamWriter, note: Callable[[bytes], object]
) -> None:
    with contextlib.suppress(ConnectionError):
        while piece := await source.read(1 << 16):
            note(piece)
            sink.write(piece)
            await sink.drain()
