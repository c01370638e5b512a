"""The scheduler: a state machine with one writer; events in, effects out, the time an argument.

    submit(request, now)      a request came             -> a grant, a refusal, or nothing: it waits
    release(lease, now)       an answer ended            -> grants to those who waited for the slot
    cancel(request_id)        a waiting caller left
    node_changed(view, now)   a node's facts changed     -> grants
    node_removed(node_id)
    tick(now)                 time passed                -> refusals of those who waited too long

Slots are those of a runner: the names under which a node has one digest share them.

Invariants: no runner has more leases than its node has slots; a request has at most one lease;
nothing waits that a free slot of a routable node could serve.
"""

import itertools
from collections.abc import Collection, Mapping
from random import Random
from typing import Any

from sollol.errors import ModelNotFound, NoNodeAvailable, QueueFull, QueueTimeout, SollolError
from sollol.scheduling.decision import Candidate, Effect, Grant, Refusal, Statistics
from sollol.scheduling.policies import resident_first
from sollol.scheduling.queue import WaitQueue
from sollol.types import Lease, Measured, NodeState, NodeView, RouteRequest

RETRY_AFTER_S = 5.0
"""What a refused caller is told to wait: about one probe interval."""

STRANDED_S = 15.0
"""How long those who wait for a node that went down wait for it to come back."""


class Scheduler:
    """Sole owner of leases and of the waiting queue."""

    def __init__(self, *, queue_max_length: int, rng: Random) -> None:
        self._rng = rng
        self._queue = WaitQueue(queue_max_length)
        self._nodes: dict[str, NodeView] = {}
        self._holders: dict[str, set[str]] = {}
        self._names: dict[str, Mapping[str, Collection[str]]] = {}
        """Node -> runner -> the models it runs."""
        self._leases: dict[int, Lease] = {}
        self._in_flight: dict[str, int] = {}
        self._running: dict[tuple[str, str], int] = {}
        self._stranded_since: dict[str, float] = {}
        self._next_lease_id = itertools.count(1)

    def submit(self, request: RouteRequest, now: float) -> list[Effect]:
        """Grant a slot, refuse, or (no effect) let the request wait.

        1. No node has the model: refused, as unknown, or as unavailable while no node is up.
        2. One that is up has a free slot: granted. (Nobody overtakes: a free slot means that no
           waiting request can use it.)
        3. None that may be used is up: refused.
        4. The queue is full: refused. Else the request waits.
        """
        holders = self._holders.get(request.model)
        if not holders:
            return [Refusal(request.id, self._why_unknown(request))]
        grant = self._try_grant(request, now)
        if grant is not None:
            return [grant]
        if not any(self._is_usable(node_id, request) for node_id in holders):
            return [Refusal(request.id, self._why_unavailable(request))]
        if self._queue.is_full:
            text = f"server busy, please try again. {len(self._queue)} requests are waiting"
            return [Refusal(request.id, QueueFull(text, retry_after_s=RETRY_AFTER_S))]
        self._queue.push(request)
        return []

    def release(self, lease: Lease, now: float, measured: Measured | None = None) -> list[Effect]:
        """Give a slot back. Releasing a lease twice has no effect the second time."""
        if self._leases.pop(lease.id, None) is None:
            return []
        _decrement(self._in_flight, lease.node_id)
        _decrement(self._running, (lease.node_id, lease.runner))
        if not len(self._queue):
            return []
        return self._grant_waiting(self._names.get(lease.node_id, {}).get(lease.runner, ()), now)

    def cancel(self, request_id: str) -> bool:
        """Forget a waiting request; False when it does not wait (any more)."""
        return self._queue.remove(request_id) is not None

    def node_changed(self, view: NodeView, now: float) -> list[Effect]:
        """Take over what is known of a node, new or changed, and fill its free slots."""
        self._unindex(view.id)
        self._nodes[view.id] = view
        names: dict[str, list[str]] = {}
        for model in view.models:
            self._holders.setdefault(model, set()).add(view.id)
            names.setdefault(view.runner(model), []).append(model)
        self._names[view.id] = names
        return self._grant_waiting([m for m in self._queue.models() if m in view.models], now)

    def node_removed(self, node_id: str) -> None:
        """Forget a node. Its leases stay until they are released."""
        self._unindex(node_id)
        self._nodes.pop(node_id, None)
        self._names.pop(node_id, None)

    def tick(self, now: float) -> list[Effect]:
        """Refuse every request that has waited for as long as it may, or for no node that is up."""
        effects = self._refuse_stranded(now)
        for request in self._queue.expired(now):
            self._queue.remove(request.id)
            waited_s = now - request.arrived_at
            text = f"no slot became free within {waited_s:.0f} s; all nodes with the model are busy"
            effects.append(
                Refusal(request.id, QueueTimeout(text, retry_after_s=RETRY_AFTER_S)),
            )
        return effects

    def statistics(self) -> Statistics:
        """Counts for the status routes and for the tests' invariants."""
        return Statistics(
            in_flight=dict(self._in_flight),
            queue_length=len(self._queue),
            queue_max_length=self._queue.max_length,
        )

    def _refuse_stranded(self, now: float) -> list[Effect]:
        """Refuse those whose model has been on no usable node for ``STRANDED_S``."""
        effects: list[Effect] = []
        for model in self._queue.models():
            is_up = any(
                _is_open(self._nodes[node_id], model) for node_id in self._holders.get(model, ())
            )
            if is_up:
                self._stranded_since.pop(model, None)
            elif now - self._stranded_since.setdefault(model, now) >= STRANDED_S:
                for request in self._queue.waiting(model):
                    self._queue.remove(request.id)
                    error = self._why_unavailable(request)
                    effects.append(Refusal(request.id, error))
        self._stranded_since = {
            model: since
            for model, since in self._stranded_since.items()
            if self._queue.waiting(model)
        }
        return effects

    def _grant_waiting(self, models: Collection[str], now: float) -> list[Effect]:
        """Grant what can be granted to those who wait for any of the models."""
        effects: list[Effect] = []
        full: set[str] = set()
        for request in self._queue.waiting_for_any(models):
            if request.model in full:
                continue
            grant = self._try_grant(request, now)
            if grant is not None:
                self._queue.remove(request.id)
                effects.append(grant)
            elif not request.excluded:  # those behind it want the same slots
                full.add(request.model)
                if len(full) == len(models):
                    break
        return effects

    def _try_grant(self, request: RouteRequest, now: float) -> Grant | None:
        candidates = self._candidates(request)
        if not candidates:
            return None
        chosen = resident_first.choose(candidates, self._rng)
        return Grant(self._lease(request, chosen, now))

    def _lease(self, request: RouteRequest, chosen: Candidate, now: float) -> Lease:
        lease = Lease(
            id=next(self._next_lease_id),
            request_id=request.id,
            node_id=chosen.node.id,
            runner=chosen.runner if request.takes_slot else "",
            queue_wait_s=now - request.arrived_at,
        )
        self._leases[lease.id] = lease
        self._in_flight[lease.node_id] = self._in_flight.get(lease.node_id, 0) + 1
        slot = (lease.node_id, lease.runner)
        self._running[slot] = self._running.get(slot, 0) + 1
        return lease

    def _candidates(self, request: RouteRequest) -> list[Candidate]:
        candidates = []
        model = request.model
        for node_id in self._holders.get(model, ()):
            node = self._nodes[node_id]
            if not _is_open(node, model) or node_id in request.excluded:
                continue
            runner = node.runner(model)
            running = self._running.get((node_id, runner), 0)
            if running < node.slots or not request.takes_slot:
                is_resident = running > 0 or model in node.resident
                in_flight = self._in_flight.get(node_id, 0)
                candidates.append(Candidate(node, runner, is_resident, in_flight))
        return candidates

    def _is_usable(self, node_id: str, request: RouteRequest) -> bool:
        return node_id not in request.excluded and _is_open(self._nodes[node_id], request.model)

    def _why_unknown(self, request: RouteRequest) -> SollolError:
        if any(node.state is NodeState.HEALTHY for node in self._nodes.values()):
            return ModelNotFound(f"model '{request.model}' not found")
        text = "no node is available" if self._nodes else "no node is configured"
        return NoNodeAvailable(text, retry_after_s=RETRY_AFTER_S)

    def _why_unavailable(self, request: RouteRequest) -> SollolError:
        holders = ", ".join(sorted(self._holders.get(request.model, ())))
        if not holders:  # the last one left while the request waited
            return self._why_unknown(request)
        text = f"no node with the model is available (it is on {holders})"
        return NoNodeAvailable(text, retry_after_s=RETRY_AFTER_S)

    def _unindex(self, node_id: str) -> None:
        known = self._nodes.get(node_id)
        for model in known.models if known else ():
            holders = self._holders[model]
            holders.discard(node_id)
            if not holders:
                del self._holders[model]


def _is_open(node: NodeView, model: str) -> bool:
    """Whether a node gets new requests for a model that it has."""
    return node.state is NodeState.HEALTHY and model not in node.outvoted


def _decrement(counts: dict[Any, int], key: Any) -> None:
    counts[key] -= 1
    if not counts[key]:
        del counts[key]
