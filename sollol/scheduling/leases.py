"""Who holds which slot."""

import itertools
from collections.abc import Mapping

from sollol.scheduling.decision import Rule, Terms
from sollol.scheduling.memory import begin_load
from sollol.scheduling.state import Held, Node
from sollol.scheduling.verdict import Verdict
from sollol.scheduling.work import Priced
from sollol.types import Lease, RouteRequest

_NO_TERMS = Terms()
_EXPLORE = Rule.EXPLORE


class Leases:
    """Sole owner of leases; counts them by node and by caller."""

    def __init__(self) -> None:
        self._held: dict[int, Held] = {}
        self._in_flight: dict[str, int] = {}
        self._by_caller: dict[str, int] = {}
        self._ids = itertools.count(1)
        self._grants = itertools.count(1)

    @property
    def in_flight(self) -> Mapping[str, int]:
        """Leases by node; nodes without one are not in it."""
        return self._in_flight

    def of_caller(self, caller: str) -> int:
        """Return how many leases a caller has."""
        return self._by_caller.get(caller, 0)

    def take(self, verdict: Verdict, priced: Priced, queue_wait_s: float, now: float) -> Lease:
        """Give a request a slot of a runner, and the model its load if it needs one."""
        request, work = verdict.request, verdict.work
        runner, terms, loads = priced.runner, priced.terms, priced.loads
        node, options = runner.node, work.options
        seconds = terms.load_s + terms.prefill_s + terms.decode_s
        lease = Lease(  # by place, here and below: names take a microsecond more
            next(self._ids),
            request.id,
            node.id,
            runner.key,
            queue_wait_s,
            seconds,
            loads,
            runner.replacement(options) if options and not loads else None,
            terms.load_s + work.prompt_tokens * runner.prefill_s
            if runner.rates.prefill.count
            else 0.0,
            runner.decode_s * node.crowd,
            runner.is_on_trial and not runner.is_proven,
        )
        if loads:
            begin_load(runner, options, terms.load_s, now)
        node.last_grant = next(self._grants)
        runner.note_use(request.priority, now)
        held = Held(
            lease,
            request,
            runner,
            node,
            now,
            now + seconds,
            terms,
            work.prompt_tokens,
            work.output_tokens,
            priced.cached_tokens,
            loads,
            verdict.rule is _EXPLORE,
            lease.is_trial,
        )
        node.begin(held, now)
        runner.running[lease.id] = held
        self._keep(held)
        return lease

    def take_beside(self, request: RouteRequest, node: Node, now: float) -> Lease:
        """Let a request through that takes no slot."""
        lease = Lease(next(self._ids), request.id, node.id, "", now - request.arrived_at)
        self._keep(Held(lease, request, None, node, now, now, _NO_TERMS, 0, 0, 0, False))
        return lease

    def find(self, lease: Lease) -> Held | None:
        """Return what is held with a lease; None when it was given back."""
        return self._held.get(lease.id)

    def give_back(self, lease: Lease, now: float) -> Held | None:
        """Free a slot; None when it was freed already."""
        held = self._held.pop(lease.id, None)
        if held is None:
            return None
        _decrement(self._in_flight, lease.node_id)
        _decrement(self._by_caller, held.request.caller)
        runner = held.runner
        if runner is not None:
            runner.node.end(held, now)
            runner.running.pop(lease.id, None)
            runner.used_at = now
        return held

    def _keep(self, held: Held) -> None:
        self._held[held.lease.id] = held
        node_id, caller = held.lease.node_id, held.request.caller
        self._in_flight[node_id] = self._in_flight.get(node_id, 0) + 1
        self._by_caller[caller] = self._by_caller.get(caller, 0) + 1


def _decrement(counts: dict[str, int], key: str) -> None:
    left = counts[key] - 1
    if left:
        counts[key] = left
    else:
        del counts[key]
