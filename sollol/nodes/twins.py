"""Watches for servers that are there twice, under two addresses (rules: ``duplicates.py``)."""

import contextlib
from collections.abc import Callable

import structlog

from sollol.nodes.duplicates import (
    Fingerprint,
    Place,
    Verdict,
    compare,
    could_be_here,
    is_same_place,
    suspects,
)
from sollol.nodes.places import Places
from sollol.nodes.prober import Prober
from sollol.nodes.registry import Node, Registry
from sollol.types import Engine, NodeState
from sollol.upstream.control import ControlClient
from sollol.upstream.facts import NodeFacts

log = structlog.get_logger()

COMPARED_AT_ONCE = 16
"""Pairs looked at more closely in one round; the others wait for the next."""
NOWHERE = Place(frozenset(), 0)


class Twins:
    """Owner of what is known of pairs of nodes."""

    def __init__(
        self,
        registry: Registry,
        prober: Prober,
        places: Places,
        let_go: Callable[[str, str], None],
    ) -> None:
        self._registry = registry
        self._prober = prober
        self._places = places
        self._let_go = let_go
        self._verdicts: dict[tuple[str, str], Verdict] = {}

    async def find(self, url: str, facts: NodeFacts) -> tuple[str, Verdict] | None:
        """Return the node that a found server is already, with how that is known."""
        place = await self._places.find(url)
        there = await self._places.node_at(place)
        if there is not None:
            return there, Verdict.SAME
        places = await self._places.of_nodes()
        told = _fingerprint(facts)
        for node in self._registry.nodes():
            is_here = could_be_here(place, places.get(node.view.id, NOWHERE))
            seen = _seen(node)
            is_alike = seen is not None and seen.stock() == told.stock()
            if not is_alike or not (told.has_times or is_here):
                continue
            verdict = await self._compare_found(node, url, facts.engine, is_here=is_here)
            if verdict.is_suspect:
                return node.view.id, verdict
        return None

    async def watch(self) -> None:
        """Look for pairs among the nodes there are; say so, and let go of found ones."""
        self._places.forget()
        places = await self._places.of_nodes()
        prints = {n.view.id: seen for n in self._registry.nodes() if (seen := _seen(n)) is not None}
        pairs = suspects(places, prints)
        self._verdicts = {pair: self._verdicts[pair] for pair in pairs if pair in self._verdicts}
        # Those that were never compared come first.
        pairs.sort(key=lambda pair: pair in self._verdicts)
        compared = 0
        for pair in pairs:
            if is_same_place(places[pair[0]], places[pair[1]]):
                self._verdicts[pair] = Verdict.SAME
            elif self._verdicts.get(pair) is not Verdict.DIFFERENT and compared < COMPARED_AT_ONCE:
                compared += 1
                await self._judge(pair, could_be_here(places[pair[0]], places[pair[1]]))
        self._mark()

    async def _judge(self, pair: tuple[str, str], is_here: bool) -> None:
        first, second = (self._registry.find(node_id) for node_id in pair)
        if first is None or second is None:
            return
        verdict = await self._compare(first, second.control, second.engine, is_here=is_here)
        if verdict is not Verdict.UNKNOWN:
            self._verdicts[pair] = verdict

    def _mark(self) -> None:
        """Write down which node is another's double: of two the one that came later."""
        doubles: dict[str, tuple[str, Verdict]] = {}
        for (first, second), verdict in self._verdicts.items():
            if verdict.is_suspect:
                doubles.setdefault(second, (first, verdict))
        for node in self._registry.nodes():
            other, verdict = doubles.get(node.view.id, ("", Verdict.UNKNOWN))
            if other and other != node.duplicate_of:
                log.warning(
                    "node_is_double", node=node.view.id, same_as=other, reason=verdict.value
                )
            node.duplicate_of = other
            if other and verdict.is_certain:
                self._drop_found(other, node)

    def _drop_found(self, other_id: str, node: Node) -> None:
        """Let go of the one that was found; nothing is done to listed ones."""
        other = self._registry.find(other_id)
        if node.source.is_found:
            self._let_go(node.view.id, f"is {other_id}")
        elif other is not None and other.source.is_found:
            self._let_go(other_id, f"is {node.view.id}")

    async def _compare_found(
        self, node: Node, url: str, engine: Engine, *, is_here: bool
    ) -> Verdict:
        client = ControlClient(url, self._prober.timeout_s, self._registry.ssl_context)
        async with contextlib.aclosing(client):
            return await self._compare(node, client, engine, is_here=is_here)

    async def _compare(
        self, node: Node, other: ControlClient, engine: Engine | None, *, is_here: bool
    ) -> Verdict:
        """Ask a node, the other server, and the node again."""
        try:
            before = await self._prober.read(node.control, node.engine)
            told = await self._prober.read(other, engine)
            after = await self._prober.read(node.control, node.engine)
        except Exception:  # one does not answer now: nothing is known
            return Verdict.UNKNOWN
        return compare(
            _fingerprint(before), _fingerprint(told), _fingerprint(after), is_here=is_here
        )


def _seen(node: Node) -> Fingerprint | None:
    """Return what a node said last; None while it is down."""
    view = node.view
    if view.state is NodeState.UNHEALTHY:
        return None
    return Fingerprint.of(view.engine, view.version, view.models.values(), view.resident.values())


def _fingerprint(facts: NodeFacts) -> Fingerprint:
    return Fingerprint.of(facts.engine, facts.version, facts.models, facts.resident)
