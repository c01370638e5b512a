"""How a simulated node behaves: slots, loads, evictions, caches, time and disconnects."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from sollol.bench.sim.config import SimConfig, SimModel
from sollol.bench.sim.faults import Fault
from sollol.bench.sim.node import SimNode
from tests.raw_http import render, talk, wait_until

pytestmark = pytest.mark.sim

A = SimModel("a", size_gib=8.0)
B = SimModel("b", size_gib=8.0)
C = SimModel("c", size_gib=8.0)
LONG_PROMPT = "tell me a story about a fox and a hen " * 40


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(timeout=20, limits=limits) as made:
        yield made


@pytest.fixture
async def node() -> AsyncIterator[SimNode]:
    before = asyncio.all_tasks()
    async with SimNode(SimConfig(models=(A, B, C))) as made:
        yield made
        await wait_until(lambda: made.in_flight == 0)
    assert not made.connections
    assert not {task for task in asyncio.all_tasks() - before if "SimNode" in repr(task)}


def chat(model: str = "a", text: str = "hi", **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": text}], "stream": False} | more


def limited(tokens: int, **options: Any) -> dict[str, Any]:
    return {"options": {"num_predict": tokens, **options}}


async def ask(client: httpx.AsyncClient, node: SimNode, **body: Any) -> dict[str, Any]:
    answer = await client.post(f"{node.url}/api/chat", json=chat(**body))
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def resident(client: httpx.AsyncClient, node: SimNode) -> list[str]:
    answer = await client.get(f"{node.url}/api/ps")
    return [model["name"] for model in answer.json()["models"]]


async def test_two_nodes_with_the_same_model_give_the_same_text(client: httpx.AsyncClient) -> None:
    async with SimNode(SimConfig(models=(A,))) as one, SimNode(SimConfig(models=(A,))) as two:
        first, second = await ask(client, one), await ask(client, two)
        other = await ask(client, one, text="something else")
    assert first["message"] == second["message"]
    assert first["message"] != other["message"]
    assert first["done_reason"] == "stop"


async def test_num_predict_is_the_number_of_tokens(
    client: httpx.AsyncClient, node: SimNode
) -> None:
    answer = await client.post(f"{node.url}/api/chat", json=chat(stream=True) | limited(7))
    *tokens, last = [json.loads(line) for line in answer.text.splitlines()]
    assert len(tokens) == last["eval_count"] == 7
    assert last["done_reason"] == "length"
    whole = await ask(client, node, **limited(7))
    assert "".join(record["message"]["content"] for record in tokens) == whole["message"]["content"]


@pytest.mark.parametrize("cut_at", [1, 8, 30, 61])
async def test_another_node_continues_a_partial_answer_exactly(
    client: httpx.AsyncClient, node: SimNode, cut_at: int
) -> None:
    whole = (await ask(client, node))["message"]["content"]
    messages = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": whole[:cut_at]},
    ]
    async with SimNode(SimConfig(models=(A,))) as other:
        rest = await ask(client, other, messages=messages)
    assert whole[:cut_at] + rest["message"]["content"] == whole


async def test_a_raw_prompt_that_ends_in_its_answer_is_continued(
    client: httpx.AsyncClient, node: SimNode
) -> None:
    body = {"model": "a", "prompt": "Question? ", "raw": True, "stream": False}
    whole = (await client.post(f"{node.url}/api/generate", json=body)).json()
    assert "context" not in whole
    said = whole["response"]
    body["prompt"] = "Question? " + said[:40]
    rest = (await client.post(f"{node.url}/api/generate", json=body)).json()
    assert said[:40] + rest["response"] == said


async def test_durations_add_up_and_a_known_prefix_is_cheap(
    client: httpx.AsyncClient, node: SimNode
) -> None:
    cold = await ask(client, node, text=LONG_PROMPT)
    warm = await ask(client, node, text=LONG_PROMPT)
    for answer in (cold, warm):
        parts = ("load_duration", "prompt_eval_duration", "eval_duration")
        assert answer["total_duration"] == pytest.approx(sum(answer[part] for part in parts))
    assert cold["load_duration"] == pytest.approx(8 / 2 * 1e9)
    assert warm["load_duration"] < 10e6
    assert warm["prompt_eval_duration"] < cold["prompt_eval_duration"] / 4
    assert warm["prompt_eval_count"] == cold["prompt_eval_count"]


async def test_the_next_turn_of_a_conversation_knows_the_turns_before(
    client: httpx.AsyncClient, node: SimNode
) -> None:
    first = await ask(client, node, text=LONG_PROMPT)
    messages = [
        {"role": "user", "content": LONG_PROMPT},
        first["message"],
        {"role": "user", "content": "go on"},
    ]
    second = await ask(client, node, messages=messages)
    assert second["prompt_eval_count"] > first["prompt_eval_count"]
    assert second["prompt_eval_duration"] < first["prompt_eval_duration"] / 4


async def test_a_repeated_request_is_told_apart_by_nothing_but_its_moment(
    client: httpx.AsyncClient, node: SimNode
) -> None:
    answers = [await ask(client, node, text=LONG_PROMPT, keep_alive="1h") for _ in range(6)]
    moments = [answer.pop("created_at") for answer in answers]
    assert len(set(moments)) == 6
    assert answers[2:] == [answers[1]] * 4
    assert {record.outcome for record in node.requests} == {"completed"}
    assert {(record.model, record.status) for record in node.requests} == {("a", 200)}
    assert len(node.requests) == 6
    url = f"{node.url}/api/chat"
    body = chat(text=LONG_PROMPT, keep_alive="1h")
    foreign = await client.post(url, json=body, headers={"Origin": "http://evil.example"})
    assert foreign.status_code == 403
    node.set_fault(Fault("status", status=503, times=1))
    assert (await client.post(url, json=body)).status_code == 503
    node.state.models.remove("a")
    assert (await client.post(url, json=body)).status_code == 404


async def test_a_repeated_request_sees_a_reload(client: httpx.AsyncClient, node: SimNode) -> None:
    warm = [await ask(client, node) for _ in range(4)][-1]
    await client.post(f"{node.url}/api/generate", json={"model": "a", "keep_alive": 0})
    assert (await ask(client, node))["load_duration"] > warm["load_duration"]
    assert len(node.loads) == 2


@pytest.mark.parametrize("slots", [1, 3])
async def test_no_more_sequences_run_than_there_are_slots(
    client: httpx.AsyncClient, slots: int
) -> None:
    config = SimConfig(models=(A,), slots=slots, chunk_interval_s=0.001)
    async with SimNode(config) as node:
        answers = await asyncio.gather(
            *(ask(client, node, text=f"{place}", **limited(5)) for place in range(8))
        )
        assert node.max_running_per_model == {"a:latest": slots}
        assert node.max_in_flight_per_model["a"] > slots
    waits = [
        answer["total_duration"]
        - answer["load_duration"]
        - answer["prompt_eval_duration"]
        - answer["eval_duration"]
        for answer in answers
    ]
    assert sum(wait > 1_000_000 for wait in waits) >= 8 - slots
    assert len(node.loads) == 1


async def test_embedding_models_have_one_slot(client: httpx.AsyncClient) -> None:
    embedder = SimModel("e", capabilities=("embedding",))
    async with SimNode(SimConfig(models=(embedder,), slots=4, time_scale=0.01)) as node:
        body = {"model": "e", "input": "words " * 200}
        await asyncio.gather(*(client.post(f"{node.url}/api/embed", json=body) for _ in range(4)))
        assert node.max_running_per_model == {"e:latest": 1}


async def test_others_on_the_node_slow_decoding_down(client: httpx.AsyncClient) -> None:
    config = SimConfig(models=(A,), slots=2, time_scale=0.1, decode_tok_s=100)
    async with SimNode(config) as node:
        alone = await ask(client, node, text="1", **limited(64))
        together = await asyncio.gather(
            ask(client, node, text="2", **limited(64)), ask(client, node, text="3", **limited(64))
        )
    assert alone["eval_duration"] == pytest.approx(0.64e9)
    assert max(answer["eval_duration"] for answer in together) > alone["eval_duration"] * 1.1


async def test_models_that_do_not_fit_push_out_the_one_unused_longest(
    client: httpx.AsyncClient, node: SimNode
) -> None:
    await ask(client, node, model="a")
    await ask(client, node, model="b")
    await ask(client, node, model="a")
    assert node.evictions == []
    await ask(client, node, model="c")  # 24 GiB hold three
    four = SimModel("d", size_gib=4.0)
    node.state.models.add(four, "d")
    await ask(client, node, model="d")
    assert [record.model for record in node.evictions] == ["b:latest"]
    assert sorted(await resident(client, node)) == ["a:latest", "c:latest", "d:latest"]


async def test_a_busy_victim_is_waited_for(client: httpx.AsyncClient) -> None:
    config = SimConfig(models=(A, B), vram_gib=10, chunk_interval_s=0.005)
    async with SimNode(config) as node:
        busy = asyncio.ensure_future(ask(client, node, model="a", **limited(20)))
        await wait_until(lambda: node.max_running_per_model == {"a:latest": 1})
        await ask(client, node, model="b", **limited(1))
        assert busy.done()
        assert [record.model for record in node.evictions] == ["a:latest"]
        first, second = node.requests
    assert first.finished is not None
    assert node.loads[1].started >= first.finished - 0.1
    assert second.outcome == "completed"


async def test_loads_are_serial_and_invisible_while_they_last(client: httpx.AsyncClient) -> None:
    config = SimConfig(models=(A, B), time_scale=0.02)  # a load takes 80 ms
    async with SimNode(config) as node:
        asked = asyncio.gather(ask(client, node, model="a"), ask(client, node, model="b"))
        await wait_until(lambda: len(node.loads) == 1)
        assert await resident(client, node) == []
        await asked
        first, second = node.loads
        assert first.finished is not None
        assert second.started >= first.finished
        assert sorted(await resident(client, node)) == ["a:latest", "b:latest"]


async def test_another_context_length_is_another_load(
    client: httpx.AsyncClient, node: SimNode
) -> None:
    for num_ctx in (4096, 4096, 2048):
        await ask(client, node, options={"num_ctx": num_ctx})
    await ask(client, node)
    assert [(load.num_ctx, load.reason) for load in node.loads] == [
        (4096, "cold"),
        (2048, "reload"),
        (8192, "reload"),
    ]
    assert node.evictions == []


async def test_requests_that_need_a_load_are_bounded(client: httpx.AsyncClient) -> None:
    config = SimConfig(models=(A,), slots=8, max_queue=2, time_scale=0.02)
    async with SimNode(config) as node:
        answers = await asyncio.gather(
            *(client.post(f"{node.url}/api/chat", json=chat()) for _ in range(10))
        )
        refused = [answer for answer in answers if answer.status_code == 503]
        assert len(refused) == 7
        busy = "server busy, please try again.  maximum pending requests exceeded"
        assert refused[0].json() == {"error": busy}
        hot = await asyncio.gather(
            *(client.post(f"{node.url}/api/chat", json=chat()) for _ in range(10))
        )
        assert {answer.status_code for answer in hot} == {200}


async def test_load_only_and_unload(client: httpx.AsyncClient, node: SimNode) -> None:
    for path, said in (
        ("chat", {"message": {"role": "assistant", "content": ""}}),
        ("generate", {"response": ""}),
    ):
        url = f"{node.url}/api/{path}"
        loaded = (await client.post(url, json={"model": "A"})).json()
        del loaded["created_at"]
        assert loaded == {"model": "A", **said, "done": True, "done_reason": "load"}
        assert await resident(client, node) == ["a:latest"]
        gone = (await client.post(url, json={"model": "a", "keep_alive": 0})).json()
        assert gone["done_reason"] == "unload"
        assert await resident(client, node) == []
    assert [record.reason for record in node.unloads] == ["asked", "asked"]


async def test_keep_alive_sticks_and_ends(client: httpx.AsyncClient, node: SimNode) -> None:
    await ask(client, node, keep_alive=-1)
    await ask(client, node)
    entry = (await client.get(f"{node.url}/api/ps")).json()["models"][0]
    assert int(entry["expires_at"][:4]) > 2300
    await ask(client, node, keep_alive="20ms")
    await wait_until(lambda: [record.reason for record in node.unloads] == ["expired"])
    assert await resident(client, node) == []


async def test_a_longer_keep_alive_moves_the_end(client: httpx.AsyncClient, node: SimNode) -> None:
    await ask(client, node, keep_alive="20ms")
    await ask(client, node, keep_alive="10m")
    runner = next(iter(node.state.engine.loaded.values()))
    in_a_minute = asyncio.get_running_loop().time() + 60
    await wait_until(lambda: runner.timer is not None and runner.timer.when() > in_a_minute)
    assert await resident(client, node) == ["a:latest"]


async def test_unloading_a_busy_model_lets_it_finish(client: httpx.AsyncClient) -> None:
    async with SimNode(SimConfig(models=(A,), chunk_interval_s=0.005)) as node:
        busy = asyncio.ensure_future(ask(client, node, **limited(20)))
        await wait_until(lambda: node.max_running_per_model == {"a:latest": 1})
        body = {"model": "a", "keep_alive": 0}
        assert (await client.post(f"{node.url}/api/generate", json=body)).status_code == 200
        assert not busy.done()
        assert await resident(client, node) == ["a:latest"]
        assert (await busy)["eval_count"] == 20
        await wait_until(lambda: not node.state.engine.loaded)


@pytest.mark.parametrize("stage", ["loading", "queued", "decoding", "streaming"])
async def test_a_client_that_leaves_aborts_the_work(stage: str) -> None:
    config = SimConfig(
        models=(A,),
        time_scale=1.0 if stage == "loading" else 0.0,
        chunk_interval_s=0.0 if stage == "loading" else 0.05,
    )
    body = json.dumps(chat(stream=stage == "streaming") | limited(10_000)).encode()
    head = b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body)
    async with SimNode(config) as node:
        writers = []
        for expected in range(1, 3 if stage == "queued" else 2):
            reader, writer = await asyncio.open_connection("127.0.0.1", node.port)
            writer.write(head + body)
            writers.append(writer)
            await wait_until(lambda count=expected: node.in_flight == count)  # type: ignore[misc]
            if stage == "streaming":
                assert await reader.readline()
        if stage == "loading":
            await wait_until(lambda: len(node.loads) == 1)
        for writer in reversed(writers):  # the queued one first
            writer.close()
            await writer.wait_closed()
        await wait_until(lambda: node.in_flight == 0)
        assert {record.outcome for record in node.requests} == {"aborted"}
        assert node.state.engine.decoding == 0
        assert all(runner.refs == 0 for runner in node.state.engine.loaded.values())
        if stage == "loading":
            assert node.loads[0].outcome == "aborted"
            assert not node.state.engine.loaded
        await wait_until(lambda: node.open_connections == 0)


async def test_names_are_equal_in_any_case_and_with_or_without_the_tag(
    client: httpx.AsyncClient, node: SimNode
) -> None:
    for name in ("a", "A:latest", "library/a", "registry.ollama.ai/library/a:LATEST"):
        assert (await ask(client, node, model=name))["model"] == name
    assert len(node.loads) == 1


async def test_json_and_schema_answers_are_json(client: httpx.AsyncClient, node: SimNode) -> None:
    schema = {
        "type": "object",
        "properties": {
            "age": {"type": "integer"},
            "tags": {"type": "array"},
            "ok": {"type": "boolean"},
        },
    }
    plain = await ask(client, node, format="json")
    assert isinstance(json.loads(plain["message"]["content"]), dict)
    shaped = json.loads((await ask(client, node, format=schema))["message"]["content"])
    assert isinstance(shaped["age"], int)
    assert isinstance(shaped["tags"], list)
    bad = await client.post(f"{node.url}/api/chat", json=chat(format="yaml"))
    assert bad.status_code == 500


async def test_capabilities_decide_what_a_model_does(client: httpx.AsyncClient) -> None:
    able = SimModel("able", capabilities=("completion", "tools", "thinking"))
    tool = {
        "type": "function",
        "function": {
            "name": "weather",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
    async with SimNode(SimConfig(models=(A, able))) as node:
        refused = await client.post(f"{node.url}/api/chat", json=chat(tools=[tool]))
        assert (refused.status_code, refused.json()) == (
            400,
            {"error": "registry.ollama.ai/library/a:latest does not support tools"},
        )
        called = await ask(client, node, model="able", tools=[tool])
        call = called["message"]["tool_calls"][0]["function"]
        assert call["name"] == "weather"
        assert isinstance(call["arguments"]["city"], str)
        assert (await ask(client, node, model="able"))["message"]["thinking"]
        assert "thinking" not in (await ask(client, node, model="able", think=False))["message"]
        refused = await client.post(f"{node.url}/api/chat", json=chat(think=True))
        assert refused.json() == {"error": '"a" does not support thinking'}
        embedded = await client.post(f"{node.url}/api/embed", json={"model": "a", "input": "x"})
        assert embedded.status_code == 501


async def test_embeddings_are_unit_vectors_of_the_text(client: httpx.AsyncClient) -> None:
    embedder = SimModel("e", capabilities=("embedding",), embedding_length=32)
    async with SimNode(SimConfig(models=(embedder,))) as node:
        url = f"{node.url}/api/embed"
        both = (await client.post(url, json={"model": "e", "input": ["x", "y"]})).json()
        one = (await client.post(url, json={"model": "e", "input": "y"})).json()
        short = (await client.post(url, json={"model": "e", "input": "y", "dimensions": 8})).json()
        none = (await client.post(url, json={"model": "e"})).json()
    assert both["embeddings"][1] == one["embeddings"][0] != both["embeddings"][0]
    for vector in (*both["embeddings"], *short["embeddings"]):
        assert sum(value * value for value in vector) == pytest.approx(1.0, abs=1e-5)
    assert [len(vector) for vector in short["embeddings"]] == [8]
    assert none == {"model": "e", "embeddings": []}


async def test_many_paced_streams_at_once() -> None:
    body = json.dumps(chat(stream=True) | limited(5)).encode()
    request = render("POST", "/api/chat", body, {"Connection": "close"})
    async with SimNode(SimConfig(models=(A,), slots=1000, chunk_interval_s=0.02)) as node:
        answers = await asyncio.gather(*(talk(node.port, request) for _ in range(200)))
        assert node.max_running_per_model["a:latest"] > 1
    lasts = [answer.records[-1] for answer in answers]
    assert {(last["eval_count"], last["eval_duration"]) for last in lasts} == {(5, 100_000_000)}


@pytest.mark.parametrize("chunk_interval_s", [0.0, 0.001])
async def test_a_client_that_does_not_read_holds_the_node_up(chunk_interval_s: float) -> None:
    body = json.dumps(chat(stream=True) | limited(8)).encode()
    async with SimNode(SimConfig(models=(A,), chunk_interval_s=chunk_interval_s)) as node:
        node.set_fault(Fault("huge_line", records=2, size_bytes=24 << 20))
        reader, writer = await asyncio.open_connection("127.0.0.1", node.port, limit=1 << 26)
        writer.write(render("POST", "/api/chat", body, {"Connection": "close"}))
        await wait_until(lambda: any(connection.is_paused for connection in node.connections))
        assert node.in_flight == 1
        assert b'"done":true' in await reader.read()
        await wait_until(lambda: node.in_flight == 0)
        writer.close()


async def test_the_listener_closes_and_comes_back_on_its_port(
    client: httpx.AsyncClient, node: SimNode
) -> None:
    port = node.port
    await node.stop_listening()
    with pytest.raises(httpx.ConnectError):
        await client.get(f"{node.url}/")
    await node.start_listening()
    assert node.port == port
    assert (await client.get(f"{node.url}/")).text == "Ollama is running"


async def test_leaving_the_block_ends_all_work() -> None:
    before = asyncio.all_tasks()
    async with SimNode(SimConfig(models=(A,), time_scale=1.0, control_port=0)) as node:
        _, writer = await asyncio.open_connection("127.0.0.1", node.port)
        body = json.dumps(chat()).encode()
        writer.write(b"POST /api/chat HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        await wait_until(lambda: len(node.loads) == 1)
    assert node.in_flight == 0
    assert not node.connections
    assert asyncio.all_tasks() <= before
    writer.close()
