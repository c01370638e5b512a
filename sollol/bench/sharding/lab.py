"""Runs models as SOLLOL would: workers are found, a plan is made, its coordinator is started."""

import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from sollol.bench.common.children import ChildFailed
from sollol.bench.sharding.workers import THREADS
from sollol.errors import SollolError
from sollol.llamacpp.binaries import LlamaBinaries
from sollol.settings import ShardingSettings
from sollol.sharding.coordinator import CoordinatorProcess
from sollol.sharding.fleet import find_fleet, fleet_of
from sollol.sharding.memory import GIB, MemoryModel, RunOptions
from sollol.sharding.models import LocalModel, read_model
from sollol.sharding.plan import Coordinator, Fleet, Plan, Worker, find_plan, plan_shards
from sollol.sharding.prediction import Link

TIMEOUT_S = 600.0
"""Of a load, and of an answer."""
_ANY_SPEED = 1.0


@dataclass(frozen=True, slots=True)
class Running:
    """A model that answers; ``load_s`` went by from the start of its process."""

    plan: Plan
    coordinator: CoordinatorProcess
    load_s: float

    async def complete(self, tokens: int) -> float:
        """Make it write so many tokens; return how many a second it says it wrote.

        Raises:
            ChildFailed: it does not answer well.
        """
        body = {
            "prompt": "w1 w2 w3",
            "n_predict": tokens,
            "ignore_eos": True,
            "cache_prompt": False,
            "temperature": 0,
        }
        timings = (await self._post("/completion", body))["timings"]
        if timings["predicted_n"] != tokens:
            raise ChildFailed(f"{timings['predicted_n']} tokens instead of {tokens}")
        return float(timings["predicted_per_second"])

    async def _post(self, path: str, body: dict[str, Any]) -> Any:
        headers = {"Authorization": f"Bearer {self.coordinator.api_key}"}
        async with httpx.AsyncClient(timeout=TIMEOUT_S, trust_env=False) as client:
            answer = await client.post(self.coordinator.url + path, json=body, headers=headers)
        if answer.status_code != 200:
            raise ChildFailed(f"llama-server answers {answer.status_code}: {answer.text[:200]}")
        return answer.json()


@dataclass(frozen=True, slots=True)
class Lab:
    """A model and how it is run, wherever its parts are put."""

    binaries: LlamaBinaries
    model: LocalModel
    options: RunOptions

    @classmethod
    def of(cls, binaries: LlamaBinaries, path: Path, options: RunOptions) -> "Lab":
        """Read a model's header."""
        return cls(binaries, read_model(str(path), ()), options)

    async def plan(self, workers: Sequence[str], memory_bytes: int) -> Plan:
        """Find these workers and plan, with so much memory of each.

        Raises:
            ChildFailed: the model does not fit, or not all of them are needed.
        """
        rows = [{"address": address, "memory_gb": memory_bytes / GIB} for address in workers]
        settings = ShardingSettings.model_validate({"workers": rows})
        found = await find_fleet(settings, self.binaries)
        try:
            plan = plan_shards(self.model.facts, self.options, found.fleet)
        except SollolError as error:
            raise ChildFailed(f"{error} {dict(found.unusable)}") from None
        if len(plan.shares) < len(workers):
            raise ChildFailed(f"{len(plan.shares)} workers are enough, of {len(workers)}")
        return plan

    def plan_alone(self) -> Plan:
        """Return the plan that leaves all to this machine's CPU, in one process.

        Raises:
            ChildFailed: it does not fit.
        """
        fleet = fleet_of(ShardingSettings(), ())
        units = len(self.model.facts.units)
        plan = find_plan(self.model.facts, self.options, fleet, cpu_layers=units)
        if plan is None:
            raise ChildFailed("the model does not fit this machine")
        return plan

    @asynccontextmanager
    async def running(self, plan: Plan) -> AsyncIterator[Running]:
        """Run the model.

        Raises:
            ChildFailed: it cannot be started.
        """
        coordinator = CoordinatorProcess(
            self.binaries, plan, self.model, name="model", threads=THREADS
        )
        started = time.perf_counter()
        try:
            await coordinator.start(TIMEOUT_S)
        except SollolError as error:
            raise ChildFailed(str(error)) from None
        try:
            yield Running(plan, coordinator, time.perf_counter() - started)
        finally:
            await coordinator.stop()

    def whole_bytes(self) -> int:
        """Return what one device would need for all of the model."""
        facts = self.model.facts
        return MemoryModel(facts, self.options).device(0, len(facts.units)).total_bytes

    def memory_for(self, workers: int) -> int:
        """Return the memory with which so many equal workers hold the model, and fewer do not.

        Raises:
            ChildFailed: its layers cannot be spread so.
        """
        whole = self.whole_bytes()
        for percent in range(105, 100 * workers, 5):
            size = whole * percent // 100 // workers
            plan = find_plan(self.model.facts, self.options, _equal(workers, size))
            if plan is not None and len(plan.shares) == workers:
                return size
        raise ChildFailed(f"the model cannot be spread over {workers} workers")


def _equal(count: int, memory_bytes: int) -> Fleet:
    """Return workers to plan with, and a coordinator that has room for all."""
    workers = tuple(
        Worker(f"{number}", f"{number}", memory_bytes, _ANY_SPEED) for number in range(count)
    )
    links = {worker.name: Link(_ANY_SPEED, _ANY_SPEED) for worker in workers}
    return Fleet(workers, (Coordinator("here", sys.maxsize, _ANY_SPEED, links),))
