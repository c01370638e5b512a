"""An open-loop load generator: every request goes out when it is due, whatever became of others."""

import asyncio
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import cast

from sollol.bench.live.bodies import Sending

_HOST = "127.0.0.1"
_START_S = 0.05
_TAIL_BYTES = 4096
_DURATIONS = re.compile(rb'"(total|load|prompt_eval|eval)_duration":(\d+)')
_CACHED = re.compile(rb'"prompt_eval_cached_count":(\d+)')
_HEAD_END = b"\r\n\r\n"


@dataclass(slots=True)
class Received:
    """What came back for a request; moments are of the loop's clock, 0 where nothing came."""

    due_at: float
    sent_at: float = 0.0
    first_byte_at: float = 0.0
    """Of the body."""
    ended_at: float = 0.0
    head: bytes = b""
    tail: bytes = b""
    """The end of the body."""
    error: str = ""
    node: str = ""

    @property
    def status(self) -> int:
        """The HTTP status; 0 where none came."""
        parts = self.head.split(b" ", 2)
        return int(parts[1]) if len(parts) > 2 and parts[1].isdigit() else 0

    @property
    def outcome(self) -> str:
        """``served``, or in a word what went wrong."""
        if self.error:
            return self.error
        if self.status != 200:
            return f"http_{self.status}"
        is_whole = b'"done":true' in self.tail or b'"embeddings"' in self.tail[:64]
        return "served" if is_whole or b'"total_duration"' in self.tail else "cut"

    def header(self, name: str) -> str:
        """Return the value of a header; empty if it is not there."""
        found = re.search(rb"(?i)\r\n" + name.encode() + rb": *([^\r]*)", self.head)
        return found[1].decode("latin-1") if found else ""

    def durations_s(self) -> dict[str, float]:
        """Return what the node says of where the time went: total, load, prompt_eval, eval."""
        return {
            name.decode(): int(nanoseconds) / 1e9
            for name, nanoseconds in _DURATIONS.findall(self.tail)
        }

    def cached_tokens(self) -> int:
        """Return how many tokens of the prompt the node says that it knew."""
        found = _CACHED.search(self.tail)
        return int(found[1]) if found else 0


class _Exchange(asyncio.Protocol):
    """One request on a connection of its own; the server ends it."""

    def __init__(self, request: bytes, received: Received) -> None:
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._loop = asyncio.get_running_loop()
        self._request = request
        self._received = received
        self._has_head = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass of it
        self._received.sent_at = self._loop.time()
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        received = self._received
        if not self._has_head:
            received.head += data
            head, end, data = received.head.partition(_HEAD_END)
            if not end:
                return
            self._has_head, received.head = True, head
        if data:
            received.first_byte_at = received.first_byte_at or self._loop.time()
            received.tail = (received.tail + data)[-_TAIL_BYTES:]

    def connection_lost(self, error: Exception | None) -> None:
        if error is not None:
            self._received.error = "connection_lost"
        if not self.closed.done():
            self.closed.set_result(None)


class Generator:
    """Sends a workload to ports of this machine.

    ``choose`` says where each request goes, by its place in the workload and its model; ``ended``
    is told the place of each that came to its end.
    """

    def __init__(
        self,
        sendings: Sequence[Sending],
        time_scale: float,
        choose: Callable[[int, str], int],
        ended: Callable[[int], None],
    ) -> None:
        self.received: list[Received] = []
        self._sendings = sendings
        self._time_scale = time_scale
        self._choose = choose
        self._ended = ended

    async def run(self, timeout_s: float) -> None:
        """Send all and wait for the answers; what takes longer than ``timeout_s`` is given up."""
        begin = asyncio.get_running_loop().time() + _START_S
        self.received = [Received(begin + s.at * self._time_scale) for s in self._sendings]
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s), asyncio.TaskGroup() as tasks:
                for index, received in enumerate(self.received):
                    await _wait_until(received.due_at)
                    tasks.create_task(self._send(index))

    async def _send(self, index: int) -> None:
        sending, received = self._sendings[index], self.received[index]
        port = self._choose(index, sending.model)
        try:
            await exchange(write_request(sending, port), port, received)
        except OSError:
            received.error = "not_connected"
        except asyncio.CancelledError:
            received.error = "unfinished"
            raise
        finally:
            received.ended_at = asyncio.get_running_loop().time()
            self._ended(index)


async def _wait_until(moment: float) -> None:
    delay_s = moment - asyncio.get_running_loop().time()
    if delay_s > 0:
        await asyncio.sleep(delay_s)


async def exchange(request: bytes, port: int, received: Received) -> None:
    """Send a request on a connection of its own and read the answer; cancelled, it hangs up.

    Raises:
        OSError: no connection could be made.
    """
    protocol = _Exchange(request, received)
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_connection(lambda: protocol, _HOST, port)
    try:
        await protocol.closed
    finally:
        transport.abort()


def write_request(sending: Sending, port: int) -> bytes:
    """Return a request as it goes over the wire."""
    head = (
        f"POST {sending.path} HTTP/1.1\r\nHost: {_HOST}:{port}\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(sending.body)}\r\n"
        f"X-Sollol-Priority: {sending.priority}\r\n\r\n"
    )
    return head.encode() + sending.body
