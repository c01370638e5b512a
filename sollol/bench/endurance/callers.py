"""Callers who mean no good, or are very slow: they hold on to connections and do not use them."""

import asyncio
import contextlib
import socket
import time
from dataclasses import dataclass, field

_HOST = "127.0.0.1"
_DRIP_S = 1.0
_HEAD = b"POST /api/generate HTTP/1.1\r\nHost: localhost\r\n"
FLOOD = "flood"
"""The model whose answers nobody reads; it should speak fast, or the system's buffers take it all."""

_BODY = b'{"model":"flood","prompt":"go","options":{"num_predict":400000}}'
_WHOLE = _HEAD + b"Content-Length: %d\r\n\r\n" % len(_BODY) + _BODY


@dataclass
class SlowCallers:
    """Connections of several kinds, opened together; ``lived_s`` is how long each was borne."""

    port: int
    lived_s: dict[str, list[float]] = field(default_factory=dict)

    async def run(self, kinds: dict[str, int]) -> None:
        """Open so many of each kind (``silent``, ``head_drip``, ``body_drip``, ``no_reader``).

        Returns when the gateway has closed all; cancel it to give up before.
        """
        async with asyncio.TaskGroup() as tasks:
            for kind, count in kinds.items():
                for _ in range(count):
                    tasks.create_task(self._hold(kind))
                    await asyncio.sleep(0)

    async def _hold(self, kind: str) -> None:
        if kind == "no_reader":
            await self._read_nothing()
            return
        reader, writer = await asyncio.open_connection(_HOST, self.port)
        since = time.monotonic()
        drip = asyncio.ensure_future(_drip(kind, writer))
        try:
            with contextlib.suppress(ConnectionError):
                while await reader.read(65_536):
                    pass
            self._note(kind, since)
        finally:
            drip.cancel()
            writer.close()

    async def _read_nothing(self) -> None:
        loop = asyncio.get_running_loop()
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            sock.setblocking(False)
            await loop.sock_connect(sock, (_HOST, self.port))
            await loop.sock_sendall(sock, _WHOLE)
            since = time.monotonic()
            while not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):  # noqa: ASYNC110 - a reset sets it
                await asyncio.sleep(0.1)
        self._note("no_reader", since)

    def _note(self, kind: str, since: float) -> None:
        self.lived_s.setdefault(kind, []).append(time.monotonic() - since)


async def _drip(kind: str, writer: asyncio.StreamWriter) -> None:
    """Send a little now and then; of a body too little, of a head one byte a second."""
    if kind == "silent":
        return
    if kind == "body_drip":
        writer.write(_HEAD + b"Content-Length: 1000\r\n\r\n{")
        return
    for value in _HEAD:
        writer.write(bytes((value,)))
        await asyncio.sleep(_DRIP_S)
