"""What the gateway makes of nodes must be what they have shown: states, and how long they last."""

from typing import TYPE_CHECKING

from sollol.types import NodeState, NodeView
from tests.deterministic.failures import Failures
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
_OPENING = ("state", "limited", "models", "outvoted")
"""Fields of a view that decide what its node may be given."""

_OF_THE_WIRE = (Fault.REFUSE, Fault.RESTART, Fault.PARTITION, Fault.VANISH)


class States:
    """Watches the states that nodes have in the gateway.

    It hears of every change, be there several in one moment.

    Attributes:
        since: when nodes, and runners on nodes, last came to their state, in ticks.
        changed_at: when it last changed what a node may be given.
        failures: what nodes have done wrong.
    """

    def __init__(self, world: "World") -> None:
        self.world = world
        self.since: dict[tuple[str, str], int] = {}
        self.changed_at: dict[str, int] = {}
        self.failures = Failures(world)
        self._ejected_at: dict[tuple[str, str], int] = {}
        """When ejections began that were seen, or may have begun unseen as a node went down."""
        self._again: set[tuple[str, str]] = set()
        """What was ejected on trial."""
        self._closed_at = dict.fromkeys(world.nodes, 0)
        """When a trial last went well, or began to, in ticks."""
        self._news: list[NodeView] = []
        registry = world.gateway.registry
        self._seen = {view.id: view for view in registry.views()}
        pass_on = registry._on_change

        def hear(view: NodeView) -> None:
            self._news.append(view)
            pass_on(view)

        registry._on_change = hear

    def look(self) -> None:
        """Check what has changed since the last look."""
        self.failures.look()
        news, self._news = self._news, []
        for view in news:
            before = self._seen.get(view.id)
            if before is not None:
                self._changed(view, before)
            self._seen[view.id] = view
        for node_id in self.world.nodes:
            self._check_ejected(node_id)

    def _check_ejected(self, node_id: str) -> None:
        """Check that a node is ejected after failures in a row.

        One will do on trial, and from the beginning of the answer that ends that to an answer's end.
        """
        state = self._seen[node_id].state
        if state not in (HEALTHY, HALF_OPEN):
            return
        is_proven = self.failures.may_have_succeeded(node_id, self._closed_at[node_id])
        since = self.since.get((node_id, ""), 0)
        count = len(self.failures.least(node_id, since, is_proven=is_proven))
        most = EJECT_AFTER if state is HEALTHY and is_proven else 1
        assert count < most, f"{node_id} has failed {count} times, and is {state}"

    def check_told(self) -> None:
        """Check that what the scheduler is told of the nodes is what is known of them."""
        for node in self.world.gateway.registry.nodes():
            if node.health.is_troubled or node.view.limited:
                assert node.view.state is node.state(), f"{node.view.id} is not told of"
                assert node.view.limited == node.health.limited(), f"{node.view.id} is not told of"
            self._check_refused(node.view)

    def _check_refused(self, view: NodeView) -> None:
        """Check that a node which has refused a connection in this moment is down.

        Not if it has answered a probe as well, on a connection that was open: the later one counts.
        """
        node, now = self.world.nodes[view.id], self.world.loop.now
        if node.refused_at == now and node.told_at != now:
            assert view.state is not HEALTHY, f"{view.id} is not there, and healthy"

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
                self._check_reason(view.id, self.failures.most(view.id))
            self.since[view.id, ""] = now
        if any(getattr(view, name) != getattr(before, name) for name in _OPENING):
            self.changed_at[view.id] = now
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
                most = self.failures.most(view.id)
                bad = [bad for bad in most if bad.runner_key == runner]
                self._check_reason(view.id, bad)
        self.since[view.id, runner] = self.world.loop.now

    def _was_down(self, view: NodeView) -> bool:
        """Whether nobody was there lately: who comes back starts anew."""
        return self._ever(view.id, _OF_THE_WIRE)

    def _ever(self, node_id: str, faults: tuple[Fault, ...]) -> bool:
        windows = self.world.schedule.windows
        return any(window.node == node_id and window.fault in faults for window in windows)

    def _check_length(self, node_id: str, runner: str, before: NodeState, after: NodeState) -> None:
        """Check how long an ejection took that has just ended."""
        if before in (HEALTHY, HALF_OPEN) and after in (UNHEALTHY, EJECTED):
            self._ejected_at[node_id, runner] = self.world.loop.now
        if (before, after) == (HALF_OPEN, EJECTED):
            self._again.add((node_id, runner))
        elif before is not EJECTED:
            self._again.discard((node_id, runner))
        if (before, after) != (EJECTED, HALF_OPEN):
            return
        took_s = (self.world.loop.now - self._ejected_at[node_id, runner]) / TICKS_A_SECOND
        is_again = (node_id, runner) in self._again
        least_s = 0.8 * EJECT_S * (2 if is_again else 1) - 0.02
        most_s = 1.2 * MAX_EJECT_S + LATE_S
        assert least_s <= took_s <= most_s, f"{node_id} {runner} was ejected for {took_s:.2f} s"

    def _check_reason(self, node_id: str, bad: list[Generation]) -> None:
        """Check that there were enough failures in a row."""
        is_proven = self.failures.has_succeeded(node_id, self._closed_at[node_id])
        if is_proven and not self._ever(node_id, _OF_THE_WIRE):
            assert len(bad) >= EJECT_AFTER, f"{node_id} is ejected after {len(bad)} failures"
