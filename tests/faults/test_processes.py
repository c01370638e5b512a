"""Nodes as processes that are killed and restarted under load: no request for a whole answer fails."""

import signal
from pathlib import Path
from typing import Any

import pytest

from sollol.types import NodeState
from tests.faults.processes import Load, NodeProcess, node_processes
from tests.gateways import RunningGateway, running_gateway, wait_for

pytestmark = pytest.mark.sim

RATE_PER_S = 100.0
EJECTED_WITHIN_S = 2.0
BACK_WITHIN_S = 5.0
BETWEEN_RESTARTS = 50
AS_IN_USE: dict[str, Any] = {"probe": {"interval_s": 5.0}}
PATIENT: dict[str, Any] = {"queue": {"max_length": 5000}}
"""A machine that is busy with other tests may fall behind for a while: that refuses nobody here."""


def state_of(running: RunningGateway, node: NodeProcess) -> NodeState:
    return next(v.state for v in running.gateway.registry.views() if v.id == node.id)


async def test_a_killed_node_costs_no_request(tmp_path: Path) -> None:
    async with node_processes(tmp_path, 4) as nodes:
        urls = [f"http://{node.id}" for node in nodes]
        async with running_gateway(*urls, **AS_IN_USE) as running:
            async with Load(running, RATE_PER_S).applied() as load:
                killed = nodes[1]
                for node in nodes:
                    await load.wait_served_by(node)
                await killed.end(signal.SIGKILL)
                await wait_for(
                    lambda: state_of(running, killed) is not NodeState.HEALTHY, EJECTED_WITHIN_S
                )
                await killed.start()
                await load.wait_served_by(killed, BACK_WITHIN_S)
    assert load.failed == []
    assert len(load.ended) == load.sent > 40


async def test_a_rolling_restart_costs_no_request(tmp_path: Path) -> None:
    async with node_processes(tmp_path, 4) as nodes:
        urls = [f"http://{node.id}" for node in nodes]
        async with running_gateway(*urls, **PATIENT) as running:
            async with Load(running, RATE_PER_S).applied() as load:
                for node in nodes:
                    # A request that two nodes died under may be what kills them, and is given up: here
                    # none is older than a restart.
                    await load.wait_ended(load.sent + BETWEEN_RESTARTS)
                    await node.end(signal.SIGTERM)
                    await node.start()
                    await wait_for(lambda n=node: state_of(running, n) is NodeState.HEALTHY)  # type: ignore[misc]
    assert load.failed == []
    assert len(load.ended) == load.sent >= 4 * BETWEEN_RESTARTS
