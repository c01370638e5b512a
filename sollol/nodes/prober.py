"""Asks every node how it is, again and again."""

import asyncio
import itertools
import random

from sollol.errors import ConnectFailed
from sollol.nodes.registry import Node, Registry
from sollol.settings import ProbeSettings
from sollol.types import Engine
from sollol.upstream.control import ControlClient
from sollol.upstream.detect import FactsReader
from sollol.upstream.facts import NodeFacts

JITTER = 0.2
"""Rounds come this much earlier or later, so that several gateways do not ask in step."""

WHOLE_PROBE = 5
"""A probe is several requests; all of them may take this many times as long as one."""


SOON_GAP_S = 1.0
"""Least time between two looks out of turn."""


class Prober:
    """Rounds of probes over all nodes; ``first_round`` is set once each was asked."""

    def __init__(self, registry: Registry, settings: ProbeSettings, rng: random.Random) -> None:
        self._registry = registry
        self._rng = rng
        self._settings = settings
        self._reader = FactsReader()
        self.timeout_s = settings.timeout_s
        self.first_round = asyncio.Event()
        self._begun = itertools.count()
        self._soon: dict[str, None] = {}
        self._looked: set[tuple[str, str]] = set()
        self._has_soon = asyncio.Event()

    async def run(self) -> None:
        """Probe until cancelled."""
        while True:
            async with asyncio.TaskGroup() as probes:
                for node in self._registry.nodes():
                    probes.create_task(self.probe(node))
            self.first_round.set()
            self._looked.clear()
            await self._pause(self._settings.interval_s * self._rng.uniform(1 - JITTER, 1 + JITTER))

    def look_soon(self, node_id: str, why: str) -> None:
        """Ask a node out of turn: something happened there that others want to see.

        Args:
            why: names what happened; the same is looked at once a round.
        """
        if (node_id, why) not in self._looked:
            self._looked.add((node_id, why))
            self._soon[node_id] = None
            self._has_soon.set()

    async def _pause(self, pause_s: float) -> None:
        """Wait for the next round, and look meanwhile at nodes that are to be seen soon."""
        end = asyncio.get_running_loop().time() + pause_s
        try:
            while True:
                async with asyncio.timeout_at(end):
                    await self._has_soon.wait()
                self._has_soon.clear()
                async with asyncio.TaskGroup() as probes:
                    for node in map(self._registry.find, self._soon):
                        if node is not None:
                            probes.create_task(self.probe(node))
                    self._soon = {}
                async with asyncio.timeout_at(end):
                    await asyncio.sleep(SOON_GAP_S)
        except TimeoutError:
            return

    async def probe(self, node: Node) -> None:
        """Ask one node now; whatever goes wrong is news about it, never an exception."""
        number = next(self._begun)
        node_id = node.view.id
        try:
            facts = await self.read(node.control, node.engine)
        except Exception as error:
            if self._is_news(node, number):
                text = _describe(error, self.timeout_s)
                self._registry.probe_failed(node_id, text, is_refused=_is_refused(error))
        else:
            if self._is_news(node, number):
                self._registry.probe_succeeded(node_id, facts)

    async def read(self, client: ControlClient, engine: Engine | None) -> NodeFacts:
        """Read a server's facts; the whole is bounded too: the first time asks of each model.

        Raises:
            Exception: it did not answer, or not as a node does.
        """
        async with asyncio.timeout(self.timeout_s * WHOLE_PROBE):
            return await self._reader.read(client, engine)

    def _is_news(self, node: Node, number: int) -> bool:
        """Whether no later probe has told of the node already, nor another node has its name."""
        if number < node.last_probe or self._registry.find(node.view.id) is not node:
            return False
        node.last_probe = number
        return True


def _is_refused(error: Exception) -> bool:
    """Whether the server is not there; one that is slow to take a connection may be."""
    return isinstance(error, ConnectFailed) and not isinstance(error.__cause__, TimeoutError)


def _describe(error: Exception, timeout_s: float) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {timeout_s:g} s"
    return str(error) or type(error).__name__
