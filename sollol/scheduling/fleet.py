"""The nodes as the scheduler sees them, and which of them may run a model."""

from collections.abc import Callable, Iterable

from sollol.errors import ModelNotFound, NoNodeAvailable, SollolError
from sollol.scheduling.memory import index, reconcile
from sollol.scheduling.rates import RateBook
from sollol.scheduling.state import LOCAL_TRUTH_S, Node, Runner
from sollol.types import Ask, NodeView, RouteRequest

RETRY_AFTER_S = 5.0
"""What a caller is told to wait for a node to come up: about one probe interval."""

ANSWER_TOKENS = 64
"""What must fit into a context besides the prompt for the answer to be worth asking for."""


class Fleet:
    """Owner of the nodes' scheduling state, and the index of runners by model."""

    def __init__(self, rates: RateBook, is_allowed: Callable[[str, str], bool]) -> None:
        self.nodes: dict[str, Node] = {}
        self.copies: dict[str, int] = {}
        self._rates = rates
        self._is_allowed = is_allowed
        self._open: dict[str, list[Runner]] = {}
        """Model -> runners on nodes that may be given requests for it."""
        self._holders: dict[str, dict[str, None]] = {}
        """Model -> ids of all nodes that have it."""
        self._mixed: set[str] = set()
        """Models whose capabilities or context differ from node to node."""
        self._unsure: dict[str, Node] = {}
        """Nodes of which we believe something that their latest view does not say."""
        self._left: dict[str, Node] = {}
        """Nodes that were removed while in use: should they come back, those slots are taken."""

    def change(self, view: NodeView, now: float) -> Node:
        """Take over what is known of a node, new or changed."""
        node = self.nodes.get(view.id)
        before = node.view if node else None
        if node is None:
            node = self.nodes[view.id] = self._come_back(view, now) or Node(view, self.copies)
        node.use(view)
        node.capacity.told_bytes = view.memory_bytes
        if before is None or before.models != view.models or before.outvoted != view.outvoted:
            self._forget(view.id)
            index(node, view)
            for model in view.models:
                self._holders.setdefault(model, {})[view.id] = None
        elif before.state is not view.state:
            self._close(view.id, before.models)
        reconcile(node, view, now)
        self._rates.join(node)
        self._unsure[node.id] = node
        if node.is_open:
            self._add_open(node)
        return node

    def remove(self, node_id: str) -> None:
        """Forget a node. Its leases stay until they are released."""
        node = self.nodes.pop(node_id, None)
        if node is None:
            return
        self._forget(node_id)
        self._unsure.pop(node_id, None)
        for runner in node.runners.values():
            runner.set_resident(False, 0.0)
        if node.in_flight:
            self._left[node_id] = node

    def eligible(self, request: RouteRequest, prompt_tokens: int) -> list[Runner]:
        """Return the runners that may serve a request, busy ones included."""
        runners = self._open.get(request.model, [])
        if request.excluded:
            excluded = request.excluded
            runners = [runner for runner in runners if runner.node.id not in excluded]
        if request.model in self._mixed:
            return _suited(runners, request.ask, prompt_tokens)
        return runners

    def has(self, model: str) -> bool:
        """Whether any node has a model, be it down."""
        return model in self._holders

    def is_up(self, model: str) -> bool:
        """Whether a node that may be given requests for a model is up."""
        return model in self._open

    def settle(self, now: float) -> None:
        """Believe the latest views again where what we did is long enough ago."""
        for node in list(self._unsure.values()):
            reconcile(node, node.view, now)
            if all(now - r.touched_at >= LOCAL_TRUTH_S for r in node.runners.values()):
                del self._unsure[node.id]
        for node in [node for node in self._left.values() if not node.in_flight]:
            del self._left[node.id]

    def why_none(self, model: str) -> SollolError:
        """Return why no node can be given a request for a model."""
        holders = ", ".join(sorted(self._holders.get(model, ())))
        if holders:
            text = f"no node with the model is available (it is on {holders})"
            return NoNodeAvailable(text, retry_after_s=RETRY_AFTER_S)
        if any(node.is_open for node in self.nodes.values()):
            return ModelNotFound(f"model '{model}' not found")
        text = "no node is available" if self.nodes else "no node is configured"
        return NoNodeAvailable(text, retry_after_s=RETRY_AFTER_S)

    def _come_back(self, view: NodeView, now: float) -> Node | None:
        """Return a node that was removed while in use: what runs there holds its slots."""
        node = self._left.pop(view.id, None)
        if node is not None:
            for runner in node.runners.values():
                runner.set_resident(bool(runner.running), now)
        return node

    def _add_open(self, node: Node) -> None:
        view = node.view
        for model, runner in node.by_model.items():
            if model in view.outvoted or not self._is_allowed(node.id, model):
                continue
            runners = self._open.setdefault(model, [])
            if runner not in runners:
                runners.append(runner)
                self._note_mixed(model, runners)

    def _note_mixed(self, model: str, runners: list[Runner]) -> None:
        if len({(r.capabilities, r.context_length) for r in runners}) > 1:
            self._mixed.add(model)
        else:
            self._mixed.discard(model)

    def _forget(self, node_id: str) -> None:
        """Take a node out of the index."""
        for model in [model for model, nodes in self._holders.items() if node_id in nodes]:
            del self._holders[model][node_id]
            if not self._holders[model]:
                del self._holders[model]
        self._close(node_id, list(self._open))

    def _close(self, node_id: str, models: Iterable[str]) -> None:
        """Give a node no more requests."""
        for model in models:
            runners = [r for r in self._open.get(model, ()) if r.node.id != node_id]
            if runners:
                self._open[model] = runners
                self._note_mixed(model, runners)
            else:
                self._open.pop(model, None)


def _suited(runners: list[Runner], ask: Ask, prompt_tokens: int) -> list[Runner]:
    """Return the runners that can do what is asked; all of them if none can: one must say so."""
    able = [runner for runner in runners if ask.needs <= runner.capabilities] or runners
    wanted = prompt_tokens + min(ANSWER_TOKENS, ask.max_output_tokens or ANSWER_TOKENS)
    return [r for r in able if r.context_length is None or r.context_length >= wanted] or able
