"""What the scheduler keeps of each node and of each model on it. Changed by the scheduler only."""

from array import array
from math import inf
from typing import Protocol, TypeAlias

from sollol.scheduling.affinity import Conversations, Homes
from sollol.scheduling.average import Average
from sollol.scheduling.capacity import Capacity
from sollol.scheduling.decision import Terms
from sollol.scheduling.pace import Pace
from sollol.types import (
    HIGHEST_PRIORITY,
    Engine,
    Lease,
    NodeState,
    NodeView,
    Resident,
    RouteRequest,
)

FULL_S = 10.0
"""How long a node that had no room is taken to have no more than it was seen to have."""

LOCAL_TRUTH_S = 10.0
"""How long what we did to a node's memory counts for more than a poll that may be older."""

URGENT_S = 60.0
"""How long the highest priority of a runner's users is remembered."""

MANY_ANSWERS = 32
"""So many answers of a model on a node are all learned from."""

LEARN_EVERY_S = 0.05
"""Later ones at most so often."""

SLOPE = 0.2
"""Share by which each further sequence lengthens a step, where nothing was measured."""

OVERLAP = 0.5
"""How much of its time another request on the node spends beside one that comes, on average."""

Options = tuple[tuple[str, int | float | bool], ...]

Burdens: TypeAlias = "array[float]"
"""For each node, how many times what a token takes alone it costs there, all terms together."""

Shape = tuple[str, Options]
"""A runner's key and the options it is loaded with."""


class Columns(Protocol):
    """Takes over a runner's numbers (``columns.py``)."""

    def update(self, runner: "Runner") -> None:
        """Read them again."""
        ...


class Held:
    """A lease in use, and what was predicted for it."""

    lease: Lease
    request: RouteRequest
    runner: "Runner | None"
    node: "Node"
    granted_at: float
    ends_at: float
    terms: Terms
    prompt_tokens: int
    output_tokens: int
    cached_tokens: int
    loads: bool
    is_try: bool
    """The node was chosen to find out about it."""
    is_trial: bool
    """It is to show that the runner does its work, and nothing has come of it yet."""
    busy_area: float
    """The node's :attr:`Node.busy_area` at the grant."""
    is_loaded: bool
    """The load that it waited for is over."""

    def __init__(  # noqa: PLR0913, PLR0917
        self,
        lease: Lease,
        request: RouteRequest,
        runner: "Runner | None",
        node: "Node",
        granted_at: float,
        ends_at: float,
        terms: Terms,
        prompt_tokens: int,
        output_tokens: int,
        cached_tokens: int,
        loads: bool,
        is_try: bool = False,
        is_trial: bool = False,
    ) -> None:
        self.lease = lease
        self.request = request
        self.runner = runner
        self.node = node
        self.granted_at = granted_at
        self.ends_at = ends_at
        self.terms = terms
        self.prompt_tokens = prompt_tokens
        self.output_tokens = output_tokens
        self.cached_tokens = cached_tokens
        self.loads = loads
        self.is_try = is_try
        self.is_trial = is_trial
        self.busy_area = 0.0
        self.is_loaded = False


class Rates:
    """What was measured of a model on a node, in seconds: for a token alone, and for a load."""

    __slots__ = ("_count", "_next", "decode", "load", "pace", "prefill", "quick")

    def __init__(self) -> None:
        self.prefill = Average()
        self.decode = Average()
        self.load = Average()
        self.pace = Pace()
        self.quick = 0
        """Prompts in a row that were evaluated too fast for nothing of them to be cached."""
        self._count = 0
        self._next = 0.0

    def take_turn(self, now: float) -> bool:
        """Count an answer that is to be learned from; False for one that is to be passed over.

        Of hundreds a second, twenty say it all.
        """
        if self._count >= MANY_ANSWERS and now < self._next:
            return False
        self._count += 1
        self._next = now + LEARN_EVERY_S
        return True


class Runner:
    """A model on a node: what is known of its speed, and who uses it.

    The plain numbers are kept up by ``rates.py``; the choice reads them for every request.
    """

    def __init__(  # noqa: PLR0915 - all that is known of it, each said in words
        self, node: "Node", key: str, size_bytes: int
    ) -> None:
        self.node = node
        self.key = key
        self._copies = node.shared.copies
        self.names: tuple[str, ...] = ()
        self.size_bytes = size_bytes
        self.context_length: int | None = None
        self.capabilities: frozenset[str] = frozenset()
        self.prefill_s = 0.0
        self.decode_s = 0.0
        self.load_s = 0.0
        self.rates = Rates()
        self.cpu_share = 0.0
        self.conversations = Conversations(node.slots, self, node.shared.homes)
        self.columns: dict[Columns, int] = {}
        """Where its numbers are side by side with those of other nodes, for each of its names."""
        self.running: dict[int, Held] = {}
        self.backlog: list[tuple[float, float, str]] = []
        """Queue key, seconds and id of those who are to run here once a slot is free, in order."""
        self.is_resident = False
        self.seen_at = -inf
        """When the node last said that it is in memory."""
        self.was_pushed_out = False
        """It left the memory, the last time, for another model to come."""
        self.options: Options | None = None
        """What it was loaded with; None when somebody else loaded it."""
        self.num_ctx: int | None = None
        """What the node says it was loaded with."""
        self.default_ctx: int | None = None
        """What the node gives it where nothing is set, once that was seen."""
        self.ready_at = 0.0
        """When the load under way will be done, as predicted; in the past when there is none."""
        self.loaded_at = 0.0
        self.used_at = 0.0
        self.answered_at = -inf
        """When it last gave a caller a whole answer."""
        self.urgency = 0
        """The highest priority of those who used it lately."""
        self.urgent_at = 0.0
        self.touched_at = -LOCAL_TRUTH_S
        """When we last did something that changes or shows whether it is in memory."""
        self.need_bytes = int(size_bytes * 1.15)
        """What it takes of the node's memory once loaded."""
        self.is_on_trial = False
        """It failed, and has to show that it does its work."""
        self.is_proven = False
        """On trial, it has begun to answer, and nothing has failed there since."""
        self.slots = node.slots
        """The node's, or fewer while others use it too."""
        self._limited_until = 0.0

    @property
    def is_full(self) -> bool:
        """Whether all slots are taken."""
        return len(self.running) >= self.slots

    @property
    def may_take(self) -> bool:
        """Whether it may be given a request at all: on trial one at a time, until it is proven."""
        if not self.is_on_trial or self.is_proven:
            return True
        held = self.node.held if self.node.is_on_trial else self.running
        return not any(each.is_trial for each in held.values())

    def limit(self, slots: int, now: float) -> None:
        """Use only so many slots for a while, at least one."""
        self.slots = max(1, min(slots, self.node.slots))
        self._limited_until = now + FULL_S

    def use_slots(self, now: float) -> None:
        """Use all of the node's slots, unless they were found to be taken just now."""
        if now >= self._limited_until:
            self.slots = self.node.slots

    @property
    def model(self) -> str:
        """A name of the model."""
        return self.names[0]

    def load(self, options: Options | None, now: float) -> None:
        """Note that the model is in memory, with options that are None where nobody told us."""
        self.unload()
        self.is_resident = True
        self.node.loaded[self.key] = self
        self.options = options if self.node.takes_options else None
        self.loaded_at = now
        self.was_pushed_out = False
        self._count_copy(1)
        self.update_columns()

    def unload(self) -> None:
        """Note that the model is not in memory, nor what it remembered."""
        if self.is_resident:
            self._count_copy(-1)
            self.node.loaded.pop(self.key, None)
        self.is_resident = False
        self.options = None
        self.num_ctx = None
        self.ready_at = 0.0
        self.conversations.forget()
        self.update_columns()

    def update_columns(self) -> None:
        """Show changed numbers to those who compare nodes."""
        for columns in self.columns:
            columns.update(self)

    def note_use(self, priority: int, now: float) -> None:
        """Note that a request of some priority uses the model."""
        self.used_at = now
        if priority >= self.urgency or now - self.urgent_at > URGENT_S:
            self.urgency, self.urgent_at = priority, now

    @property
    def shape(self) -> Shape:
        """What is loaded: another choice of runner options is another model to those who want it."""
        return self.key, self.options or ()

    def _count_copy(self, change: int) -> None:
        self._copies[self.shape] = self._copies.get(self.shape, 0) + change
        if not self._copies[self.shape]:
            del self._copies[self.shape]

    def is_in_demand(self) -> bool:
        """Whether somebody uses it or waits for it."""
        return bool(self.running or self.backlog)

    def matches(self, options: Options) -> bool:
        """Whether the loaded model serves a request with these runner options without a reload.

        Engines other than Ollama load a model once, with what they were started with. On a node that
        adapts, a request may be sent with the loaded model's options instead.
        """
        if not self.node.takes_options:
            return True
        return self._is_loaded_with(options) or self.replacement(options) is not None

    def replacement(self, options: Options) -> Options | None:
        """Return the loaded model's options, where a request is sent with them in place of its own.

        None where its own load nothing anew, and where it might be cut short: it wants more context
        than is loaded, or what it wants or what is loaded is not known. One that sets nothing stays
        as it is: not all routes have a place for options.
        """
        if not options or not self.node.adapts or self._is_loaded_with(options):
            return None
        asked, loaded = dict(options), dict(self.options or ())
        if self.options is not None and "num_ctx" not in asked and "num_ctx" not in loaded:
            return self.options
        wanted = asked.get("num_ctx", self.default_ctx)
        num_ctx = loaded.get("num_ctx", self.num_ctx)
        if wanted is None or num_ctx is None or wanted > num_ctx:
            return None
        return (("num_ctx", num_ctx),) if self.options is None else self.options

    def _is_loaded_with(self, options: Options) -> bool:
        """Whether these options are those of the loaded model.

        A request that sets nothing gets the node's own context length, which is known once the model
        was loaded by such a request.
        """
        if self.options is None:  # somebody else loaded it, probably with nothing set
            return not options or self._context_of(options) == self.num_ctx
        if self.options == options:
            return True
        wanted = self._context_of(options)
        return wanted is not None and wanted == self._context_of(self.options)

    def _context_of(self, options: Options) -> int | None:
        """Return the context length that options lead to; None if unknown, or not all they set."""
        if not options:
            return self.default_ctx
        name, value = options[0]
        return int(value) if len(options) == 1 and name == "num_ctx" else None


class Shared:
    """What all nodes write into."""

    def __init__(self) -> None:
        self.copies: dict[Shape, int] = {}
        """How many nodes have each shape in memory."""
        self.homes: Homes = {}
        self.burdens: Burdens = array("d")
        self.free: list[int] = []
        """Places in ``burdens`` of nodes that are gone."""

    def add_node(self) -> int:
        """Return a place in ``burdens``."""
        if self.free:
            return self.free.pop()
        self.burdens.append(1.0)
        return len(self.burdens) - 1

    def remove_node(self, at: int) -> None:
        """Give a place in ``burdens`` back."""
        self.burdens[at] = 1.0
        self.free.append(at)


class Node:
    """A node: its latest view, its runners by key, and how busy it is."""

    def __init__(  # noqa: PLR0915 - as above
        self, view: NodeView, shared: Shared, *, adapts: bool = False
    ) -> None:
        self.id = view.id
        self._may_adapt = adapts
        self.shared = shared
        self.burden_at = shared.add_node()
        self.view = view
        self.slots = view.slots
        self.is_open = False
        self.is_on_trial = False
        """All its models together get one request at a time, until they are proven."""
        self.takes_options = True
        """Whether runner options of a request decide how a model is loaded there."""
        self.adapts = False
        """Whether requests may be sent to it with the loaded model's options in place of theirs."""
        self.runners: dict[str, Runner] = {}
        self.seen: dict[str, Resident] = {}
        """What the latest view has in memory, by runner."""
        self.by_model: dict[str, Runner] = {}
        self.in_flight = 0
        self.loaded: dict[str, Runner] = {}
        """The runners in memory."""
        self.held: dict[int, Held] = {}
        self._by_priority = [0] * (HIGHEST_PRIORITY + 1)
        self.most_urgent = 0
        """The highest priority of a request that runs there; 0 when none does."""
        self.busy_area = 0.0
        self.busy_at = 0.0
        self.slope = SLOPE
        """Share by which each further request lengthens a token."""
        self.crowd = 1.0
        """How many times longer a token takes there than it would alone."""
        self.crowding = 0.0
        """What those that run there lose by one more, for each second that it would take alone."""
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
        self.capacity.told_bytes = view.memory_bytes
        self.is_open = view.is_open
        self.is_on_trial = view.state in (NodeState.HALF_OPEN, NodeState.EJECTED)
        self.takes_options = view.engine is Engine.OLLAMA
        self.adapts = self._may_adapt and self.takes_options

    def begin(self, held: Held, now: float) -> None:
        """Count a request in."""
        self.busy_area += self.in_flight * (now - self.busy_at)
        self.busy_at = now
        held.busy_area = self.busy_area
        self.held[held.lease.id] = held
        self.in_flight += 1
        self._crowd()
        priority = held.request.priority
        self._by_priority[priority] += 1
        if priority > self.most_urgent:
            self.most_urgent = priority

    def end(self, held: Held, now: float) -> None:
        """Count a request out."""
        self.busy_area += self.in_flight * (now - self.busy_at)
        self.busy_at = now
        del self.held[held.lease.id]
        self.in_flight -= 1
        self._crowd()
        counts = self._by_priority
        counts[held.request.priority] -= 1
        while self.most_urgent and not counts[self.most_urgent]:
            self.most_urgent -= 1

    def area(self, now: float) -> float:
        """Return the integral of the requests in flight over time."""
        return self.busy_area + self.in_flight * (now - self.busy_at)

    def set_slope(self, slope: float) -> None:
        """Take over by what share each further request lengthens a token."""
        self.slope = slope
        self._crowd()

    def _crowd(self) -> None:
        lengthened = self.slope * self.in_flight
        self.crowd = 1.0 + lengthened
        self.crowding = lengthened * OVERLAP / self.crowd
        self.shared.burdens[self.burden_at] = self.crowd + self.crowding

    def makes_room(self, runner: Runner) -> bool:
        """Whether a runner is to leave for another one."""
        return self.claim is not None and runner in self.leaving

    def was_seen(self, key: str) -> bool:
        """Whether a runner was in memory by the view before."""
        return key in self.seen

    def loading(self, now: float) -> Runner | None:
        """Return the runner that is being loaded; nodes load one at a time."""
        return next((r for r in self.loaded.values() if r.ready_at > now), None)
