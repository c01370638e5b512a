"""The nodes as the scheduler sees them, and which of them may run a model."""

from collections.abc import Sequence

from sollol.errors import ModelNotFound, NoNodeAvailable, SollolError
from sollol.scheduling.columns import Columns
from sollol.scheduling.cost import bound_s
from sollol.scheduling.limits import SchedulerLimits
from sollol.scheduling.memories import Memories
from sollol.scheduling.memory import index, reconcile
from sollol.scheduling.rates import RateBook
from sollol.scheduling.state import LOCAL_TRUTH_S, Node, Runner, Shared
from sollol.scheduling.work import Work
from sollol.types import Ask, NodeState, NodeView, RouteRequest

RETRY_AFTER_S = 5.0
"""What a caller is told to wait for a node to come up: about one probe interval."""

ANSWER_TOKENS = 64
"""What must fit into a context besides the prompt for the answer to be worth asking for."""


class Fleet:
    """Owner of the nodes' scheduling state, and the index of runners by model."""

    def __init__(self, rates: RateBook, limits: SchedulerLimits) -> None:
        self.nodes: dict[str, Node] = {}
        self.shared = Shared()
        self.kept = Memories()
        self._rates = rates
        self._is_allowed = limits.is_allowed
        self._pinned_to = limits.pinned_to
        self._adapts_options = limits.adapts_options
        self._open: dict[str, Columns] = {}
        """Model -> runners on nodes that may be given requests for it."""
        self._holders: dict[str, dict[str, None]] = {}
        """Model -> ids of all nodes that have it."""
        self._last_resort: dict[str, list[Runner]] = {}
        """Model -> ejected runners that are in ``_open`` because there is no other."""
        self._short: list[Runner] = []
        """Runners that get fewer requests than they have slots, as others use them too."""
        self._unsure: dict[str, Node] = {}
        """Nodes of which we believe something that their latest view does not say."""
        self._left: dict[str, Node] = {}
        """Nodes that were removed while in use: should they come back, those slots are taken."""

    def change(self, view: NodeView, now: float) -> Node:
        """Take over what is known of a node, new or changed."""
        node = self.nodes.get(view.id)
        before = node.view if node else None
        if node is None:
            node = self._come_back(view, now) or Node(
                view, self.shared, adapts=self._adapts_options
            )
            self.nodes[view.id] = node
        node.use(view)
        node.capacity.told_bytes = view.memory_bytes
        if before is None or before.models != view.models or before.outvoted != view.outvoted:
            self._forget(node)
            index(node, view)
            self.kept.give(node)
            for model in view.models:
                self._holders.setdefault(model, {})[view.id] = None
        elif before.state is not view.state or before.limited != view.limited:
            self._close(node)
        reconcile(node, view, now)
        for runner in node.runners.values():
            runner.use_slots(now)
        self._rates.join(node)
        self._unsure[node.id] = node
        self._add_open(node)
        return node

    def remove(self, node_id: str) -> None:
        """Forget a node. Its leases stay until they are released."""
        node = self.nodes.pop(node_id, None)
        if node is None:
            return
        self._forget(node)
        self.kept.forget_node(node_id)
        self._unsure.pop(node_id, None)
        for runner in node.runners.values():
            runner.unload()
        if node.in_flight:
            self._left[node_id] = node
        else:
            self.shared.remove_node(node.burden_at)

    def rules_changed(self) -> None:
        """Find anew which nodes may run which models."""
        self._open.clear()
        for node in self.nodes.values():
            for runner in node.runners.values():
                runner.columns.clear()
        self._last_resort.clear()
        for node in self.nodes.values():
            self._add_open(node)

    def eligible(self, request: RouteRequest, prompt_tokens: int) -> list[Runner]:
        """Return the runners that may serve a request, busy ones included."""
        columns = self._open.get(request.model)
        if columns is None:
            return []
        runners = columns.runners
        if request.excluded:
            excluded = request.excluded
            runners = [runner for runner in runners if runner.node.id not in excluded]
        if columns.on_trial and request.takes_slot:
            runners = [runner for runner in runners if runner.may_take]
        if request.avoided:
            avoided = request.avoided
            runners = [runner for runner in runners if runner.node.id not in avoided] or runners
        if columns.is_mixed:
            return _suited(runners, request.ask, prompt_tokens)
        return runners

    def open_to(self, model: str) -> Sequence[Runner]:
        """Return the runners of a model on all nodes that may be given requests for it."""
        columns = self._open.get(model)
        return () if columns is None else columns.runners

    def on_trial(self, model: str) -> list[Runner]:
        """Return the runners that may be given a request now to show that they do their work."""
        columns = self._open.get(model)
        if columns is None or not columns.on_trial:
            return []
        runners = [r for r in columns.runners if r.is_on_trial and not r.is_proven]
        return [runner for runner in runners if runner.may_take]

    def bounds_s(self, runners: list[Runner], work: Work) -> list[float]:
        """Return what a request costs on each of its eligible runners at least, in seconds."""
        columns = self._open.get(work.model)
        if columns is None or columns.runners is not runners:
            return [bound_s(runner, work) for runner in runners]
        bounds = columns.bounds_s(work)
        for runner in self.shared.homes.get(work.conversation, ()):
            at = runner.columns.get(columns)
            if at is not None:
                bounds[at] = bound_s(runner, work)
        return bounds

    def is_up(self, model: str, excluded: frozenset[str]) -> bool:
        """Whether a node that may be given requests for a model is up, some nodes left out."""
        columns = self._open.get(model)
        if columns is None or not excluded:
            return columns is not None
        return any(runner.node.id not in excluded for runner in columns.runners)

    def full(self, runner: Runner, now: float) -> None:
        """Give a runner no more for a while than what it has besides one that was turned away."""
        runner.limit(len(runner.running) - 1, now)
        self._short.append(runner)

    def settle(self, now: float) -> None:
        """Believe the latest views again where what we did is long enough ago."""
        for node in list(self._unsure.values()):
            reconcile(node, node.view, now)
            if all(now - r.touched_at >= LOCAL_TRUTH_S for r in node.runners.values()):
                del self._unsure[node.id]
        for runner in self._short:
            runner.use_slots(now)
        self._short = [runner for runner in self._short if runner.slots < runner.node.slots]
        for node in [node for node in self._left.values() if not node.in_flight]:
            del self._left[node.id]
            self.shared.remove_node(node.burden_at)

    def why_none(self, model: str) -> SollolError:
        """Return why no node can be given a request for a model.

        1. Nodes that may run it have it, or it is pinned to one that is not up: come back later.
        2. Others are up: for callers there is no such model.
        3. Nothing is up: come back later.
        """
        pins = self._pinned_to(model)
        holders = [id_ for id_ in self._holders.get(model, ()) if self._is_allowed(id_, model)]
        if pins and (holders or not all(map(self._is_open, pins))):
            text = f"no node that the model is pinned to is available ({', '.join(pins)})"
        elif holders:
            names = ", ".join(sorted(holders))
            text = f"no node with the model is available (it is on {names})"
        elif any(node.is_open for node in self.nodes.values()):
            return ModelNotFound(f"model '{model}' not found")
        else:
            text = "no node is available" if self.nodes else "no node is configured"
        return NoNodeAvailable(text, retry_after_s=RETRY_AFTER_S)

    def _is_open(self, node_id: str) -> bool:
        node = self.nodes.get(node_id)
        return node is not None and node.is_open

    def _come_back(self, view: NodeView, now: float) -> Node | None:
        """Return a node that was removed while in use: what runs there holds its slots."""
        node = self._left.pop(view.id, None)
        if node is not None:
            for runner in node.runners.values():
                if runner.running:
                    runner.load(None, now)
        return node

    def _add_open(self, node: Node) -> None:
        """Let a node have requests for the models that it may be given any for."""
        for model, runner in node.by_model.items():
            if not self._may_run(node, model):
                continue
            if node.is_open and node.view.limited.get(runner.key) is not NodeState.EJECTED:
                for other in self._last_resort.pop(model, ()):
                    self._take_out(model, other)
                is_on_trial = node.is_on_trial or runner.key in node.view.limited
                self._put_in(model, runner, is_on_trial=is_on_trial)
            elif model not in self._open or model in self._last_resort:
                self._resort_to(model, runner)

    def _may_run(self, node: Node, model: str) -> bool:
        if not self._is_allowed(node.id, model):
            return False
        return model not in node.view.outvoted or bool(self._pinned_to(model))

    def _resort_to(self, model: str, runner: Runner) -> None:
        """Let an ejected runner have requests, on trial, as no other can have any."""
        if runner.node.is_open or runner.node.view.state is NodeState.EJECTED:
            others = self._last_resort.setdefault(model, [])
            if runner not in others:
                others.append(runner)
                self._put_in(model, runner, is_on_trial=True)

    def _put_in(self, model: str, runner: Runner, *, is_on_trial: bool) -> None:
        columns = self._open.get(model)
        if columns is None:
            columns = self._open[model] = Columns(self.shared.burdens)
        if columns not in runner.columns:
            runner.is_on_trial, runner.is_proven = is_on_trial, False
            columns.add(runner)

    def _take_out(self, model: str, runner: Runner) -> bool:
        """Give a runner no more requests for a model; return whether it was the last one."""
        columns = self._open.get(model)
        if columns is None or columns not in runner.columns:
            return False
        columns.remove(runner)
        if columns.runners:
            return False
        del self._open[model]
        return True

    def _forget(self, node: Node) -> None:
        """Take a node out of the index."""
        for model in node.by_model:
            holders = self._holders.get(model, {})
            holders.pop(node.id, None)  # one that came back is in it no more
            if not holders:
                self._holders.pop(model, None)
        self._close(node)

    def _close(self, node: Node) -> None:
        """Give a node no more requests."""
        bereft = []
        for model, runner in node.by_model.items():
            others = self._last_resort.get(model, [])
            if runner in others:
                others.remove(runner)
                if not others:
                    del self._last_resort[model]
            if self._take_out(model, runner):
                bereft.append(model)
        for model in bereft:  # with all of them out: the node's own runners may be the last resort
            self._resort_to_any(model)

    def _resort_to_any(self, model: str) -> None:
        """Let ejected runners of a model have requests."""
        for node_id in self._holders.get(model, ()):
            holder = self.nodes.get(node_id)
            if holder is not None and self._may_run(holder, model):
                self._resort_to(model, holder.by_model[model])


def _suited(runners: list[Runner], ask: Ask, prompt_tokens: int) -> list[Runner]:
    """Return the runners that can do what is asked; all of them if none can: one must say so."""
    able = [runner for runner in runners if ask.needs <= runner.capabilities] or runners
    wanted = prompt_tokens + min(ANSWER_TOKENS, ask.max_output_tokens or ANSWER_TOKENS)
    return [r for r in able if r.context_length is None or r.context_length >= wanted] or able
