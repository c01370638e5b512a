"""The bench of models over several machines, on tiny models: it runs through and leaves nothing."""

from pathlib import Path

import psutil
import pytest

from sollol.bench.common.children import ChildFailed
from sollol.bench.model_kinds import Size
from sollol.bench.sharding.fit import measure_fit
from sollol.bench.sharding.lab import Lab
from sollol.bench.sharding.models import write_random
from sollol.bench.sharding.network import (
    Far,
    NoNamespaces,
    measure_far_loads,
    measure_far_speed,
    places,
)
from sollol.bench.sharding.speed import measure_loads, measure_speed
from sollol.bench.sharding.workers import WorkerSpec, running_workers
from sollol.llamacpp.binaries import find_binaries
from sollol.sharding.memory import MIB, RunOptions
from tests.llamacpp.shards import NEEDS_WORKERS

TINY = Size(layers=4, embedding=256, feed_forward=512, kv_heads=8, vocabulary=512)
LARGE = Size(2, 2048, 8192, 16, 16, 512, "q8_0")
"""Its feed-forward tensors are large enough for a worker's cache."""


pytestmark = NEEDS_WORKERS


def lab(folder: Path, size: Size, context_length: int = 2048) -> Lab:
    return Lab.of(
        find_binaries(), write_random(folder / "m.gguf", size), RunOptions(context_length)
    )


async def test_a_model_fits_workers_that_may_not_take_more(tmp_path: Path) -> None:
    fit = await measure_fit(lab(tmp_path, TINY, 16384), 2)
    assert [process.name for process in fit.processes] == ["worker 1", "worker 2", "coordinator"]
    assert {process.name: process.ratio for process in fit.processes if process.ratio > 1.05} == {}
    assert fit.tokens_per_s > 0
    assert not psutil.Process().children()


async def test_both_ways_are_asked_by_turns(tmp_path: Path) -> None:
    speeds = await measure_speed(lab(tmp_path, TINY), "tiny", rounds=2)
    assert len(speeds.alone) == len(speeds.sharded) == 2


async def test_loads_fill_the_cache_and_use_it(tmp_path: Path) -> None:
    loads = await measure_loads(lab(tmp_path, LARGE), tmp_path, rounds=1)
    assert all(len(each) == 1 for each in (loads.alone, loads.plain, loads.filling, loads.cached))
    cached = [path.stat().st_size for path in (tmp_path / "cache-0").rglob("*") if path.is_file()]
    assert len(cached) == 6
    assert min(cached) > 10 * MIB


async def test_workers_at_the_end_of_a_cable(tmp_path: Path) -> None:
    found = Far()
    model = lab(tmp_path, TINY)
    try:
        async with places(2) as there:
            await measure_far_speed(model, there, 1, found)
            await measure_far_loads(model, there, tmp_path, 1, found)
    except NoNamespaces as error:
        pytest.skip(str(error))
    assert len(found.near) == len(found.far) == len(found.cold_s) == len(found.cached_s) == 1
    assert all(link.round_trip_s and link.bytes_per_s for link in found.links)
    assert not psutil.Process().children()


async def test_what_does_not_fit_or_needs_fewer_is_an_error(tmp_path: Path) -> None:
    model = lab(tmp_path, TINY)
    specs = [WorkerSpec(), WorkerSpec()]
    async with running_workers(model.binaries, specs) as workers:
        addresses = [worker.address for worker in workers]
        with pytest.raises(ChildFailed, match="it needs 2 workers with"):
            await model.plan(addresses, MIB)
        with pytest.raises(ChildFailed, match="1 workers are enough, of 2"):
            await model.plan(addresses, 1 << 30)


async def test_a_worker_that_ends_is_an_error() -> None:
    with pytest.raises(ChildFailed, match="no RPC server answers"):
        async with running_workers(find_binaries(), [WorkerSpec(limit_bytes=4096)]):
            pass
