"""A node that loses its GPU: that is told and shown until it is as fast as before."""

from dataclasses import replace
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from sollol.bench.sim.config import SimConfig, SimModel
from sollol.bench.sim.node import SimNode
from tests.fleets import Fleet, a_fleet
from tests.gateways import wait_for

pytestmark = pytest.mark.sim

MODEL = SimModel("llama3.2:3b", size_gib=0.5)
NODE = SimConfig(models=(MODEL,))
BODY = {"model": MODEL.name, "prompt": "hi", "options": {"num_predict": 20}, "stream": False}


async def load_anew(fleet: Fleet, node: SimNode, vram_gib: float) -> None:
    """Have the model leave the memory, and the next request load it into what there is."""
    node.state.engine.config = replace(NODE, vram_gib=vram_gib)
    async with httpx.AsyncClient() as client:
        await client.post(f"{node.url}/api/generate", json={"model": MODEL.name, "keep_alive": 0})
    views = fleet.running.gateway.registry.views
    await wait_for(lambda: not views()[0].resident)
    await answers(fleet, 4)
    await wait_for(lambda: bool(views()[0].resident))


async def answers(fleet: Fleet, count: int) -> None:
    for _ in range(count):
        assert (await fleet.post("/api/generate", BODY)).status_code == 200


async def shown(fleet: Fleet) -> tuple[list[dict[str, Any]], str]:
    """What the nodes and the metrics say of the first node."""
    nodes = (await fleet.client.get("/sollol/v1/nodes")).json()["nodes"]
    metrics = (await fleet.client.get("/metrics")).text.splitlines()
    (gauge,) = [line for line in metrics if line.startswith("sollol_node_slow{")]
    return nodes[0]["slow"], gauge


async def test_a_node_that_loses_its_gpu_is_told_of_and_shown() -> None:
    probe = {"interval_s": 0.05}
    async with a_fleet(NODE, probe=probe, scheduling={"prewarm": False}) as fleet:
        (node,) = fleet.nodes
        with capture_logs() as logs:

            def told(event: str) -> list[Any]:
                return [line for line in logs if line["event"] == event]

            await answers(fleet, 5)
            assert await shown(fleet) == ([], 'sollol_node_slow{node="a"} 0.0')
            await wait_for(lambda: bool(fleet.running.gateway.registry.views()[0].resident))
            await load_anew(fleet, node, vram_gib=0.0)
            await wait_for(lambda: bool(told("node_slow") and told("model_on_cpu")))
            slow, gauge = await shown(fleet)
            assert gauge == 'sollol_node_slow{node="a"} 1.0'
            assert slow[0]["name"] == MODEL.name
            assert slow[0]["tokens_per_s"] == pytest.approx(5.0)
            assert slow[0]["best_tokens_per_s"] == pytest.approx(50.0)
            estimates = (await fleet.client.get("/sollol/v1/estimates")).json()
            assert estimates["nodes"][0]["models"][0]["is_slow"] is True
            await load_anew(fleet, node, vram_gib=24.0)
            await wait_for(lambda: bool(told("node_fast")))
            assert await shown(fleet) == ([], 'sollol_node_slow{node="a"} 0.0')
        (line,) = told("node_slow")
        assert (line["node"], line["best_tokens_per_s"]) == ("a", 50.0)
        (line,) = told("node_fast")
        assert line["tokens_per_s"] == 50.0
        (line,) = told("model_on_cpu")
        assert (line["node"], line["model"], line["cpu_share"]) == ("a", MODEL.name, 1.0)
