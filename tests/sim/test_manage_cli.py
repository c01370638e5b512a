"""``sollol pull`` and ``sollol rm`` against a real gateway over two nodes."""

import asyncio
import contextlib
import os
import pty
import sys

import pytest

from sollol.bench.sim.config import SimConfig
from sollol.bench.sim.faults import Fault
from sollol.cli.main import main
from tests.fleets import Fleet, a_fleet

pytestmark = pytest.mark.sim


async def command(fleet: Fleet, *arguments: str) -> int:
    def run() -> int:
        with pytest.raises(SystemExit) as ended:
            main([*arguments, "--url", fleet.running.url])
        return int(ended.value.code or 0)

    return await asyncio.to_thread(run)


async def test_pull_and_rm(capsys: pytest.CaptureFixture[str]) -> None:
    async with a_fleet(SimConfig(), SimConfig()) as fleet:
        assert await command(fleet, "pull", "qwen3:8b") == 0
        steps = [line for line in capsys.readouterr().out.splitlines() if not line[0].isdigit()]
        assert steps[0] == "pulling manifest"
        assert steps[-1] == "success"
        assert fleet.having("qwen3:8b") == "ab"
        assert await command(fleet, "pull", "phi4", "--nodes", "b") == 0
        assert fleet.having("phi4") == "b"
        capsys.readouterr()
        assert await command(fleet, "rm", "qwen3:8b", "--nodes", "a") == 0
        assert "deleted qwen3:8b from a\n" in capsys.readouterr().out
        assert await command(fleet, "rm", "qwen3:8b") == 0
        assert "deleted qwen3:8b from b\n" in capsys.readouterr().out
        assert await command(fleet, "rm", "qwen3:8b") == 1
        assert "Error: model 'qwen3:8b' not found" in capsys.readouterr().err


async def test_a_pull_that_fails_somewhere_exits_with_1(capsys: pytest.CaptureFixture[str]) -> None:
    async with a_fleet(SimConfig(), SimConfig()) as fleet:
        fault = Fault("error_record_after_n", path="/api/pull", records=1, message="disk full")
        fleet.nodes[0].set_fault(fault)
        assert await command(fleet, "pull", "x") == 1
        assert "Error: node a: disk full; succeeded on b" in capsys.readouterr().err
        assert await command(fleet, "pull", "x", "--nodes", "z") == 1
        assert "there are: a, b" in capsys.readouterr().err


async def test_on_a_terminal_layers_have_bars() -> None:
    master, slave = pty.openpty()
    async with a_fleet(SimConfig(time_scale=0.002), SimConfig()) as fleet:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "sollol", "pull", "qwen3:8b", "--url", fleet.running.url,
            stdout=slave, env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
        )  # fmt: skip
        os.close(slave)
        shown = await asyncio.to_thread(_read_to_end, master)
        assert await process.wait() == 0
        os.close(master)
    assert "pulling manifest" in shown
    assert "5.3/5.3 GB" in shown
    assert "success" in shown


def _read_to_end(master: int) -> str:
    shown = b""
    with contextlib.suppress(OSError):  # how Linux says that the other side is closed
        while piece := os.read(master, 65536):
            shown += piece
    return shown.decode()
