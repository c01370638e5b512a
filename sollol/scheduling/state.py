"""What the scheduler keeps of each node and of each model on it. Changed by the scheduler only."""

from collections.abc import Iterable
from math import inf

import msgspec

from sollol.scheduling.affinity import Conversations
from sollol.scheduling.average import Average
from sollol.scheduling.capacity import Capacity
from sollol.scheduling.decision import Terms
from sollol.types import Lease, NodeState, NodeView, Resident, RouteRequest

LOCAL_TRUTH_S = 10.0
"""How long what we did to a node's memory counts for more than a poll that may be older."""

SLOPE = 0.2
"""Share by which each further sequence lengthens a step, where nothing was measured."""

Options = tuple[tuple[str, int | float | bool], ...]


class Held(msgspec.Struct):
    """A lease in use, and what was predicted for it."""

    lease: Lease
    request: RouteRequest
    runner: "Runner | None"
    node: "Node | None"
    granted_at: float
    ends_at: float
    terms: Terms
    prompt_tokens: int
    output_tokens: int
    cached_tokens: int
    loads: bool
    busy_area: float
    """The node's :attr:`Node.busy_area` at the grant."""
    is_try: bool = False
    """The node was chosen to find out about it."""


class Rates:
    """What was measured of a model on a node, in seconds: for a token alone, and for a load."""

    __slots__ = ("decode", "load", "prefill", "quick")

    def __init__(self) -> None:
        self.prefill = Average()
        self.decode = Average()
        self.load = Average()
        self.quick = 0
        """Prompts in a row that were evaluated too fast for nothing of them to be cached."""


class Runner:
    """A model on a node: what is known of its speed, and who uses it.

    The plain numbers are kept up by ``rates.py``; the choice reads them for every request.
    """

    def __init__(self, node: "Node", key: str, size_bytes: int) -> None:
        self.node = node
        self.key = key
        self._copies = node.copies
        self.names: tuple[str, ...] = ()
        self.size_bytes = size_bytes
        self.context_length: int | None = None
        self.capabilities: frozenset[str] = frozenset()
        self.prefill_s = 0.0
        self.decode_s = 0.0
        self.load_s = 0.0
        self.rates = Rates()
        self.cpu_share = 0.0
        self.conversations = Conversations(node.slots)
        self.running: dict[int, Held] = {}
        self.backlog: list[tuple[float, float]] = []
        """Queue key and seconds of those who are to run here once a slot is free, in order."""
        self.is_resident = False
        self.seen_at = -inf
        """When the node last said that it is in memory."""
        self.was_pushed_out = False
        """It left the memory, the last time, for another model to come."""
        self.options: Options | None = None
        """What it was loaded with; None when somebody else loaded it."""
        self.num_ctx: int | None = None
        """What the node says it was loaded with."""
        self.ready_at = 0.0
        """When the load under way will be done, as predicted; in the past when there is none."""
        self.loaded_at = 0.0
        self.used_at = 0.0
        self.touched_at = -LOCAL_TRUTH_S
        """When we last did something that changes or shows whether it is in memory."""
        self.need_bytes = int(size_bytes * 1.15)
        """What it takes of the node's memory once loaded."""

    @property
    def is_full(self) -> bool:
        """Whether all slots are taken."""
        return len(self.running) >= self.node.slots

    @property
    def model(self) -> str:
        """A name of the model."""
        return self.names[0]

    def set_resident(self, is_resident: bool, now: float) -> None:
        """Note that the model is in memory, or is not."""
        if is_resident is not self.is_resident:
            self._copies[self.key] = self._copies.get(self.key, 0) + (1 if is_resident else -1)
        if is_resident and not self.is_resident:
            self.loaded_at = now
            self.was_pushed_out = False
        if not is_resident:
            self.conversations.forget()
            self.options = None
            self.num_ctx = None
            self.ready_at = 0.0
        self.is_resident = is_resident

    def is_in_demand(self) -> bool:
        """Whether somebody uses it or waits for it."""
        return bool(self.running or self.backlog)

    def matches(self, options: Options) -> bool:
        """Whether the loaded model serves a request with these runner options without a reload."""
        if self.options is not None:
            return self.options == options or self._is_same_context(options)
        return not options or self._is_same_context(options)

    def _is_same_context(self, options: Options) -> bool:
        """Whether the only option is the context that the model has anyway."""
        if self.num_ctx is None or len(options) > 1:
            return False
        loaded = self.options or ()
        return all(name == "num_ctx" for name, _ in (*options, *loaded)) and all(
            value == self.num_ctx for _, value in (*options, *loaded)
        )


class Node:
    """A node: its latest view, its runners by key, and how busy it is."""

    def __init__(self, view: NodeView, copies: dict[str, int]) -> None:
        self.id = view.id
        self.copies = copies
        """How many nodes have each runner in memory; one for all nodes."""
        self.view = view
        self.slots = view.slots
        self.is_open = False
        self.runners: dict[str, Runner] = {}
        self.seen: dict[str, Resident] = {}
        """What the latest view has in memory, by runner."""
        self.by_model: dict[str, Runner] = {}
        self.in_flight = 0
        self.busy_area = 0.0
        self.busy_at = 0.0
        self.slope = SLOPE
        self.failure_share = 0.0
        """Of the latest attempts, newer ones counting more, the share that failed."""
        self.capacity = Capacity(view.memory_bytes)
        self.claim: Runner | None = None
        """A runner that others make room for: nothing new goes to those it pushes out."""
        self.leaving: tuple[Runner, ...] = ()
        """Those that make room for :attr:`claim`."""
        self.last_grant = 0
        self.use(view)

    def use(self, view: NodeView) -> None:
        """Take over a new view; runners are brought up to date by ``memory.py``."""
        self.view = view
        self.slots = view.slots
        self.is_open = view.state is NodeState.HEALTHY

    def count(self, change: int, now: float) -> None:
        """Change the number of requests in flight, and keep its integral over time."""
        self.busy_area += self.in_flight * (now - self.busy_at)
        self.busy_at = now
        self.in_flight += change

    def makes_room(self, runner: Runner) -> bool:
        """Whether a runner is to leave for another one."""
        return self.claim is not None and runner in self.leaving

    def is_claimed_by(self, runner: Runner) -> bool:
        """Whether others make room for a runner."""
        return self.claim is runner

    def was_seen(self, key: str) -> bool:
        """Whether a runner was in memory by the view before."""
        return key in self.seen

    def loading(self, now: float) -> Runner | None:
        """Return the runner that is being loaded; nodes load one at a time."""
        return next((r for r in self.runners.values() if r.ready_at > now), None)

    def resident(self) -> Iterable[Runner]:
        """Return the runners in memory."""
        return (runner for runner in self.runners.values() if runner.is_resident)
