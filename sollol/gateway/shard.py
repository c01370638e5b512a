"""One model over several machines: from its plan to the end of its coordinator, and again if it is lost.

    plan      which workers hold which layers; may wait for room            shard_placing.py
    load      the coordinator starts, the workers take their layers         sharding/coordinator.py
    join      it becomes a node like any other                              shard_node.py
    watch     until it ends, a worker is gone, or it is to stop

Whoever needs the model waits for :meth:`Shard.wait_ready`.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

import structlog

from sollol.errors import CoordinatorFailed, Overloaded, SollolError
from sollol.gateway.shard_node import add_node, answers
from sollol.gateway.shard_progress import ShardProgress
from sollol.gateway.shard_rules import naming, wait_to_start_s
from sollol.gateway.shard_watch import (
    LET_IN_S,
    LOAD_SILENCE_S,
    LoadLimits,
    ShardWatch,
    addresses,
    start_watched,
)
from sollol.gateway.workers import Coordinator, Launch
from sollol.metrics import Metrics
from sollol.nodes.prober import Prober
from sollol.nodes.registry import Node, Registry
from sollol.sharding.allocations import Allocation
from sollol.sharding.coordinator import STOP_GRACE_S
from sollol.sharding.defaults import model_defaults
from sollol.sharding.loading import LoadProgress
from sollol.sharding.models import LocalModel
from sollol.sharding.plan import Plan
from sollol.sharding.silence import Silence
from sollol.types import NO_DEFAULTS, NodeState

log = structlog.get_logger()

WATCH_S = 1.0
"""Seconds between two looks at the workers' connections and at the node's health."""

LOST_GRACE_S = 1.0
"""One that does not answer will not end by itself either."""
LOAD_MARGIN = 3.0
"""So many times what the plan foretells a load may take."""


class NotWanted(Exception):
    """It would have to take workers from other models, and nobody asks for it."""


class ShardState(StrEnum):
    """Where it is on its way; only ``READY`` answers."""

    PLANNING = "planning"
    """Looks for workers, or waits for another model to leave them."""
    LOADING = "loading"
    READY = "ready"
    RESTARTING = "restarting"
    """It was lost, and is planned anew in a moment."""
    LEAVING = "leaving"
    """Finishes what it has, and then makes room."""
    FAILED = "failed"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a shard works with.

    ``read`` reads a model by its key, ``place`` gives a plan whose workers are the shard's from then
    on, until they are ``freed``; ``deaths`` are the moments at which it was lost, of the gateway's clock.
    """

    registry: Registry
    prober: Prober
    read: Callable[[str], Awaitable[LocalModel]]
    place: Callable[["Shard", LocalModel], Awaitable[Plan]]
    launch: Launch
    freed: Callable[[tuple[str, ...]], None]
    deaths: Callable[[str], "deque[float]"]
    metrics: Metrics
    clock: Callable[[], float]
    load_timeout_s: float


class Shard:
    """A model over workers. Its owner runs :meth:`run` once, in a task of its own.

    Attributes:
        model: what was read of it when it was last loaded.
        failure: what it ended with, if it was not asked to.
        users: requests that wait for it or are answered by it.
        asked_bytes: of their bodies together.
        used_at: when the last one ended.
        load_s: what the last load took.
        loss: what ended its last life.
        error: why it is not ready; empty if nothing went wrong.
    """

    def __init__(self, key: str, name: str, around: Surroundings, keep_alive_s: float) -> None:
        self.key = key
        self.name = name
        self.state = ShardState.PLANNING
        self.model: LocalModel | None = None
        self.plan: Plan | None = None
        self.placement: Mapping[str, Allocation] = {}
        self.node_id = ""
        self.error = ""
        self.failure: SollolError | None = None
        self.users = 0
        self.asked_bytes = 0
        self.load_s = 0.0
        self.loss = ""
        self.keep_alive_s = keep_alive_s
        self.used_at = around.clock()
        self.is_over = asyncio.Event()
        self._around = around
        self._begun_at = 0.0
        self._progress = ShardProgress(name)
        self._fault = ""
        self._defaults = NO_DEFAULTS
        self._silence = Silence()
        self._is_asked_to_stop = False
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._ready: asyncio.Future[None] = _quiet_future()
        self._life_over = asyncio.Event()

    @property
    def is_idle(self) -> bool:
        """Whether no request uses it."""
        return not self.users

    @property
    def progress(self) -> LoadProgress:
        """How far its latest load is."""
        return self._progress.latest

    @property
    def serves(self) -> bool:
        """Whether it answers, or will do so without being asked for again."""
        return self.state not in (ShardState.LEAVING, ShardState.FAILED, ShardState.STOPPED)

    def workers(self) -> tuple[str, ...]:
        """Return the addresses of those that it holds."""
        return () if self.plan is None else tuple(share.worker.name for share in self.plan.shares)

    async def wait_ready(self) -> asyncio.Event:
        """Wait until it answers; return what tells when that is over.

        Raises:
            SollolError: it does not come to that.
        """
        await asyncio.shield(self._ready)
        return self._life_over

    def leave(self) -> None:
        """Take no more requests; make room once the last one has ended."""
        if self.serves:
            self.state = ShardState.LEAVING
        self.stop_if_idle()

    def stop_if_idle(self) -> None:
        """Stop one that is to leave, if nothing keeps it."""
        if self.state is ShardState.LEAVING and self.is_idle:
            self.stop()

    def stop(self) -> None:
        """End it, whatever it does; :attr:`is_over` tells when that is done."""
        self._is_asked_to_stop = True
        if self._has_joined:
            self._stopping.set()
        elif self._task is not None:
            self._task.cancel()

    def lost(self, why: str) -> None:
        """Take note that it does not answer any more, for a reason that it has not noticed itself."""
        if self._has_joined and not self._fault:
            self._fault = why
            self._stopping.set()

    @property
    def _has_joined(self) -> bool:
        return bool(self.node_id)

    async def run(self) -> None:
        """Load it and keep it, until it is stopped, fails, or the task is cancelled."""
        self._task = asyncio.current_task()
        around = self._around
        try:
            while True:
                coordinator = await self._load()
                why = await self._serve(coordinator)
                if self._is_asked_to_stop or self.state is ShardState.LEAVING:
                    break
                log.warning("shard_lost", model=self.name, reason=why)
                around.metrics.shard_lost()
                await self._rest(why)
            self._end(ShardState.STOPPED, _stopped(self.name))
        except NotWanted:
            self._end(ShardState.STOPPED, _stopped(self.name))
            log.info("shard_dropped", model=self.name, reason="nobody waits for it")
        except SollolError as error:
            self.failure = error
            self._end(ShardState.FAILED, naming(self.name, error))
            log.error("shard_failed", model=self.name, reason=str(error))
        except Exception:
            fault = SollolError(
                f"{self.name} cannot be run, by a fault of SOLLOL that its log shows"
            )
            self._end(ShardState.FAILED, fault)
            raise
        except BaseException:
            self._end(ShardState.STOPPED, _stopped(self.name))
            raise
        finally:
            self.used_at = around.clock()

    def _end(self, state: ShardState, error: SollolError) -> None:
        self._release()
        self.state = state
        self.error = str(error) if state is ShardState.FAILED else ""
        if self._ready.done():
            self._ready = _quiet_future()
        self._ready.set_exception(error)
        self.is_over.set()

    async def _load(self) -> Coordinator:
        """Return a coordinator that has loaded the model.

        When that fails, other workers are tried, as one may have gone; the same ones are not.
        """
        around = self._around
        failure: CoordinatorFailed | None = None
        tried: set[tuple[str, ...]] = set()
        model = self.model = await around.read(self.key)
        self._defaults = model_defaults(model.stored)
        while True:
            self._enter(ShardState.PLANNING)
            self._release()
            try:
                self.plan = await around.place(self, model)
            except SollolError:
                if failure is not None:
                    raise failure from None
                raise
            if failure is not None and self.workers() in tried:
                raise failure
            tried.add(self.workers())
            try:
                return await self._start(self.plan, model)
            except CoordinatorFailed as error:
                log.warning("shard_not_loaded", model=self.name, reason=str(error))
                around.deaths(self.key).append(around.clock())
                failure = error

    async def _start(self, plan: Plan, model: LocalModel) -> Coordinator:
        around = self._around
        self._enter(ShardState.LOADING)
        self._progress.begin(plan.expectation.load_s)
        self._begun_at = around.clock()
        known = await addresses(self.workers())
        coordinator = around.launch(plan, model, self.name, self._progress.take)
        log.info(
            "shard_loading",
            model=self.name,
            workers=list(self.workers()),
            expected_s=round(plan.expectation.load_s, 1),
        )
        timeout_s = max(around.load_timeout_s, LOAD_MARGIN * plan.expectation.load_s)
        limits = LoadLimits(timeout_s, max(LOAD_SILENCE_S, plan.expectation.load_s), LET_IN_S)
        await start_watched(coordinator, known, limits, around.clock)
        self.load_s = around.clock() - self._begun_at
        around.metrics.shard_loaded(self.load_s)
        self._progress.end()
        self.placement = coordinator.placement
        return coordinator

    async def _serve(self, coordinator: Coordinator) -> str:
        """Be a node until something ends that; return what, or nothing if it was asked for."""
        self._stopping.clear()
        self._fault, self.loss = "", "it was stopped"
        self._life_over = asyncio.Event()
        ending: asyncio.Task[str] | None = None
        try:
            node = await self._join(coordinator)
            self._enter(ShardState.READY)
            log.info(
                "shard_ready", model=self.name, node=self.node_id, load_s=round(self.load_s, 2)
            )
            self._ready.set_result(None)
            async with asyncio.TaskGroup() as tasks:
                ending = tasks.create_task(coordinator.wait())
                ending.add_done_callback(lambda _: self._stopping.set())
                watching = tasks.create_task(self._watch(node, coordinator))
                await self._stopping.wait()
                watching.cancel()
                has_ended = ending.done()
                ending.cancel()
            self.loss = ending.result() if has_ended else self._fault
            return self.loss
        finally:
            await self._part(coordinator)

    async def _join(self, coordinator: Coordinator) -> Node:
        around = self._around
        assert self.plan is not None
        slots = self.plan.options.slots
        node = add_node(around.registry, self.name, coordinator, slots, self._defaults)
        self.node_id = node.view.id
        if await answers(around.prober, node):
            return node
        around.deaths(self.key).append(around.clock())
        raise CoordinatorFailed(
            f"The coordinator of {self.name} has started, but answers no probe: {node.view.last_error}"
        )

    async def _part(self, coordinator: Coordinator) -> None:
        """Be no node any more, at once, and end the process."""
        self._life_over.set()
        if self._ready.done():
            self._ready = _quiet_future()
        node_id, self.node_id = self.node_id, ""
        try:
            await self._around.registry.remove(node_id)
        finally:
            await coordinator.stop(LOST_GRACE_S if self._fault else STOP_GRACE_S)
            self._release()

    def _release(self) -> None:
        """Hold no workers any more."""
        self._around.freed(self.workers())
        self.plan, self.placement = None, {}

    async def _watch(self, node: Node, coordinator: Coordinator) -> None:
        """Find out what the coordinator does not notice, until cancelled."""
        assert self.plan is not None
        watch = ShardWatch(
            coordinator.pid,
            int(coordinator.url.rpartition(":")[2]),
            await addresses(self.workers()),
            self.plan.expectation.tokens_per_s,
            self._silence,
            self._around.clock,
        )
        while True:
            await asyncio.sleep(WATCH_S)
            if node.view.state in (NodeState.UNHEALTHY, NodeState.EJECTED):
                self.lost(f"it does not answer: {node.view.last_error}")
            why = await (watch.left() if self.is_idle else watch.hung(self.asked_bytes))
            if why:
                self.lost(why)

    async def _rest(self, why: str) -> None:
        """Wait before the next start.

        Raises:
            CoordinatorFailed: it was lost too often.
        """
        around = self._around
        self._enter(ShardState.RESTARTING)
        self.error = why
        deaths = around.deaths(self.key)
        deaths.append(around.clock())
        delay_s = wait_to_start_s(deaths, around.clock())
        if delay_s is None:
            raise CoordinatorFailed(
                f"{self.name} was lost {len(deaths)} times in a short while, the last time as {why}. "
                "Look at its workers with: sollol shard workers"
            )
        await asyncio.sleep(delay_s)

    def _enter(self, state: ShardState) -> None:
        if self.state is not ShardState.LEAVING:
            self.state = state


def _quiet_future() -> "asyncio.Future[None]":
    """Return a future whose exception may be nobody's business."""
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    future.add_done_callback(lambda done: done.cancelled() or done.exception())
    return future


def _stopped(name: str) -> SollolError:
    return Overloaded(f"the model {name} was unloaded before it answered", retry_after_s=1.0)
