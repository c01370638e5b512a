"""What the gateway makes of nodes must be what they have shown: states, and how long they last."""

from typing import TYPE_CHECKING

from sollol.types import NodeState, NodeView
from tests.deterministic.client import End
from tests.deterministic.faults import Fault
from tests.deterministic.generation import Generation
from tests.deterministic.loop import TICKS_A_SECOND

if TYPE_CHECKING:
    from tests.deterministic.world import World

EJECT_S, MAX_EJECT_S = 0.5, 2.0
"""The settings of a run."""

EJECT_AFTER = 3
LATE_S = 0.27
"""How much later than planned an ejection may end: a tick of the gateway."""

UNHEALTHY, HEALTHY = NodeState.UNHEALTHY, NodeState.HEALTHY
EJECTED, HALF_OPEN = NodeState.EJECTED, NodeState.HALF_OPEN
LEGAL = {
    UNHEALTHY: (HEALTHY, EJECTED, HALF_OPEN),
    HEALTHY: (UNHEALTHY, EJECTED),
    EJECTED: (UNHEALTHY, HALF_OPEN),
    HALF_OPEN: (UNHEALTHY, EJECTED, HEALTHY),
}
LEGAL_OF_MODEL = {
    HEALTHY: (EJECTED,),
    EJECTED: (HALF_OPEN,),
    HALF_OPEN: (EJECTED, HEALTHY),
}
_GOOD = ("done", "400", "404", "429", "503", "")
_SURE = ("reset", "cut", "short")
_SUSPECT = ("crashed", "500", "error record")
"""Errors, of the node or of the request."""
FAILURES = (*_SURE, *_SUSPECT, "cut by a crash")
_OF_THE_WIRE = (Fault.REFUSE, Fault.RESTART, Fault.PARTITION, Fault.VANISH)


class States:
    """Watches the states that nodes have in the gateway.

    Attributes:
        since: when nodes, and runners on nodes, last came to their state, in ticks.
    """

    def __init__(self, world: "World") -> None:
        self.world = world
        self.since: dict[tuple[str, str], int] = {}
        self._closed_at = dict.fromkeys(world.nodes, 0)
        """When a trial last went well, or began to, in ticks."""
        self._done_at = dict.fromkeys(world.nodes, 0)
        """When an answer last came to its end."""
        self._ejections: dict[tuple[str, str], int] = {}
        self._seen: dict[str, NodeView] = {}
        self._bad: dict[str, list[Generation]] = {node_id: [] for node_id in world.nodes}
        self._in_a_row: dict[str, list[Generation]] = {node_id: [] for node_id in world.nodes}
        self._open: dict[str, list[Generation]] = {node_id: [] for node_id in world.nodes}

    def arrived(self, generation: Generation) -> None:
        """Follow a request to its end."""
        self._open[generation.node.id].append(generation)

    def look(self) -> None:
        """Check what has changed since the clock moved last."""
        for node_id in self._open:
            self._sort(node_id)
        for view in self.world.gateway.registry.views():
            before = self._seen.get(view.id)
            if before is view:
                continue
            if before is not None:
                self._changed(view, before)
            self._seen[view.id] = view
        for node_id in self._in_a_row:
            if self._in_a_row[node_id]:
                self._check_ejected(node_id)

    def _sort(self, node_id: str) -> None:
        """Put those that have ended to the bad ones, or forget the bad ones after a good one.

        Of what ends in one moment the order is not known: the good come first, but last where it is
        counted what must have been noticed.
        """
        ended = [each for each in self._open[node_id] if each.how]
        if not ended:
            return
        self._open[node_id] = [each for each in self._open[node_id] if not each.how]
        for generation in sorted(ended, key=lambda each: each.how != "done"):
            if generation.how == "done":
                self._done_at[node_id] = self.world.loop.now
                self._bad[node_id] = [bad for bad in self._bad[node_id] if bad.how in FAILURES]
            elif generation.how not in _GOOD and not self._has_left(generation):
                self._bad[node_id].append(generation)
        for generation in sorted(ended, key=lambda each: each.how == "done"):
            self._count(generation)

    def _count(self, generation: Generation) -> None:
        """Count failures that are the node's beyond doubt; whatever else happens begins anew."""
        row = self._in_a_row[generation.node.id]
        told = self.world.clients[generation.request].told
        which = generation.request, generation.attempt
        if generation.how not in _SURE or told.end is End.LEFT:
            row.clear()
        elif which not in [(bad.request, bad.attempt) for bad in row]:
            row.append(generation)

    def _check_ejected(self, node_id: str) -> None:
        """Check that a node is ejected after failures in a row, of which one will do on trial."""
        node = self.world.gateway.registry.find(node_id)
        assert node is not None
        row, view = self._in_a_row[node_id], node.view
        is_proven = self._is_proven(node_id)
        limits = {HEALTHY: EJECT_AFTER if is_proven else 1, HALF_OPEN: 1}
        since = self.since.get((node_id, ""), 0)
        late = [
            bad
            for bad in row
            if (bad.arrived if is_proven else bad.ended) > since and self._is_told(bad)
        ]
        most = limits.get(view.state, len(row) + 1)
        assert len(late) < most, f"{node_id} has failed {len(late)} times, and is {view.state}"

    def _is_proven(self, node_id: str) -> bool:
        """Whether an answer has come to its end since a trial began to be answered."""
        return self._done_at[node_id] >= self._closed_at[node_id]

    def _is_told(self, generation: Generation) -> bool:
        """Whether the gateway's attempt has failed through the node, not by the request's deadline.

        It may send a request once more by itself. What failed on several nodes and is never begun to be
        answered may be the request's fault.
        """
        told = self.world.clients[generation.request].told
        if told.status == 504 or generation.ended == self.world.loop.now:
            return False
        tries = self.world.gateway.journal.find(generation.request)[0].outcome.tries
        if not tries[generation.attempt - 1].error:
            return False
        attempts = self.world.attempts_of(generation.request)
        later = [other for other in attempts if other.attempt > generation.attempt]
        now = self.world.loop.now
        if any(0 < each.began < now and not each.wire.is_lost for each in later):
            return True
        nodes = [other.node for other in attempts if other.how not in _GOOD]
        return told.end is not None and all(node is generation.node for node in nodes)

    def check_told(self) -> None:
        """Check that what the scheduler is told of the nodes is what is known of them."""
        for node in self.world.gateway.registry.nodes():
            if node.health.is_troubled or node.view.limited:
                assert node.view.state is node.state(), f"{node.view.id} is not told of"
                assert node.view.limited == node.health.limited(), f"{node.view.id} is not told of"
            if self.world.nodes[node.view.id].refused_at == self.world.loop.now:
                assert node.view.state is not HEALTHY, f"{node.view.id} is not there, and healthy"

    def _has_left(self, generation: Generation) -> bool:
        """Whether it ended because its caller went."""
        told = self.world.clients[generation.request].told
        return generation.how == "left" and told.end is End.LEFT

    def _changed(self, view: NodeView, before: NodeView) -> None:
        now = self.world.loop.now
        if view.state is not before.state:
            self.world.note(f"{view.id} is {view.state}")
            assert view.state in LEGAL[before.state], f"{view.id}: {before.state} -> {view.state}"
            is_well = view.state is HEALTHY
            assert is_well or self.world.nodes[view.id].has_erred, (
                f"{view.id} is blamed for nothing"
            )
            self._check_length(view.id, "", before.state, view.state)
            if before.state is HALF_OPEN and is_well:
                self._closed_at[view.id] = now
            if (before.state, view.state) == (HEALTHY, EJECTED):
                self._check_reason(view.id, self._bad[view.id])
            if (before.state, view.state) != (UNHEALTHY, EJECTED):  # else it was ejected before
                self.since[view.id, ""] = now
        for runner in {**before.limited, **view.limited}:
            self._model_changed(
                view,
                runner,
                before.limited.get(runner, HEALTHY),
                view.limited.get(runner, HEALTHY),
            )

    def _model_changed(
        self, view: NodeView, runner: str, before: NodeState, after: NodeState
    ) -> None:
        if before is after:
            return
        self.world.note(f"{view.id} {runner} is {after}")
        was_cleared = after is HEALTHY and (
            view.state in (EJECTED, UNHEALTHY) or self._was_down(view)
        )
        is_legal = after in LEGAL_OF_MODEL[before] or was_cleared
        assert is_legal, f"{view.id} {runner}: {before} -> {after}"
        assert after is HEALTHY or self.world.nodes[view.id].has_erred, f"{view.id} did nothing"
        if not self._ever(view.id, (Fault.TOO_MANY,)):
            self._check_length(view.id, runner, before, after)
            if (before, after) == (HEALTHY, EJECTED):
                bad = [bad for bad in self._bad[view.id] if bad.runner_key == runner]
                self._check_reason(view.id, bad)
        self.since[view.id, runner] = self.world.loop.now

    def _was_down(self, view: NodeView) -> bool:
        """Whether nobody was there lately: who comes back starts anew."""
        return self._ever(view.id, _OF_THE_WIRE)

    def _ever(self, node_id: str, faults: tuple[Fault, ...]) -> bool:
        windows = self.world.schedule.windows
        return any(window.node == node_id and window.fault in faults for window in windows)

    def _check_length(self, node_id: str, runner: str, before: NodeState, after: NodeState) -> None:
        """Check how long an ejection took that has just ended.

        One that is ejected again in the moment in which it becomes half-open is not seen to be that.
        """
        node = self.world.gateway.registry.find(node_id)
        assert node is not None
        if after is EJECTED:
            self._ejections[node_id, runner] = node.health.ejections_total
        if (before, after) == (HALF_OPEN, EJECTED):
            self.since[node_id, runner + " again"] = self.world.loop.now
        elif before is not EJECTED:
            self.since.pop((node_id, runner + " again"), None)
        if (before, after) != (EJECTED, HALF_OPEN):
            return
        took_s = (self.world.loop.now - self.since[node_id, runner]) / TICKS_A_SECOND
        is_again = (node_id, runner + " again") in self.since
        least_s = 0.8 * EJECT_S * (2 if is_again else 1) - 0.02
        is_one = self._ejections[node_id, runner] == node.health.ejections_total
        most_s = 1.2 * MAX_EJECT_S + LATE_S if is_one else took_s
        assert least_s <= took_s <= most_s, f"{node_id} {runner} was ejected for {took_s:.2f} s"

    def _check_reason(self, node_id: str, bad: list[Generation]) -> None:
        """Check that there were enough failures in a row."""
        if not self._ever(node_id, _OF_THE_WIRE) and self._is_proven(node_id):
            assert len(bad) >= EJECT_AFTER, f"{node_id} is ejected after {len(bad)} failures"
