"""Sharding against real llama.cpp programs: memory as foreseen, layers where the plan says."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest

from sollol.bench.model_kinds import KINDS
from sollol.bench.sharding_memory import CASES, Case, measure, running_worker, table
from sollol.cli.main import main
from sollol.llamacpp.binaries import find_binaries
from sollol.llamacpp.server import LlamaServerFailed
from sollol.sharding.memory import MIB, RunOptions
from sollol.sharding.rpc import probe
from tests.llamacpp.shards import NEEDS_WORKERS

pytestmark = NEEDS_WORKERS


@pytest.mark.parametrize(
    "case",
    [
        Case("dense", KINDS["dense"], RunOptions(3000, 3), share=0.25),
        Case("window", KINDS["sliding_window"], RunOptions(4096, 2, "q8_0", "q8_0")),
        Case("hybrid", KINDS["hybrid"], RunOptions(2048, 2)),
    ],
    ids=lambda case: case.name,
)
async def test_memory_is_as_foreseen(case: Case, tmp_path: Path) -> None:
    measured = await measure(case, find_binaries(), tmp_path)
    for foreseen, taken in zip(measured.foreseen, measured.taken, strict=True):
        assert foreseen.weight_bytes / MIB == pytest.approx(taken.weight_mib, rel=0.01, abs=0.01)
        assert foreseen.cache_bytes / MIB == pytest.approx(taken.cache_mib, rel=0.01, abs=0.01)
        assert foreseen.state_bytes / MIB == pytest.approx(taken.state_mib, rel=0.01, abs=0.01)
        assert foreseen.compute_bytes / MIB >= taken.compute_mib
    assert table([measured]).count(f"| {case.name} |") == 2


async def test_a_real_worker_tells_its_version_and_memory() -> None:
    async with running_worker(find_binaries()) as address:
        found = await probe(address)
        again = await probe(address)  # the first has let go of it
    assert found.version[0] >= 4
    assert found.devices[0].total_bytes > 1 << 28
    assert again.version == found.version


async def test_a_server_that_loads_nothing_is_an_error(tmp_path: Path) -> None:
    case = replace(CASES[0], options=RunOptions(256))
    with pytest.raises(LlamaServerFailed, match="no worker holds anything"):
        await measure(case, replace(find_binaries(), server=Path("/bin/false")), tmp_path)


async def test_the_cli_lists_a_real_worker(capsys: pytest.CaptureFixture[str]) -> None:
    async with running_worker(find_binaries()) as address:
        arguments = ["shard", "workers", "--json", f"--set=sharding.workers={address}=1"]
        with pytest.raises(SystemExit) as ended:
            await asyncio.to_thread(main, arguments)
    assert not ended.value.code
    (told,) = json.loads(capsys.readouterr().out)["workers"]
    assert told["error"] == ""
    assert told["version"].count(".") == 2
