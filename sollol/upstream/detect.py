"""Reads a node's facts, whatever its engine; finds the engine out when it is not known."""

from http import HTTPStatus

from sollol.types import Engine
from sollol.upstream.control import ControlClient, refused
from sollol.upstream.facts import NodeFacts
from sollol.upstream.json import json_object
from sollol.upstream.llama_server import EmbeddingsCache, read_llama_facts, read_openai_facts
from sollol.upstream.ollama import ShowCache, read_ollama_facts

_OUT_OF_ORDER = frozenset({429, 500, 502, 503, 504})


class FactsReader:
    """Reads facts and remembers what does not change while a server runs."""

    def __init__(self) -> None:
        self._shows: ShowCache = {}
        self._embeddings: EmbeddingsCache = {}

    async def read(self, client: ControlClient, engine: Engine | None) -> NodeFacts:
        """Return the facts of the node that ``client`` asks.

        Args:
            client: carries the address, time-outs and credentials; best the same in each call.
            engine: None asks the node for it.

        Raises:
            SollolError: a route did not answer, or with an error status.
            ValueError: it is no server that could be a node.
        """
        if engine is None:
            engine = await _engine(client)
            self._embeddings.pop(client.url, None)  # it may have been started otherwise
        if engine is Engine.OLLAMA:
            return await read_ollama_facts(client, self._shows)
        if engine is Engine.LLAMA_SERVER:
            return await read_llama_facts(client, self._embeddings)
        return await read_openai_facts(client)


async def _engine(client: ControlClient) -> Engine:
    """Try the routes that only one engine has.

    Raises:
        UpstreamError: it is out of order, which tells nothing of the routes that it has.
        ValueError: it has none of them.
    """
    if await _answers(client, "/api/version", "version"):
        return Engine.OLLAMA
    if await _answers(client, "/props", "default_generation_settings"):
        return Engine.LLAMA_SERVER
    if await _answers(client, "/v1/models", "data"):
        return Engine.OPENAI
    raise ValueError("not an Ollama, llama-server or OpenAI-compatible server")


async def _answers(client: ControlClient, path: str, field: str) -> bool:
    answer = await client.get(path)
    if answer.status in _OUT_OF_ORDER:
        raise refused(path, answer)
    if answer.status != HTTPStatus.OK:
        return False
    try:
        return field in json_object(path, answer.body)
    except ValueError:
        return False
