"""What goes wrong on nodes: the least and the most of it that the gateway may count against one."""

from typing import TYPE_CHECKING

from tests.deterministic.client import End, Told
from tests.deterministic.generation import Generation
from tests.deterministic.loop import TICKS_A_SECOND

if TYPE_CHECKING:
    from tests.deterministic.world import World

_GOOD = ("done", "400", "404", "429", "503", "")
_SURE = ("reset", "cut", "short")
FAILURES = (*_SURE, "crashed", "500", "error record", "cut by a crash")
"""Counted later, if at all: once the request is answered elsewhere, or was not tried elsewhere."""


class Failures:
    """Follows requests to their ends, and to the moments in which the gateway takes note of those.

    A node is done with an answer before the gateway is whose caller is slow to read. Of what comes to
    notice in one moment the order is not known.
    """

    def __init__(self, world: "World") -> None:
        self.world = world
        self._open: dict[str, list[Generation]] = {node_id: [] for node_id in world.nodes}
        self._done: dict[str, list[Generation]] = {node_id: [] for node_id in world.nodes}
        """Answers that were whole when they left the node."""
        self._done_at = dict.fromkeys(world.nodes, 0)
        """When the last of them did, in ticks."""
        self._good_at: dict[str, list[int]] = {node_id: [] for node_id in world.nodes}
        """When the gateway was done with them, in ticks."""
        self._bad: dict[str, list[Generation]] = {node_id: [] for node_id in world.nodes}
        self._noted_at: dict[Generation, int] = {}
        """When the gateway took note of a failure."""
        self._in_a_row: dict[str, list[Generation]] = {node_id: [] for node_id in world.nodes}

    def arrived(self, generation: Generation) -> None:
        """Follow a request to its end; what it repeats as an idle connection failed is no failure."""
        node_id = generation.node.id
        self._open[node_id].append(generation)
        self._bad[node_id] = [bad for bad in self._bad[node_id] if not _is_same(bad, generation)]

    def look(self) -> None:
        """Take note of what has happened."""
        for node_id in self._open:
            ended = [each for each in self._open[node_id] if each.how]
            if ended:
                self._sort(node_id, ended)
            self._note_failures(node_id)
            self._note_successes(node_id)

    def most(self, node_id: str) -> list[Generation]:
        """Return the failures that may count against a node at this moment.

        Those are forgotten of which the gateway took note in the moments before that of a success; what
        is only suspected is not.
        """
        now = self.world.loop.now
        good_at = max((at for at in self._good_at[node_id] if at < now), default=-1)
        return [
            bad
            for bad in self._bad[node_id]
            if bad.how in FAILURES or self._noted_at.get(bad, now) >= good_at
        ]

    def least(self, node_id: str, since: int, *, is_proven: bool) -> list[Generation]:
        """Return the failures in a row that must count against a node, of what was sent after a moment.

        If it is not proven since, what was sent before, too.
        """
        return [
            bad
            for bad in self._in_a_row[node_id]
            if (bad.arrived if is_proven else bad.ended) > since and self._must_count(bad)
        ]

    def may_have_succeeded(self, node_id: str, since: int) -> bool:
        """Whether the gateway may have taken note of a success since a moment, that one included."""
        return max(self._done_at[node_id], *self._good_at[node_id], 0) >= since

    def has_succeeded(self, node_id: str, since: int) -> bool:
        """Whether the gateway had taken note of a success before this moment."""
        now = self.world.loop.now
        return not since or any(since <= at < now for at in self._good_at[node_id])

    def _sort(self, node_id: str, ended: list[Generation]) -> None:
        self._open[node_id] = [each for each in self._open[node_id] if not each.how]
        done = [each for each in ended if each.how == "done"]
        if done:
            self._done[node_id] += done
            self._done_at[node_id] = self.world.loop.now
        self._bad[node_id] += [
            each for each in ended if each.how not in _GOOD and not self._has_left(each)
        ]
        for generation in sorted(ended, key=lambda each: each.how == "done"):
            self._count(generation)

    def _count(self, generation: Generation) -> None:
        """Count failures that are the node's beyond doubt; whatever else happens begins anew.

        Of what is lost on the way the gateway hears nothing: it is the silence that it counts, as half.
        """
        row = self._in_a_row[generation.node.id]
        is_sure = generation.how in _SURE and not generation.wire.is_lost
        if not is_sure or self._told(generation).end is End.LEFT:
            row.clear()
        elif not any(_is_same(bad, generation) for bad in row):
            row.append(generation)

    def _note_failures(self, node_id: str) -> None:
        for bad in self._bad[node_id]:
            if bad not in self._noted_at and self._error(bad):
                self._noted_at[bad] = self.world.loop.now

    def _note_successes(self, node_id: str) -> None:
        over = [each for each in self._done[node_id] if self._told(each).end is not None]
        if not over:
            return
        self._done[node_id] = [each for each in self._done[node_id] if each not in over]
        for each in over:
            told = self._told(each)
            if told.end is End.WHOLE and told.by[-1:] == [each.by]:
                self._good_at[node_id].append(round(told.ended_at * TICKS_A_SECOND))
                self._in_a_row[node_id].clear()

    def _must_count(self, generation: Generation) -> bool:
        """Whether the gateway's attempt has failed through the node, not by the request's deadline.

        It may send a request once more by itself. What failed on several nodes and is never begun to be
        answered may be the request's fault.
        """
        now, told = self.world.loop.now, self._told(generation)
        if generation.ended == now or told.status == 504 or not self._error(generation):
            return False
        attempts = self.world.attempts_of(generation.request)
        later = [each for each in attempts if each.attempt > generation.attempt]
        if any(0 < each.began < now and not each.wire.is_lost for each in later):
            return True
        nodes = [each.node for each in attempts if each.how not in _GOOD]
        return told.end is not None and all(node is generation.node for node in nodes)

    def _error(self, generation: Generation) -> str:
        """Return what the gateway's attempt has failed with; empty if it has not, or not yet."""
        tries = self.world.gateway.journal.find(generation.request)[0].outcome.tries
        return tries[generation.attempt - 1].error

    def _has_left(self, generation: Generation) -> bool:
        """Whether it ended because its caller went."""
        return generation.how == "left" and self._told(generation).end is End.LEFT

    def _told(self, generation: Generation) -> Told:
        return self.world.clients[generation.request].told


def _is_same(one: Generation, other: Generation) -> bool:
    """Whether two requests on a node are one attempt of the gateway's."""
    return (one.request, one.attempt) == (other.request, other.attempt)
