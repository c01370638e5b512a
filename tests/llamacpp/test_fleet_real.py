"""Real RPC servers: found, measured, and left as they were."""

import asyncio
import json
from pathlib import Path

import psutil
import pytest

from sollol.bench.gguf_files import write_gguf
from sollol.bench.model_kinds import Size, dense
from sollol.bench.sharding_memory import running_worker
from sollol.cli.main import main
from sollol.llamacpp.binaries import find_binaries
from sollol.settings import ShardingSettings
from sollol.sharding.fleet import find_fleet
from sollol.sharding.host_memory import total_bytes
from sollol.sharding.links import measure_link
from sollol.sharding.memory import MIB
from sollol.sharding.own_version import own_version
from sollol.sharding.rpc import probe
from tests.fake_worker import FakeWorker, fake_worker
from tests.llamacpp.shards import NEEDS_WORKERS

pytestmark = NEEDS_WORKERS


async def test_workers_of_the_same_build_are_found_and_measured() -> None:
    binaries = find_binaries()
    other = FakeWorker(version=(9, 0, 0))
    async with running_worker(binaries) as one, running_worker(binaries) as two:
        async with fake_worker(other):
            workers = f"{other.address}=1,{one}=1,{two}=2"
            settings = ShardingSettings.model_validate({"workers": workers})
            found = await find_fleet(settings, binaries)
    assert [worker.name for worker in found.fleet.workers] == [one, two]
    assert "version 9.0.0 of the protocol" in found.unusable[other.address]
    assert set(found.fleet.coordinators[0].links) == {one, two}
    assert not psutil.Process().children()


async def test_the_version_of_a_build_is_that_of_its_workers() -> None:
    binaries = find_binaries()
    async with running_worker(binaries) as address:
        assert await own_version(binaries) == (await probe(address)).version


async def test_a_worker_is_left_as_it_was() -> None:
    async with running_worker(find_binaries()) as address:
        (process,) = psutil.Process().children()
        await measure_link(address, 30)
        before = process.memory_info().rss
        links = [await measure_link(address, 30) for _ in range(20)]
        kept = process.memory_info().rss - before  # of 20 times up to 4 MiB
        assert kept < 16 * MIB
        (device,) = (await probe(address)).devices
    assert device.total_bytes == total_bytes()
    assert all(link.round_trip_s and link.bytes_per_s for link in links)


async def test_the_cli_shows_measured_links(capsys: pytest.CaptureFixture[str]) -> None:
    async with running_worker(find_binaries()) as address:
        arguments = ["shard", "workers", f"--set=sharding.workers={address}=1"]
        with pytest.raises(SystemExit) as ended:
            await asyncio.to_thread(main, arguments)
        assert not ended.value.code
        assert "Gbit/s" in capsys.readouterr().out
        with pytest.raises(SystemExit):
            await asyncio.to_thread(main, [*arguments, "--json"])
    (told,) = json.loads(capsys.readouterr().out)["workers"]
    assert told["bytes_per_s"] > 0
    assert told["round_trip_s"] > 0


async def test_a_plan_says_which_numbers_are_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_gguf(tmp_path / "m.gguf", dense(Size(layers=4)))
    async with running_worker(find_binaries()) as address:
        rows = [
            {"address": address, "memory_gb": 1, "gbit_per_s": 3},
            {"address": "127.0.0.1:1", "memory_gb": 1},
        ]
        arguments = ["shard", "plan", str(model), f"--set=sharding.workers={json.dumps(rows)}"]
        with pytest.raises(SystemExit) as ended:
            await asyncio.to_thread(main, arguments)
        assert not ended.value.code
        out = capsys.readouterr().out
    assert f"link to {address}: " in out
    assert " ms measured, 3 Gbit/s set" in out
    assert "link to 127.0.0.1:1: 0.05 ms assumed, 20 Gbit/s assumed; no RPC server answers" in out
