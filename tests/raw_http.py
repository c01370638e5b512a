"""HTTP seen byte by byte, for tests of what happens on the socket."""

import asyncio
import json
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any


async def wait_until(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    """Return once the condition holds; fail when it does not come to."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the awaited condition did not come to hold"
        await asyncio.sleep(0.002)


@dataclass
class RawAnswer:
    """What came back, and how the connection ended: ``eof``, ``reset`` or ``open``."""

    head: bytes
    body: bytes
    ending: str

    @property
    def status(self) -> int:
        return int(self.head.split(b" ", 2)[1]) if self.head else 0

    @property
    def headers(self) -> list[tuple[str, str]]:
        lines = self.head.decode().split("\r\n")[1:]
        return [(name, value) for name, _, value in (line.partition(": ") for line in lines)]

    @property
    def chunks(self) -> list[bytes]:
        """The complete chunks; the empty one at the end is among them."""
        found, rest = [], self.body
        while b"\r\n" in rest:
            size_text, _, rest = rest.partition(b"\r\n")
            size = int(size_text, 16)
            if len(rest) < size + 2:
                break
            found.append(rest[:size])
            rest = rest[size + 2 :]
        return found

    @property
    def records(self) -> list[Any]:
        return [json.loads(chunk) for chunk in self.chunks if chunk]


def render(
    method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
) -> bytes:
    """Return a request as bytes."""
    fields = {"Host": "127.0.0.1", **(headers or {})}
    if body or method == "POST":
        fields.setdefault("Content-Length", str(len(body)))
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body


async def talk(
    port: int, request: bytes, *, until: bytes = b"", quiet_s: float = 10.0
) -> RawAnswer:
    """Send a request on a connection of its own and read to the end of that connection.

    Args:
        port: where on 127.0.0.1.
        request: the bytes to send.
        until: stop reading once these bytes have come.
        quiet_s: stop reading after so many seconds without a byte.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    received, ending = b"", "open"
    try:
        writer.write(request)
        while not (until and until in received):
            async with asyncio.timeout(quiet_s):
                data = await reader.read(65_536)
            if not data:
                ending = "eof"
                break
            received += data
    except TimeoutError:
        pass
    except ConnectionError:
        ending = "reset"
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
    head, _, body = received.partition(b"\r\n\r\n")
    return RawAnswer(head, body, ending)
