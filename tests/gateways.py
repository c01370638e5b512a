"""A real gateway on a real socket, in the event loop of the test; nothing may be left behind."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from sollol.api.app import App
from sollol.api.server import GatewayServer, bind
from sollol.gateway.gateway import Gateway
from sollol.gateway.workers import Workers
from sollol.nodes.addresses import Resolve, resolve
from sollol.settings import Settings
from sollol.types import NodeState


@dataclass(frozen=True)
class RunningGateway:
    """``url`` is where it listens; the rest is there to look inside."""

    url: str
    gateway: Gateway
    server: GatewayServer

    @property
    def in_flight(self) -> int:
        return self.gateway.admission.statistics().total_in_flight

    @property
    def queued(self) -> int:
        return self.gateway.admission.statistics().queue_length

    async def wait_healthy(self, count: int) -> None:
        await wait_for(
            lambda: (
                sum(v.state is NodeState.HEALTHY for v in self.gateway.registry.views()) == count
            )
        )


BOOKED_TURNS = 3
"""Of the event loop: after so many, what a request came to is in the metrics, the journal and the log."""


async def wait_for(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    """Return once ``condition()`` holds; fail when it does not come to."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the awaited condition did not come to hold"
        await asyncio.sleep(0.002)
    for _ in range(BOOKED_TURNS):
        await asyncio.sleep(0)


def make_settings(*nodes: Any, **groups: dict[str, Any]) -> Settings:
    """Return settings for a test: a free port, no discovery, no embedded node, quick probes."""
    values: dict[str, dict[str, Any]] = {
        "server": {"port": 0, "shutdown_grace_s": 5},
        "discovery": {"local": False},
        "embedded": {"enabled": False},
        "probe": {"interval_s": 0.1},
        "scheduling": {"state_file": ""},
    }
    for group, changes in groups.items():
        values[group] = values.get(group, {}) | changes
    return Settings.model_validate({"nodes": nodes, **values})


@contextlib.asynccontextmanager
async def running_gateway(
    *nodes: Any,
    healthy: int | None = None,
    look_up: Resolve = resolve,
    workers: Workers | None = None,
    **groups: dict[str, Any],
) -> AsyncIterator[RunningGateway]:
    """Run a gateway over ``nodes``; on the way out, check that it is idle and leaves nothing.

    Args:
        healthy: how many nodes to wait for; all of them when not given.
        look_up: what resolves names of nodes.
        workers: what models over several machines run on.
    """
    settings = make_settings(*nodes, **groups)
    before = our_tasks()
    gateway = Gateway(settings, look_up, workers=workers)
    server = GatewayServer(App(gateway), settings.server)
    listeners = bind(settings.server.host, settings.server.port)
    port = listeners[0].getsockname()[1]
    async with gateway.running():
        serving = asyncio.ensure_future(server.serve(sockets=listeners))
        await server.is_accepting.wait()
        running = RunningGateway(f"http://127.0.0.1:{port}", gateway, server)
        try:
            await running.wait_healthy(len(nodes) if healthy is None else healthy)
            yield running
            await assert_idle(running)
        finally:
            server.stop()
            await serving
    await wait_for(lambda: not our_tasks() - before)  # a scripted node sees its connections end


def our_tasks() -> set[asyncio.Task[Any]]:
    """Return all tasks but those of the test runner itself."""
    return {t for t in asyncio.all_tasks() if "TestRunner" not in repr(t.get_coro())}


async def assert_idle(running: RunningGateway) -> None:
    """Check that no request is in flight or queued, and no connection to a node is in use."""
    await wait_for(lambda: running.in_flight == 0 and running.queued == 0)
    await wait_for(lambda: not running.server.server_state.tasks)
    for node in running.gateway.registry.nodes():
        for connections in (node.connections, node.management):
            await wait_for(lambda c=connections: c.statistics().open == c.statistics().idle)  # type: ignore[misc]
