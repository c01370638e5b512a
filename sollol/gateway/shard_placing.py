"""Gives models the workers they run on: a plan, once there is room for it; others leave theirs if need be."""

import asyncio
from collections.abc import Callable, Iterable
from math import inf

import structlog

from sollol.errors import DoesNotFit, QueueTimeout, WorkerFailed
from sollol.gateway import shard_rules
from sollol.gateway.shard import NotWanted, Shard, ShardState
from sollol.gateway.workers import Workers
from sollol.sharding.memory import RunOptions
from sollol.sharding.models import LocalModel
from sollol.sharding.plan import Plan, find_plan
from sollol.wire.names import shown_key

log = structlog.get_logger()

LOOK_S = 0.25
"""How late it may be noticed that workers have become free."""

FREED_S = 5.0
"""How long a worker that was in use may take to answer again: it frees memory, or is started anew."""


class Placing:
    """Owner of who has which worker.

    Args:
        timeout_s: how long a model waits for others to leave their workers.
        all_shards: gives all models over workers that there are.
    """

    def __init__(
        self,
        workers: Workers,
        options: RunOptions,
        timeout_s: float,
        all_shards: Callable[[], Iterable[Shard]],
        clock: Callable[[], float],
    ) -> None:
        self._workers = workers
        self._options = options
        self._timeout_s = timeout_s
        self._all_shards = all_shards
        self._clock = clock
        self._turn = asyncio.Lock()
        self._freed_at: dict[str, float] = {}
        """When a worker was last in use."""

    def freed(self, workers: Iterable[str]) -> None:
        """Take note that nobody has these workers any more."""
        self._freed_at.update(dict.fromkeys(workers, self._clock()))

    async def place(self, shard: Shard, model: LocalModel) -> Plan:
        """Return a plan for a model; its workers are the shard's from then on.

        Raises:
            DoesNotFit: it is too large for all workers together.
            WorkerFailed: none of them can be used.
            QueueTimeout: others did not leave them in time.
            NotWanted: others would have to leave them, and nobody asks for it.
        """
        try:
            async with (
                asyncio.timeout(self._timeout_s),
                self._turn,
            ):  # first come, first served
                while (plan := await self._plan(shard, model)) is None:  # noqa: ASYNC110 - workers elsewhere send no event
                    await asyncio.sleep(LOOK_S)
                shard.plan = plan
                return plan
        except TimeoutError:
            text = f"the workers that {shard.name} needs did not become free in time"
            raise QueueTimeout(text) from None

    def _was_freed(self, address: str) -> bool:
        """Whether a worker was in use so lately that it may answer again in a moment."""
        return self._clock() - self._freed_at.get(address, -inf) < FREED_S

    async def _plan(self, shard: Shard, model: LocalModel) -> Plan | None:
        """Return a plan; None to look again in a moment.

        Workers that were in use just now are waited for before others have to leave theirs.
        """
        others = {
            other.key: other
            for other in self._all_shards()
            if other is not shard and other.plan is not None
        }
        if any(other.state is ShardState.LEAVING for other in others.values()):
            _check_wanted(shard)
            return None  # it is decided already who leaves
        busy = (worker for other in others.values() for worker in other.workers())
        found = await self._workers.find(frozenset(busy))
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
                model.facts, self._options, found.fleet, _occupants(others.values())
            )
        except (DoesNotFit, WorkerFailed) as error:
            if are_more_to_come:
                return None
            raise shard_rules.with_reasons(error, found.unusable.items()) from None
        _check_wanted(shard)
        for key in leaving:
            log.info("shard_leaves", model=shown_key(key), makes_room_for=shard.name)
            others[key].leave()
        return None


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
