"""Asks every node how it is, again and again, and finds the Ollama of this machine."""

import asyncio
import itertools
import random

import httpx
import structlog

from sollol.nodes.registry import Node, Registry
from sollol.settings import DiscoverySettings, NodeSettings, ProbeSettings
from sollol.upstream.detect import FactsReader
from sollol.upstream.facts import NodeFacts
from sollol.upstream.json import json_object

log = structlog.get_logger()

JITTER = 0.2
"""Rounds come this much earlier or later, so that several gateways do not ask in step."""

WHOLE_PROBE = 5
"""A probe is several requests; all of them may take this many times as long as one."""

GATEWAY_HEADER = "x-sollol-version"
"""Tells a gateway from the Ollama that it answers like."""


class Prober:
    """Rounds of probes over all nodes; ``first_round`` is set once each was asked."""

    def __init__(
        self, registry: Registry, settings: ProbeSettings, discovery: DiscoverySettings
    ) -> None:
        self._registry = registry
        self._settings = settings
        self._discovery = discovery
        self._reader = FactsReader()
        self.first_round = asyncio.Event()
        self._begun = itertools.count()

    async def run(self) -> None:
        """Probe until cancelled."""
        while True:
            async with asyncio.TaskGroup() as probes:
                probes.create_task(self._find_local())
                for node in self._registry.nodes():
                    probes.create_task(self.probe(node))
            self.first_round.set()
            pause_s = self._settings.interval_s * random.uniform(1 - JITTER, 1 + JITTER)
            await asyncio.sleep(pause_s)

    async def probe(self, node: Node) -> None:
        """Ask one node now; whatever goes wrong is news about it, never an exception."""
        number = next(self._begun)
        try:
            facts = await self._read(node)
        except Exception as error:
            if not _is_news(node, number):
                return
            is_refused = isinstance(error, httpx.ConnectError)
            text = _describe(error, self._settings.timeout_s)
            self._registry.probe_failed(node.view.id, text, is_refused=is_refused)
        else:
            if _is_news(node, number):
                self._registry.probe_succeeded(node.view.id, facts)

    async def _read(self, node: Node) -> NodeFacts:
        """Read a node's facts; the whole is bounded too, since the first time asks of each model."""
        async with asyncio.timeout(self._settings.timeout_s * WHOLE_PROBE):
            return await self._reader.read(node.control, node.settings.url, node.engine)

    async def _find_local(self) -> None:
        """Add the Ollama of this machine when it answers and is not listed already."""
        url = self._discovery.local_url
        listed = (node.settings.url for node in self._registry.nodes())
        if not self._discovery.local or url in listed or not await self._is_ollama(url):
            return
        node = self._registry.add(NodeSettings(url=url, engine="ollama"))
        log.info("node_found", node=node.view.id, url=url)
        await self.probe(node)

    async def _is_ollama(self, url: str) -> bool:
        """Whether an Ollama listens at ``url``, and not a gateway, which could be this one."""
        timeout_s = self._settings.timeout_s
        try:
            async with (
                asyncio.timeout(timeout_s),
                httpx.AsyncClient(trust_env=False, timeout=timeout_s) as client,
            ):
                response = await client.get(f"{url}/api/version")
            return "version" in json_object(response) and GATEWAY_HEADER not in response.headers
        except (httpx.HTTPError, TimeoutError, ValueError):
            return False


def _is_news(node: Node, number: int) -> bool:
    """Whether no probe that began later has told of the node already."""
    if number < node.last_probe:
        return False
    node.last_probe = number
    return True


def _describe(error: Exception, timeout_s: float) -> str:
    if isinstance(error, TimeoutError | httpx.TimeoutException):
        return f"no answer within {timeout_s:g} s"
    return str(error) or type(error).__name__
