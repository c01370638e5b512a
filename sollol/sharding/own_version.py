"""Which version of the RPC protocol the llama.cpp of this machine speaks."""

import asyncio
from pathlib import Path

from sollol.errors import WorkerFailed
from sollol.llamacpp.binaries import LlamaBinaries
from sollol.llamacpp.process import ChildProcess
from sollol.ports import HOST, free_port
from sollol.sharding.rpc import connected
from sollol.sharding.worker import WorkerOptions, rpc_server_command

START_TIMEOUT_S = 5.0
_ASK_TIMEOUT_S = 1.0
_POLL_S = 0.01
_known: dict[tuple[Path, int], tuple[int, ...]] = {}


async def own_version(
    binaries: LlamaBinaries, timeout_s: float = START_TIMEOUT_S
) -> tuple[int, ...]:
    """Return the version, or nothing where it cannot be found out.

    The programs do not print it in a way to rely on, so an RPC server of the same build is asked,
    which runs for that moment only; once for each build.
    """
    if binaries.rpc_server is None:
        return ()
    try:
        key = binaries.rpc_server, binaries.rpc_server.stat().st_mtime_ns
    except OSError:
        return ()
    if key not in _known:
        version = await _asked(binaries, timeout_s)
        if not version:
            return ()
        _known[key] = version
    return _known[key]


async def _asked(binaries: LlamaBinaries, timeout_s: float) -> tuple[int, ...]:
    port = free_port()
    options = WorkerOptions(HOST, port, threads=1, has_cache=False)
    command = rpc_server_command(binaries, options)
    child = await ChildProcess.start(command, env=binaries.environment)
    try:
        async with asyncio.timeout(timeout_s):
            return await _answer(child, f"{HOST}:{port}")
    except TimeoutError:
        return ()
    finally:
        await child.stop()


async def _answer(child: ChildProcess, address: str) -> tuple[int, ...]:
    while child.returncode is None:
        try:
            async with connected(address, _ASK_TIMEOUT_S) as connection:
                return await connection.hello()
        except WorkerFailed:
            await asyncio.sleep(_POLL_S)
    return ()
