"""What tests of sharding need: workers that misbehave, models in stores, plans over given workers."""

import asyncio
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import psutil
import pytest

from sollol.bench.gguf_files import GgufSpec, write_gguf
from sollol.llamacpp.binaries import LlamaCppUnavailable, find_binaries
from sollol.llamacpp.small_model import MODEL_PACKAGE, small_model
from sollol.ports import HOST
from sollol.sharding.memory import GIB, MemoryModel, RunOptions
from sollol.sharding.models import LocalModel, read_model
from sollol.sharding.plan import Coordinator, Fleet, Plan, Worker, find_plan
from sollol.sharding.prediction import Link

MODEL_CACHE = Path(__file__).parents[2] / ".cache" / "models"
DEADLINE_S = 30.0
OPTIONS = RunOptions(512)
LINK = Link(0.0001, 1e9)
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def missing_part() -> str:
    """Say why real workers cannot run here; empty if they can."""
    try:
        return "" if find_binaries().rpc_server else "llama.cpp was built without an RPC server"
    except LlamaCppUnavailable as error:
        return str(error)


NEEDS_WORKERS = [
    pytest.mark.llamacpp,
    pytest.mark.skipif(bool(missing_part()), reason=missing_part()),
]
"""Marks of what runs real workers."""


def llama_processes() -> list[str]:
    """Return the command lines of the llama.cpp programs that this process has started."""
    found = []
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            words = child.cmdline()
            if any("llama" in word or "rpc-server" in word for word in words[:5]):
                found.append(" ".join(words))
    return found


# -- models -------------------------------------------------------------------------------------


def real_model_file() -> Path:
    """The small real model; only where its package is installed."""
    return small_model(MODEL_CACHE, package=MODEL_PACKAGE)


def made_model(path: Path, spec: GgufSpec) -> LocalModel:
    """Write a model of zeros and read it."""
    return read_model(str(write_gguf(path, spec)), [])


def plan_over(
    model: LocalModel,
    workers: Sequence[str],
    options: RunOptions = OPTIONS,
) -> Plan:
    """Plan a model over all of these workers, by giving each hardly more than its part.

    Without workers it runs on this machine alone.
    """
    memory = MemoryModel(model.facts, options)
    count = len(model.facts.units)
    host = Coordinator("here", 8 * GIB, 1e10, dict.fromkeys(workers, LINK))
    if not workers:
        plan = find_plan(model.facts, options, Fleet((), (host,)), cpu_layers=count)
        assert plan is not None
        return plan
    least = memory.device(count - 1, count).total_bytes
    whole = memory.device(0, count).total_bytes
    for size in range(least, 2 * whole, max((whole - least) // 64, 1)):
        fleet = Fleet(tuple(Worker(name, name, size, 1e10) for name in workers), (host,))
        plan = find_plan(model.facts, options, fleet)
        if plan is not None and len(plan.shares) <= len(workers):
            assert len(plan.shares) == len(workers), "the model has too few layers"
            return plan
    raise AssertionError("there is no such plan")


# -- workers that misbehave ---------------------------------------------------------------------


def rpc_answers(version: tuple[int, int, int], devices: int = 1) -> Handler:
    """A worker that tells its version and devices, and nothing else."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            command, size = struct.unpack("<BQ", await reader.readexactly(9))
            await reader.readexactly(size)
            body = {
                14: struct.pack("<4B24x", *version, 0),
                15: struct.pack("<I", devices),
                11: struct.pack("<QQ", 1 << 33, 1 << 33),
            }.get(command)
            if body is None:
                return
            writer.write(struct.pack("<Q", len(body)) + body)
            await writer.drain()

    return answer


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Take everything and never answer."""
    while await reader.read(4096):
        pass


async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Close at once."""


def relayed_to(address: str) -> Handler:
    """Be the worker at ``address``."""

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, _, port = address.rpartition(":")
        there, back = await asyncio.open_connection(host, int(port))
        async with asyncio.TaskGroup() as group:
            group.create_task(_copy(reader, back))
            group.create_task(_copy(there, writer))

    return relay


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while piece := await reader.read(1 << 16):
            writer.write(piece)
            await writer.drain()
    writer.close()


@asynccontextmanager
async def fake_worker(*handlers: Handler, is_closing: bool = False) -> AsyncIterator[str]:
    """Serve connections in turn, the last handler all later ones, and yield the ``host:port``.

    Args:
        is_closing: after one connection for each handler, later ones are refused.
    """
    taken = 0
    serving: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal taken
        handler = handlers[min(taken, len(handlers) - 1)]
        taken += 1
        if is_closing and taken == len(handlers):
            server.close()
        task = asyncio.current_task()
        assert task is not None
        serving.add(task)
        try:
            with suppress(OSError, EOFError, asyncio.CancelledError):
                await handler(reader, writer)
        finally:
            serving.discard(task)
            writer.close()

    server = await asyncio.start_server(serve, HOST, 0)
    try:
        yield f"{HOST}:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in list(serving):
            task.cancel()
        await asyncio.gather(*serving)
