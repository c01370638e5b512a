"""The memory of a virtual node: loads one after another, evictions and expiry.

What ``bench/sim/engine.py`` does with tasks and locks, as a state machine.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sollol.bench.sim.config import SimConfig, SimModel
from sollol.bench.sim.engine import HOT_LOAD_S, LoadReason, UnloadReason
from sollol.bench.sim.memory import (
    BLOCK_TOKENS,
    RunnerOptions,
    choose_victim,
    loaded_bytes,
    offload_slowdown,
    runner_options,
)
from sollol.bench.virtual.loop import EventLoop, Timer


class Conversations:
    """How much of each conversation a runner has evaluated; the least lately used are forgotten."""

    def __init__(self, capacity_tokens: int) -> None:
        self._capacity = capacity_tokens
        self._total = 0
        self._tokens: OrderedDict[int, int] = OrderedDict()

    def known(self, conversation: int, shared_tokens: int) -> int:
        """Return how many of the first ``shared_tokens`` of a prompt are cached, in whole blocks."""
        known = min(self._tokens.get(conversation, 0), shared_tokens)
        return known // BLOCK_TOKENS * BLOCK_TOKENS

    def remember(self, conversation: int, tokens: int) -> None:
        """Note that a conversation is ``tokens`` long."""
        if not conversation:
            return
        self._total += tokens - self._tokens.pop(conversation, 0)
        self._tokens[conversation] = tokens
        while self._total > self._capacity:
            self._total -= self._tokens.popitem(last=False)[1]


@dataclass(slots=True, eq=False)
class VirtualRunner:
    """A model in memory. ``refs`` counts the requests that use it or wait for its slots."""

    model: SimModel
    num_ctx: int
    options: RunnerOptions
    slots: int
    size_bytes: int
    vram_bytes: int
    keep_alive_s: float
    last_used: float
    slowdown: float
    """The factor on all computation, for its size and for what of it is on the CPU."""
    prefixes: Conversations
    expires_at: float | None = None
    refs: int = 0
    running: int = 0
    waiting: deque[Callable[[], None]] = field(default_factory=deque)
    timer: Timer | None = None


Ready = Callable[[VirtualRunner, float], None]
"""Told the runner, with the request counted in, and the seconds that its load took."""


@dataclass(slots=True, eq=False)
class _Load:
    model: SimModel
    num_ctx: int
    options: RunnerOptions
    asked_at: float
    ready: Ready
    reason: LoadReason = "cold"
    awaited: VirtualRunner | None = None
    """The busy runner that must leave first."""


class Memory:
    """Owns what is loaded on a node."""

    def __init__(self, loop: EventLoop, config: SimConfig) -> None:
        self.loaded: dict[str, VirtualRunner] = {}
        self.loads: dict[LoadReason, int] = {"cold": 0, "reload": 0}
        self.unloads: dict[UnloadReason, int] = dict.fromkeys(("room", "reload", "expired"), 0)
        self.slowdown = 1.0
        """The factor on the time of loads."""
        self.config = config
        self._loop = loop
        self._queue: deque[_Load] = deque()
        self._is_loading = False

    def take(self, model: SimModel, options: Mapping[str, Any], ready: Ready) -> bool:
        """Get a runner, now or once it is loaded; False if too many wait for that already."""
        num_ctx, wanted = runner_options(self.config, model, options)
        runner = self._usable(model, wanted)
        if runner is not None:
            runner.refs += 1
            ready(runner, HOT_LOAD_S)
            return True
        if len(self._queue) > self.config.max_queue:  # the first of them does not wait
            return False
        self._queue.append(_Load(model, num_ctx, wanted, self._loop.now, ready))
        self._work()
        return True

    def release(self, runner: VirtualRunner) -> None:
        """Count a request out; the last one starts the runner's ``keep_alive``."""
        runner.refs -= 1
        if runner.refs:
            return
        runner.last_used = self._loop.now
        runner.expires_at = self._loop.now + runner.keep_alive_s
        if runner.keep_alive_s <= 0:
            self._remove(runner, "expired")
        elif runner.timer is None and runner.keep_alive_s != float("inf"):
            runner.timer = self._loop.at(runner.expires_at, lambda: self._expire(runner))
        self._work()

    def _usable(self, model: SimModel, wanted: RunnerOptions) -> VirtualRunner | None:
        runner = self.loaded.get(model.digest)
        return runner if runner is not None and runner.options == wanted else None

    def _work(self) -> None:
        """Go on with the first load as far as it gets: until a runner is idle or it is loaded."""
        while self._queue and not self._is_loading:
            load = self._queue[0]
            runner = self._usable(load.model, load.options)
            if runner is not None:
                self._finish(load, runner)
                continue
            if not self._has_left_old(load) or not self._has_room(load):
                return
            self._begin(load)

    def _has_left_old(self, load: _Load) -> bool:
        old = self.loaded.get(load.model.digest)
        if old is None:
            return True
        load.reason = "reload"
        return self._has_left(load, old, "reload")

    def _has_room(self, load: _Load) -> bool:
        size_bytes = loaded_bytes(self.config, load.model, load.num_ctx)
        while self.loaded and not self._fits(size_bytes):
            victim = load.awaited or choose_victim(self.loaded.values())
            assert victim is not None  # something is loaded
            if not self._has_left(load, victim, "room"):
                return False
        return True

    def _has_left(self, load: _Load, runner: VirtualRunner, reason: UnloadReason) -> bool:
        if runner.refs:
            load.awaited = runner
            return False
        load.awaited = None
        self._remove(runner, reason)
        return True

    def _fits(self, size_bytes: int) -> bool:
        used_bytes = sum(runner.vram_bytes for runner in self.loaded.values())
        return (
            used_bytes + size_bytes <= self.config.vram_bytes
            and len(self.loaded) < self.config.max_loaded
        )

    def _begin(self, load: _Load) -> None:
        self.loads[load.reason] += 1
        self._is_loading = True
        load_s = self._load_s(load.model) * self.slowdown
        self._loop.after(load_s, lambda: self._loaded(load))

    def _load_s(self, model: SimModel) -> float:
        return model.size_gib / self.config.load_gib_per_s

    def _loaded(self, load: _Load) -> None:
        self._is_loading = False
        runner = self._build(load)
        self.loaded[load.model.digest] = runner
        self._finish(load, runner)
        self._work()

    def _finish(self, load: _Load, runner: VirtualRunner) -> None:
        self._queue.popleft()
        runner.refs += 1
        load.ready(runner, max(HOT_LOAD_S, self._loop.now - load.asked_at))

    def _build(self, load: _Load) -> VirtualRunner:
        config, model = self.config, load.model
        size_bytes = loaded_bytes(config, model, load.num_ctx)
        vram_bytes = min(size_bytes, config.vram_bytes)
        return VirtualRunner(
            model=model,
            num_ctx=load.num_ctx,
            options=load.options,
            slots=1 if model.only_embeds else config.slots,
            size_bytes=size_bytes,
            vram_bytes=vram_bytes,
            keep_alive_s=config.keep_alive_s,
            last_used=self._loop.now,
            slowdown=offload_slowdown(vram_bytes, size_bytes),
            prefixes=Conversations(config.prefix_cache_tokens),
        )

    def _remove(self, runner: VirtualRunner, reason: UnloadReason) -> None:
        if self.loaded.get(runner.model.digest) is not runner:
            return
        if runner.timer is not None:
            runner.timer.cancel()
        del self.loaded[runner.model.digest]
        self.unloads[reason] += 1

    def _expire(self, runner: VirtualRunner) -> None:
        """Let an idle runner go, or look again when it may: it was used since."""
        runner.timer = None
        if runner.refs or runner.expires_at is None:
            return
        if self._loop.now < runner.expires_at:
            runner.timer = self._loop.at(runner.expires_at, lambda: self._expire(runner))
            return
        self._remove(runner, "expired")
