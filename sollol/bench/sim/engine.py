"""The memory of a simulated node: loads one after another, evictions and expiry."""

import asyncio
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sollol.bench.sim.config import SimConfig, SimModel
from sollol.bench.sim.memory import (
    Runner,
    RunnerOptions,
    build_runner,
    choose_victim,
    loaded_bytes,
    runner_options,
)

HOT_LOAD_S = 0.002  # what finding a loaded runner takes

LoadReason = Literal["cold", "reload"]
UnloadReason = Literal["room", "reload", "expired", "asked"]


class NodeBusy(Exception):
    """As many requests wait for loads as ``max_queue`` allows."""


@dataclass(slots=True)
class LoadRecord:
    """One load of a model; times are seconds of the loop's clock."""

    model: str
    reason: LoadReason
    num_ctx: int
    started: float
    finished: float | None = None
    outcome: Literal["running", "completed", "aborted"] = "running"


@dataclass(frozen=True, slots=True)
class UnloadRecord:
    """One model that left the memory: for ``room`` (an eviction) or for another reason."""

    model: str
    reason: UnloadReason
    at: float


class Engine:
    """Owns the memory of a node.

    ``decoding`` counts the sequences that are generating, of all models; ``max_running`` the most
    that ran at once of each.
    """

    def __init__(self, config: SimConfig) -> None:
        self.loaded: dict[str, Runner] = {}
        self.loads: list[LoadRecord] = []
        self.unloads: list[UnloadRecord] = []
        self.decoding = 0
        self.max_running: dict[str, int] = {}
        self.config = config
        self._loop = asyncio.get_running_loop()
        self._loader = asyncio.Lock()
        self._pending = 0

    def close(self) -> None:
        """Drop everything from memory and stop the timers."""
        for runner in self.loaded.values():
            if runner.timer is not None:
                runner.timer.cancel()
        self.loaded.clear()

    def scaled(self, seconds: float) -> float:
        """Return how long simulated seconds take here."""
        return seconds * self.config.time_scale

    def unscaled(self, seconds: float) -> float:
        """Return simulated seconds from measured ones."""
        return seconds / self.config.time_scale if self.config.time_scale else seconds

    async def spend(self, seconds: float) -> None:
        """Let simulated seconds pass."""
        if self.config.time_scale and seconds > 0:
            await asyncio.sleep(self.scaled(seconds))

    async def runner_for(
        self, model: SimModel, name: str, options: Mapping[str, Any]
    ) -> tuple[Runner, float]:
        """Return a runner with the request counted in, and the seconds its load took.

        Raises:
            NodeBusy: the model must be loaded and too many requests wait for that already.
        """
        num_ctx, wanted = runner_options(self.config, model, options)
        runner = self._usable(model, wanted)
        load_s = HOT_LOAD_S
        if runner is None:
            started = self._loop.time()
            runner, load_s = await self._load(model, name, wanted, num_ctx)
            load_s = max(load_s, self.unscaled(self._loop.time() - started))
        runner.refs += 1
        runner.idle.clear()
        return runner, load_s

    async def hang_in_load(self, until: Awaitable[None]) -> None:
        """Load something that never gets ready; whatever else is to be loaded waits behind it."""
        async with self._loader:
            await until

    def release(self, runner: Runner) -> None:
        """Count a request out; the last one starts the runner's ``keep_alive``."""
        runner.refs -= 1
        if runner.refs:
            return
        runner.idle.set()
        runner.last_used = self._loop.time()
        self._expire_later(runner)

    def unload(self, digest: str) -> None:
        """Unload a model as soon as nobody uses it."""
        runner = self.loaded.get(digest)
        if runner is None:
            return
        runner.keep_alive_s = 0.0
        runner.expires_at = self._loop.time()
        if not runner.refs:
            self._remove(runner, "asked")

    def _usable(self, model: SimModel, wanted: RunnerOptions) -> Runner | None:
        runner = self.loaded.get(model.digest)
        return runner if runner is not None and runner.options == wanted else None

    async def _load(
        self, model: SimModel, name: str, wanted: RunnerOptions, num_ctx: int
    ) -> tuple[Runner, float]:
        if self._pending >= self.config.max_queue:
            raise NodeBusy
        self._pending += 1
        try:
            await self._loader.acquire()
        finally:
            self._pending -= 1
        try:
            runner = self._usable(model, wanted)
            if runner is not None:  # somebody who waited ahead wanted the same
                return runner, HOT_LOAD_S
            runner = await self._load_now(model, name, wanted, num_ctx)
        finally:
            self._loader.release()
        return runner, model.size_gib / self.config.load_gib_per_s

    async def _load_now(
        self, model: SimModel, name: str, wanted: RunnerOptions, num_ctx: int
    ) -> Runner:
        old = self.loaded.get(model.digest)
        reason: LoadReason = "cold" if old is None else "reload"
        if old is not None:
            await self._unload_when_idle(old, "reload")
        await self._make_room(loaded_bytes(self.config, model, num_ctx))
        record = LoadRecord(name, reason, num_ctx, self._loop.time())
        self.loads.append(record)
        try:
            await self.spend(model.size_gib / self.config.load_gib_per_s)
        except asyncio.CancelledError:
            record.outcome = "aborted"
            raise
        finally:
            record.finished = self._loop.time()
        record.outcome = "completed"
        runner = build_runner(self.config, model, name, wanted, num_ctx)
        runner.last_used = record.finished
        self.loaded[model.digest] = runner
        return runner

    async def _make_room(self, size_bytes: int) -> None:
        """Unload until a model of ``size_bytes`` fits, or nothing is left to unload."""
        while self.loaded and not self._fits(size_bytes):
            victim = choose_victim(self.loaded.values())
            if victim is None:
                return
            await self._unload_when_idle(victim, "room")

    def _fits(self, size_bytes: int) -> bool:
        used_bytes = sum(runner.vram_bytes for runner in self.loaded.values())
        return (
            used_bytes + size_bytes <= self.config.vram_bytes
            and len(self.loaded) < self.config.max_loaded
        )

    async def _unload_when_idle(self, runner: Runner, reason: UnloadReason) -> None:
        while runner.refs:  # a new request may slip in between the event and here
            await runner.idle.wait()
        self._remove(runner, reason)

    def _remove(self, runner: Runner, reason: UnloadReason) -> None:
        if self.loaded.get(runner.model.digest) is not runner:
            return
        if runner.timer is not None:
            runner.timer.cancel()
        del self.loaded[runner.model.digest]
        self.unloads.append(UnloadRecord(runner.name, reason, self._loop.time()))

    def _expire_later(self, runner: Runner) -> None:
        """Note when an idle runner leaves; one timer is kept, which looks again when it fires."""
        keep_s = runner.keep_alive_s
        scale = self.config.time_scale or 1.0
        runner.expires_at = self._loop.time() + keep_s * scale
        if keep_s <= 0:
            self._remove(runner, "expired")
            return
        if keep_s == float("inf"):
            return
        if runner.timer is not None and runner.timer.when() <= runner.expires_at:
            return
        self._set_timer(runner)

    def _set_timer(self, runner: Runner) -> None:
        if runner.timer is not None:
            runner.timer.cancel()
        runner.timer = self._loop.call_at(runner.expires_at or 0.0, self._expire, runner)

    def _expire(self, runner: Runner) -> None:
        runner.timer = None
        if runner.refs or runner.expires_at is None or runner.expires_at == float("inf"):
            return
        if self._loop.time() < runner.expires_at:
            self._set_timer(runner)
            return
        self._remove(runner, "expired")
