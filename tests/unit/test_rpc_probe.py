"""The probe of an RPC server against servers that answer well, badly, late or not at all."""

import asyncio
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from sollol.errors import WorkerFailed
from sollol.sharding.rpc import Device, Probe, check_version, probe, probe_all

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[str]:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handler(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


def answering(*answers: bytes, closed: asyncio.Event | None = None) -> Handler:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            command, size = struct.unpack("<BQ", await reader.readexactly(9))
            assert command in (11, 14, 15)
            await reader.readexactly(size)
            writer.write(answer)
        await reader.read()
        if closed is not None:
            closed.set()

    return handle


def sized(body: bytes) -> bytes:
    return struct.pack("<Q", len(body)) + body


HELLO = sized(bytes([4, 0, 3, 0]) + bytes(24))
TWO_DEVICES = sized(struct.pack("<I", 2))


async def test_a_worker_tells_its_version_and_devices_and_is_left_at_once() -> None:
    closed = asyncio.Event()
    memories = [sized(struct.pack("<QQ", 5, 10)), sized(struct.pack("<QQ", 7, 8))]
    async with serving(answering(HELLO, TWO_DEVICES, *memories, closed=closed)) as address:
        found = await probe(address)
        await asyncio.wait_for(closed.wait(), 5)
    assert (found.address, found.version, found.error) == (address, (4, 0, 3), "")
    assert found.devices == (Device(5, 10), Device(7, 8))


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        ([], "did not answer within"),
        ([sized(b"")], "does not answer as an RPC server"),
        ([struct.pack("<Q", 1 << 60)], "does not answer as an RPC server"),
        ([b"HTTP/1.1 400 Bad Request\r\n\r\n"], "does not answer as an RPC server"),
        ([HELLO, sized(struct.pack("<I", 1 << 30))], "claims 1073741824 devices"),
        ([HELLO, TWO_DEVICES, sized(b"x")], "does not answer as an RPC server"),
    ],
)
async def test_other_servers_are_refused(answers: list[bytes], reason: str) -> None:
    async with serving(answering(*answers)) as address:
        with pytest.raises(WorkerFailed, match=reason):
            await probe(address, 0.3)


async def test_a_closed_connection_and_a_closed_port_are_told() -> None:
    async def leave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(1)

    async with serving(leave) as address:
        with pytest.raises(WorkerFailed, match="no RPC server answers at"):
            await probe(address)
    with pytest.raises(WorkerFailed, match=f"no RPC server answers at {address}"):
        await probe(address)


async def test_public_addresses_are_not_connected_to() -> None:
    with pytest.raises(WorkerFailed, match=r"8\.8\.8\.8 is a public address.*VPN"):
        await probe("8.8.8.8:50052")


async def test_workers_of_different_versions_are_not_used_together() -> None:
    none = sized(struct.pack("<I", 0))
    newer = sized(bytes([5, 0, 0, 0]) + bytes(24))
    async with (
        serving(answering(HELLO, none)) as one,
        serving(answering(newer, none)) as two,
        serving(answering(HELLO, none)) as three,
    ):
        found = await probe_all(["127.0.0.1:1", one, two, three])
    assert [bool(result.error) for result in found] == [True, False, True, False]
    assert "version 5.0.0 of the protocol, and not 4.0.3" in found[2].error
    assert found[0] == Probe("127.0.0.1:1", error=found[0].error)


def test_only_the_first_number_of_a_version_must_agree() -> None:
    check_version((4, 0, 3), (4, 1, 0))
    with pytest.raises(WorkerFailed, match=r"install the same llama\.cpp"):
        check_version((5, 0, 0), (4, 0, 3))
