"""Random schedules: nodes, requests and faults, all from one seed."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from random import Random

from tests.deterministic.client import Leave, RequestPlan
from tests.deterministic.faults import OF_NODE, OF_REQUESTS, Fault, Window
from tests.deterministic.node import NodePlan

FIRST_AT = 30
"""The first request comes when every node has been probed once."""
MODELS: Mapping[str, str] = {"m0:latest": "d0", "m1:latest": "d1"}
POLICIES = ("fastest", "fastest", "fastest", "round_robin", "least_in_flight", "resident_first")
LENGTHS = (1, 2, 3, 5, 8, 15, 30)
PATHS = ("/api/chat", "/api/chat", "/api/generate", "/api/embed")
WINDOW_TICKS = (5, 20, 50, 100, 200, 400)
UPLOAD_TICKS = (5, 20, 50, 100)
LEAVES = (Leave.AFTER, Leave.AFTER, Leave.GRANT, Leave.EVE, Leave.RECORD)


@dataclass(frozen=True, slots=True)
class Schedule:
    """What will happen. ``rock`` is a node with every model that never fails; empty if there is none."""

    seed: int
    policy: str
    nodes: tuple[NodePlan, ...]
    requests: tuple[RequestPlan, ...]
    windows: tuple[Window, ...]
    rock: str = ""
    retry_reserve: int = 10

    @property
    def faulty(self) -> frozenset[str]:
        """Nodes that fail at some time."""
        return frozenset(window.node for window in self.windows)

    @property
    def has_poison(self) -> bool:
        """Whether a prompt kills runners, the rock's too."""
        return any(request.kind == "poison" for request in self.requests)

    @property
    def over_at(self) -> int:
        """The tick by which the last fault has ended."""
        return max((window.end for window in self.windows), default=0)


def make_schedule(seed: int) -> Schedule:
    """Return the schedule of a seed."""
    rng = Random(seed)
    ids = [f"n{number}" for number in range(rng.choice((3, 3, 4)))]
    rock = rng.choice((*ids, ""))
    nodes = tuple(_node(rng, node_id, has_all=node_id == rock) for node_id in ids)
    span = rng.choice((100, 300, 600))
    kinds = rng.choice((("",), ("", "bad"), ("", "bad", "poison")))
    requests = tuple(_request(rng, number, span, kinds) for number in range(rng.randint(12, 20)))
    faulty = [node_id for node_id in ids if node_id != rock]
    count = rng.choice((0, 1, 2, 4, 6, 8))
    windows = tuple(_window(rng, rng.choice(faulty), span) for _ in range(count))
    if not rock and rng.random() < 0.5:
        windows += tuple(_storm(rng, node_id) for node_id in ids)
    reserve = rng.choice((1, 3, 10, 10))
    policy = rng.choice(POLICIES)
    requests = tuple(_with_late_body(rng, request) for request in requests)
    requests = tuple(
        replace(request, continues=request.is_stream and rng.random() < 0.4) for request in requests
    )
    if not rock and rng.random() < 0.2:
        nodes, windows = _with_few_holders(rng, nodes, windows)
    return Schedule(seed, policy, nodes, requests, windows, rock, reserve)


def _node(rng: Random, node_id: str, *, has_all: bool) -> NodePlan:
    models = dict(MODELS)
    if not has_all and rng.random() < 0.2:
        del models[rng.choice(list(models))]
    return NodePlan(
        node_id,
        models,
        slots=rng.choice((1, 1, 2, 3)),
        load_ticks=rng.choice((5, 20, 50)),
        prompt_ticks=rng.choice((1, 2, 5)),
        token_ticks=rng.choice((1, 1, 2, 4)),
    )


def _request(rng: Random, number: int, span: int, kinds: tuple[str, ...]) -> RequestPlan:
    path = rng.choice(PATHS)
    return RequestPlan(
        f"r{number}",
        FIRST_AT + (0 if rng.random() < 0.2 else rng.randrange(span)),
        rng.choice(list(MODELS)),
        1 if path == "/api/embed" else rng.choice(LENGTHS),
        path,
        is_stream=path != "/api/embed" and rng.random() < 0.6,
        priority=rng.choice((1, 5, 5, 5, 10)),
        deadline_s=rng.choice((0.3, 1.0, 3.0)) if rng.random() < 0.15 else None,
        kind=rng.choice(kinds) if rng.random() < 0.15 else "",
        leave=rng.choice(LEAVES) if rng.random() < 0.2 else Leave.NEVER,
        leave_turns=rng.choice((1, 2, 2, 3)),
        leave_ticks=rng.choice((0, 1, 2, 3, 5, 10, 30, 100)),
        pause_ticks=rng.choice((1, 5, 20)) if rng.random() < 0.1 else 0,
    )


def _storm(rng: Random, node: str) -> Window:
    """Return a failure of one of all nodes at about the same time: which of them is the last resort?"""
    fault = rng.choice((Fault.RESET, Fault.CUT, Fault.CRASH, Fault.CRASH, Fault.REFUSE))
    start = FIRST_AT + rng.choice((20, 30, 50, 80))
    return Window(node, fault, start, start + rng.choice((50, 100, 150)), after=1)


def _with_late_body(rng: Random, request: RequestPlan) -> RequestPlan:
    is_late = rng.random() < (0.3 if request.deadline_s else 0.05)
    return replace(request, upload_ticks=rng.choice(UPLOAD_TICKS)) if is_late else request


def _with_few_holders(
    rng: Random, nodes: tuple[NodePlan, ...], windows: tuple[Window, ...]
) -> tuple[tuple[NodePlan, ...], tuple[Window, ...]]:
    """Let two nodes have a model, one of which fails until the other goes: the last resort is ejected."""
    elsewhere = rng.choice(list(MODELS))
    failing, going = rng.sample([node.id for node in nodes], 2)
    start = FIRST_AT + rng.choice((5, 20, 50))
    end = start + rng.choice((100, 200))
    goes_at = start + rng.choice((20, 40, 80))
    more = (
        Window(failing, rng.choice((Fault.RESET, Fault.CUT)), start, end, after=1),
        Window(going, rng.choice((Fault.RESTART, Fault.REFUSE)), goes_at, end),
    )
    few = {elsewhere: MODELS[elsewhere]}
    nodes = tuple(
        replace(node, models=MODELS if node.id in (failing, going) else few) for node in nodes
    )
    return nodes, windows + more


def _window(rng: Random, node: str, span: int) -> Window:
    fault = rng.choice(OF_NODE if rng.random() < 0.35 else OF_REQUESTS)
    start = rng.randrange(1, FIRST_AT + span)
    length = rng.choice(WINDOW_TICKS)
    is_of_model = fault is Fault.CRASH and rng.random() < 0.5
    return Window(
        node,
        fault,
        start,
        start + length,
        share=rng.choice((1.0, 1.0, 0.5)),
        after=rng.choice((0, 1, 2, 5)),
        model=rng.choice(list(MODELS)) if is_of_model else "",
    )
