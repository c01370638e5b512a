"""Texts to embed that are too long for a llama-server: cut as an Ollama cuts them, or refused in its words."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from sollol.gateway.entries import Wanted
from tests.gateways import running_gateway
from tests.llama_streams import answer
from tests.scripted_node import Node, Peer

pytestmark = pytest.mark.sim

MOST = 6
"""Tokens that the node takes: words, and one that it adds."""
TOO_LONG = {"error": "the input length exceeds the context length"}
ENTRY = {"id": "m", "meta": {"n_ctx": 64, "n_params": 1, "size": 1}}


class Embedder:
    """A llama-server that embeds a text as how many tokens it has; ``says`` tells of one that is too long.

    ``tokenizes``: it has a route that tells of tokens.
    """

    def __init__(self, says: str) -> None:
        self.says = says
        self.tokenizes = True
        self.node = Node(self._serve)
        self.embedded: list[list[str]] = []

    async def _serve(self, peer: Peer) -> None:
        while True:
            head, body = await peer.request()
            status, said = self._said(head.split()[1].decode(), body)
            await peer.send(answer(status, "application/json", json.dumps(said).encode()))

    def _said(self, path: str, body: bytes) -> tuple[str, object]:
        known = {
            "/health": {"status": "ok"},
            "/props": {"total_slots": 1, "build_info": "b1"},
            "/v1/models": {"data": [ENTRY]},
        }
        if path in known:
            return "200 OK", known[path]
        asked = json.loads(body)
        if path == "/tokenize" and self.tokenizes:
            assert asked["add_special"] is True
            return "200 OK", {"tokens": list(range(_tokens(asked["content"])))}
        texts = asked.get("input")
        if path != "/v1/embeddings" or not texts:
            return "400 No", {"error": {"message": "no"}}
        self.embedded.append(texts)
        if max(map(_tokens, texts)) > MOST:
            return self.says.partition("|")[0], json.loads(self.says.partition("|")[2])
        vectors = [{"index": n, "embedding": [_tokens(text)]} for n, text in enumerate(texts)]
        return "200 OK", {"data": vectors, "usage": {"prompt_tokens": 9}}


def _tokens(text: str) -> int:
    return len(text.split()) + 1


BATCH = (
    '500 X|{"error":{"code":500,"message":"input (9 tokens) is too large to process. increase the '
    'physical batch size (current batch size: 6)","type":"server_error"}}'
)
CONTEXT = (
    '400 X|{"error":{"code":400,"message":"request (9 tokens) exceeds the available context size","type":'
    '"exceed_context_size_error","n_prompt_tokens":9,"n_ctx":7}}'
)


@asynccontextmanager
async def embedding(says: str) -> AsyncIterator[tuple[Embedder, httpx.AsyncClient]]:
    embedder = Embedder(says)
    await embedder.node.start()
    node = {"url": f"http://127.0.0.1:{embedder.node.port}", "engine": "llama_server"}
    try:
        async with running_gateway(node) as running:
            async with httpx.AsyncClient(base_url=running.url, trust_env=False) as client:
                yield embedder, client
            (view,) = running.gateway.registry.views()
            assert view.state == "healthy"
            entries = running.gateway.journal.select(Wanted(), lambda _: False, 0)
            tries = [attempt for entry in entries for attempt in entry.outcome.tries]
            assert all(attempt.measured is None for attempt in tries)  # or texts that are not cut
    finally:
        await embedder.node.stop()


async def embed(client: httpx.AsyncClient, **fields: Any) -> httpx.Response:
    return await client.post("/api/embed", json={"model": "m", **fields})


@pytest.mark.parametrize("says", [BATCH, CONTEXT])
async def test_long_texts_are_cut_and_short_ones_are_not(says: str) -> None:
    async with embedding(says) as (embedder, client):
        texts = ["a b c", "word " * 40, "a"]
        told = await embed(client, input=texts)
        assert told.status_code == 200, told.text
        assert told.json()["embeddings"] == [[4], [MOST], [2]]
        assert len(embedder.embedded) == 2
        again = await embed(client, input="a " * 500, truncate=True)
        assert again.json()["embeddings"] == [[MOST]]


@pytest.mark.parametrize("says", [BATCH, CONTEXT])
async def test_who_wants_no_cut_is_refused(says: str) -> None:
    async with embedding(says) as (embedder, client):
        told = await embed(client, input="word " * 40, truncate=False)
        assert (told.status_code, told.json()) == (400, TOO_LONG)
        older = await client.post("/api/embeddings", json={"model": "m", "prompt": "word " * 40})
        assert (older.status_code, older.json()) == (400, TOO_LONG)
        assert len(embedder.embedded) == 2


async def test_a_text_that_cannot_be_cut_is_refused() -> None:
    async with embedding(BATCH) as (embedder, client):
        embedder.tokenizes = False
        told = await embed(client, input="word " * 40)
        assert (told.status_code, told.json()) == (400, TOO_LONG)
        embedder.tokenizes = True
        embedder.says = BATCH.replace(
            "batch size: 6", "batch size: 60"
        )  # by which it is short enough
        told = await embed(client, input="word " * 40)
        assert (told.status_code, told.json()) == (400, TOO_LONG)
