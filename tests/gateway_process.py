"""A gateway as a process of its own, for what only a process can show: signals, and being killed."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from sollol.ports import free_port

ROOT = Path(__file__).parents[1]
START_S = 30.0


@dataclass(frozen=True)
class GatewayProcess:
    """``lines`` is what it has written, one JSON object a line."""

    url: str
    process: asyncio.subprocess.Process
    lines: list[bytes]

    def log(self, event: str) -> list[dict[str, Any]]:
        """Return the lines of an event so far."""
        return [line for line in map(json.loads, self.lines) if line["event"] == event]

    async def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and return the exit code."""
        self.process.send_signal(number)
        async with asyncio.timeout(20):
            return await self.process.wait()


@contextlib.asynccontextmanager
async def gateway_process(
    folder: Path,
    *nodes: str,
    slots: int = 1,
    before: Callable[[], None] | None = None,
    settings: Mapping[str, object] | None = None,
) -> AsyncIterator[GatewayProcess]:
    """Run a gateway until it is ready, and kill it on the way out if it still runs.

    Args:
        folder: where it works.
        slots: of each node.
        before: is called in the child before the gateway starts.
        settings: by ``group.name``.
    """
    port = free_port()
    command = [sys.executable, "-m", "sollol", "serve", "--no-embedded", "--port", str(port)]
    values = {"discovery.local": "false", "log.format": "json", "probe.interval_s": 0.2}
    values |= {"scheduling.state_file": "off"}
    values |= settings or {}
    command += [f"--set={name}={value}" for name, value in values.items()]
    listed = json.dumps([{"url": node, "slots": slots} for node in nodes])
    process = await asyncio.create_subprocess_exec(
        *command,
        stderr=asyncio.subprocess.PIPE,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "SOLLOL_NODES": listed},
        preexec_fn=before,
    )
    assert process.stderr is not None
    running = GatewayProcess(f"http://127.0.0.1:{port}", process, [])
    reading = asyncio.ensure_future(_read(process.stderr, running.lines))
    try:
        await _ready(running)
        yield running
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        await reading


async def _read(stream: asyncio.StreamReader, lines: list[bytes]) -> None:
    async for line in stream:
        lines.append(line)  # noqa: PERF401 - each is to be seen as it comes


async def _ready(running: GatewayProcess) -> None:
    async with httpx.AsyncClient(timeout=5) as client, asyncio.timeout(START_S):
        while True:
            assert running.process.returncode is None, running.lines
            with contextlib.suppress(httpx.TransportError):
                if (await client.get(f"{running.url}/ready")).status_code == 200:
                    return
            await asyncio.sleep(0.05)


async def metric(running: GatewayProcess, name: str) -> float:
    """Return the sum of a metric over its labels."""
    async with httpx.AsyncClient(timeout=5) as client:
        text = (await client.get(f"{running.url}/metrics")).text
    lines = [line for line in text.splitlines() if line.startswith((f"{name} ", f"{name}{{"))]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


async def wait_metric(running: GatewayProcess, name: str, value: float) -> None:
    """Return once a metric has a value."""
    async with asyncio.timeout(START_S):
        while await metric(running, name) != value:  # noqa: ASYNC110 - it is in another process
            await asyncio.sleep(0.01)
