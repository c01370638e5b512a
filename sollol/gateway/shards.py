"""The models that run over several machines: which there are, and until when.

A model is loaded when it is first asked for (``sharded.py``), and then it is one more node. Each has
workers of its own, as a worker serves one coordinator at a time.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from math import inf
from typing import NamedTuple

import structlog

from sollol.errors import (
    CoordinatorFailed,
    DoesNotFit,
    ModelBroken,
    QueueFull,
    ShuttingDown,
    SollolError,
    UnsupportedByEngine,
    WorkerFailed,
)
from sollol.gateway import shard_rules
from sollol.gateway.model_rules import ModelRules
from sollol.gateway.shard import Shard, ShardState, Surroundings
from sollol.gateway.shard_needs import Needs
from sollol.gateway.shard_placing import Placing
from sollol.gateway.shard_shown import node_shown
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
from sollol.types import Engine, NodeState, NodeView, Source
from sollol.wire.names import shown_key

log = structlog.get_logger()

TOLD_S = 600.0
"""For how long after its rest it is told that a model could not be started."""

FILES_S = 1.0
"""How late it is noticed that files have changed while nobody asks for their model."""

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
    """Owner of the models over several machines."""

    def __init__(
        self,
        settings: Settings,
        parts: Parts,
        rules_changed: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        sharding = settings.sharding
        kind = sharding.cache_type
        options = RunOptions(sharding.context_length, sharding.slots, kind, kind)
        self.shelf = Shelf(sharding)
        self.needs = Needs(
            parts.registry,
            parts.rules,
            self.shelf,
            sharding.models,
            is_served=lambda key: key in self._shards and self._shards[key].serves,
            rules_changed=rules_changed,
        )
        placing = Placing(parts.workers, options, settings.queue.timeout_s, self.all, clock)
        self._keep_alive_s = sharding.keep_alive_s
        self._queue = settings.queue
        self._registry = parts.registry
        self._workers = parts.workers
        self._clock = clock
        self._around = Surroundings(
            parts.registry,
            parts.prober,
            self.shelf.read,
            placing.place,
            parts.workers.coordinator,
            placing.freed,
            self._deaths_of,
            parts.metrics,
            clock,
            sharding.load_timeout_s,
        )
        self._shards: dict[str, Shard] = {}
        self._deaths: dict[str, deque[float]] = {}
        self._rests: dict[str, Rest] = {}
        self._tasks: asyncio.TaskGroup | None = None
        self._is_stopping = False

    async def run(self) -> None:
        """Keep the models that are asked for, until cancelled; then nothing of them is left."""
        async with asyncio.TaskGroup() as self._tasks:
            self._tasks.create_task(self._workers.run(), name="own workers")
            self._tasks.create_task(self._follow_files(), name="files of shards")
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

    async def is_for(self, key: str) -> bool:
        """Whether a model runs over workers; it is let go first if its files are other ones by now.

        Raises:
            ModelBroken: it would, but its files are damaged.
        """
        shard = self._shards.get(key)
        if shard is not None:
            await self._check_files(shard)
        return await self.needs.is_for(key)

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

    async def read(self, key: str) -> LocalModel:
        """Return a model that runs over workers: as it is loaded, or as the store has it.

        Raises:
            SollolError: as :meth:`Shelf.read`.
        """
        shard = self._shards.get(key)
        known = shard.model if shard is not None and shard.serves else None
        return known or await self.shelf.read(key)

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
        """Return how long a model stays if nobody asks for it; 0 for one that leaves."""
        if shard.state is ShardState.LEAVING:
            return 0.0
        used_at = shard.used_at if shard.is_idle else now
        return shard_rules.left_s(shard.keep_alive_s, used_at, now)

    def listings(self, found: list[Listing]) -> list[Listing]:
        """Return what nodes have, and the models besides that only workers can run."""
        theirs = {listing.model.key for listing in found}
        own = [model for key, model in self.shelf.models.items() if key not in theirs]
        return found + [Listing(model, (UNLOADED,)) for model in own]

    def shown(self, view: NodeView) -> NodeView:
        """Return what is shown of a node: that of a model over workers by what the store says of it."""
        shard = next((each for each in self.all() if each.node_id == view.id), None)
        return view if shard is None else node_shown(view, shard, self.expires_at(shard))

    def expires_at(self, shard: Shard) -> str:
        """Return when a model leaves if nobody asks for it: RFC 3339."""
        left_s = self.left_s(shard, self._clock())
        if left_s == inf or left_s > timedelta(days=36500).total_seconds():
            return _NEVER
        return (datetime.now(UTC) + timedelta(seconds=left_s)).isoformat()

    async def _follow_files(self) -> None:
        """Let models go that are deleted or pulled anew, until cancelled."""
        while True:
            await asyncio.sleep(FILES_S)
            for shard in self.all():
                await self._check_files(shard)

    async def _check_files(self, shard: Shard) -> None:
        """Let a model go that is loaded from other files than its name stands for by now."""
        model = shard.model
        if model is None or shard.state is ShardState.RESTARTING:  # it is about to be read anew
            return
        if await self.shelf.is_current(model.stored) or not shard.serves:
            return
        log.info("shard_outdated", model=shard.name, reason="its files were pulled anew or deleted")
        self.needs.forget(shard.key)
        shard.leave()
        self.shelf.look_soon()

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
            self.needs.forget(shard.key)
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

    def _deaths_of(self, key: str) -> "deque[float]":
        return self._deaths.setdefault(key, deque(maxlen=CRASHES_TO_GIVE_UP))
