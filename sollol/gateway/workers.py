"""What models over several machines run on: the workers of the settings, and llama.cpp's programs."""

import asyncio
from collections.abc import Callable
from functools import cached_property
from typing import Protocol

from sollol.errors import CoordinatorFailed
from sollol.gateway.shard import Coordinator
from sollol.llamacpp.binaries import LlamaBinaries, LlamaCppUnavailable, find_binaries
from sollol.settings import ShardingSettings
from sollol.sharding.coordinator import CoordinatorProcess, LoadProgress
from sollol.sharding.fleet import Found, find_fleet
from sollol.sharding.models import LocalModel
from sollol.sharding.plan import Plan


class Workers(Protocol):
    """Finds workers and starts what drives them."""

    async def find(self, busy: frozenset[str]) -> Found:
        """Return those that can be used, without those that are in use."""
        ...

    def coordinator(
        self, plan: Plan, model: LocalModel, name: str, on_progress: Callable[[LoadProgress], None]
    ) -> Coordinator:
        """Return a coordinator that is not started yet; ``name`` is what it calls its model."""
        ...


class LlamaWorkers:
    """The workers that the settings list, driven by llama.cpp's ``llama-server``."""

    def __init__(self, settings: ShardingSettings) -> None:
        self._settings = settings

    async def find(self, busy: frozenset[str]) -> Found:
        """Return those that can be used, without those that are in use.

        Raises:
            CoordinatorFailed: there is no llama.cpp on this machine.
        """
        binaries = await asyncio.to_thread(lambda: self._binaries)
        return await find_fleet(self._settings, binaries, busy)

    def coordinator(
        self, plan: Plan, model: LocalModel, name: str, on_progress: Callable[[LoadProgress], None]
    ) -> Coordinator:
        """Return a coordinator that is not started yet."""
        threads = self._settings.threads
        return CoordinatorProcess(
            self._binaries, plan, model, name=name, threads=threads, on_progress=on_progress
        )

    @cached_property
    def _binaries(self) -> LlamaBinaries:
        try:
            return find_binaries(self._settings.binary)
        except LlamaCppUnavailable as error:
            raise CoordinatorFailed(f"No model can be run over workers: {error}") from None
