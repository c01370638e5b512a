"""A simulated Ollama on the virtual clock: slots with a queue behind them, loads, and faults."""

import asyncio
import json
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

from tests.deterministic import answers
from tests.deterministic.faults import OF_NODE, Fault, Window
from tests.deterministic.generation import Generation
from tests.deterministic.loop import GRID_S, VirtualLoop
from tests.deterministic.network import Reach, Wire

SLOW_FACTOR = 8
TEMPLATE_TICKS = 2
"""So long it takes to answer two looks at a template."""
_REACHES = {
    Fault.REFUSE: Reach.REFUSED,
    Fault.RESTART: Reach.REFUSED,
    Fault.PARTITION: Reach.LOST,
    Fault.VANISH: Reach.LOST,
}


@dataclass(frozen=True, slots=True)
class NodePlan:
    """What a node is like; times in ticks of the loop."""

    id: str
    models: Mapping[str, str]
    """Names and digests."""
    slots: int = 1
    load_ticks: int = 50
    prompt_ticks: int = 2
    token_ticks: int = 1


@dataclass(eq=False, slots=True)
class Runner:
    """A model on the node: in memory or not, and who uses it."""

    model: str
    is_resident: bool = False
    running: list[Generation] = field(default_factory=list)
    waiting: deque[Generation] = field(default_factory=deque)


class SimulatedNode:
    """The node. ``note`` is told what happens, in words that are the same in every run.

    Attributes:
        on_arrival: is shown every request that reaches the node; on_end is told when one has ended.
        has_erred: something was wrong with it at some time, or a prompt was that kills runners.
        has_forgotten: it has lost what was in memory.
        reach: whether connections reach it.
        told_at: the tick in which it answered a probe last, as it should.
        generations: requests that are here, in the order they came.
        loads: runners that are wanted in memory; the first is being loaded.
    """

    def __init__(
        self, plan: NodePlan, loop: VirtualLoop, rng: Random, note: Callable[[str], None]
    ) -> None:
        self.plan = plan
        self.id = plan.id
        self.models = plan.models
        self._loop = loop
        self._rng = rng
        self._note = note
        self._numbers = 0
        self.on_arrival: Callable[[Generation], None]
        self.on_end: Callable[[], None]
        self.has_erred = False
        self.has_forgotten = False
        self.reach = Reach.OPEN
        self.refused_at = -1
        self.told_at = -1
        self.windows: list[Window] = []
        self.generations: list[Generation] = []
        self.runners = {digest: Runner(name) for name, digest in plan.models.items()}
        self.loads: list[Runner] = []
        self._load_timer: asyncio.TimerHandle | None = None
        self._wires: list[Wire] = []

    def note(self, text: str) -> None:
        """Tell what happens here."""
        self._note(f"{self.id}: {text}")

    @property
    def now(self) -> int:
        """The tick of the clock."""
        return self._loop.now

    def next_number(self) -> int:
        """Return the number of the next request."""
        self._numbers += 1
        return self._numbers

    def after(self, ticks: int, step: Callable[[], object]) -> asyncio.TimerHandle:
        """Do something later."""
        if any(window.fault is Fault.SLOW for window in self.windows):
            ticks *= SLOW_FACTOR
        return self._loop.call_later(ticks * GRID_S, step)

    @property
    def prompt_ticks(self) -> int:
        """How long a prompt takes."""
        return self.plan.prompt_ticks

    @property
    def token_ticks(self) -> int:
        """How long a token takes."""
        return self.plan.token_ticks

    # Faults

    def fail(self, window: Window) -> None:
        """Begin to fail."""
        self.windows.append(window)
        self.has_erred = True
        self.note(f"begins to {window.fault}")
        self._set_reach()
        if window.fault in (Fault.RESTART, Fault.VANISH):
            for wire in list(self._wires):
                wire.reset()
            self._forget_all()
        if self.reach is Reach.LOST:
            for wire in self._wires:
                wire.is_lost = True

    def recover(self, window: Window) -> None:
        """Fail no more in this way."""
        self.windows.remove(window)
        self.note(f"ends to {window.fault}")
        self._set_reach()
        if self.reach is Reach.OPEN:
            for generation in [g for g in self.generations if g.wire.is_lost]:
                self.end(generation, "lost")

    def _set_reach(self) -> None:
        found = [_REACHES[window.fault] for window in self.windows if window.fault in _REACHES]
        self.reach = Reach.LOST if Reach.LOST in found else (found or [Reach.OPEN])[0]

    def _has(self, fault: Fault) -> bool:
        return any(window.fault is fault for window in self.windows)

    def _forget_all(self) -> None:
        """Lose what is in memory, and whoever is here."""
        self.has_forgotten = True
        for generation in list(self.generations):
            self.end(generation, "lost")
        for runner in self.runners.values():
            runner.is_resident = False

    def crash(self, runner: Runner) -> None:
        """Let a runner die with all that it runs; it is loaded anew for who waits."""
        self.has_erred = self.has_forgotten = True
        runner.is_resident = False
        self.note(f"runner of {runner.model} crashes")
        for generation in list(runner.running):
            generation.crash()

    # Connections

    def accept(self, wire: Wire) -> "Visit":
        """Take a connection."""
        self._wires.append(wire)
        return Visit(self, wire)

    def forget(self, wire: Wire) -> None:
        """Hear that a connection has ended, from whichever side; its request ends with it."""
        if wire in self._wires:
            self._wires.remove(wire)
        for generation in [g for g in self.generations if g.wire is wire]:
            self.end(generation, "left")

    def take(self, wire: Wire, path: str, body: bytes) -> None:
        """Take a request."""
        asked = json.loads(body or b"{}")
        probed = answers.template_probe(asked)
        if probed is not None:
            self._loop.call_later(GRID_S, wire.send, answers.whole(200, probed))
        elif path in ("/api/chat", "/api/generate", "/api/embed"):
            self._generate(Generation(self, wire, path, asked))
        elif not self._has(Fault.MUTE):
            self._loop.call_later(GRID_S, self._tell, wire, path)

    def _tell(self, wire: Wire, path: str) -> None:
        """Answer a probe."""
        if self._has(Fault.DEAF):
            wire.send(answers.whole(500, {"error": "deaf"}))
            return
        self.told_at = self.now
        if path == "/api/version":
            wire.send(answers.whole(200, {"version": "0.33.0"}))
            return
        names = [
            name
            for name, digest in self.models.items()
            if path == "/api/tags" or self.runners[digest].is_resident
        ]
        wire.send(answers.whole(200, {"models": [self._entry(name) for name in names]}))

    def _entry(self, name: str) -> dict[str, Any]:
        return {
            "name": name,
            "model": name,
            "digest": self.models[name],
            "size": 10**9,
            "size_vram": 10**9,
            "modified_at": "2026-01-01T00:00:00Z",
            "expires_at": "2027-01-01T00:00:00Z",
            "capabilities": ["completion", "embedding"],
            "details": {"context_length": 8192},
        }

    # Requests

    def _generate(self, generation: Generation) -> None:
        self.generations.append(generation)
        hits = [window for window in self.windows if self._hits(window, generation)]
        generation.window = hits[0] if hits else None
        fault = f" and will {generation.fault}" if hits else ""
        self.note(f"{generation.by} is {generation.request} for {generation.model}{fault}")
        self.on_arrival(generation)
        generation.begin()

    def _hits(self, window: Window, generation: Generation) -> bool:
        if window.fault in OF_NODE or window.model not in ("", generation.model):
            return False
        return self._rng.random() < window.share

    def want_slot(self, generation: Generation) -> None:
        """Give a request a slot, or let it wait for one."""
        runner = self.runners[self.models[generation.model]]
        generation.runner = runner
        runner.waiting.append(generation)
        self._fill(runner)

    def end(self, generation: Generation, how: str) -> None:
        """Let a request go."""
        if generation.is_over:
            return
        generation.stop(how)
        self.on_end()
        self.note(f"{generation.by} {how}")
        self.generations.remove(generation)
        runner = generation.runner
        if runner is None:
            return
        if generation in runner.running:
            runner.running.remove(generation)
        else:
            runner.waiting.remove(generation)
        if not runner.running and not runner.waiting and runner in self.loads:
            self._drop_load(runner)  # who waited for it has gone, and with them the load
        self._fill(runner)

    def _fill(self, runner: Runner) -> None:
        while runner.waiting and len(runner.running) < self.plan.slots:
            generation = runner.waiting.popleft()
            generation.has_slot = True
            runner.running.append(generation)
            if runner.is_resident:
                generation.run(0)
            elif runner not in self.loads:
                self.loads.append(runner)
                self._load_next()

    # Loads

    def _load_next(self) -> None:
        if self.loads and self._load_timer is None:
            self.note(f"loads {self.loads[0].model}")
            self._load_timer = self.after(self.plan.load_ticks, self._loaded)

    def _loaded(self) -> None:
        self._load_timer = None
        runner = self.loads.pop(0)
        runner.is_resident = True
        self.note(f"has loaded {runner.model}")
        for generation in list(runner.running):
            generation.run(self.plan.load_ticks)
        self._load_next()

    def _drop_load(self, runner: Runner) -> None:
        if self.loads[0] is runner and self._load_timer is not None:
            self._load_timer.cancel()
            self._load_timer = None
        self.loads.remove(runner)
        self._load_next()


class Visit:
    """Reads the requests of one connection, one after another."""

    def __init__(self, node: SimulatedNode, wire: Wire) -> None:
        self._node = node
        self._wire = wire
        self._held = b""

    def received(self, data: bytes) -> None:
        """Take bytes; requests have heads and lengths as the gateway writes them."""
        self._held += data
        head, gap, rest = self._held.partition(b"\r\n\r\n")
        if not gap:
            return
        lines = head.split(b"\r\n")
        lengths = [line for line in lines if line.lower().startswith(b"content-length:")]
        length = int(lengths[0].split(b":")[1]) if lengths else 0
        if len(rest) < length:
            return
        self._held = rest[length:]
        path = lines[0].split(b" ")[1].decode()
        self._node.take(self._wire, path, rest[:length])

    def closed(self) -> None:
        """Hear that the gateway has closed."""
        self._node.forget(self._wire)
