"""Finds nodes, looks at what was found, and lets go of what is gone: sole home of finding.

finder      where something may be: local, DNS, mDNS, scan     sources.py, scan.py, mdns.py
look        is it a node at all, and not a gateway
suspicion   is it one that is there already                    twins.py
join        registry.add
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterable

import structlog

from sollol.errors import NodeConflict
from sollol.nodes.mdns import MdnsFinder
from sollol.nodes.places import Places
from sollol.nodes.prober import Prober
from sollol.nodes.registry import Node, Registry
from sollol.nodes.scan import ScanFinder
from sollol.nodes.sources import Candidate, DnsFinder, Finder, LocalFinder
from sollol.nodes.twins import Twins
from sollol.settings import DiscoverySettings, NodeSettings
from sollol.types import NodeState
from sollol.upstream.control import ControlClient
from sollol.upstream.facts import NodeFacts

log = structlog.get_logger()

GATEWAY_HEADER = b"x-sollol-version"
"""Tells a gateway, which could be this one, from the Ollama that it answers like."""

LOOKS_AT_ONCE = 16
MAX_REMEMBERED = 4096
"""Addresses remembered as unwanted or as left out."""

LetGo = Callable[[str, str], None]
"""Begins to remove a node; the second argument says why."""


class Discovery:
    """Owner of what is found; ``first_round`` is set once every source was asked."""

    def __init__(
        self,
        registry: Registry,
        prober: Prober,
        settings: DiscoverySettings,
        *,
        places: Places,
        let_go: LetGo,
        clock: Callable[[], float],
    ) -> None:
        self._registry = registry
        self._prober = prober
        self._settings = settings
        self._places = places
        self._let_go = let_go
        self._clock = clock
        self._twins = Twins(registry, prober, places, let_go)
        self._joining = asyncio.Lock()
        self._looks = asyncio.Semaphore(LOOKS_AT_ONCE)
        self._changed = asyncio.Event()
        self._left_out: dict[str, str] = {}
        self._unwanted: dict[str, str] = {}
        self._down_since: dict[str, float] = {}
        self.first_round = asyncio.Event()

    async def run(self) -> None:
        """Look until cancelled; begin anew when the settings change."""
        while True:
            self._changed.clear()
            async with asyncio.TaskGroup() as tasks:
                finders = self._finders()
                asked = [asyncio.Event() for _ in finders]
                running = [
                    tasks.create_task(self._repeat(finder, event))
                    for finder, event in zip(finders, asked, strict=True)
                ]
                running.append(tasks.create_task(self._keep_house()))
                running.append(tasks.create_task(self._tell_first_round(asked)))
                await self._changed.wait()
                for task in running:
                    task.cancel()

    def use(self, settings: DiscoverySettings) -> None:
        """Go on with other settings; nodes of a source that is off are let go."""
        if settings == self._settings:
            return
        self._settings = settings
        active = {finder.source for finder in self._finders()}
        for node in self._found():
            if node.source not in active:
                self._let_go(node.view.id, f"discovery.{node.source} is off")
        self._changed.set()

    def leave_alone(self, url: str) -> None:
        """Do not add this address again: somebody removed the node."""
        _remember(self._unwanted, url)

    def _finders(self) -> list[Finder]:
        settings = self._settings
        finders: list[Finder] = []
        if settings.local:
            finders.append(LocalFinder(settings.local_url, settings.interval_s))
        if settings.dns:
            finders.append(DnsFinder(settings.dns, self._places.look_up, settings.interval_s))
        if settings.mdns:
            finders.append(MdnsFinder(settings.interval_s))
        if settings.scan:
            finders.append(ScanFinder(settings.scan, settings.scan_ports, settings.scan_interval_s))
        return finders

    async def _tell_first_round(self, asked: Iterable[asyncio.Event]) -> None:
        for event in asked:
            await event.wait()
        self.first_round.set()

    async def _repeat(self, finder: Finder, asked: asyncio.Event) -> None:
        try:
            while True:
                try:
                    await self._round(finder)
                except Exception as error:
                    log.warning("discovery_failed", source=finder.source, error=str(error))
                asked.set()
                await asyncio.sleep(finder.interval_s)
        finally:
            await finder.close()

    async def _round(self, finder: Finder) -> None:
        finding = await finder.find()
        async with asyncio.TaskGroup() as looks:
            for candidate in finding.candidates:
                looks.create_task(self._consider(candidate))
        if not finding.is_complete:
            return
        seen = {candidate.url for candidate in finding.candidates}
        for node in self._found():
            if node.source is finder.source and node.settings.url not in seen:
                self._let_go(node.view.id, f"{finder.source} does not name it any more")

    async def _consider(self, candidate: Candidate) -> None:
        url = candidate.url
        if self._registry.find_url(url) or url in self._unwanted:
            return
        async with self._looks:
            facts = await self._look(candidate)
        if facts is None:
            return
        # One at a time: two addresses of one server may be found in the same moment.
        async with self._joining:
            twin = await self._twins.find(url, facts)
            if twin is None:
                self._join(candidate, facts)
                return
        node_id, verdict = twin
        if self._left_out.get(url) != node_id:
            _remember(self._left_out, url, node_id)
            log.info("node_left_out", url=url, same_as=node_id, reason=verdict.value)

    def _join(self, candidate: Candidate, facts: NodeFacts) -> None:
        engine = "auto" if candidate.engine is None else candidate.engine.value
        settings = NodeSettings(url=candidate.url, engine=engine)
        with contextlib.suppress(NodeConflict):  # added by somebody else meanwhile
            node = self._registry.add(settings, candidate.source)
            self._left_out.pop(candidate.url, None)
            log.info("node_found", node=node.view.id, url=candidate.url, source=candidate.source)
            self._registry.probe_succeeded(node.view.id, facts)

    async def _look(self, candidate: Candidate) -> NodeFacts | None:
        """Return the facts of a node; None if there is none, or a gateway."""
        timeout_s = self._prober.timeout_s
        try:
            client = ControlClient(candidate.url, timeout_s, self._registry.ssl_context)
            async with contextlib.aclosing(client):
                async with asyncio.timeout(timeout_s):
                    answer = await client.get("/api/version")
                if GATEWAY_HEADER in answer.headers:
                    return None
                return await self._prober.read(client, candidate.engine)
        except Exception:  # whatever it is, it is no node
            return None

    async def _keep_house(self) -> None:
        while True:
            try:
                self._forget_the_lost()
                await self._twins.watch()
            except Exception as error:
                log.warning("discovery_failed", source="watch", error=str(error))
            await asyncio.sleep(self._settings.interval_s)

    def _forget_the_lost(self) -> None:
        """Let go of found nodes that have been down for long."""
        now = self._clock()
        down = {n.view.id for n in self._found() if n.view.state is NodeState.UNHEALTHY}
        self._down_since = {node_id: self._down_since.get(node_id, now) for node_id in down}
        for node_id, since in self._down_since.items():
            if now - since >= self._settings.forget_after_s:
                self._let_go(node_id, f"down for {now - since:.0f} s")

    def _found(self) -> list[Node]:
        return [node for node in self._registry.nodes() if node.source.is_found]


def _remember(memory: dict[str, str], url: str, value: str = "") -> None:
    """Note something of an address; of too many the oldest is forgotten."""
    memory.pop(url, None)
    if len(memory) >= MAX_REMEMBERED:
        del memory[next(iter(memory))]
    memory[url] = value
