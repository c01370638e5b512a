"""Asks an RPC server of llama.cpp for its version and memory: a short, closed conversation.

Such a server talks to one client at a time, and even an idle connection keeps the others out; so
each probe closes at once. A server that drives a model does not answer a second client: a timeout
means busy as often as broken.

Source: llama.cpp, ggml/src/ggml-rpc/ggml-rpc.cpp.
"""

import asyncio
import os
import socket
import struct
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace

from sollol.errors import WorkerFailed
from sollol.settings.address import check_private, host_of

TIMEOUT_S = 2.0
DEVICE_COUNT = 15
"""The command with the shortest answer."""
_DEVICE_MEMORY, _HELLO = 11, 14
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
    error: str = ""


class Connection:
    """A conversation with an RPC server, which serves nobody else until it is closed."""

    def __init__(
        self, address: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.address = address
        self._reader = reader
        self._writer = writer

    async def ask(self, command: int, body: bytes, layout: str) -> tuple[int, ...]:
        """Send a command and return what the answer has, as ``struct`` reads ``layout``.

        Raises:
            WorkerFailed: the answer is none of an RPC server.
        """
        self.write(command, body)
        (size,) = struct.unpack("<Q", await self._reader.readexactly(8))
        wanted = struct.calcsize(layout)
        if not wanted <= size <= _MAX_ANSWER_BYTES:
            raise WorkerFailed(f"{self.address} does not answer as an RPC server of llama.cpp")
        return struct.unpack(layout, (await self._reader.readexactly(size))[:wanted])

    def write(self, command: int, body: bytes) -> None:
        """Send a command without waiting; some have no answer."""
        self._writer.write(struct.pack("<BQ", command, len(body)) + body)

    async def hello(self) -> tuple[int, ...]:
        """Return the version of the protocol; has to be the first command."""
        return await self.ask(_HELLO, bytes(_HELLO_BYTES), "<3B")


@asynccontextmanager
async def connected(address: str, timeout_s: float) -> AsyncIterator[Connection]:
    """Talk to a worker for ``timeout_s`` at most, and let go of it.

    Raises:
        WorkerFailed: its address is public, nobody answers there, or not an RPC server does.
    """
    try:
        async with asyncio.timeout(timeout_s):
            target = await private_target(address)
            reader, writer = await asyncio.open_connection(*target)
            try:
                yield Connection(address, reader, writer)
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
        raise WorkerFailed(f"no RPC server answers at {address}: {_reason(error)}") from None


async def probe_all(
    addresses: Iterable[str], expected: tuple[int, ...] = (), timeout_s: float = TIMEOUT_S
) -> list[Probe]:
    """Probe workers side by side; what is wrong with one is its ``error``.

    Workers of another version than ``expected``, or where that is not known than the first that
    answers, count as unusable: one coordinator drives all of them, and some builds leave out in
    silence those they do not understand.
    """
    probes = await asyncio.gather(*(_probe_or_error(address, timeout_s) for address in addresses))
    expected = expected or next((probe.version for probe in probes if probe.version), ())
    return [_compared(probe, expected) for probe in probes]


async def probe(address: str, timeout_s: float = TIMEOUT_S) -> Probe:
    """Return what a worker says of itself.

    Args:
        address: ``host:port``, IPv4 or a name.
        timeout_s: for all of it.

    Raises:
        WorkerFailed: its address is public, nobody answers there, or not an RPC server does.
    """
    async with connected(address, timeout_s) as connection:
        version = await connection.hello()
        (count,) = await connection.ask(DEVICE_COUNT, b"", "<I")
        if count > _MAX_DEVICES:
            raise WorkerFailed(f"{address} claims {count} devices")
        devices = [
            Device(*await connection.ask(_DEVICE_MEMORY, struct.pack("<I", index), "<QQ"))
            for index in range(count)
        ]
        return Probe(address, version, tuple(devices))


def check_version(version: tuple[int, ...], expected: tuple[int, ...]) -> None:
    """Return if both speak one protocol, that is, if their first numbers are the same.

    Raises:
        WorkerFailed: they do not.
    """
    if version[:1] != expected[:1]:
        raise WorkerFailed(
            f"it speaks version {_dotted(version)} of the protocol, and not {_dotted(expected)}; "
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
        return replace(probe, error=str(error))
    return probe


async def private_target(address: str) -> tuple[str, int]:
    """Return the address to connect to; a name is looked up once and then not again.

    Raises:
        WorkerFailed: it is a public one.
        OSError: the name is not known.
    """
    host, port = host_of(address), int(address.rpartition(":")[2])
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, family=socket.AF_INET, type=socket.SOCK_STREAM)
    target = str(found[0][4][0])
    try:
        check_private(target)
    except ValueError as error:
        raise WorkerFailed(f"{address} is not used: {error}") from None
    return target, port


def _reason(error: OSError | EOFError) -> str:
    """Return the system's words, which asyncio replaces by its own for a refused connection."""
    number = getattr(error, "errno", None) or 0
    if number > 0:
        return os.strerror(number)
    return getattr(error, "strerror", None) or "the connection was closed"


def _dotted(version: Iterable[int]) -> str:
    return ".".join(map(str, version))
