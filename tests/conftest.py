"""Prints what the tests of faults have found: which fault ends how on which route."""

from collections.abc import Iterator
from typing import Any

import pytest

FAULT_MATRIX = "fault_matrix"
"""The property that a test records a cell under, as ``(place, fault, column, what was seen)``."""

_WIDTH = 14


def _cells(reporter: Any) -> Iterator[tuple[int, str, str, str]]:
    for reports in reporter.stats.values():
        for report in reports:
            for name, value in getattr(report, "user_properties", ()):
                if name == FAULT_MATRIX and report.when == "call":
                    yield tuple(value)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    cells = list(_cells(terminalreporter))
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
