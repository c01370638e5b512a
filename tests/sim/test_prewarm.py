"""A model is loaded on a real (simulated) node before somebody asks for it there."""

from pathlib import Path

import httpx
import pytest
from structlog.testing import capture_logs

from sollol.bench.sim.config import SimConfig, SimModel
from sollol.bench.sim.faults import Fault
from sollol.bench.sim.node import SimNode
from sollol.gateway.gateway import Gateway
from sollol.scheduling.decision import Prewarm
from sollol.types import Measured, RouteRequest
from sollol.wire.names import model_key
from tests.fleets import Fleet, a_fleet
from tests.gateways import make_settings, our_tasks, running_gateway, wait_for
from tests.scheduling import acquire

pytestmark = pytest.mark.sim

CHAT, EMBED = SimModel("llama3.2:3b", size_gib=0.01), SimModel(
    "nomic-embed-text", size_gib=0.01, capabilities=("embedding",)
)  # fmt: skip
KEY = model_key("llama3.2:3b")
OTHER = SimModel("qwen3:4b", size_gib=0.01)
NODE = SimConfig(models=(CHAT, EMBED, OTHER))
SLOW = SimConfig(models=(CHAT,), load_gib_per_s=0.0001)


def prewarm(fleet: Fleet, model: str, node: str = "a") -> None:
    fleet.running.gateway.warming.begin(Prewarm(node, model, "a test"))


async def metrics(fleet: Fleet) -> str:
    answer = await fleet.client.get("/metrics")
    return "\n".join(line for line in answer.text.splitlines() if "prewarms_total{" in line)


@pytest.mark.parametrize(
    ("model", "path"), [(CHAT, "/api/generate"), (EMBED, "/api/embed")], ids=["chat", "embed"]
)
async def test_a_prewarm_loads_the_model(model: SimModel, path: str) -> None:
    async with a_fleet(NODE) as fleet:
        (node,) = fleet.nodes
        key = model_key(model.name)
        with capture_logs() as logs:
            prewarm(fleet, key)
            await wait_for(lambda: bool(node.state.engine.loaded))
            await wait_for(lambda: any(line["event"] == "model_prewarmed" for line in logs))
        assert fleet.asked(path) == "a"
        (runner,) = node.state.engine.loaded.values()
        assert runner.keep_alive_s == NODE.keep_alive_s
        view = fleet.running.gateway.registry.views
        await wait_for(lambda: key in view()[0].resident)
        assert 'sollol_prewarms_total{node="a",outcome="ok"} 1.0' in await metrics(fleet)


async def leave_memory(fleet: Fleet, model: str, url: str) -> None:
    """Have a model unloaded; behind the gateway's back that is as if its ``keep_alive`` ended."""
    async with httpx.AsyncClient(base_url=url) as client:
        await client.post("/api/generate", json={"model": model, "keep_alive": 0})
    views = fleet.running.gateway.registry.views
    await wait_for(lambda: model_key(model) not in views()[0].resident)


async def test_what_left_all_memory_is_loaded_again_but_for_what_a_caller_unloaded() -> None:
    async with a_fleet(NODE, probe={"interval_s": 0.05}) as fleet:
        (node,) = fleet.nodes
        views = fleet.running.gateway.registry.views
        for model in (OTHER.name, CHAT.name):
            body = {"model": model, "prompt": "hi", "stream": False}
            async with httpx.AsyncClient(base_url=node.url) as direct:
                await direct.post("/api/generate", json=body)
            await wait_for(lambda name=model: model_key(name) in views()[0].resident)  # type: ignore[misc]
            for _ in range(3):
                assert (await fleet.post("/api/generate", body)).status_code == 200
        await leave_memory(fleet, OTHER.name, fleet.running.url)
        with capture_logs() as logs:
            await leave_memory(fleet, CHAT.name, node.url)
            await wait_for(lambda: any(line["event"] == "model_prewarmed" for line in logs))
        assert [runner.name for runner in node.state.engine.loaded.values()] == [CHAT.name]


@pytest.mark.parametrize(
    ("fault", "outcome"),
    [
        (Fault("status", path="/api/generate", status=500), "upstream_status"),
        (Fault("close_before_head", path="/api/generate"), "upstream_cut"),
    ],
    ids=["refused", "cut"],
)
async def test_a_prewarm_that_fails_is_told(fault: Fault, outcome: str) -> None:
    async with a_fleet(NODE) as fleet:
        (node,) = fleet.nodes
        node.set_fault(fault)
        with capture_logs() as logs:
            prewarm(fleet, KEY)
            await wait_for(lambda: any(line["event"] == "model_not_prewarmed" for line in logs))
        (line,) = [line for line in logs if line["event"] == "model_not_prewarmed"]
        assert line["node"] == "a"
        assert line["error"]
        assert f'outcome="{outcome}"' in await metrics(fleet)


async def test_a_node_or_a_model_that_has_gone_is_not_asked() -> None:
    async with a_fleet(NODE) as fleet:
        with capture_logs() as logs:
            prewarm(fleet, "unknown")
            prewarm(fleet, KEY, node="z")
            await wait_for(
                lambda: sum(line["event"] == "model_not_prewarmed" for line in logs) == 2
            )
        assert fleet.asked("/api/generate") == ""
        assert 'node="z"' not in await metrics(fleet)


async def test_a_prewarm_that_the_shutdown_finds_is_broken_off() -> None:
    before = our_tasks()
    async with SimNode(SLOW) as node:
        gateway = Gateway(make_settings({"url": node.url, "name": "a"}))
        async with gateway.running():
            await wait_for(lambda: gateway.is_ready())
            gateway.warming.begin(Prewarm("a", KEY, "a test"))
            await wait_for(lambda: any(r.path == "/api/generate" for r in node.requests))
    assert our_tasks() == before


async def test_what_was_learned_is_there_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "estimates.json"
    scheduling = {"state_file": str(path)}
    measured = Measured(load_s=0.0, prompt_tokens=100, prompt_s=0.1, output_tokens=50,
                        output_s=25.0, total_s=25.1)  # fmt: skip
    predicted = []
    async with SimNode(NODE) as node:
        for number in range(2):
            async with running_gateway(
                {"url": node.url, "name": "a"}, scheduling=scheduling
            ) as running:
                admission, now = running.gateway.admission, running.gateway.clock()
                request = RouteRequest(f"r{number}", KEY, now, now + 100)
                lease = (await acquire(admission, request)).lease
                predicted.append(lease.predicted_s)
                admission.release(lease, measured)
    assert predicted[1] > 10 > predicted[0]
