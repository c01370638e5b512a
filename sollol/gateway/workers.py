"""What models over several machines run on: the workers of the settings, and llama.cpp's programs."""

import asyncio
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from typing import Protocol

import structlog

from sollol.errors import CoordinatorFailed
from sollol.llamacpp.binaries import LlamaBinaries, LlamaCppUnavailable, find_binaries
from sollol.settings import ShardingSettings
from sollol.sharding.allocations import Allocation
from sollol.sharding.coordinator import CoordinatorProcess
from sollol.sharding.fleet import Found, find_fleet
from sollol.sharding.link_folder import clear_left
from sollol.sharding.loading import LoadProgress
from sollol.sharding.models import LocalModel
from sollol.sharding.plan import Plan
from sollol.sharding.worker import LocalWorker

log = structlog.get_logger()


class Coordinator(Protocol):
    """The process that drives the workers (``sharding/coordinator.py``)."""

    placement: Mapping[str, Allocation]

    @property
    def url(self) -> str:
        """Its base address."""
        ...

    @property
    def api_key(self) -> str:
        """What it wants to be asked with."""
        ...

    @property
    def pid(self) -> int | None:
        """Its process."""
        ...

    @property
    def is_sending(self) -> bool:
        """Whether all workers have let it in, and it sends them the model."""
        ...

    async def start(self, timeout_s: float) -> None:
        """Load the model."""
        ...

    async def wait(self) -> str:
        """Wait for its end; return what is known of it."""
        ...

    async def stop(self, grace_s: float) -> None:
        """End it: ask first, and kill it after some seconds."""
        ...


Launch = Callable[[Plan, LocalModel, str, Callable[[LoadProgress], None]], Coordinator]
"""Makes a coordinator that is not started yet, with the name that it tells of its model."""


class Workers(Protocol):
    """Finds workers and starts what drives them."""

    async def run(self) -> None:
        """Run those that are the gateway's own, until cancelled."""
        ...

    async def find(self, busy: frozenset[str]) -> Found:
        """Return those that can be used, without those that are in use."""
        ...

    def coordinator(
        self, plan: Plan, model: LocalModel, name: str, on_progress: Callable[[LoadProgress], None]
    ) -> Coordinator:
        """Return a coordinator that is not started yet; ``name`` is what it calls its model."""
        ...


class LlamaWorkers:
    """The workers of the settings, driven by llama.cpp's ``llama-server``."""

    def __init__(self, settings: ShardingSettings) -> None:
        self._settings = settings
        memory_gb = settings.local_worker_gb
        find = partial(find_binaries, settings.binary)
        self._local = None if memory_gb is None else LocalWorker(memory_gb, find)

    async def run(self) -> None:
        """Clear up after gateways that were killed; run the worker of this machine, if any, until cancelled."""
        left = await asyncio.to_thread(clear_left)
        if left:
            log.info("left_folders_cleared", folders=len(left))
        if self._local is not None:
            await self._local.run()

    async def find(self, busy: frozenset[str]) -> Found:
        """Return those that can be used, without those that are in use.

        Raises:
            CoordinatorFailed: there is no llama.cpp on this machine.
        """
        binaries = await asyncio.to_thread(lambda: self._binaries)
        return await find_fleet(await self._with_local(), binaries, busy)

    def coordinator(
        self, plan: Plan, model: LocalModel, name: str, on_progress: Callable[[LoadProgress], None]
    ) -> Coordinator:
        """Return a coordinator that is not started yet."""
        threads = self._settings.threads
        return CoordinatorProcess(
            self._binaries, plan, model, name=name, threads=threads, on_progress=on_progress
        )

    async def _with_local(self) -> ShardingSettings:
        """Return the settings with the worker of this machine among those that they list."""
        if self._local is None:
            return self._settings
        await self._local.ready.wait()
        own = self._local.settings
        workers = (*self._settings.workers, own) if own else self._settings.workers
        return self._settings.model_copy(update={"workers": workers})

    @cached_property
    def _binaries(self) -> LlamaBinaries:
        try:
            return find_binaries(self._settings.binary)
        except LlamaCppUnavailable as error:
            what = "" if self._settings.binary is None else "; change or unset sharding.binary"
            raise CoordinatorFailed(f"No model can be run over workers: {error}{what}") from None
