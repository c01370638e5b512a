"""The models that run over several machines: which there are, who may use the workers, and until when.

A model is loaded when it is first asked for (``sharded.py``), and then it is one more node. Each has
workers of its own, as a worker serves one coordinator at a time.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from math import inf
from typing import NamedTuple

import structlog

from sollol.errors import (
    CoordinatorFailed,
    DoesNotFit,
    ModelBroken,
    QueueFull,
    QueueTimeout,
    ShuttingDown,
    SollolError,
    UnsupportedByEngine,
    WorkerFailed,
)
from sollol.gateway import shard_rules
from sollol.gateway.model_rules import ModelRules, is_listed
from sollol.gateway.shard import NotWanted, Shard, ShardState, Surroundings
from sollol.gateway.shelf import Shelf
from sollol.gateway.workers import Workers
from sollol.llamacpp.restarts import CRASHES_TO_GIVE_UP
from sollol.metrics import Metrics
from sollol.nodes.catalog import Listing
from sollol.nodes.prober import Prober
from sollol.nodes.registry import Registry
from sollol.settings import Settings
from sollol.sharding.memory import RunOptions
from sollol.sharding.models import LocalModel
from sollol.sharding.plan import Plan, find_plan
from sollol.types import Engine, NodeState, NodeView, Source
from sollol.wire.names import shown_key

log = structlog.get_logger()

LOOK_S = 0.25
"""How late it may be noticed that workers have become free."""

FREED_S = 5.0
"""How long a worker that was in use may take to answer again: it frees memory, or is started anew."""

TOLD_S = 600.0
"""For how long after its rest it is told that a model could not be started."""

_NEVER = "2318-01-01T00:00:00Z"
"""What Ollama shows for a model that stays for ever."""

UNLOADED = NodeView("shards", "", Engine.LLAMA_SERVER, NodeState.HEALTHY)
"""Stands for the node that a model will run on once it is asked for."""


@dataclass(frozen=True, slots=True)
class Rest:
    """A model that could not be started: why, and until when it is not tried again.

    What depends on the settings or on other models is tried again at once.
    """

    error: SollolError
    until: float


class Parts(NamedTuple):
    """What of the gateway they work with."""

    registry: Registry
    prober: Prober
    rules: ModelRules
    metrics: Metrics
    workers: Workers


class Shards:
    """Owner of the models over several machines, and of who has which worker."""

    def __init__(
        self,
        settings: Settings,
        parts: Parts,
        rules_changed: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        sharding = settings.sharding
        kind = sharding.cache_type
        self.shelf = Shelf(sharding)
        self._options = RunOptions(sharding.context_length, sharding.slots, kind, kind)
        self._patterns = sharding.models
        self._keep_alive_s = sharding.keep_alive_s
        self._queue = settings.queue
        self._registry = parts.registry
        self._rules = parts.rules
        self._workers = parts.workers
        self._rules_changed = rules_changed
        self._clock = clock
        self._around = Surroundings(
            parts.registry,
            parts.prober,
            self.shelf.read,
            self._place,
            parts.workers.coordinator,
            self._freed,
            self._deaths_of,
            parts.metrics,
            clock,
            sharding.load_timeout_s,
        )
        self._shards: dict[str, Shard] = {}
        self._needs: dict[str, bool] = {}
        """Model -> whether it runs over workers, as long as the nodes do not change."""
        self._meant: set[str] = set()
        """Models that run over workers: the nodes that have them are not to be asked."""
        self._deaths: dict[str, deque[float]] = {}
        self._rests: dict[str, Rest] = {}
        self._freed_at: dict[str, float] = {}
        """When a worker was last in use."""
        self._placing = asyncio.Lock()
        self._tasks: asyncio.TaskGroup | None = None
        self._is_stopping = False

    async def run(self) -> None:
        """Keep the models that are asked for, until cancelled; then nothing of them is left."""
        async with asyncio.TaskGroup() as self._tasks:
            self._tasks.create_task(self._workers.run(), name="own workers")
            await self.shelf.run()

    def stop(self) -> None:
        """Load nothing more, and refuse those who wait for a load."""
        self._is_stopping = True
        for shard in self.all():
            if shard.state is not ShardState.READY:
                shard.stop()

    def all(self) -> tuple[Shard, ...]:
        """Return those that there are."""
        return tuple(self._shards.values())

    @property
    def are_alone(self) -> bool:
        """Whether there is no other node."""
        return all(node.source is Source.SHARD for node in self._registry.nodes())

    def rests(self) -> dict[str, Rest]:
        """Return the models that could not be started lately."""
        now = self._clock()
        return {
            key: rest
            for key, rest in self._rests.items()
            if rest.until + TOLD_S > now and key not in self._shards
        }

    def may_be_for(self, key: str) -> bool:
        """Whether a model may run over workers; :meth:`is_needed` says so for certain."""
        return self._needs.get(key, True)

    async def is_needed(self, key: str) -> bool:
        """Whether a model runs over workers.

        Raises:
            ModelBroken: it would, but its files are damaged.
        """
        known = self._needs.get(key)
        return await self._look(key) if known is None else known

    def is_allowed(self, node_id: str, key: str) -> bool:
        """Whether a node may be asked for a model, as far as it runs over workers."""
        if key not in self._meant:
            return True
        node = self._registry.find(node_id)
        return node is None or node.source is Source.SHARD

    def node_changed(self, view: NodeView) -> None:
        """Take note that a node has other models, perhaps."""
        node = self._registry.find(view.id)
        if node is None or node.source is not Source.SHARD:
            self._needs.clear()

    def node_removed(self) -> None:
        """Take note that a node is gone, and its models with it."""
        self._needs.clear()

    @contextlib.contextmanager
    def using(self, key: str, asked_bytes: int) -> Iterator[Shard]:
        """Give a model that is loaded or will be, and keep it for the length of a block.

        Args:
            asked_bytes: of the request that needs it.

        Raises:
            SollolError: it is not to be had at this moment.
        """
        waiting = sum(each.users for each in self.all() if each.state is not ShardState.READY)
        if waiting >= max(self._queue.max_length, 1):
            raise QueueFull("too many requests wait for models to be loaded", retry_after_s=5.0)
        shard = self._shards.get(key) or self._begin(key)
        shard.users += 1
        shard.asked_bytes += asked_bytes
        try:
            yield shard
        finally:
            shard.users -= 1
            shard.asked_bytes -= asked_bytes
            shard.used_at = self._clock()
            shard.stop_if_idle()

    @property
    def queue_timeout_s(self) -> float:
        """How long a request may wait for a model to make room."""
        return self._queue.timeout_s

    def find(self, key: str) -> Shard | None:
        """Return a model that is loaded, or about to be."""
        return self._shards.get(key)

    async def knows_tools(self, key: str) -> bool:
        """Whether a model that runs over workers can be given tools.

        Raises:
            SollolError: as :meth:`Shelf.read`.
        """
        shard = self._shards.get(key)
        known = None if shard is None else shard.model
        return (known or await self.shelf.read(key)).knows_tools

    def leaving(self, key: str) -> Shard | None:
        """Return a model that takes no more requests, but is there still."""
        shard = self._shards.get(key)
        return None if shard is None or shard.serves else shard

    def unload(self, key: str) -> None:
        """Let a model go once the last request has ended."""
        shard = self._shards.get(key)
        if shard is not None:
            shard.leave()

    def keep(self, shard: Shard, keep_alive_s: float | None) -> None:
        """Keep a model for some time after the last request; None for what the settings say."""
        shard.keep_alive_s = self._keep_alive_s if keep_alive_s is None else keep_alive_s

    def pass_time(self) -> None:
        """Let models go whose time is over."""
        now = self._clock()
        for shard in self.all():
            if shard.state is ShardState.READY and shard.is_idle and self.left_s(shard, now) <= 0:
                log.info("shard_expired", model=shard.name)
                shard.leave()

    def left_s(self, shard: Shard, now: float) -> float:
        """Return how long a model stays if nobody asks for it."""
        used_at = shard.used_at if shard.is_idle else now
        return shard_rules.left_s(shard.keep_alive_s, used_at, now)

    def listings(self, found: list[Listing]) -> list[Listing]:
        """Return what nodes have, and the models besides that only workers can run."""
        theirs = {listing.model.key for listing in found}
        own = [model for key, model in self.shelf.models.items() if key not in theirs]
        return found + [Listing(model, (UNLOADED,)) for model in own]

    def shown(self, view: NodeView) -> NodeView:
        """Return what is shown of a node: of a model over workers, its sizes and when it leaves."""
        shard = next((each for each in self.all() if each.node_id == view.id), None)
        if shard is None:
            return view
        told = {"expires_at": self.expires_at(shard), **_sizes(shard)}
        resident = {
            key: replace(held, entry={**held.entry, **told}) for key, held in view.resident.items()
        }
        return replace(view, resident=resident)

    def expires_at(self, shard: Shard) -> str:
        """Return when a model leaves if nobody asks for it: RFC 3339."""
        left_s = self.left_s(shard, self._clock())
        if left_s == inf or left_s > timedelta(days=36500).total_seconds():
            return _NEVER
        return (datetime.now(UTC) + timedelta(seconds=left_s)).isoformat()

    async def _look(self, key: str) -> bool:
        """Find out whether a model runs over workers, and remember that."""
        if key in self._shards:
            return True
        holders = [
            node.view
            for node in self._registry.nodes()
            if node.source is not Source.SHARD and key in node.view.models
        ]
        listed = is_listed(key, self._patterns)
        is_wanted = not self._rules.pinned_to(key) and shard_rules.needs_workers(
            key, holders, is_listed=listed
        )
        if is_wanted:
            is_wanted = await self._has_files(key, is_had=bool(holders))
        if is_wanted or holders:
            self._needs[key] = is_wanted
        if is_wanted != (key in self._meant):
            self._meant ^= {key}
            self._rules_changed()
        return is_wanted

    async def _has_files(self, key: str, *, is_had: bool) -> bool:
        try:
            return await self.shelf.find(key) is not None
        except ModelBroken as error:
            if is_had:
                return False
            raise shard_rules.naming(shown_key(key), error) from None

    def _begin(self, key: str) -> Shard:
        """Begin to load a model.

        Raises:
            SollolError: it failed a moment ago, or the gateway stops.
        """
        now = self._clock()
        rest = self._rests.get(key)
        if self._is_stopping or self._tasks is None:
            raise ShuttingDown
        if rest is not None and rest.until > now:
            raise shard_rules.naming(shown_key(key), rest.error, rest.until - now)
        shard = Shard(key, shown_key(key), self._around, self._keep_alive_s)
        self._shards[key] = shard
        self._tasks.create_task(self._keep(shard), name=f"shard {shard.name}")
        return shard

    async def _keep(self, shard: Shard) -> None:
        try:
            await shard.run()
        except Exception:  # a fault of ours ends this model only
            log.exception("shard_broke", model=shard.name)
        finally:
            del self._shards[shard.key]
            self._needs.pop(shard.key, None)
            self._note(shard)

    def _note(self, shard: Shard) -> None:
        """Keep what a model ended with, for those who ask for it again or why it is not there."""
        now = self._clock()
        if isinstance(shard.failure, CoordinatorFailed | WorkerFailed):
            rest_s = shard_rules.rest_s(self._deaths_of(shard.key), now)
            self._rests[shard.key] = Rest(shard.failure, now + rest_s)
        elif isinstance(shard.failure, DoesNotFit | ModelBroken | UnsupportedByEngine):
            self._rests[shard.key] = Rest(shard.failure, now)
        elif shard.failure is None:
            self._rests.pop(shard.key, None)

    def _freed(self, workers: Iterable[str]) -> None:
        self._freed_at.update(dict.fromkeys(workers, self._clock()))

    def _was_freed(self, address: str) -> bool:
        """Whether a worker was in use so lately that it may answer again in a moment."""
        return self._clock() - self._freed_at.get(address, -inf) < FREED_S

    def _deaths_of(self, key: str) -> "deque[float]":
        return self._deaths.setdefault(key, deque(maxlen=CRASHES_TO_GIVE_UP))

    async def _place(self, shard: Shard, model: LocalModel) -> Plan:
        """Return a plan for a model; its workers are the shard's from then on.

        Raises:
            DoesNotFit: it is too large for all workers together.
            WorkerFailed: none of them can be used.
            QueueTimeout: others did not leave them in time.
            NotWanted: others would have to leave them, and nobody asks for it.
        """
        try:
            async with (
                asyncio.timeout(self._queue.timeout_s),
                self._placing,
            ):  # first come, first served
                while (plan := await self._plan(shard, model)) is None:  # noqa: ASYNC110 - workers elsewhere send no event
                    await asyncio.sleep(LOOK_S)
                shard.plan = plan
                return plan
        except TimeoutError:
            text = f"the workers that {shard.name} needs did not become free in time"
            raise QueueTimeout(text) from None

    async def _plan(self, shard: Shard, model: LocalModel) -> Plan | None:
        """Return a plan; None to look again in a moment.

        Workers that were in use just now are waited for before others have to leave theirs.
        """
        others = [other for other in self.all() if other is not shard and other.plan is not None]
        if any(other.state is ShardState.LEAVING for other in others):
            _check_wanted(shard)
            return None  # it is decided already who leaves
        found = await self._workers.find(frozenset(w for other in others for w in other.workers()))
        are_more_to_come = any(self._was_freed(address) for address in found.unusable)
        try:
            if not found.fleet.workers and not others:
                raise WorkerFailed(
                    "No worker can be used: start them with `sollol worker`, or change sharding.workers; "
                    "`sollol shard workers` shows whether they answer."
                )
            plan = find_plan(model.facts, self._options, found.fleet)
            if plan is not None or are_more_to_come:
                return plan
            leaving = shard_rules.to_leave(
                model.facts, self._options, found.fleet, _occupants(others)
            )
        except (DoesNotFit, WorkerFailed) as error:
            if are_more_to_come:
                return None
            raise shard_rules.with_reasons(error, found.unusable.items()) from None
        _check_wanted(shard)
        for key in leaving:
            log.info("shard_leaves", model=shown_key(key), makes_room_for=shard.name)
            self.unload(key)
        return None


def _sizes(shard: Shard) -> dict[str, int]:
    """Return what a model takes in all, and on its workers, in the words of ``/api/ps``.

    Workers are the coordinator's devices, whatever they compute with.
    """
    held = {name: taken.total_bytes for name, taken in shard.placement.items()}
    on_workers = sum(held.get(name, 0) for name in shard.workers())
    return {"size": sum(held.values()), "size_vram": on_workers} if held else {}


def _occupants(shards: Iterable[Shard]) -> list[shard_rules.Occupant]:
    return [
        shard_rules.Occupant(shard.key, shard.plan, shard.is_idle, shard.used_at)
        for shard in shards
        if shard.plan is not None
    ]


def _check_wanted(shard: Shard) -> None:
    """Return if somebody asks for a model, so that others may have to leave for it.

    Raises:
        NotWanted: nobody does.
    """
    if not shard.users:
        raise NotWanted
