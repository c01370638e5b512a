"""Asks every node how it is, again and again."""

import asyncio
import contextlib
import itertools
import random
from collections.abc import Callable, Sequence
from math import inf

from sollol.errors import ConnectFailed, UpstreamTimeout
from sollol.nodes.registry import MOVING_S, Node, Registry
from sollol.settings import ProbeSettings
from sollol.types import Engine, NodeState
from sollol.upstream.control import ControlClient
from sollol.upstream.detect import FactsReader
from sollol.upstream.facts import NodeFacts

JITTER = 0.2
"""Looks come this much earlier or later, so that several gateways do not ask in step."""

WHOLE_PROBE = 5
"""A probe is several requests; all of them may take this many times as long as one."""

FAST_S = 1.0
"""Until the next look at a node of which the last one failed; and between two looks out of turn."""

DOWN_S = 2.0
"""Until the next look at a node that is down: its return is to be noticed soon."""

NEW_S = 1.0
"""How soon a node that has joined gets its turns; who adds it asks it first."""


def next_look_s(interval_s: float, *, has_failed: bool, is_down: bool) -> float:
    """Return the seconds until a node is asked again.

    Args:
        has_failed: the last look did; whether it is down is to be known soon.
        is_down: several did.

    Source: HAProxy, ``inter``, ``fastinter`` and ``downinter``.
    """
    if is_down:
        return min(interval_s, DOWN_S)
    return min(interval_s, FAST_S) if has_failed else interval_s


class Turn:
    """When a node is asked next, by the event loop's clock."""

    def __init__(self, due_at: float) -> None:
        self.due_at = due_at
        self.is_asked = asyncio.Event()
        self._reasons: set[str] = set()
        """Why it was asked out of turn, since it was last asked in turn."""
        self._is_wanted = asyncio.Event()

    def want(self, why: str) -> None:
        """Have the node asked out of turn; for each reason once."""
        if why not in self._reasons:
            self._reasons.add(why)
            self._is_wanted.set()

    async def wait(self) -> bool:
        """Wait until the node is to be asked; return whether that is in turn."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(self.due_at):
                await self._is_wanted.wait()
        self._is_wanted.clear()  # what happens from here on wants another look
        is_due = asyncio.get_running_loop().time() >= self.due_at
        if is_due:
            self._reasons.clear()
        return is_due


class Prober:
    """Asks every node in its own turn, so that one that is slow to answer holds nobody up.

    ``first_round`` is set once each was asked.

    Args:
        is_loading: tells whether a node loads a model at the moment, by its id.
    """

    def __init__(
        self,
        registry: Registry,
        settings: ProbeSettings,
        is_loading: Callable[[str], bool],
        rng: random.Random,
    ) -> None:
        self._registry = registry
        self._rng = rng
        self._settings = settings
        self._is_loading = is_loading
        self._reader = FactsReader()
        self.timeout_s = settings.timeout_s
        self.first_round = asyncio.Event()
        self._begun = itertools.count()
        self._turns: dict[Node, Turn] = {}

    async def run(self) -> None:
        """Probe until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            self._turns = {node: Turn(-inf) for node in self._registry.nodes()}
            tasks.create_task(self._note_first_round(list(self._turns.values())))
            for node, turn in self._turns.items():
                tasks.create_task(self._attend(node, turn))
            while True:
                await asyncio.sleep(NEW_S)
                for node in self._registry.nodes():
                    if node not in self._turns:
                        self._turns[node] = Turn(self._next_at(node, has_failed=False))
                        tasks.create_task(self._attend(node, self._turns[node]))

    async def _note_first_round(self, turns: Sequence[Turn]) -> None:
        for turn in turns:
            await turn.is_asked.wait()
        self.first_round.set()

    def look_soon(self, node_id: str, why: str) -> None:
        """Ask a node out of turn: something happened there that others want to see.

        Args:
            why: names what happened; the same is looked at once until the node's turn comes.
        """
        node = self._registry.find(node_id)
        turn = None if node is None else self._turns.get(node)
        if turn is not None:
            turn.want(why)

    async def _attend(self, node: Node, turn: Turn) -> None:
        """Ask a node in its turns, and out of turn where that is wanted, until it is removed."""
        while True:
            is_due = await turn.wait()
            if self._registry.find(node.view.id) is not node:
                break
            is_answered = await self.probe(node)
            turn.is_asked.set()
            if is_due or not is_answered:
                turn.due_at = self._next_at(node, has_failed=not is_answered)
            else:
                await asyncio.sleep(min(self._settings.interval_s, FAST_S))
        del self._turns[node]
        turn.is_asked.set()

    def _next_at(self, node: Node, *, has_failed: bool) -> float:
        is_down = node.view.state is NodeState.UNHEALTHY
        pause_s = next_look_s(self._settings.interval_s, has_failed=has_failed, is_down=is_down)
        jitter = self._rng.uniform(1 - JITTER, 1 + JITTER)
        return asyncio.get_running_loop().time() + pause_s * jitter

    async def probe(self, node: Node) -> bool:
        """Ask one node now; return whether it answered. Whatever goes wrong is news, no exception."""
        number = next(self._begun)
        node_id = node.view.id
        try:
            facts = await self.read(node.control, node.engine)
        except Exception as error:
            if self._is_news(node, number) and not self._is_busy(node, error):
                text = _describe(error, self.timeout_s)
                self._registry.probe_failed(node_id, text, is_refused=_is_refused(error))
            return False
        if self._is_news(node, number):
            self._registry.probe_succeeded(node_id, facts)
        return True

    def _is_busy(self, node: Node, error: Exception) -> bool:
        """Whether what a node is seen to do explains that it was slow to answer.

        Part of an answer to somebody else is a sign of life. A load may leave a machine no time for
        anything, but its kernel goes on to take connections.
        """
        if not isinstance(error, TimeoutError | UpstreamTimeout) and not _is_out_of_reach(error):
            return False
        if node.connections.is_moving(MOVING_S):
            return True
        return not _is_out_of_reach(error) and self._is_loading(node.view.id)

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
    return isinstance(error, ConnectFailed) and not _is_out_of_reach(error)


def _is_out_of_reach(error: Exception) -> bool:
    """Whether nobody answered to the attempt to connect."""
    return isinstance(error, ConnectFailed) and isinstance(error.__cause__, TimeoutError)


def _describe(error: Exception, timeout_s: float) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {timeout_s:g} s"
    return str(error) or type(error).__name__
