"""What is in a simulated node's memory: runners, their slots and their prefix caches."""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from sollol.bench.sim.config import SimConfig, SimModel

_BLOCK_CHARS = 128
BLOCK_TOKENS = 32
_CHAINS = 256
_RUNNER_OPTIONS = ("num_batch", "num_gpu", "main_gpu", "use_mmap", "num_thread")
_OFFLOAD_SLOWDOWN = 9.0  # a model wholly on the CPU is ten times slower

RunnerOptions = tuple[object, ...]
"""The options that a loaded model was started with; other ones mean another load."""


def runner_options(
    config: SimConfig, model: SimModel, options: Mapping[str, Any]
) -> tuple[int, RunnerOptions]:
    """Return the context length a request wants and all the options that a load depends on."""
    wanted = options.get("num_ctx")
    num_ctx = int(wanted) if isinstance(wanted, int | float) and wanted > 0 else 0
    num_ctx = min(num_ctx or config.default_context, model.context_length)
    return num_ctx, (num_ctx, *map(options.get, _RUNNER_OPTIONS))


class Slots:
    """Room for a fixed number of sequences; more wait without bound, first come first served."""

    def __init__(self, count: int) -> None:
        self.running = 0
        self._count = count
        self._waiting: deque[asyncio.Future[None]] = deque()

    def take_free(self) -> bool:
        """Take room for one sequence if there is some and nobody waits for it."""
        if self.running >= self._count or self._waiting:
            return False
        self.running += 1
        return True

    async def wait_turn(self) -> None:
        """Wait for room for one sequence, and take it."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            self._leave_queue(turn)
            raise

    def give_back(self) -> None:
        """End a sequence; the first that waits takes its room."""
        self.running -= 1
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                self.running += 1
                turn.set_result(None)
                return

    def _leave_queue(self, turn: asyncio.Future[None]) -> None:
        if turn.done() and not turn.cancelled():  # it was given room in the same instant
            self.give_back()
            return
        if turn in self._waiting:
            self._waiting.remove(turn)


class PrefixCache:
    """Which starts of prompts a runner has evaluated before, in blocks of 32 tokens."""

    def __init__(self, capacity_tokens: int) -> None:
        self.forgotten = 0
        """How many blocks had to make room for others."""
        self._capacity_blocks = capacity_tokens // BLOCK_TOKENS
        self._blocks: OrderedDict[int, None] = OrderedDict()
        self._chains: dict[str, list[int]] = {}  # the blocks of texts seen lately

    def remember(self, text: str) -> int:
        """Add a text; return how many tokens of its start were known."""
        blocks, known, matching = self._blocks, 0, True
        for block in self._chain(text):
            matching = matching and block in blocks
            known += matching
            blocks[block] = None
            blocks.move_to_end(block)
        while len(blocks) > self._capacity_blocks:
            blocks.popitem(last=False)
            self.forgotten += 1
        return known * BLOCK_TOKENS

    def _chain(self, text: str) -> list[int]:
        """Return a hash for each whole block, of it and all before it."""
        chain = self._chains.get(text)
        if chain is not None:
            return chain
        chain, last = [], 0
        for start in range(0, len(text) - _BLOCK_CHARS + 1, _BLOCK_CHARS):
            last = hash((last, text[start : start + _BLOCK_CHARS]))
            chain.append(last)
        if len(self._chains) >= _CHAINS:
            self._chains.clear()
        self._chains[text] = chain
        return chain


@dataclass(slots=True, eq=False)
class Runner:
    """A model in memory. ``refs`` counts the requests that use it or wait for its slots."""

    model: SimModel
    name: str
    """The name it was loaded under; aliases of the same digest use the same runner."""
    num_ctx: int
    options: RunnerOptions
    slots: Slots
    prefixes: PrefixCache
    size_bytes: int
    vram_bytes: int
    keep_alive_s: float
    size_slowdown: float = 1.0
    refs: int = 0
    last_used: float = 0.0
    expires_at: float | None = None
    """When it leaves, on the loop's clock; ``None`` before it was first idle."""
    timer: asyncio.TimerHandle | None = None
    idle: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def slowdown(self) -> float:
        """Return the factor on every computation; above 1 where part of the model is on the CPU."""
        return offload_slowdown(self.vram_bytes, self.size_bytes)


def offload_slowdown(vram_bytes: int, size_bytes: int) -> float:
    """Return how many times longer a model computes that has only part of itself on the accelerator."""
    return 1.0 + _OFFLOAD_SLOWDOWN * (1.0 - vram_bytes / max(1, size_bytes))


def build_runner(
    config: SimConfig, model: SimModel, name: str, options: RunnerOptions, num_ctx: int
) -> Runner:
    """Return the runner of a model that has just been loaded."""
    slots = 1 if model.only_embeds else config.slots
    size_bytes = loaded_bytes(config, model, num_ctx)
    return Runner(
        model=model,
        name=name,
        num_ctx=num_ctx,
        options=options,
        slots=Slots(slots),
        prefixes=PrefixCache(config.prefix_cache_tokens),
        size_bytes=size_bytes,
        vram_bytes=min(size_bytes, config.vram_bytes),
        keep_alive_s=config.keep_alive_s,
        size_slowdown=config.size_slowdown(model),
    )


def loaded_bytes(config: SimConfig, model: SimModel, num_ctx: int) -> int:
    """Return the memory of a model in use: weights, and context for every slot."""
    slots = 1 if model.only_embeds else config.slots
    return model.size_bytes + config.kv_bytes_per_token * num_ctx * slots


class Evictable(Protocol):
    """What decides which model has to leave the memory."""

    refs: int
    keep_alive_s: float
    last_used: float


R = TypeVar("R", bound=Evictable)


def choose_victim(runners: Iterable[R]) -> R | None:
    """Return the runner to unload next.

    1. One that is idle. 2. Of those, the one with the shortest ``keep_alive``. 3. Of those, the
    one that has not been used for longest.
    """
    return min(
        runners,
        key=lambda runner: (runner.refs > 0, runner.keep_alive_s, runner.last_used),
        default=None,
    )
