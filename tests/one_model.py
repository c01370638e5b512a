"""A gateway over one node with one model, and requests to it as bytes."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from sollol.bench.sim.config import SimConfig, SimModel
from sollol.bench.sim.node import SimNode
from tests.gateways import RunningGateway, running_gateway

MODEL = SimModel("m")
CLOSE = {"Connection": "close"}


def port_of(running: RunningGateway) -> int:
    return int(running.url.rpartition(":")[2])


def generate(count: int, *, stream: bool = True) -> bytes:
    """Return the body of a request for ``count`` tokens."""
    options = {"num_predict": count}
    return json.dumps({"model": "m", "prompt": "go", "stream": stream, "options": options}).encode()


@asynccontextmanager
async def gateway(server: dict[str, Any] | None = None) -> AsyncIterator[RunningGateway]:
    """Run it, with settings of the group ``server``."""
    async with (
        SimNode(SimConfig(models=(MODEL,))) as node,
        running_gateway(node.url, server=server or {}) as running,
    ):
        yield running
