"""The scheduler: a state machine with one writer; events in, effects out, the time an argument.

    submit(request, now)          a request came             -> a grant, a refusal, or it waits
    spare(request, now)           a second copy may be sent  -> a grant, or nothing
    loaded(lease, now)            its model is in memory     -> grants
    begun(lease, now)             it begins to be answered   -> grants
    full(lease, now)              its node had no room for it
    release(lease, now, ...)      an answer ended            -> grants to those who waited
    cancel(request_id)            a waiting caller left
    node_changed(view, now)       a node's facts changed     -> grants
    node_removed(node_id)
    rules_changed(now)            other nodes may be used    -> grants
    load_ended(node_id, ...)      a model was prewarmed      -> grants
    make_way(sizes, ...)          bodies need room           -> refusals
    drain()                       the gateway stops          -> refusals
    tick(now)                     time passed                -> grants, refusals and prewarms

Slots are those of a runner: the names under which a node has one digest share them. What a request
costs on a runner is said by ``cost.py``, which runner is best by ``choice.py``, who of those who
wait is next by ``queue.py``.

Invariants: no runner has more leases than its node has slots; a request has at most one lease, and
one for its copy; a slot goes to nobody while one with a smaller queue key could start on it and wants to.
"""

from collections.abc import Iterable, Mapping
from heapq import heapify, heappop, heapreplace
from random import Random

from sollol.errors import QueueFull, QueueTimeout, ShuttingDown
from sollol.scheduling import explain
from sollol.scheduling.chooser import Chooser
from sollol.scheduling.decision import Decision, Effect, Grant, Refusal, Statistics
from sollol.scheduling.fairness import FairClock
from sollol.scheduling.fleet import RETRY_AFTER_S
from sollol.scheduling.leases import Leases
from sollol.scheduling.limits import SchedulerLimits
from sollol.scheduling.memory import is_loading
from sollol.scheduling.overview import (
    NodeEstimate,
    Queued,
    SlowModel,
    estimate,
    queued,
    slow_model,
)
from sollol.scheduling.queue import Row, Waiting, WaitQueue
from sollol.scheduling.state import Held, Node, Runner
from sollol.scheduling.verdict import Verdict
from sollol.scheduling.waiting import claim_room, is_impatient, plan, unplan
from sollol.scheduling.work import Priced
from sollol.types import Comer, Lease, Measured, NodeView, RouteRequest

LOOK_AHEAD = 4
"""So many of a kind in a row that cannot start, and those behind them cannot either."""

MAX_LOOKS = 64
"""Requests looked at in vain for one event; the first of each kind is always looked at."""

LOOKS_FOR_SLOT = 12
"""The same, when one slot has become free."""

STRANDED_S = 15.0
"""How long those who wait for a node that went down wait for it to come back."""

LONG_QUEUE = 0.5
"""Part of the queue's length: with more waiting, no slot is left free for the sake of others."""

HOUSEKEEPING_S = 5.0
FAILURE_SHARE = 0.1
MAX_RETRY_AFTER_S = 60.0


class Scheduler:
    """Sole owner of leases and of the waiting queue."""

    def __init__(self, limits: SchedulerLimits, rng: Random) -> None:
        self._limits = limits
        self._is_limited = limits.max_in_flight_per_caller is not None
        self._chooser = Chooser(limits, rng)
        self._fleet = self._chooser.fleet
        self._leases = Leases()
        self._queue = WaitQueue(limits.queue_max_length)
        self._fair = FairClock()
        self._stranded_since: dict[tuple[str, frozenset[str]], float] = {}
        self._held_back: dict[str, dict[str, None]] = {}
        """Callers at their limit -> models that they wait for."""
        self._cleaned_at = 0.0
        self._is_draining = False

    def submit(self, request: RouteRequest, now: float) -> list[Effect]:
        """Grant a slot, refuse, or (no effect) let the request wait.

        1. No node has the model, or none that may be used is up: refused.
        2. The best node can begin at once: granted.
        3. The queue is full, or the caller has its share of it while others wait: refused, or
           else one that is less urgent is.
        4. It waits, because the best node is busy, be others free or not.
        """
        if not self._fleet.is_up(request.model, request.excluded):
            return [Refusal(request.id, self._fleet.why_none(request.model))]
        if not request.takes_slot:
            runners = self._fleet.eligible(request, 0)
            best = min(runners, key=lambda r: (not r.is_resident, r.node.in_flight))
            return [Grant(self._leases.take_beside(request, best.node, now))]
        chooser = self._chooser
        work = chooser.work(request, self._key(request), now)
        prompt, output = work.prompt_tokens, work.output_tokens
        chooser.demand.note(request.model, request.ask.options, prompt, output, now)
        verdict = chooser.choose(request, work, now)
        if self._is_limited and self._is_over(request):
            verdict.hold_back()
        if verdict.chosen is None:
            return self._wait(request, verdict, now)
        self._charge(request, verdict)
        return [self._grant(verdict, verdict.chosen, 0.0, now)]

    def take_idle(self, request: RouteRequest, now: float) -> Grant | None:
        """Grant a slot that is free at once, without a load; else do nothing.

        For a request that nobody waits for: it is no demand for the model, and never queued.
        """
        if self._is_draining or not self._fleet.is_up(request.model, request.excluded):
            return None
        verdict = self._verdict(request, self._key(request), now, is_preview=True)
        chosen = verdict.chosen
        if chosen is None or chosen.loads:
            return None
        return self._grant(verdict, chosen, 0.0, now)

    def spare(self, request: RouteRequest, now: float) -> Grant | None:
        """Grant a slot for a second copy of a request that has one; only where nobody waits."""
        return None if len(self._queue) else self.take_idle(request, now)

    def loaded(self, lease: Lease, now: float) -> list[Effect]:
        """Note that the model a lease waited for is in memory."""
        held = self._leases.find(lease)
        if held is None or held.runner is None:
            return []
        held.is_loaded = True
        if held.runner.ready_at <= now:
            return []
        held.runner.ready_at = now
        return self._serve_models_of(held.runner.node, now)

    def begun(self, lease: Lease, now: float) -> list[Effect]:
        """Note that a request on trial begins to be answered: its runner does its work."""
        held = self._leases.find(lease)
        if held is None or held.runner is None or not held.is_trial:
            return []
        held.is_trial = False
        held.runner.is_proven = True
        return self._serve_models_of(held.runner.node, now)

    def full(self, lease: Lease, now: float) -> None:
        """Note that the node had no room for a request: others use it too, so it gets less a while."""
        held = self._leases.find(lease)
        if held is not None and held.runner is not None:
            self._fleet.full(held.runner, now)

    def release(
        self,
        lease: Lease,
        now: float,
        measured: Measured | None = None,
        *,
        has_failed: bool = False,
    ) -> list[Effect]:
        """Give a slot back. Releasing a lease twice has no effect the second time.

        Args:
            measured: what is known of the answer, to learn from; None when it was not whole.
            has_failed: through a fault of the node.
        """
        held = self._leases.give_back(lease, now)
        if held is None:
            return []
        if measured is not None:
            self._chooser.learn(held, measured, now)
        self._note_end(held, now, has_failed=has_failed, is_whole=measured is not None)
        held_back = self._held_back.pop(held.request.caller, None)
        if not len(self._queue):
            return []
        effects = self._serve_slot(held.runner, now) if held.runner is not None else []
        return effects + (self._serve(held_back, now) if held_back else [])

    def cancel(self, request_id: str) -> bool:
        """Forget a waiting request; False when it does not wait (any more)."""
        waiting = self._queue.remove(request_id)
        self._note_queue()
        if waiting is None:
            return False
        unplan(waiting)
        self._fair.refund(waiting.request, waiting.share_s)
        return True

    def make_way(
        self, sizes: Mapping[str, int], needed_bytes: int, comer: Comer, now: float
    ) -> list[Refusal]:
        """Refuse requests that wait, the least urgent first, so that their bodies leave.

        Args:
            sizes: request id -> bytes; of others nothing is gained.
            needed_bytes: how much has to become free. Where less would, nobody is refused.
            comer: whose body needs it; what is not less urgent stays.
        """
        start = self._fair.start_of(comer.caller, comer.priority, now)
        key = start - comer.priority * self._limits.ageing_s
        leaving: list[Waiting] = []
        for waiting in reversed(self._queue.all()):
            if needed_bytes <= 0 or waiting.key <= key:
                break
            if waiting.request.id in sizes:
                leaving.append(waiting)
                needed_bytes -= sizes[waiting.request.id]
        return [] if needed_bytes > 0 else [self._shed(waiting) for waiting in leaving]

    def retry_after_s(self) -> float:
        """Return after how many seconds one that is refused for want of room may come again."""
        last = self._queue.last()
        return _retry_after_s(RETRY_AFTER_S if last is None else last.wait_s)

    def drain(self) -> list[Refusal]:
        """Refuse all who wait, and from now on everybody who would have to."""
        self._is_draining = True
        waiting = [w.request.id for w in self._queue.all()]
        for request_id in waiting:
            self.cancel(request_id)
        return [Refusal(request_id, ShuttingDown()) for request_id in waiting]

    def node_changed(self, view: NodeView, now: float) -> list[Effect]:
        """Take over what is known of a node, new or changed, and fill its free slots."""
        self._fleet.change(view, now)
        if not len(self._queue):
            return []
        return self._serve([m for m in self._queue.models() if m in view.models], now)

    def node_removed(self, node_id: str) -> None:
        """Forget a node. Its leases stay until they are released."""
        self._fleet.remove(node_id)
        self._chooser.forget_node(node_id)

    def rules_changed(self, now: float) -> list[Effect]:
        """Find anew which nodes may run which models, and serve who waits for those."""
        self._fleet.rules_changed()
        return self._serve(self._queue.models(), now) if len(self._queue) else []

    def tick(self, now: float) -> list[Effect]:
        """Serve who can start by now, and refuse who has waited for as long as it may."""
        effects = self._refuse_expired(now) + self._refuse_stranded(now)
        if len(self._queue):
            effects += self._serve(self._queue.models(), now)
            for node in self._fleet.nodes.values():
                effects += self._serve_planned(node, now)
        if self._limits.prewarms and self._chooser.policy.rank is None:
            effects += self._chooser.placement.plan(now)
        if now - self._cleaned_at >= HOUSEKEEPING_S:
            self._cleaned_at = now
            self._fleet.settle(now)
            self._chooser.clean(now)
            self._fair.forget_past(now)
        return effects

    def is_loading(self, lease: Lease, now: float) -> bool:
        """Whether a request may be waiting for its model to be loaded, as far as can be seen."""
        held = self._leases.find(lease)
        runner = None if held is None else held.runner
        if runner is None:
            return False
        return is_loading(runner, now) or runner.key not in runner.node.seen

    def is_node_loading(self, node_id: str, now: float) -> bool:
        """Whether a node is loading any model, as far as can be seen."""
        node = self._fleet.nodes.get(node_id)
        return node is not None and any(is_loading(r, now) for r in node.loaded.values())

    def has_company(self, lease: Lease) -> bool:
        """Whether other requests run on the same runner: its node may do one after another."""
        held = self._leases.find(lease)
        return held is not None and held.runner is not None and len(held.runner.running) > 1

    def load_ended(self, node_id: str, model: str, now: float, *, has_failed: bool) -> list[Effect]:
        """Take how carrying out a :class:`Prewarm` ended."""
        node = self._chooser.placement.ended(node_id, model, now, has_failed=has_failed)
        return [] if node is None else self._serve_models_of(node, now)

    def unloaded(self, model: str) -> None:
        """Note that a caller had a model unloaded: it is not loaded again until it is asked for."""
        self._chooser.demand.forget(model)

    @property
    def lessons(self) -> int:
        """Whole answers heard of since the start; ``gateway/estimates.py`` saves when there are more."""
        return self._chooser.lessons

    def learned(self) -> dict[str, object]:
        """Return what is worth keeping between runs; later events change nothing in it."""
        return self._chooser.learned()

    def take_learned(self, kept: object) -> int:
        """Take over what :meth:`learned` gave; return how many parts of it did not fit.

        Raises:
            ValueError: it is something else, or of another version.
        """
        return self._chooser.take_learned(kept)

    def preview(self, request: RouteRequest, now: float) -> Decision:
        """Return what would be decided for a request, without doing it.

        Raises:
            ModelNotFound, NoNodeAvailable: it would be refused.
        """
        if not self._fleet.is_up(request.model, request.excluded):
            raise self._fleet.why_none(request.model)
        verdict = self._verdict(request, self._key(request), now, is_preview=True)
        return explain.decision(verdict, now)

    def queued(self, now: float, most: int) -> list[Queued]:
        """Return who waits, the next one first.

        Args:
            most: how many to return; comparing the nodes for one takes some microseconds each.
        """
        return [
            self._queued(waiting, position, now)
            for position, waiting in enumerate(self._queue.all()[:most], 1)
        ]

    def find_queued(self, request_id: str, now: float) -> Queued | None:
        """Return what may be seen of one that waits; None when it does not wait."""
        waiting = self._queue.find(request_id)
        if waiting is None:
            return None
        return self._queued(waiting, self._queue.ahead(waiting) + 1, now)

    def estimates(self) -> list[NodeEstimate]:
        """Return what is known of every node."""
        return [estimate(node) for node in self._fleet.nodes.values()]

    def slow(self) -> list[SlowModel]:
        """Return the models that are slow, and those that were so since the start."""
        found: list[SlowModel] = []
        for node_id, key in self._chooser.rates.slow():
            node = self._fleet.nodes.get(node_id)
            if node is not None and key in node.runners:
                found.append(slow_model(node.runners[key]))
        return found

    def answered_at(self, node_id: str) -> dict[str, float]:
        """Return when each runner of a node last gave a caller a whole answer; the past if never."""
        node = self._fleet.nodes.get(node_id)
        return {key: r.answered_at for key, r in node.runners.items()} if node else {}

    def statistics(self) -> Statistics:
        """Counts for the status routes and for the tests' invariants."""
        return Statistics(
            in_flight=dict(self._leases.in_flight),
            queue_length=len(self._queue),
            queue_max_length=self._queue.max_length,
        )

    def _queued(self, waiting: Waiting, position: int, now: float) -> Queued:
        verdict = self._verdict(waiting.request, waiting.key, now, is_preview=True)
        return queued(waiting, verdict, position, now)

    def _verdict(
        self,
        request: RouteRequest,
        key: float,
        now: float,
        *,
        is_impatient: bool = False,
        is_preview: bool = False,
    ) -> Verdict:
        work = self._chooser.work(request, key, now)
        verdict = self._chooser.choose(
            request, work, now, is_impatient=is_impatient, is_preview=is_preview
        )
        if self._is_limited and self._is_over(request):
            verdict.hold_back()
        return verdict

    def _key(self, request: RouteRequest) -> float:
        return self._fair.start(request) - request.priority * self._limits.ageing_s

    def _charge(self, request: RouteRequest, verdict: Verdict) -> float:
        if request.excluded or request.avoided:  # it was charged for the first time
            return 0.0
        return self._fair.charge(request, verdict.share_s())

    def _is_over(self, request: RouteRequest) -> bool:
        """Whether a caller has as many requests in flight as it may."""
        most = self._limits.max_in_flight_per_caller
        return most is not None and self._leases.of_caller(request.caller) >= most

    def _grant(self, verdict: Verdict, chosen: Priced, queue_wait_s: float, now: float) -> Grant:
        decision = explain.decision(verdict, now)  # before the lease changes what was seen
        return Grant(self._leases.take(verdict, chosen, queue_wait_s, now), decision)

    def _wait(self, request: RouteRequest, verdict: Verdict, now: float) -> list[Effect]:
        effects: list[Effect] = []
        if request.id in self._queue:
            raise ValueError(f"request {request.id} is queued already")
        if self._is_draining:
            return [Refusal(request.id, ShuttingDown())]
        share = self._limits.max_share_per_caller
        if not self._queue.has_place(request.caller, share):
            rival = self._queue.rival(request.caller, share)
            if rival is None or rival.key <= verdict.work.key:
                wait_s = verdict.best.terms.wait_s if verdict.best else RETRY_AFTER_S
                return [Refusal(request.id, self._queue_full(wait_s))]
            effects.append(self._shed(rival))
        share_s = self._charge(request, verdict)
        waiting = self._queue.push(request, verdict.work.key, now)
        self._note_queue()
        waiting.share_s = share_s
        self._keep_waiting(waiting, verdict, now)
        return effects

    def _note_queue(self) -> None:
        queue = self._queue
        self._chooser.note_queue(is_long=len(queue) > LONG_QUEUE * queue.max_length)

    def _keep_waiting(self, waiting: Waiting, verdict: Verdict, now: float) -> None:
        if verdict.is_over:
            self._hold_back(waiting)
        elif verdict.best is None:
            unplan(waiting)
        else:
            plan(waiting, verdict.best)
            claim_room(waiting, verdict.work, verdict.best, self._limits.ageing_s, now)

    def _hold_back(self, waiting: Waiting) -> None:
        """Note that a request waits for another of its caller's to end."""
        unplan(waiting)
        self._held_back.setdefault(waiting.request.caller, {})[waiting.request.model] = None

    def _shed(self, waiting: Waiting) -> Refusal:
        """Refuse one who waits, for a more urgent one."""
        refusal = Refusal(waiting.request.id, self._queue_full(waiting.wait_s))
        self.cancel(waiting.request.id)
        return refusal

    def _queue_full(self, wait_s: float) -> QueueFull:
        text = (
            f"server busy, please try again. {len(self._queue)} requests are waiting; "
            f"the predicted wait is {max(1.0, wait_s):.0f} s"
        )
        return QueueFull(text, retry_after_s=_retry_after_s(wait_s))

    def _note_end(self, held: Held, now: float, *, has_failed: bool, is_whole: bool) -> None:
        """Count a failure, and take note of what became of a load: a node stops one nobody waits for."""
        node, runner = held.node, held.runner
        if has_failed or node.failure_share:
            node.failure_share += FAILURE_SHARE * (has_failed - node.failure_share)
        if runner is None:
            return
        if has_failed:
            runner.is_proven = False
        if is_whole:
            runner.ready_at = min(runner.ready_at, now)
            runner.answered_at = now
        elif not runner.running and (runner.ready_at > now or (held.loads and has_failed)):
            runner.unload()

    def _serve_models_of(self, node: Node, now: float) -> list[Effect]:
        """Grant what can be granted to those who wait for any model of a node."""
        if not len(self._queue):
            return []
        return self._serve([m for m in self._queue.models() if m in node.by_model], now)

    def _serve_slot(self, runner: Runner, now: float) -> list[Effect]:
        """Grant a slot that became free, or the room that it left, to one who waits for it."""
        node = runner.node
        planned = [name for r in node.runners.values() if r.backlog for name in r.names]
        effects = self._serve((*runner.names, *planned), now, slot_of=node.id)
        return effects or self._serve_planned(node, now)

    def _serve_planned(self, node: Node, now: float) -> list[Effect]:
        """Grant a free slot to the first of those who mean to run there, whoever else is before them.

        Those before them mean to run elsewhere; of very many only some are looked at.
        """
        effects: list[Effect] = []
        for runner in node.runners.values():
            for _ in range(LOOK_AHEAD):
                if not runner.backlog or runner.is_full:
                    break
                waiting = self._queue.find(runner.backlog[0][2])
                assert waiting is not None  # who leaves the queue takes that note back
                grant = self._grant_waiting(waiting, now)
                if grant is not None:
                    effects.append(grant)
                elif waiting.runner is runner:
                    break
        return effects

    def _serve(self, models: Iterable[str], now: float, slot_of: str = "") -> list[Effect]:
        """Grant what can be granted to those who wait for any of the models, in their order.

        Args:
            slot_of: a node of which one slot became free; with it taken there is no more to do.
        """
        effects: list[Effect] = []
        rows = self._queue.rows(dict.fromkeys(models))
        most_misses = self._look_ahead(len(rows), LOOKS_FOR_SLOT if slot_of else MAX_LOOKS)
        heapify(rows)
        while rows:
            row = rows[0]
            grant = self._look(row, now)
            if grant is not None:
                effects.append(grant)
                if grant.lease.node_id == slot_of:
                    break
            if row.is_done or row.misses >= most_misses:
                heappop(rows)
            else:
                heapreplace(rows, row)
        return effects

    def _look(self, row: Row, now: float) -> Grant | None:
        """Grant a slot to the next one of a row, if it can start."""
        waiting = row.next
        is_over = self._is_over(waiting.request)
        grant = self._grant_waiting(waiting, now)
        if grant is None:
            row.skip()
            row.misses += not is_over
        return grant

    def _grant_waiting(self, waiting: Waiting, now: float) -> Grant | None:
        """Grant a slot to one who waits, or note where it waits now."""
        request = waiting.request
        if self._is_over(request):
            self._hold_back(waiting)
            return None
        impatient = is_impatient(waiting, self._limits.ageing_s, now)
        verdict = self._verdict(request, waiting.key, now, is_impatient=impatient)
        if verdict.chosen is not None:
            self._queue.remove(request.id)
            self._note_queue()
            unplan(waiting)
            return self._grant(verdict, verdict.chosen, now - waiting.since, now)
        self._keep_waiting(waiting, verdict, now)
        return None

    def _look_ahead(self, rows: int, looks: int) -> int:
        """Return how many that cannot start are looked at in each of so many rows."""
        if self._chooser.policy.rank is not None:
            return 1
        return max(1, min(LOOK_AHEAD, looks // max(1, rows)))

    def _refuse_expired(self, now: float) -> list[Effect]:
        effects: list[Effect] = []
        for waiting in self._queue.expired(now):
            self.cancel(waiting.request.id)
            text = (
                f"no slot became free within {now - waiting.since:.0f} s; "
                "all nodes with the model are busy"
            )
            error = QueueTimeout(text, retry_after_s=RETRY_AFTER_S)
            effects.append(Refusal(waiting.request.id, error))
        return effects

    def _refuse_stranded(self, now: float) -> list[Effect]:
        """Refuse those who have had no usable node for ``STRANDED_S``."""
        effects: list[Effect] = []
        since, self._stranded_since = self._stranded_since, {}
        for want in self._queue.wants():
            model, excluded = want
            if self._fleet.is_up(model, excluded):
                continue
            if now - since.get(want, now) < STRANDED_S:
                self._stranded_since[want] = since.get(want, now)
                continue
            for waiting in self._queue.waiting(model, excluded):
                self.cancel(waiting.request.id)
                effects.append(Refusal(waiting.request.id, self._fleet.why_none(model)))
        return effects


def _retry_after_s(wait_s: float) -> float:
    return min(MAX_RETRY_AFTER_S, max(1.0, wait_s))
