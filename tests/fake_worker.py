"""An RPC server in this process: it keeps the protocol, holds buffers and notes what is left."""

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

TENSOR_BYTES = 296


@dataclass
class FakeWorker:
    """What it says of itself, and what was done with it."""

    version: tuple[int, int, int] = (4, 0, 3)
    devices: tuple[tuple[int, int], ...] = ((8 << 30, 8 << 30),)
    buffer_bytes: int | None = None
    """What it allocates at most; what is asked for by default."""
    breaks_at: int = -1
    """The command at which it closes the connection."""
    address: str = ""
    commands: list[int] = field(default_factory=list)
    buffers: dict[int, int] = field(default_factory=dict)
    connections: int = 0
    received_bytes: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                command, size = struct.unpack("<BQ", await reader.readexactly(9))
                body = await reader.readexactly(size)
                self.commands.append(command)
                if command == self.breaks_at:
                    return
                answer = self.answer(command, body)
                if answer is not None:
                    writer.write(struct.pack("<Q", len(answer)) + answer)
        except asyncio.IncompleteReadError:
            pass
        finally:
            self.buffers.clear()  # as the real one does
            self.connections -= 1
            writer.close()

    def answer(self, command: int, body: bytes) -> bytes | None:
        if command == 0:
            device, wanted = struct.unpack("<IQ", body)
            assert device == 0
            size = wanted if self.buffer_bytes is None else min(self.buffer_bytes, wanted)
            self.buffers[4096] = size
            return struct.pack("<QQ", 4096, size)
        if command == 3:
            return struct.pack("<Q", struct.unpack("<Q", body)[0] + 64)
        if command == 4:
            del self.buffers[struct.unpack("<Q", body)[0]]
            return b""
        if command == 6:
            self.set_tensor(body)
            return None
        if command == 11:
            return struct.pack("<QQ", *self.devices[struct.unpack("<I", body)[0]])
        if command == 14:
            return bytes([*self.version, 0]) + bytes(24)
        assert command == 15
        return struct.pack("<I", len(self.devices))

    def set_tensor(self, body: bytes) -> None:
        _, kind, buffer, length = struct.unpack_from("<QIQI", body)
        (address,) = struct.unpack_from("<Q", body, TENSOR_BYTES - 4 - 64 - 8)
        assert (kind, address) == (24, buffer + 64)
        assert length == len(body) - TENSOR_BYTES - 8 <= self.buffers[buffer]
        self.received_bytes += length


@asynccontextmanager
async def fake_worker(worker: FakeWorker) -> AsyncIterator[FakeWorker]:
    """Run it on a port of its own; at the end nobody may be connected."""
    server = await asyncio.start_server(worker.serve, "127.0.0.1", 0)
    worker.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        yield worker
        async with asyncio.timeout(5):
            while worker.connections:  # noqa: ASYNC110 - the end of the other side sends no event
                await asyncio.sleep(0)
    assert not worker.buffers
