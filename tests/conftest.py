"""Prints what tests have found: which fault ends how on which route, what is said of bad inputs.

It also spares tests what they do not need: the world's certificate authorities, and looking through
all that was collected whenever garbage is looked for.
"""

import gc
import os
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

FAULT_MATRIX = "fault_matrix"
"""The property that a test records a cell under, as ``(place, fault, column, what was seen)``."""

BAD_INPUT = "bad_input"
"""The property that a test records a line under, as ``(place, name, status, what was told)``."""

_WIDTH = 14
_LONG = ("llamacpp", "faults")
"""Folders of tests that start real programs or wait for time-outs."""
_AUTHORITY = Path(__file__).with_name("authority.pem")

hypothesis.settings.register_profile("unhurried", deadline=None)  # a busy machine fails no test
hypothesis.settings.load_profile("unhurried")


def pytest_configure() -> None:
    # httpx reads all authorities for each client: 28 ms, where a test takes 10. One takes 0.6 ms.
    # (A client that is told to look at no environment does not see this.)
    os.environ["SSL_CERT_FILE"] = str(_AUTHORITY)
    gc.disable()  # all that is made while tests are collected lives to the end


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Deal the long ones to all processes, and let each begin with its own: none ends with them.

    xdist gives each process as many tests that follow one another; files stay whole for what their
    tests share.
    """
    count = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    files: dict[Path, list[pytest.Item]] = {item.path: [] for item in items}
    for item in items:
        files[item.path].append(item)
    long = [path for path in files if path.parent.name in _LONG]
    short = [path for path in files if path.parent.name not in _LONG]
    dealt: list[pytest.Item] = []
    for number in range(count):
        paths = long[number::count]
        while paths or (short and len(dealt) * count < len(items) * (number + 1)):
            dealt += files[paths.pop(0) if paths else short.pop(0)]
    items[:] = dealt


def pytest_collection_finish() -> None:
    gc.freeze()  # so nobody looks through it again
    gc.set_threshold(10_000, 20, 20)  # tests make much that is in no cycle
    gc.enable()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Spare what passed its keywords: they are half of what xdist sends between processes."""
    report = yield
    if report.passed:
        report.keywords = {}
    return report


def _recorded(reporter: Any, wanted: str) -> Iterator[tuple[Any, ...]]:
    for reports in reporter.stats.values():
        for report in reports:
            for name, value in getattr(report, "user_properties", ()):
                if name == wanted and report.when == "call":
                    yield tuple(value)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    _print_bad_inputs(terminalreporter)
    _print_fault_matrix(terminalreporter)


def _print_bad_inputs(terminalreporter: pytest.TerminalReporter) -> None:
    lines = sorted(_recorded(terminalreporter, BAD_INPUT))
    if lines:
        terminalreporter.section(f"bad inputs: {len(lines)}")
    for _, name, status, text in lines:
        terminalreporter.line(f"{name:30}{status}  {text}")


def _print_fault_matrix(terminalreporter: pytest.TerminalReporter) -> None:
    cells = list(_recorded(terminalreporter, FAULT_MATRIX))
    if not cells:
        return
    rows: dict[str, dict[str, str]] = {}
    for _, fault, column, seen in sorted(cells):
        rows.setdefault(fault, {})[column] = seen
    columns = sorted({column for row in rows.values() for column in row})
    first = max(map(len, rows)) + 2
    terminalreporter.section(f"fault matrix: {len(rows)} faults, {len(cells)} cases")
    for fault, row in [("", {column: column for column in columns}), *rows.items()]:
        line = "".join(f"{row.get(column, '-'):{_WIDTH}}" for column in columns)
        terminalreporter.line(f"{fault:{first}}{line}".rstrip())
