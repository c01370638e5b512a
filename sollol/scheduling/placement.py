"""Which models to load where before somebody asks for them there. Decides; changes no node's files.

A copy is added where a model is asked for more often than its copies can serve (``scarce``), and a
model with steady demand that has left all memory is loaded again where there is room (``gone``).
Both are worth less than a request that waits, so each has to be sure:

1. A node gets one load at a time, and one prewarm in ``KEEP_S``.
2. What must leave is hardly asked for, was there for ``KEEP_S``, and is missed for less than is won.
3. What was pushed out of the last memory stays out: it left for something else that is in demand.
4. A node is left alone while it has urgent work, is more than half busy, or is waited for; and for a model
   that has left all memory, unless it is idle and has room for sure.
5. A prewarm that failed, or that nobody used before it left, is tried again later and later.
"""

from collections.abc import Iterator, Sequence

import msgspec

from sollol.scheduling.cost import Prices
from sollol.scheduling.decision import Prewarm
from sollol.scheduling.demand import Demand
from sollol.scheduling.fleet import Fleet
from sollol.scheduling.memory import begin_load, beside, together, victims
from sollol.scheduling.state import Node, Runner
from sollol.scheduling.work import Priced, Work
from sollol.types import Engine

PLAN_S = 2.0
SCARCE_S = 10.0
"""A model must be scarce for so long before a copy is added."""

KEEP_S = 60.0
"""Least time between two prewarms of a node, and that a model has been in memory before one of them
pushes it out."""

HORIZON_S = 60.0
"""How far ahead a copy is taken to be of use."""

STEADY_PER_S = 1 / 120
"""A model that is asked for more often than this is loaded again when it has left all memory."""

GONE_WITHIN_S = 300.0
HARDLY_PER_S = 1 / 240
"""What is asked for less often than this may be pushed out."""

URGENT = 8
"""The least priority for which a node is left alone."""

LEVEL = 5.0
"""As urgent as a prewarm is: as a request that says nothing of it."""

BACK_OFF_S = 60.0
MAX_BACK_OFF_S = 3600.0
OPTIONS_AT_MOST = 0.1
"""A model of which more requests set runner options would be loaded once more for them."""

Pair = tuple[str, str]
"""A node's id and a model's key."""


class Want(msgspec.Struct):
    """What is asked of a model under all its names, and where it can run."""

    model: str
    runners: Sequence[Runner]
    rate_per_s: float
    prompt_tokens: float
    output_tokens: float

    def service_s(self, runner: Runner) -> float:
        """Return the seconds a request takes on a runner when all its slots are taken."""
        node = runner.node
        beside = node.slots - 1 + node.in_flight - len(runner.running)
        decode_s = self.output_tokens * runner.decode_s * (1.0 + node.slope * beside)
        return self.prompt_tokens * runner.prefill_s + decode_s

    def served_per_s(self, runner: Runner) -> float:
        """Return how many requests a second a runner can serve."""
        return runner.node.slots / max(self.service_s(runner), 1e-6)

    def resident(self) -> list[Runner]:
        """Return the runners in memory, those that are being loaded included."""
        return [runner for runner in self.runners if runner.is_resident]

    def lacking_per_s(self) -> float:
        """Return how many requests a second, those that wait included, cannot be served."""
        waiting = sum(len(runner.backlog) for runner in self.runners)
        served = sum(self.served_per_s(runner) for runner in self.resident())
        return self.rate_per_s + waiting / HORIZON_S - served


class Placement:
    """Owner of the prewarms under way, and of what is remembered to do few of them."""

    def __init__(self, fleet: Fleet, demand: Demand, prices: Prices) -> None:
        self._fleet = fleet
        self._demand = demand
        self._prices = prices
        self._planned_at = 0.0
        self._scarce_since: dict[str, float] = {}
        self._begun: dict[Pair, float] = {}
        self._unused: dict[Pair, float] = {}
        """Prewarmed and not used yet: when it was ready."""
        self._failures: dict[Pair, tuple[int, float]] = {}
        """How often in a row, and until when it is not tried."""
        self._last_at: dict[str, float] = {}
        """When a node's latest prewarm began."""

    def plan(self, now: float) -> list[Prewarm]:
        """Return what is to be loaded now; it is taken to be loading from here on."""
        if now - self._planned_at < PLAN_S:
            return []
        self._planned_at = now
        self._keep_up(now)
        planned = []
        scarce_since, self._scarce_since = self._scarce_since, {}
        for key, want in self._wants(now).items():
            if self._is_scarce(key, want, scarce_since.get(key, now), now):
                found, reason = (
                    self._best_for_more(want, now),
                    "more requests than its copies serve",
                )
            elif self._is_gone(key, want, now):
                found, reason = self._best_for_first(want, now), "in demand and in no node's memory"
            else:
                continue
            if found is not None:
                planned.append(self._begin(found, want.model, reason, now))
                self._scarce_since.pop(key, None)
        return planned

    def ended(self, node_id: str, model: str, now: float, *, has_failed: bool) -> Node | None:
        """Take how a prewarm ended; return its node if it has not left meanwhile."""
        began_at = self._begun.pop((node_id, model), None)
        runner = self._runner((node_id, model))
        if began_at is None or runner is None:
            return None
        runner.ready_at = min(runner.ready_at, now)
        runner.touched_at = now
        if has_failed:
            self._note_failure((node_id, model), now)
            if not runner.running:
                runner.unload()
            return runner.node
        runner.used_at = self._unused[(node_id, model)] = now
        return runner.node

    def forget_node(self, node_id: str) -> None:
        """Drop what is known of a node that is gone."""
        self._last_at.pop(node_id, None)
        for pairs in (self._begun, self._unused, self._failures):
            for pair in [pair for pair in pairs if pair[0] == node_id]:
                del pairs[pair]

    def _keep_up(self, now: float) -> None:
        """Hold on to loads under way, which nodes do not tell of, and see what became of others."""
        for pair in self._begun:
            runner = self._runner(pair)
            if runner is not None:
                runner.touched_at = now
                runner.ready_at = max(runner.ready_at, now + PLAN_S)
        for pair, ready_at in list(self._unused.items()):
            runner = self._runner(pair)
            if runner is not None and runner.used_at == ready_at and runner.is_resident:
                continue
            del self._unused[pair]
            if runner is not None and runner.used_at == ready_at:
                self._note_failure(pair, now)
            else:
                self._failures.pop(pair, None)

    def _wants(self, now: float) -> dict[str, Want]:
        wants: dict[str, Want] = {}
        for model in self._demand.models():
            runners = [r for r in self._fleet.open_to(model) if not r.is_on_trial]
            rate_per_s = self._demand.rate(model, now)
            plain_per_s = self._demand.shape_rate(model, (), now)
            if not runners or rate_per_s - plain_per_s > OPTIONS_AT_MOST * rate_per_s:
                continue
            same = wants.get(runners[0].key)
            if same is not None:
                same.rate_per_s += rate_per_s
                continue
            wants[runners[0].key] = Want(model, runners, rate_per_s, *self._demand.size(model))
        return wants

    def _is_scarce(self, key: str, want: Want, since: float, now: float) -> bool:
        if not want.resident() or want.lacking_per_s() <= 0.0:
            return False
        self._scarce_since[key] = since
        return now - since >= SCARCE_S

    def _is_gone(self, key: str, want: Want, now: float) -> bool:
        return (
            want.rate_per_s > STEADY_PER_S
            and now - max(runner.seen_at for runner in want.runners) < GONE_WITHIN_S
            and not any(shape[0] == key for shape in self._fleet.shared.copies)
            and not any(runner.backlog or runner.was_pushed_out for runner in want.runners)
        )

    def _best_for_more(self, want: Want, now: float) -> Runner | None:
        """Return where one more copy costs least, if it is worth that anywhere."""
        best_s = min(want.service_s(runner) for runner in want.resident())
        lacking = want.lacking_per_s()
        found: list[tuple[float, Runner]] = []
        for priced in self._candidates(want, now):
            runner, terms = priced.runner, priced.terms
            relieved = min(lacking, want.served_per_s(runner)) * HORIZON_S
            slower_s = max(0.0, want.service_s(runner) - best_s)
            cost_s = terms.load_s + terms.eviction_s + relieved * slower_s
            if cost_s < relieved * HORIZON_S / 2:
                found.append((cost_s, runner))
        return min(found, key=lambda costed: costed[0])[1] if found else None

    def _best_for_first(self, want: Want, now: float) -> Runner | None:
        """Return where a model is ready and serves soonest, of the nodes with room for it."""
        candidates = [priced.runner for priced in self._candidates(want, now)]
        roomy = [r for r in candidates if not r.node.in_flight and has_sure_room(r)]
        return min(roomy, key=lambda r: r.load_s + want.service_s(r)) if roomy else None

    def _candidates(self, want: Want, now: float) -> Iterator[Priced]:
        """Yield the runners that may be prewarmed now, and what that costs."""
        for runner in want.runners:
            node = runner.node
            if runner.is_resident or node.view.engine is not Engine.OLLAMA:
                continue
            if now - self._last_at.get(node.id, -KEEP_S) < KEEP_S:
                continue
            if now < self._failures.get((node.id, want.model), (0, 0.0))[1] or _is_busy(node):
                continue
            priced = self._prices.price(runner, _load_only(want.model), now)
            if priced.can_start and all(self._may_leave(o, now) for o in _leaving(runner)):
                yield priced

    def _may_leave(self, runner: Runner, now: float) -> bool:
        rate_per_s = sum(self._demand.rate(name, now) for name in runner.names)
        is_wanted = runner.is_in_demand() or rate_per_s > HARDLY_PER_S
        return not is_wanted and now - runner.loaded_at >= KEEP_S

    def _begin(self, runner: Runner, model: str, reason: str, now: float) -> Prewarm:
        begin_load(runner, (), runner.load_s, now)
        runner.used_at = now
        self._begun[(runner.node.id, model)] = self._last_at[runner.node.id] = now
        return Prewarm(runner.node.id, model, reason)

    def _note_failure(self, pair: Pair, now: float) -> None:
        count = self._failures.get(pair, (0, 0.0))[0] + 1
        pause_s = min(MAX_BACK_OFF_S, BACK_OFF_S * 2.0 ** min(count, 10))
        self._failures[pair] = (count, now + pause_s)

    def _runner(self, pair: Pair) -> Runner | None:
        node = self._fleet.nodes.get(pair[0])
        return node.by_model.get(pair[1]) if node is not None else None


def has_sure_room(runner: Runner) -> bool:
    """Whether a model is known to fit beside those in its node's memory."""
    others = beside(runner)
    return not others or runner.node.capacity.is_sure_of(*together(runner, others))


def _leaving(runner: Runner) -> list[Runner]:
    """Return what leaves for a model, and where that is not known, what would leave first."""
    if has_sure_room(runner):
        return []
    return victims(runner) or [min(beside(runner), key=lambda other: other.used_at)]


def _is_busy(node: Node) -> bool:
    """Whether a load would be in the way of what a node has to do."""
    is_full = 2 * node.in_flight > node.slots or node.most_urgent >= URGENT
    return is_full or any(runner.backlog for runner in node.runners.values())


def _load_only(model: str) -> Work:
    return Work(model, 0, 0, (), 0, 0.0, LEVEL)
