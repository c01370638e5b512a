"""Measures the link between this machine and a worker, as the worker's RPC server sees it.

Some weights are sent to a buffer of the worker, which is freed at once. That needs commands whose
layout belongs to a version of the protocol; with other versions only the round trip is measured.

Source: llama.cpp, ggml/src/ggml-rpc/ggml-rpc.cpp, of build 10068.
"""

import struct
import time
from dataclasses import dataclass, replace

from sollol.errors import WorkerFailed
from sollol.sharding.memory import MIB
from sollol.sharding.rpc import DEVICE_COUNT, Connection, connected

TIMEOUT_S = 0.5
_ALLOC_BUFFER, _BUFFER_GET_BASE, _FREE_BUFFER, _SET_TENSOR = 0, 3, 4, 6
_KNOWN_MAJOR = 4
_ROUND_TRIPS = 5
_SIZES = (MIB // 16, MIB // 4, MIB, 4 * MIB)
"""Bytes sent, until that takes long enough; the first also open the window of TCP."""
_LONG_ENOUGH_S = 0.005
_REPEATS = 2
_TENSOR = "<QIQ4I4II16iI10QQQQ64s4x"
"""id, type, buffer, lengths, strides, operation and its parameters, flags, sources, view, its
offset, address, name."""
_BYTES_TYPE = 24
"""``GGML_TYPE_I8``: one byte an element."""


@dataclass(frozen=True, slots=True)
class MeasuredLink:
    """Seconds of a round trip, and bytes a second towards the worker; None is not measured."""

    round_trip_s: float | None = None
    bytes_per_s: float | None = None


async def measure_link(address: str, timeout_s: float = TIMEOUT_S) -> MeasuredLink:
    """Return what could be measured within ``timeout_s``; an error is nothing measured."""
    found = MeasuredLink()
    try:
        async with connected(address, timeout_s) as connection:
            version = await connection.hello()
            round_trip_s = await _round_trip_s(connection)
            found = MeasuredLink(round_trip_s)
            if version[0] == _KNOWN_MAJOR:
                found = replace(found, bytes_per_s=await _bytes_per_s(connection, round_trip_s))
    except WorkerFailed:
        pass
    return found


async def _round_trip_s(connection: Connection) -> float:
    """Return the best of a few: the others had to wait for something else."""
    return min([await _dealt_with_s(connection) for _ in range(_ROUND_TRIPS)])


async def _dealt_with_s(connection: Connection, body: bytes = b"") -> float:
    """Return how long it takes to set a tensor, if there is a body, and to answer after that."""
    started = time.perf_counter()  # uvloop's own clock has milliseconds
    if body:
        connection.write(_SET_TENSOR, body)
    await connection.ask(DEVICE_COUNT, b"", "<I")
    return time.perf_counter() - started


async def _bytes_per_s(connection: Connection, round_trip_s: float) -> float | None:
    """Return how fast a buffer of the worker is filled.

    The worker frees it when it is asked to, or else when the connection ends.
    """
    wanted = struct.pack("<IQ", 0, max(_SIZES))
    buffer, size = await connection.ask(_ALLOC_BUFFER, wanted, "<QQ")
    if size < max(_SIZES):
        return None
    pointer = struct.pack("<Q", buffer)
    (base,) = await connection.ask(_BUFFER_GET_BASE, pointer, "<Q")

    async def filled_s(count: int) -> float:
        return await _dealt_with_s(connection, _tensor(buffer, base, count) + bytes(8 + count))

    count, taken_s = 0, 0.0
    for count in _SIZES:
        taken_s = await filled_s(count)
        if taken_s >= _LONG_ENOUGH_S:
            break
    taken_s = min([taken_s, *[await filled_s(count) for _ in range(_REPEATS)]])
    await connection.ask(_FREE_BUFFER, pointer, "<")
    return count / max(taken_s - round_trip_s, taken_s / 2)


def _tensor(buffer: int, address: int, length: int) -> bytes:
    """Return what describes a row of so many bytes at the start of a buffer."""
    lengths, strides = (length, 1, 1, 1), (1, length, length, length)
    nothing = (0,) * (1 + 16 + 1 + 10 + 2)
    return struct.pack(
        _TENSOR, 1, _BYTES_TYPE, buffer, *lengths, *strides, *nothing, address, b"measured"
    )
