"""A hundred random schedules of faults: whatever fails, what the gateway promises holds.

``SCHEDULES=20000 pytest -n auto tests/deterministic`` plays more of them, as does
``make schedules ARGS="--schedules 20000"``; a failure names the command that plays its seed again.
"""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
import structlog

from tests.deterministic.runs import ScheduleFailed, be_quiet, digest, play

SCHEDULES = int(os.environ.get("SCHEDULES", "100"))
PARTS = 10


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    before = structlog.get_config()
    be_quiet()
    yield
    structlog.configure(**before)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("part", range(PARTS))
def test_what_is_promised_holds(part: int) -> None:
    for seed in range(part * SCHEDULES // PARTS, (part + 1) * SCHEDULES // PARTS):
        play(seed)


def test_the_same_seed_gives_the_same_run_in_another_process() -> None:
    seeds = [*range(10), 283, 1528]  # in the last two many wait for one node that goes down
    here = digest(seeds)
    assert digest(seeds) == here
    code = (
        "from tests.deterministic.runs import be_quiet, digest; be_quiet(); "
        f"print(digest({seeds!r}))"
    )
    for hash_seed in ("1", "2"):
        run = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert run.stdout.strip() == here


def test_a_failure_names_the_command_that_shows_it() -> None:
    failure = ScheduleFailed(17, AssertionError("it broke"), ["0.10 something"])
    assert "it broke" in str(failure)
    assert "python -m tests.deterministic --seed 17 --trace" in str(failure)
