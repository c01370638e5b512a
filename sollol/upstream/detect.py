"""Reads a node's facts, whatever its engine; finds the engine out when it is not known."""

import httpx

from sollol.types import Engine
from sollol.upstream.facts import NodeFacts
from sollol.upstream.json import json_object
from sollol.upstream.llama_server import EmbeddingsCache, read_llama_facts, read_openai_facts
from sollol.upstream.ollama import ShowCache, read_ollama_facts


class FactsReader:
    """Reads facts and remembers what never changes."""

    def __init__(self) -> None:
        self._shows: ShowCache = {}
        self._embeddings: EmbeddingsCache = {}

    async def read(self, client: httpx.AsyncClient, url: str, engine: Engine | None) -> NodeFacts:
        """Return the facts of the node at ``url``.

        Args:
            client: carries time-outs and credentials.
            engine: None asks the node for it.

        Raises:
            httpx.HTTPError: a route did not answer, or with an error status.
            ValueError: it is no server that could be a node.
        """
        if engine is None:
            engine = await _engine(client, url)
        if engine is Engine.OLLAMA:
            return await read_ollama_facts(client, url, self._shows)
        if engine is Engine.LLAMA_SERVER:
            return await read_llama_facts(client, url, self._embeddings)
        return await read_openai_facts(client, url)


async def _engine(client: httpx.AsyncClient, url: str) -> Engine:
    """Try the routes that only one engine has."""
    if await _answers(client, f"{url}/api/version", "version"):
        return Engine.OLLAMA
    if await _answers(client, f"{url}/props", "default_generation_settings"):
        return Engine.LLAMA_SERVER
    if await _answers(client, f"{url}/v1/models", "data"):
        return Engine.OPENAI
    raise ValueError("not an Ollama, llama-server or OpenAI-compatible server, or still loading")


async def _answers(client: httpx.AsyncClient, url: str, field: str) -> bool:
    response = await client.get(url)
    if response.status_code != httpx.codes.OK:
        return False
    try:
        return field in json_object(response)
    except ValueError:
        return False
