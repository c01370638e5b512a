"""Other software on the address of a node: ``engine: auto`` asks again; what works stays as it is."""

import json
from typing import Any

import pytest

from sollol.types import Engine, NodeState, NodeView
from tests.gateways import RunningGateway, running_gateway, wait_for
from tests.scripted_node import Node, Peer

pytestmark = pytest.mark.sim

Answers = dict[str, tuple[int, Any]]

LISTED: Answers = {"/v1/models": (200, {"object": "list", "data": [{"id": "other"}]})}
OLLAMA: Answers = LISTED | {
    "/api/version": (200, {"version": "0.12.0"}),
    "/api/tags": (200, {"models": [{"name": "m:latest", "capabilities": ["completion"]}]}),
    "/api/ps": (200, {"models": []}),
}
LLAMA: Answers = LISTED | {
    "/health": (200, {"status": "ok"}),
    "/props": (200, {"default_generation_settings": {}, "total_slots": 3, "build_info": "b1"}),
    "/v1/embeddings": (501, {"error": "off"}),
}
AWAY: Answers = {}


class Place:
    """An address, and the software that answers there: ``AWAY`` closes every connection."""

    def __init__(self, answers: Answers) -> None:
        self.answers = answers
        self.asked: list[str] = []

    async def script(self, peer: Peer) -> None:
        while True:
            head, _ = await peer.request()
            path = head.split(b" ")[1].decode()
            self.asked.append(path)
            if not self.answers:
                return
            status, value = self.answers.get(path, (404, {"error": "File Not Found"}))
            body = json.dumps(value).encode()
            line = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\n"
            await peer.send(f"{line}Content-Length: {len(body)}\r\n\r\n".encode() + body)


async def started(place: Place) -> tuple[Node, str]:
    node = Node(place.script)
    await node.start()
    return node, f"http://127.0.0.1:{node.port}"


def view(running: RunningGateway) -> NodeView:
    (only,) = running.gateway.registry.views()
    return only


def works_as(running: RunningGateway, engine: Engine) -> bool:
    return (view(running).engine, view(running).state) == (engine, NodeState.HEALTHY)


@pytest.mark.parametrize("between", [None, AWAY])
async def test_a_node_whose_software_changes_is_found_out_about(between: Answers | None) -> None:
    place = Place(OLLAMA)
    node, url = await started(place)
    async with running_gateway(url) as running:
        for answers, engine in ((LLAMA, Engine.LLAMA_SERVER), (OLLAMA, Engine.OLLAMA)):
            if between is not None:
                place.answers = between
                await wait_for(lambda: view(running).state is NodeState.UNHEALTHY)
            place.answers = answers
            await wait_for(lambda e=engine: works_as(running, e))  # type: ignore[misc]
            assert view(running).slots == (3 if answers is LLAMA else 1)
            assert set(view(running).models) == {
                "registry.ollama.ai/library/" + ("other:latest" if answers is LLAMA else "m:latest")
            }
    await node.stop()


async def test_what_a_llama_server_can_do_is_asked_again_of_the_next_one() -> None:
    place = Place(LLAMA)
    node, url = await started(place)
    async with running_gateway(url) as running:
        place.answers = AWAY
        await wait_for(lambda: view(running).state is NodeState.UNHEALTHY)
        place.answers = LLAMA | {"/v1/embeddings": (400, {"error": "no input"})}
        await wait_for(lambda: works_as(running, Engine.LLAMA_SERVER))
        (model,) = view(running).models.values()
        assert "embedding" in model.capabilities
    await node.stop()


@pytest.mark.parametrize("status", [429, 502, 503, 504])
async def test_an_ollama_that_is_out_of_order_is_not_taken_for_something_else(status: int) -> None:
    place = Place(OLLAMA)
    node, url = await started(place)
    async with running_gateway(url) as running:
        place.answers = OLLAMA | {"/api/version": (status, {"error": "x"})}
        await wait_for(lambda: view(running).state is NodeState.UNHEALTHY)
        assert view(running).engine is Engine.OLLAMA
        assert "/props" not in place.asked
        assert f"/api/version answered {status}" in view(running).last_error
        place.answers = OLLAMA
        await wait_for(lambda: works_as(running, Engine.OLLAMA))
    await node.stop()


async def test_a_server_that_answers_is_not_asked_what_it_is_again() -> None:
    place = Place(LLAMA)
    node, url = await started(place)
    async with running_gateway(url) as running:
        assert works_as(running, Engine.LLAMA_SERVER)
        place.asked.clear()
        await wait_for(lambda: place.asked.count("/health") > 3)
        assert "/api/version" not in place.asked
    await node.stop()


async def test_an_engine_of_the_settings_stays() -> None:
    place = Place(OLLAMA)
    node, url = await started(place)
    async with running_gateway({"url": url, "engine": "ollama"}) as running:
        place.answers = LLAMA
        await wait_for(lambda: view(running).state is NodeState.UNHEALTHY)
        seen = len(place.asked)
        await wait_for(lambda: len(place.asked) > seen + 2)
        assert view(running).engine is Engine.OLLAMA
        assert "/props" not in place.asked
    await node.stop()
