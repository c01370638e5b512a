"""What is wrong with a request for a model over several machines is said before the model is loaded."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sollol.bench.gguf_files import write_gguf
from sollol.bench.model_kinds import Size, dense
from sollol.sharding.facts import CHAT_TEMPLATE
from tests.sharded import chat, sharding
from tests.shards import GIB, ScriptedWorkers, Store

pytestmark = pytest.mark.sim


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "models")
    store.small("one")
    return store


async def test_wrong_requests_load_nothing(store: Store) -> None:
    workers = ScriptedWorkers(w1=GIB)
    async with sharding(store, workers) as (_, client):
        wrong = await client.post("/api/chat", json={"model": "one", "messages": "x"})
        assert wrong.status_code == 400
        assert (await chat(client, "one:cloud")).status_code == 404
    assert not workers.made


TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
NO_TOOLS = "registry.ollama.ai/library/One:latest does not support tools"


async def test_tools_are_refused_as_ollama_does_where_the_template_knows_none(
    store: Store,
) -> None:
    workers = ScriptedWorkers(w1=GIB)
    spec = dense(Size(layers=8))
    for name, text in (("able", "{{ tools }}"), ("plain", "<|im_start|>")):
        fields = {**spec.fields, CHAT_TEMPLATE: text}
        file = write_gguf(store.root / name, replace(spec, fields=fields))
        store.add(name, file)
        store.add(f"{name}-built-in", file, template="[INST] {{ .Tools }}{{ .Prompt }} [/INST]")
    async with sharding(store, workers) as (_, client):
        messages = [{"role": "user", "content": "hi"}]
        body = {"model": "One", "messages": messages, "tools": TOOLS}
        ollama = await client.post("/api/chat", json=body)
        assert (ollama.status_code, ollama.json()) == (400, {"error": NO_TOOLS})
        openai = await client.post("/v1/chat/completions", json=body)
        assert (openai.status_code, openai.json()["error"]["message"]) == (400, NO_TOOLS)
        of_anthropic = [{"name": "f", "input_schema": {"type": "object"}}]
        anthropic = await client.post(
            "/v1/messages", json=body | {"tools": of_anthropic, "max_tokens": 5}
        )
        assert (anthropic.status_code, anthropic.json()["error"]["message"]) == (400, NO_TOOLS)
        for name in ("plain", "plain-built-in", "able-built-in"):
            assert (await chat(client, name, tools=TOOLS)).status_code == 400
            shown = (await client.post("/api/show", json={"model": name})).json()
            assert "tools" not in shown["capabilities"]
        assert not workers.made
        assert (await chat(client, "able", tools=TOOLS)).status_code == 200
        assert (await chat(client, "able", tools=TOOLS)).status_code == 200
        shown = (await client.post("/api/show", json={"model": "able"})).json()
        assert "tools" in shown["capabilities"]


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions", "/v1/messages"])
async def test_images_are_for_models_with_a_projector(store: Store, path: str) -> None:
    workers = ScriptedWorkers(w1=GIB)
    file = write_gguf(store.root / "seeing", dense(Size(layers=8)))
    store.add("seeing", file, projector="GGUF")
    url = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    source = {"type": "image", "source": {"type": "base64", "data": "AAAA"}}
    messages: dict[str, dict[str, Any]] = {
        "/api/chat": {"content": "?", "images": ["AAAA"]},
        "/v1/chat/completions": {"content": [url]},
        "/v1/messages": {"content": [source]},
    }
    body = {"messages": [{"role": "user", **messages[path]}], "max_tokens": 5, "stream": False}
    async with sharding(store, workers) as (_, client):
        refused = await client.post(path, json={"model": "one", **body})
        assert refused.status_code == 400
        assert "image input is not supported" in refused.text
        assert not workers.made
        await client.post(path, json={"model": "seeing", **body})
        assert len(workers.made) == 1
