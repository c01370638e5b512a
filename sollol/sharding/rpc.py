"""Asks an RPC server of llama.cpp for its version and memory: a short, closed conversation.

Such a server talks to one client at a time, and even an idle connection keeps the others out; so
each probe closes at once. A server that drives a model does not answer a second client: a timeout
means busy as often as broken.

Source: llama.cpp, ggml/src/ggml-rpc/ggml-rpc.cpp.
"""

import asyncio
import socket
import struct
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

from sollol.errors import WorkerFailed
from sollol.settings.address import check_private, host_of

TIMEOUT_S = 2.0
_DEVICE_MEMORY, _HELLO, _DEVICE_COUNT = 11, 14, 15
_HELLO_BYTES = 24
"""What a client says of itself; zeros ask for nothing special."""
_MAX_ANSWER_BYTES = 1024
_MAX_DEVICES = 64


@dataclass(frozen=True, slots=True)
class Device:
    """A device of a worker. A CPU says that all memory of its machine is free."""

    free_bytes: int
    total_bytes: int


@dataclass(frozen=True, slots=True)
class Probe:
    """What a worker answered; ``error`` says why it cannot be used, empty if it can."""

    address: str
    version: tuple[int, ...] = ()
    devices: tuple[Device, ...] = ()
    round_trip_s: float = 0.0
    error: str = ""


async def probe_all(addresses: Iterable[str], timeout_s: float = TIMEOUT_S) -> list[Probe]:
    """Probe workers side by side; what is wrong with one is its ``error``.

    Workers of another version than the first that answers count as unusable: one coordinator drives
    all of them, and some builds leave out in silence those they do not understand.
    """
    probes = await asyncio.gather(*(_probe_or_error(address, timeout_s) for address in addresses))
    expected = next((probe.version for probe in probes if probe.version), ())
    return [_compared(probe, expected) for probe in probes]


async def probe(address: str, timeout_s: float = TIMEOUT_S) -> Probe:
    """Return what a worker says of itself.

    Args:
        address: ``host:port``, IPv4 or a name.
        timeout_s: for all of it.

    Raises:
        WorkerFailed: its address is public, nobody answers there, or not an RPC server does.
    """
    try:
        async with asyncio.timeout(timeout_s):
            target = await _private_target(address)
            reader, writer = await asyncio.open_connection(*target)
            try:
                return await _converse(address, reader, writer)
            finally:
                writer.close()
                with suppress(OSError):
                    await writer.wait_closed()
    except TimeoutError:
        raise WorkerFailed(
            f"{address} did not answer within {timeout_s:g} s; an RPC server that another "
            "coordinator uses does not answer either"
        ) from None
    except (OSError, EOFError) as error:
        reason = getattr(error, "strerror", None) or "the connection was closed"
        raise WorkerFailed(f"no RPC server answers at {address}: {reason}") from None


def check_version(version: tuple[int, ...], expected: tuple[int, ...]) -> None:
    """Return if both speak one protocol, that is, if their first numbers are the same.

    Raises:
        WorkerFailed: they do not.
    """
    if version[:1] != expected[:1]:
        raise WorkerFailed(
            f"it speaks version {_dotted(version)} of the protocol, the others {_dotted(expected)}; "
            "install the same llama.cpp on all machines"
        )


async def _probe_or_error(address: str, timeout_s: float) -> Probe:
    try:
        return await probe(address, timeout_s)
    except WorkerFailed as error:
        return Probe(address, error=str(error))


def _compared(probe: Probe, expected: tuple[int, ...]) -> Probe:
    if not probe.version:
        return probe
    try:
        check_version(probe.version, expected)
    except WorkerFailed as error:
        return Probe(probe.address, probe.version, probe.devices, probe.round_trip_s, str(error))
    return probe


async def _private_target(address: str) -> tuple[str, int]:
    """Return the address to connect to; a name is looked up once and then not again."""
    host, port = host_of(address), int(address.rpartition(":")[2])
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, family=socket.AF_INET, type=socket.SOCK_STREAM)
    target = str(found[0][4][0])
    try:
        check_private(target)
    except ValueError as error:
        raise WorkerFailed(f"{address} is not used: {error}") from None
    return target, port


async def _converse(
    address: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> Probe:
    async def ask(command: int, body: bytes, layout: str) -> tuple[int, ...]:
        writer.write(struct.pack("<BQ", command, len(body)) + body)
        (size,) = struct.unpack("<Q", await reader.readexactly(8))
        wanted = struct.calcsize(layout)
        if not wanted <= size <= _MAX_ANSWER_BYTES:
            raise WorkerFailed(f"{address} does not answer as an RPC server of llama.cpp")
        return struct.unpack(layout, (await reader.readexactly(size))[:wanted])

    version = await ask(_HELLO, bytes(_HELLO_BYTES), "<3B")
    started = asyncio.get_running_loop().time()
    (count,) = await ask(_DEVICE_COUNT, b"", "<I")
    round_trip_s = asyncio.get_running_loop().time() - started
    if count > _MAX_DEVICES:
        raise WorkerFailed(f"{address} claims {count} devices")
    devices = [
        Device(*await ask(_DEVICE_MEMORY, struct.pack("<I", index), "<QQ"))
        for index in range(count)
    ]
    return Probe(address, version, tuple(devices), round_trip_s)


def _dotted(version: Iterable[int]) -> str:
    return ".".join(map(str, version))
