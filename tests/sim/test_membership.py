"""Nodes that join, change and leave while requests run, through the gateway's own API."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from sollol.bench.sim.config import SimConfig, SimModel
from sollol.bench.sim.faults import Fault
from sollol.bench.sim.node import SimNode
from sollol.upstream.json import MAX_ITEMS
from tests.gateways import running_gateway, wait_for
from tests.ollama_script import ollama_script

pytestmark = pytest.mark.sim

MODEL = "llama3.2:3b"
PACED = SimConfig(models=(SimModel(MODEL),), chunk_interval_s=0.02)
QUICK = SimConfig(models=(SimModel(MODEL),))


def chat(tokens: int = 6) -> dict[str, Any]:
    message = {"role": "user", "content": "hi"}
    return {"model": MODEL, "messages": [message], "options": {"num_predict": tokens}}


def node_id(node: SimNode) -> str:
    return node.url.removeprefix("http://")


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(timeout=20) as made:
        yield made


async def test_a_node_is_added_seen_changed_and_removed(client: httpx.AsyncClient) -> None:
    async with SimNode(QUICK) as node, running_gateway() as running:
        nodes = f"{running.url}/sollol/v1/nodes"
        body = {"url": node.url, "name": "one", "slots": 2, "api_key": "canary"}
        added = await client.post(nodes, json=body)
        assert added.status_code == 201
        assert added.headers["location"] == "/sollol/v1/nodes/one"
        status = added.json()
        assert (status["id"], status["state"], status["source"]) == ("one", "healthy", "api")
        assert (status["slots"], status["models"]) == (2, [MODEL])
        assert (await client.get(f"{nodes}/one")).json() == status
        listed = await client.get(nodes)
        assert listed.json()["nodes"] == [status]
        assert "canary" not in added.text + listed.text
        answer = await client.post(f"{running.url}/api/chat", json=chat())
        assert answer.headers["x-sollol-node"] == "one"

        changed = await client.patch(f"{nodes}/one", json={"slots": 3, "draining": True})
        assert changed.json()["slots"] == 3
        assert (changed.json()["state"], changed.json()["draining"]) == ("draining", True)
        refused = await client.post(f"{running.url}/api/chat", json=chat())
        assert refused.status_code == 503
        resumed = await client.patch(f"{nodes}/one", json={"draining": False, "slots": None})
        assert (resumed.json()["slots"], resumed.json()["state"]) == (1, "healthy")

        counted = 'sollol_requests_total{node="one"'
        assert counted in (await client.get(f"{running.url}/metrics")).text
        removed = await client.delete(f"{nodes}/one")
        assert counted not in (await client.get(f"{running.url}/metrics")).text
        assert removed.json() == {"id": "one", "cut_requests": 0}
        assert (await client.get(f"{nodes}/one")).status_code == 404
        assert (await client.get(nodes)).json()["nodes"] == []


@pytest.mark.parametrize(
    ("body", "status", "code", "text"),
    [
        ({"url": "{node}", "name": "x"}, 409, "node_conflict", "is node {id} already"),
        ({"url": "{local}"}, 409, "node_conflict", "is node {id} already"),
        (
            {"url": "127.0.0.1", "name": "{id}"},
            409,
            "node_conflict",
            "a node is called {id} already",
        ),
        ({"url": "gpu1", "name": "embedded"}, 409, "node_conflict", "the gateway's own node"),
        ({}, 422, "invalid_request", "url: Field required"),
        ({"url": "ftp://x"}, 422, "invalid_request", "must start with http:// or https://"),
        ({"url": "a..b"}, 422, "invalid_request", "names no valid host"),
        ({"url": "a", "slots": 0}, 422, "invalid_request", "slots: "),
        ({"url": "a", "nmae": "x"}, 422, "invalid_request", "nmae: "),
        ({"url": "a", "api_key": ["canary"]}, 422, "invalid_request", "api_key: "),
        (b"{", 400, "invalid_request", "not valid JSON"),
        (b" " * 70_000, 413, "request_too_large", "request body too large"),
    ],
)
async def test_what_cannot_be_added_is_refused_in_one_form(
    client: httpx.AsyncClient, body: Any, status: int, code: str, text: str
) -> None:
    async with SimNode(QUICK) as node, running_gateway(node.url) as running:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        content = content.replace(b"{node}", node.url.encode())
        content = content.replace(b"{id}", node_id(node).encode())
        content = content.replace(b"{local}", b"localhost:%d" % node.port)
        answer = await client.post(f"{running.url}/sollol/v1/nodes", content=content)
        assert (answer.status_code, answer.json()["code"]) == (status, code)
        assert text.replace("{id}", node_id(node)) in answer.json()["error"]
        assert "canary" not in answer.text
        assert set(answer.json()) == {"error", "code"}


async def test_of_two_names_of_one_server_that_come_at_once_one_is_added(
    client: httpx.AsyncClient,
) -> None:
    both = asyncio.Barrier(2)

    async def look_up(host: str, port: int) -> frozenset[str]:
        if host != "listed.example":
            return frozenset({"127.0.0.1"})
        with contextlib.suppress(TimeoutError, asyncio.BrokenBarrierError):
            async with asyncio.timeout(0.3):
                await both.wait()
        return frozenset({"192.0.2.1"})

    listed = "http://listed.example:1"
    async with SimNode(QUICK) as node, running_gateway(listed, healthy=0, look_up=look_up) as run:
        run.gateway.discovery._places.forget()
        urls = [f"http://{name}.example:{node.port}" for name in ("one", "two")]
        adding = [client.post(f"{run.url}/sollol/v1/nodes", json={"url": url}) for url in urls]
        answers = await asyncio.gather(*adding)
        assert sorted(answer.status_code for answer in answers) == [201, 409]


async def test_a_node_with_more_models_than_there_are_holds_up_nobody(
    client: httpx.AsyncClient,
) -> None:
    names = tuple(map(str, range(MAX_ITEMS + 1)))
    async with ollama_script(models=names) as node, running_gateway() as running:
        answer = await client.post(f"{running.url}/sollol/v1/nodes", json={"url": node.url})
        status = answer.json()
        assert (status["state"], status["models"]) == ("unhealthy", [])
        assert "more than 10000 are not looked at" in status["last_error"]


@pytest.mark.parametrize("host", ["gateway.example", "[::ffff:127.0.0.1]"])
async def test_the_gateway_is_no_node_of_its_own_by_any_name(
    client: httpx.AsyncClient, host: str
) -> None:
    async def look_up(_: str, port: int) -> frozenset[str]:
        return frozenset({"127.0.0.1"})

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    async with running_gateway(server={"port": port}, look_up=look_up) as running:
        body = {"url": f"http://{host}:{port}"}
        answer = await client.post(f"{running.url}/sollol/v1/nodes", json=body)
        assert (answer.status_code, answer.json()["code"]) == (409, "node_conflict")
        assert "is the address of this gateway itself" in answer.json()["error"]


@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
async def test_an_unknown_node_is_404(client: httpx.AsyncClient, method: str) -> None:
    async with running_gateway() as running:
        url = f"{running.url}/sollol/v1/nodes/none"
        body = {"slots": 1} if method == "PATCH" else None
        answer = await client.request(method, url, json=body)
        assert answer.status_code == 404
        text = "no node is called none; there are: none"
        assert answer.json() == {"error": text, "code": "node_not_found"}


async def test_a_node_that_is_down_is_added_and_says_why(client: httpx.AsyncClient) -> None:
    async with SimNode(QUICK) as node, running_gateway() as running:
        await node.stop_listening()
        added = await client.post(f"{running.url}/sollol/v1/nodes", json={"url": node.url})
        assert (added.status_code, added.json()["state"]) == (201, "unhealthy")
        assert added.json()["last_error"]
        await node.start_listening()
        await running.wait_healthy(1)


async def test_a_request_that_waits_goes_to_the_node_that_joins(client: httpx.AsyncClient) -> None:
    async with SimNode(PACED) as busy, SimNode(QUICK) as new, running_gateway(busy.url) as running:
        long = asyncio.ensure_future(client.post(f"{running.url}/api/chat", json=chat(10_000)))
        await wait_for(lambda: running.in_flight == 1)
        waiting = asyncio.ensure_future(client.post(f"{running.url}/api/chat", json=chat()))
        await wait_for(lambda: running.queued == 1)
        await client.post(f"{running.url}/sollol/v1/nodes", json={"url": new.url})
        assert (await waiting).headers["x-sollol-node"] == node_id(new)
        await client.delete(f"{running.url}/sollol/v1/nodes/{node_id(busy)}?drain_s=0")
        assert list(json.loads((await long).text.splitlines()[-1])) == ["error"]


async def test_a_stream_ends_whole_on_a_node_that_is_removed(client: httpx.AsyncClient) -> None:
    async with (
        SimNode(PACED) as leaving,
        SimNode(QUICK) as other,
        running_gateway(leaving.url) as running,
    ):
        nodes = f"{running.url}/sollol/v1/nodes"
        streams = asyncio.ensure_future(client.post(f"{running.url}/api/chat", json=chat(30)))
        await wait_for(lambda: running.in_flight == 1)
        removal = asyncio.ensure_future(client.delete(f"{nodes}/{node_id(leaving)}?drain_s=20"))
        await wait_for(lambda: running.gateway.registry.nodes()[0].settings.draining)
        again = await client.patch(f"{nodes}/{node_id(leaving)}", json={"draining": False})
        assert (again.status_code, again.json()["code"]) == (409, "node_conflict")
        await client.post(nodes, json={"url": other.url})
        next_one = await client.post(f"{running.url}/api/chat", json=chat())
        assert next_one.headers["x-sollol-node"] == node_id(other)
        assert json.loads((await streams).text.splitlines()[-1])["done"] is True
        assert (await removal).json()["cut_requests"] == 0
        assert leaving.open_connections == 0


async def test_what_takes_too_long_is_cut_and_told(client: httpx.AsyncClient) -> None:
    async with SimNode(PACED) as node, running_gateway(node.url) as running:
        stream = asyncio.ensure_future(client.post(f"{running.url}/api/chat", json=chat(10_000)))
        await wait_for(lambda: running.in_flight == 1)
        url = f"{running.url}/sollol/v1/nodes/{node_id(node)}"
        slow = asyncio.ensure_future(client.delete(f"{url}?drain_s=600"))
        await wait_for(lambda: running.gateway.registry.nodes()[0].settings.draining)
        quick = await client.delete(f"{url}?drain_s=0")  # the shorter limit counts
        assert quick.json()["cut_requests"] == (await slow).json()["cut_requests"] == 1
        assert list(json.loads((await stream).text.splitlines()[-1])) == ["error"]
        assert node.open_connections == 0


async def test_a_request_without_a_first_byte_goes_to_another_node(
    client: httpx.AsyncClient,
) -> None:
    async with (
        SimNode(QUICK) as hanging,
        SimNode(QUICK) as other,
        running_gateway(hanging.url) as running,
    ):
        hanging.set_fault(Fault("hang_before_head", path="/api/chat"))
        asked = asyncio.ensure_future(client.post(f"{running.url}/api/chat", json=chat()))
        await wait_for(lambda: running.in_flight == 1 and hanging.in_flight == 1)
        await client.post(f"{running.url}/sollol/v1/nodes", json={"url": other.url})
        await client.delete(f"{running.url}/sollol/v1/nodes/{node_id(hanging)}?drain_s=0")
        answer = await asked
        assert answer.status_code == 200
        assert answer.headers["x-sollol-node"] == node_id(other)


async def test_a_removal_goes_on_when_the_caller_leaves(client: httpx.AsyncClient) -> None:
    async with SimNode(PACED) as node, running_gateway(node.url) as running:
        stream = asyncio.ensure_future(client.post(f"{running.url}/api/chat", json=chat(20)))
        await wait_for(lambda: running.in_flight == 1)
        url = f"{running.url}/sollol/v1/nodes/{node_id(node)}?drain_s=20"
        removal = asyncio.ensure_future(client.delete(url))
        await wait_for(lambda: running.gateway.registry.nodes()[0].settings.draining)
        removal.cancel()
        assert json.loads((await stream).text.splitlines()[-1])["done"] is True
        await wait_for(lambda: not running.gateway.registry.nodes())


# Routes that answer GET and HEAD alike have one id for both.
@pytest.mark.filterwarnings("ignore:Duplicate Operation ID")
async def test_the_openapi_document_describes_the_routes(client: httpx.AsyncClient) -> None:
    async with running_gateway() as running:
        paths = (await client.get(f"{running.url}/openapi.json")).json()["paths"]
        assert set(paths["/sollol/v1/nodes"]) == {"get", "post"}
        one = paths["/sollol/v1/nodes/{node_id}"]
        assert set(one) == {"get", "patch", "delete"}
        errors = paths["/sollol/v1/nodes"]["post"]["responses"]
        for status in ("400", "409", "422"):
            schema = errors[status]["content"]["application/json"]["schema"]
            assert schema["$ref"].endswith("/ApiError")
