"""Measures the link between this machine and a worker, as its RPC server sees it."""

import asyncio
from dataclasses import dataclass

from sollol.errors import WorkerFailed
from sollol.sharding.rpc import DEVICE_COUNT, Connection, connected

TIMEOUT_S = 0.5
_ROUND_TRIPS = 5


@dataclass(frozen=True, slots=True)
class MeasuredLink:
    """Seconds of a round trip, and bytes a second towards the worker; None is not measured."""

    round_trip_s: float | None
    bytes_per_s: float | None


async def measure_link(address: str) -> MeasuredLink:
    """Return what could be measured within ``TIMEOUT_S``; an error is nothing measured."""
    try:
        async with connected(address, TIMEOUT_S) as connection:
            await connection.hello()
            return MeasuredLink(await _round_trip_s(connection), None)
    except WorkerFailed:
        return MeasuredLink(None, None)


async def _round_trip_s(connection: Connection) -> float:
    """Return the best of a few: others had to wait for something else."""
    clock = asyncio.get_running_loop().time
    times = []
    for _ in range(_ROUND_TRIPS):
        started = clock()
        await connection.ask(DEVICE_COUNT, b"", "<I")
        times.append(clock() - started)
    return min(times)
