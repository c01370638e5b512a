"""Plants a bug in a copy of the package, and plays schedules on it."""

import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.planted.bugs import Bug

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 300.0
"""A bug that makes a run go on for ever is one that is noticed."""


class NotFound(AssertionError):
    """The text that a bug replaces is not there, or more than once: the bug must be written anew."""


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a bug. ``seed`` is the first schedule that shows it; None when none does."""

    bug: Bug
    seed: int | None
    said: str

    @property
    def is_caught(self) -> bool:
        """Whether a schedule shows it."""
        return self.seed is not None


def planted(bug: Bug, text: str) -> str:
    """Return a file's text with a bug in it.

    Raises:
        NotFound: see there.
    """
    count = text.count(bug.old)
    if count != 1:
        raise NotFound(f"{bug.name}: its text is {count} times in sollol/{bug.file}:\n{bug.old}")
    return text.replace(bug.old, bug.new)


def read(bug: Bug) -> str:
    """Return the file that a bug is for."""
    return (ROOT / "sollol" / bug.file).read_text()


def try_bug(bug: Bug, folder: Path, schedules: int) -> Result:
    """Plant a bug in the copy in a folder, play schedules up to the first that fails, and undo it."""
    path = folder / "sollol" / bug.file
    path.write_text(planted(bug, read(bug)))
    try:
        return _result(bug, _play(folder, schedules))
    finally:
        path.write_text(read(bug))


def make_copy(folder: Path) -> None:
    """Copy what a run needs into an empty folder."""
    ignored = shutil.ignore_patterns("__pycache__", "test_*")
    shutil.copytree(ROOT / "sollol", folder / "sollol", ignore=ignored)
    for name in ("deterministic", "scheduling.py"):
        source, target = ROOT / "tests" / name, folder / "tests" / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=ignored)
        else:
            shutil.copy(source, target)


def _play(folder: Path, schedules: int) -> tuple[int, str]:
    """Return the exit status and what was said."""
    command = [sys.executable, "-B", "-m", "tests.deterministic", "--until-failure"]
    command += ["--schedules", str(schedules)]
    try:
        run = subprocess.run(
            command,
            cwd=folder,
            env={"PYTHONPATH": str(folder), "PYTHONHASHSEED": "0"},
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        return 1, "schedule -1: it goes on for ever"
    return run.returncode, run.stdout + run.stderr


def _result(bug: Bug, played: tuple[int, str]) -> Result:
    status, said = played
    found = re.search(r"^schedule (-?\d+): (.*)$", said, re.MULTILINE)
    if status and found is None:
        raise RuntimeError(f"{bug.name}: no schedule could be played:\n{said[-2000:]}")
    return Result(bug, int(found[1]) if found else None, found[2] if found else "")
