"""Idle nodes are asked for a token: those that only answer probes are found without a caller."""

import asyncio
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from sollol.bench.sim.config import SimConfig, SimModel
from sollol.bench.sim.faults import Fault
from sollol.bench.sim.node import SimNode
from sollol.gateway.gateway import Gateway
from sollol.types import NodeState
from tests.fleets import Fleet, a_fleet
from tests.gateways import make_settings, our_tasks, running_gateway, wait_for

pytestmark = pytest.mark.sim

CHAT = SimModel("llama3.2:3b", size_gib=0.2)
EMBED = SimModel("nomic-embed-text", size_gib=0.1, capabilities=("embedding",))
NODE = SimConfig(models=(CHAT, EMBED))
PROBE = {"canary": True, "canary_interval_s": 0.05, "canary_timeout_s": 0.1, "interval_s": 0.05}
GROUPS: dict[str, Any] = {
    "probe": PROBE,
    "upstream": {"connect_timeout_s": 0.2},
    "failover": {"eject_s": 0.2, "max_eject_s": 0.4},
}
GENERATE = "/api/generate"


async def load(fleet: Fleet, model: str = CHAT.name, **options: Any) -> None:
    """Have every node load a model, behind the gateway's back."""
    path = "/api/embed" if model == EMBED.name else GENERATE
    async with httpx.AsyncClient() as client:
        for node in fleet.nodes:
            body = {"model": model, "prompt": "hi", "input": "hi", "options": options}
            assert (await client.post(node.url + path, json=body)).status_code == 200


def canaries(node: SimNode) -> list[Any]:
    return [r.json for r in node.requests if r.path == GENERATE and r.json.get("raw")]


def state(fleet: Fleet) -> NodeState:
    return fleet.running.gateway.registry.views()[0].state


async def counted(fleet: Fleet) -> dict[str, float]:
    """How many canaries had which outcome on the first node."""
    text = (await fleet.client.get("/metrics")).text
    start = 'sollol_canaries_total{node="a",outcome="'
    lines = [line[len(start) :] for line in text.splitlines() if line.startswith(start)]
    return {line.split('"')[0]: float(line.split()[-1]) for line in lines}


async def test_a_node_that_answers_probes_but_hangs_is_ejected_without_a_caller() -> None:
    async with a_fleet(NODE, **GROUPS) as fleet:
        (node,) = fleet.nodes
        await load(fleet)
        await wait_for(lambda: len(canaries(node)) > 2)
        assert state(fleet) is NodeState.HEALTHY
        with capture_logs() as logs:
            node.set_fault(Fault("hang_before_head", path=GENERATE))
            await wait_for(lambda: state(fleet) is NodeState.EJECTED)
            node.clear_faults()
            await wait_for(lambda: state(fleet) is NodeState.HEALTHY)
        failures = [line["failure"] for line in logs if line["event"] == "canary_failed"]
        assert set(failures) == {"silent"}
        assert len(failures) >= 3
        outcomes = await counted(fleet)
        assert outcomes["ok"] > 2
        assert outcomes["silent"] >= 3
        assert fleet.running.gateway.registry.nodes()[0].health.ejections_total > 0


async def test_it_asks_for_one_token_of_what_is_in_memory_and_loads_nothing() -> None:
    async with a_fleet(NODE, **GROUPS) as fleet:
        (node,) = fleet.nodes
        await load(fleet, EMBED.name)
        await load(fleet, num_ctx=2048)
        await wait_for(lambda: len(canaries(node)) > 2)
        assert canaries(node)[0]["model"] == CHAT.name
        assert canaries(node)[0]["options"] == {"num_ctx": 2048, "num_predict": 1}
        assert "keep_alive" not in canaries(node)[0]
        assert len(node.state.engine.loads) == 2


async def test_nothing_is_asked_where_nothing_that_completes_is_in_memory() -> None:
    async with a_fleet(NODE, SimConfig(models=(CHAT,)), **GROUPS) as fleet:
        one, two = fleet.nodes
        async with httpx.AsyncClient() as client:
            for node, model, path in ((one, EMBED, "/api/embed"), (two, CHAT, GENERATE)):
                await client.post(node.url + path, json={"model": model.name, "input": "hi"})
        await wait_for(lambda: len(canaries(two)) > 3)
        assert canaries(one) == []


async def test_a_node_at_work_is_left_alone() -> None:
    slow = SimConfig(models=(CHAT,), chunk_interval_s=0.02)
    async with a_fleet(slow, SimConfig(models=(CHAT,)), **GROUPS) as fleet:
        busy, idle = fleet.nodes
        await load(fleet)
        idle.set_fault(Fault("refuse"))
        await wait_for(lambda: fleet.running.gateway.registry.views()[1].state != "healthy")
        body = {"model": CHAT.name, "prompt": "hi", "options": {"num_predict": 20}}
        asked = asyncio.ensure_future(fleet.post(GENERATE, body))
        await wait_for(lambda: fleet.running.in_flight == 1 and not _own(fleet))
        before = len(canaries(busy))
        idle.clear_faults()
        await asked
        assert len(canaries(busy)) <= before + 1  # the next one may follow the answer at once


def _own(fleet: Fleet) -> int:
    """How many canaries are under way."""
    return sum(r.outcome == "running" and bool(r.json.get("raw"))
               for r in fleet.nodes[0].requests if r.path == GENERATE)  # fmt: skip


async def test_a_model_that_leaves_soon_is_not_asked() -> None:
    async with a_fleet(SimConfig(models=(CHAT,), keep_alive_s=10.0), **GROUPS) as fleet:
        (node,) = fleet.nodes
        await load(fleet)
        views = fleet.running.gateway.registry.views
        await wait_for(lambda: bool(views()[0].resident))
        probes = len(node.requests)
        await wait_for(lambda: len(node.requests) > probes + 20)
        assert canaries(node) == []


async def seen(node: SimNode, path: str, times: int = 10) -> None:
    """Wait until a node was asked for a path a few times more."""

    def count() -> int:
        return sum(request.path == path for request in node.requests)

    before = count()
    await wait_for(lambda: count() >= before + times)


async def test_a_model_that_has_just_left_is_not_loaded_again() -> None:
    """Between two probes in turn only the look before the request can tell."""
    async with SimNode(NODE) as node, httpx.AsyncClient() as client:
        body = {"model": CHAT.name}
        await client.post(f"{node.url}{GENERATE}", json=body)
        groups = GROUPS | {"probe": PROBE | {"interval_s": 600}}
        async with running_gateway({"url": node.url, "name": "a"}, **groups):
            await wait_for(lambda: len(canaries(node)) > 1)
            await client.post(f"{node.url}{GENERATE}", json=body | {"keep_alive": 0})
            await seen(node, "/api/ps", times=1)
            await wait_for(lambda: node.in_flight == 0)
            assert len(node.state.engine.loads) == 1
            assert not node.state.engine.loaded


async def test_a_node_that_does_not_answer_the_look_before_is_not_asked() -> None:
    async with a_fleet(NODE, **GROUPS | {"probe": PROBE | {"fall": 10**6}}) as fleet:
        (node,) = fleet.nodes
        await load(fleet)
        await wait_for(lambda: bool(canaries(node)))
        node.set_fault(Fault("status", path="/api/version", status=500))
        await seen(node, "/api/version")
        before = len(canaries(node))
        await seen(node, "/api/version")
        assert len(canaries(node)) == before
        assert state(fleet) is NodeState.HEALTHY


async def test_a_model_that_the_node_is_not_to_run_is_not_asked() -> None:
    async with SimNode(NODE) as node, httpx.AsyncClient() as client:
        await client.post(f"{node.url}{GENERATE}", json={"model": CHAT.name})
        denied = {"url": node.url, "name": "a", "deny_models": [CHAT.name]}
        async with running_gateway(denied, **GROUPS):
            await seen(node, "/api/version")
            assert canaries(node) == []


@pytest.mark.parametrize(
    ("status", "outcome", "limited"),
    [(500, "crashed", True), (404, "missing", False), (503, "full", False)],
)
async def test_what_a_node_says_counts_as_it_would_for_a_caller(
    status: int, outcome: str, limited: bool
) -> None:
    async with a_fleet(NODE, **GROUPS) as fleet:
        (node,) = fleet.nodes
        await load(fleet)
        node.set_fault(Fault("status", path=GENERATE, status=status))
        registry = fleet.running.gateway.registry
        if limited:
            await wait_for(lambda: bool(registry.views()[0].limited))
        else:
            await wait_for(lambda: len(canaries(node)) > 4)
            assert not registry.views()[0].limited
        node.clear_faults()
        await wait_for(lambda: not registry.views()[0].limited)
        assert (await counted(fleet))[outcome] >= 3
        assert state(fleet) is NodeState.HEALTHY


async def test_one_that_the_node_is_removed_from_under_counts_for_nothing() -> None:
    async with a_fleet(NODE, **GROUPS | {"probe": PROBE | {"canary_timeout_s": 60}}) as fleet:
        (node,) = fleet.nodes
        node.set_fault(Fault("hang_before_head", path=GENERATE, model=CHAT.name, times=1))
        async with httpx.AsyncClient() as client:
            await client.post(f"{node.url}/api/chat", json={"model": CHAT.name, "messages": []})
        await wait_for(lambda: _own(fleet) == 1)
        answer = await fleet.client.delete("/sollol/v1/nodes/a?drain_s=0")
        assert answer.json() == {"id": "a", "cut_requests": 1}
        assert await counted(fleet) == {}


async def test_one_that_the_shutdown_finds_is_broken_off() -> None:
    before = our_tasks()
    async with SimNode(NODE) as node:
        async with httpx.AsyncClient() as client:
            await client.post(f"{node.url}{GENERATE}", json={"model": CHAT.name})
        node.set_fault(Fault("hang_before_head", path=GENERATE))
        probe = PROBE | {"canary_timeout_s": 60}
        gateway = Gateway(make_settings({"url": node.url, "name": "a"}, probe=probe))
        async with gateway.running():
            await wait_for(lambda: gateway.admission.in_flight("a") == 1)
        assert gateway.admission.in_flight("a") == 0
    assert our_tasks() == before


async def test_without_the_setting_nothing_is_asked() -> None:
    async with a_fleet(NODE, **GROUPS | {"probe": PROBE | {"canary": False}}) as fleet:
        (node,) = fleet.nodes
        await load(fleet)
        probes = len(node.requests)
        await wait_for(lambda: len(node.requests) > probes + 20)
        assert canaries(node) == []
