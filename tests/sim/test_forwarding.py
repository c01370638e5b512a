"""What the gateway does with a node's answer: passes it on, and tells how it ended."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from sollol.bench.sim.config import SimConfig, SimModel
from sollol.bench.sim.faults import Fault
from sollol.bench.sim.node import SimNode
from tests.gateways import RunningGateway, running_gateway, wait_for

pytestmark = pytest.mark.sim

MODEL = "llama3.2:3b"
CHAT = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "hi"}],
    "options": {"num_predict": 6},
}
PACED = SimConfig(models=(SimModel(MODEL),), chunk_interval_s=0.05)


@pytest.fixture
async def node() -> AsyncIterator[SimNode]:
    async with SimNode(SimConfig(models=(SimModel(MODEL),))) as made:
        yield made


@pytest.fixture
async def paced() -> AsyncIterator[SimNode]:
    async with SimNode(PACED) as made:
        yield made


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(timeout=10) as made:
        yield made


def records(body: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in body.splitlines() if line]


async def test_a_model_that_was_loaded_is_listed_as_in_memory_at_once(
    node: SimNode, client: httpx.AsyncClient
) -> None:
    async with running_gateway(node.url, probe={"interval_s": 3600}) as running:
        assert (await client.get(f"{running.url}/api/ps")).json() == {"models": []}
        await client.post(f"{running.url}/api/generate", json={"model": MODEL})
        await wait_for(lambda: bool(running.gateway.registry.views()[0].resident))
        listed = (await client.get(f"{running.url}/api/ps")).json()["models"]
        assert [entry["name"] for entry in listed] == [MODEL]


async def test_an_answer_arrives_as_the_node_gave_it(
    node: SimNode, client: httpx.AsyncClient
) -> None:
    async with running_gateway(node.url) as running:
        for body in (CHAT | {"stream": False}, CHAT):
            direct = await client.post(f"{node.url}/api/chat", json=body)
            through = await client.post(f"{running.url}/api/chat", json=body)
            assert through.status_code == direct.status_code
            assert through.headers["content-type"] == direct.headers["content-type"]
            texts = [[r.get("message") for r in records(a.text)] for a in (direct, through)]
            assert texts[0] == texts[1]
            assert through.headers["x-sollol-node"] == node.url.removeprefix("http://")
            assert through.headers["x-sollol-attempts"] == "1"
            assert "server" not in through.headers


async def test_the_node_sees_the_body_untouched_and_no_origin(
    node: SimNode, client: httpx.AsyncClient
) -> None:
    raw = b'{"messages":[{"role":"user","content":"hi"}], "x_new_field" : 1.50,"MODEL":"llama3.2:3b" ,"stream":false}'
    async with running_gateway(node.url) as running:
        await client.post(
            f"{running.url}/api/chat",
            content=raw.replace(b'"MODEL"', b'"model"'),
            headers={"origin": "http://localhost:3000", "authorization": "Bearer secret"},
        )
    (seen,) = [request for request in node.requests if request.path == "/api/chat"]
    assert seen.body == raw.replace(b'"MODEL"', b'"model"')
    headers = {name.lower(): value for name, value in dict(seen.headers).items()}
    assert "origin" not in headers
    assert "authorization" not in headers
    assert headers["host"] == node.url.removeprefix("http://")


async def test_a_key_in_another_case_is_the_model_too(
    node: SimNode, client: httpx.AsyncClient
) -> None:
    async with running_gateway(node.url) as running:
        answer = await client.post(f"{running.url}/api/generate", content=b'{"MODEL":"nope"}')
        assert (answer.status_code, answer.json()) == (404, {"error": "model 'nope' not found"})


async def test_loading_and_unloading_are_told_as_they_are(
    node: SimNode, client: httpx.AsyncClient
) -> None:
    async with running_gateway(node.url) as running:
        loaded = await client.post(f"{running.url}/api/generate", json={"model": MODEL})
        assert loaded.json()["done_reason"] == "load"
        listed = (await client.get(f"{node.url}/api/ps")).json()["models"]
        assert [entry["name"] for entry in listed] == [MODEL]
        gone = await client.post(f"{running.url}/api/chat", json={"model": MODEL, "keep_alive": 0})
        assert gone.json()["done_reason"] == "unload"
        assert (await client.get(f"{node.url}/api/ps")).json()["models"] == []


async def test_unloading_reaches_every_node_and_waits_for_no_slot(
    client: httpx.AsyncClient,
) -> None:
    async with SimNode(PACED) as one, SimNode(PACED) as two:
        async with running_gateway(one.url, two.url) as running:
            busy = [
                asyncio.ensure_future(client.post(f"{running.url}/api/chat", json=CHAT))
                for _ in range(2)
            ]
            views = running.gateway.registry.views
            await wait_for(lambda: all(view.resident for view in views()))
            assert running.in_flight == 2
            gone = await client.post(
                f"{running.url}/api/generate", json={"model": MODEL, "keep_alive": 0}
            )
            assert gone.json()["done_reason"] == "unload"
            assert running.in_flight == 2
            for answer in await asyncio.gather(*busy):
                assert records(answer.text)[-1]["done"]
            await wait_for(lambda: len(one.unloads) == len(two.unloads) == 1)


@pytest.mark.parametrize("failing", [False, True], ids=["all do it", "one fails"])
async def test_what_was_unloaded_is_no_longer_listed(
    client: httpx.AsyncClient, failing: bool
) -> None:
    """Clients list what is in memory right after an unload, and show it (Open WebUI)."""
    async with SimNode(PACED) as one, SimNode(PACED) as two:
        for node in (one, two):
            await client.post(f"{node.url}/api/generate", json={"model": MODEL})
        async with running_gateway(one.url, two.url, probe={"interval_s": 60}) as running:
            if failing:
                one.set_fault(Fault("status", path="/api/generate", status=500))
            unload = {"model": MODEL, "keep_alive": 0}
            await client.post(f"{running.url}/api/generate", json=unload)
            views = running.gateway.registry.views()
            assert [bool(view.resident) for view in views] == [failing, False]
            listed = (await client.get(f"{running.url}/api/ps")).json()["models"]
            assert [entry["name"] for entry in listed] == [MODEL] * failing


async def test_an_error_record_in_a_stream_is_passed_on(
    node: SimNode, client: httpx.AsyncClient
) -> None:
    async with running_gateway(node.url) as running:
        node.set_fault(Fault("error_record_after_n", path="/api/chat", records=2, message="boom"))
        answer = await client.post(f"{running.url}/api/chat", json=CHAT)
        assert answer.status_code == 200
        assert records(answer.text)[-1] == {"error": "boom"}


@pytest.mark.parametrize(
    "kind", ["cut_after_n_records", "reset_after_n_records", "end_without_done_after_n"]
)
async def test_a_cut_stream_ends_in_an_error_record(
    node: SimNode, client: httpx.AsyncClient, kind: Any
) -> None:
    async with running_gateway(node.url) as running:
        node.set_fault(Fault(kind, path="/api/chat", records=2))
        answer = await client.post(f"{running.url}/api/chat", json=CHAT)
        assert answer.status_code == 200
        *before, last = records(answer.text)
        assert len(before) == 2
        assert all("message" in record for record in before)
        assert list(last) == ["error"]


async def test_a_cut_openai_stream_ends_in_an_error_event(
    node: SimNode, client: httpx.AsyncClient
) -> None:
    body = CHAT | {"stream": True}
    async with running_gateway(node.url) as running:
        node.set_fault(Fault("cut_after_n_records", path="/v1/chat/completions", records=2))
        answer = await client.post(f"{running.url}/v1/chat/completions", json=body)
        last = answer.text.strip().rpartition("\n")[2]
        assert last.startswith("data: ")
        error = json.loads(last.removeprefix("data: "))["error"]
        assert error["type"] == "api_error"


async def test_a_node_that_is_gone_is_replaced_by_another(client: httpx.AsyncClient) -> None:
    config = SimConfig(models=(SimModel(MODEL),))
    async with SimNode(config) as one, SimNode(config) as two:
        async with running_gateway(one.url, two.url, probe={"interval_s": 600}) as running:
            await one.stop_listening()
            for _ in range(6):
                answer = await client.post(f"{running.url}/api/chat", json=CHAT | {"stream": False})
                assert answer.status_code == 200
                assert answer.headers["x-sollol-node"] == two.url.removeprefix("http://")


async def test_without_any_node_the_caller_is_told_to_come_back(client: httpx.AsyncClient) -> None:
    async with running_gateway() as running:
        answer = await client.post(f"{running.url}/api/chat", json=CHAT)
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) >= 1
        assert (await client.get(f"{running.url}/health")).status_code == 200
        ready = await client.get(f"{running.url}/ready")
        assert (ready.status_code, ready.json()["status"]) == (503, "no_node")


async def test_why_no_request_could_be_served_is_told(client: httpx.AsyncClient) -> None:
    async def status(running: RunningGateway) -> str:
        return str((await client.get(f"{running.url}/ready")).json()["status"])

    async with SimNode(SimConfig(models=())) as empty, running_gateway(empty.url) as running:
        await running.wait_healthy(1)
        assert await status(running) == "no_model"
        await empty.stop_listening()
        empty.reset_connections()
        await running.wait_healthy(0)
        assert await status(running) == "no_node"
        running.gateway.stop()
        assert await status(running) == "stopping"
    async with SimNode(SimConfig(models=(SimModel(MODEL),))) as silent:
        silent.set_fault(Fault("black_hole"))
        async with running_gateway(silent.url, healthy=0) as running:
            assert await status(running) == "starting"


async def leave(running: RunningGateway, body: dict[str, Any], read: bool) -> None:
    """Send a request over a raw socket and hang up, after the first record or before it."""
    host, port = running.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    content = json.dumps(body).encode()
    head = f"POST /api/chat HTTP/1.1\r\nHost: x.local\r\nContent-Length: {len(content)}\r\n\r\n"
    writer.write(head.encode() + content)
    if read:
        await reader.readuntil(b'"done":false}\n')
    else:
        await wait_for(lambda: running.in_flight + running.queued > 0)
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize("stream", [True, False])
async def test_a_caller_who_leaves_frees_slot_and_upstream_connection(
    paced: SimNode, stream: bool
) -> None:
    body = CHAT | {"stream": stream, "options": {"num_predict": 1000}}
    async with running_gateway(paced.url) as running:
        await leave(running, body, read=stream)
        await wait_for(lambda: running.in_flight == 0, timeout_s=1)
        await wait_for(lambda: paced.in_flight == 0, timeout_s=1)
        (seen,) = [request for request in paced.requests if request.path == "/api/chat"]
        assert seen.outcome == "aborted"


async def test_a_caller_who_leaves_the_queue_never_reaches_a_node(
    paced: SimNode, client: httpx.AsyncClient
) -> None:
    async with running_gateway(paced.url) as running:
        long = asyncio.ensure_future(
            client.post(f"{running.url}/api/chat", json=CHAT | {"options": {"num_predict": 20}})
        )
        await wait_for(lambda: running.in_flight == 1)
        await leave(running, CHAT, read=False)
        await wait_for(lambda: running.queued == 0)
        assert (await long).status_code == 200
    assert len([r for r in paced.requests if r.path == "/api/chat"]) == 1


async def test_a_node_never_gets_more_than_its_slots(client: httpx.AsyncClient) -> None:
    config = SimConfig(models=(SimModel(MODEL),), slots=2, chunk_interval_s=0.005)
    async with SimNode(config) as node:
        async with running_gateway({"url": node.url, "slots": 2}) as running:
            asked = [client.post(f"{running.url}/api/chat", json=CHAT) for _ in range(12)]
            answers = await asyncio.gather(*asked)
            assert all(answer.status_code == 200 for answer in answers)
            assert any(float(answer.headers["x-sollol-queue-wait"]) > 0 for answer in answers)
    assert max(node.max_in_flight_per_model.values()) == 2


async def test_a_full_queue_refuses(paced: SimNode, client: httpx.AsyncClient) -> None:
    async with running_gateway(paced.url, queue={"max_length": 1}) as running:
        asked = [
            asyncio.ensure_future(client.post(f"{running.url}/api/chat", json=CHAT))
            for _ in range(3)
        ]
        answers = await asyncio.gather(*asked)
        assert sorted(answer.status_code for answer in answers) == [200, 200, 503]
        refused = next(answer for answer in answers if answer.status_code == 503)
        assert refused.json()["error"].startswith("server busy, please try again.")
        assert refused.headers["retry-after"]


async def test_a_wait_that_is_too_long_times_out(paced: SimNode, client: httpx.AsyncClient) -> None:
    slow = CHAT | {"options": {"num_predict": 30}}
    async with running_gateway(paced.url, queue={"timeout_s": 0.3}) as running:
        first = asyncio.ensure_future(client.post(f"{running.url}/api/chat", json=slow))
        await wait_for(lambda: running.in_flight == 1)
        late = await client.post(f"{running.url}/api/chat", json=CHAT)
        assert late.status_code == 504
        assert (await first).status_code == 200


async def test_a_body_with_images_goes_through_a_file_byte_for_byte(
    node: SimNode, client: httpx.AsyncClient
) -> None:
    images = ["QUJD" * 1_000_000]
    message = {"role": "user", "content": "hi", "images": images}
    raw = json.dumps(CHAT | {"stream": False, "messages": [message]}).encode()
    async with running_gateway(node.url) as running:
        answer = await client.post(f"{running.url}/api/chat", content=raw)
        assert answer.status_code == 200
        bad = await client.post(f"{running.url}/api/chat", content=raw[:-1])
        assert (bad.status_code, bad.json()) == (400, {"error": "unexpected EOF"})
    (seen,) = [request for request in node.requests if request.path == "/api/chat"]
    assert seen.body == raw


async def test_a_caller_who_leaves_after_a_long_body_is_noticed(paced: SimNode) -> None:
    content = json.dumps(CHAT | {"padding": "x" * 200_000, "options": {"num_predict": 1000}})
    async with running_gateway(paced.url) as running:
        host, port = running.url.removeprefix("http://").split(":")
        _, writer = await asyncio.open_connection(host, int(port))
        head = (
            f"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(content)}\r\n\r\n"
        )
        writer.write(head.encode())
        await writer.drain()
        writer.write(content.encode())
        await wait_for(lambda: running.in_flight == 1)
        writer.transport.abort()
        await wait_for(lambda: running.in_flight == 0)
