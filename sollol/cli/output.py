"""Tables and values as a person reads them in a terminal."""

import json
import math
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.text import Text

_PIPE_WIDTH = 500
_AGE_S = 50 * 365 * 86400
_CONTROL = {code: None for code in (*range(32), 127, *range(128, 160)) if chr(code) not in "\n\t"}


def print_json(value: Any) -> None:
    """Print ``value`` as indented JSON."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def print_table(columns: Sequence[str], rows: Iterable[Sequence["str | Text"]]) -> None:
    """Print a table; a row is never cut or wrapped when another program reads it."""
    from rich.console import Console
    from rich.table import Table

    width = None if sys.stdout.isatty() else _PIPE_WIDTH
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    for index, column in enumerate(columns):
        table.add_column(column, no_wrap=index == 0)
    for row in rows:
        table.add_row(*(printable(cell) if isinstance(cell, str) else cell for cell in row))
    # No markup: a node may be called [::1]:11434.
    console = Console(markup=False, emoji=False, highlight=False, width=width)
    console.print(table)


def printable(text: str) -> str:
    """Return ``text`` without the control characters that could steer a terminal."""
    return text.translate(_CONTROL)


def bytes_text(size_bytes: float) -> str:
    """Return a size with three digits, in the units disks and models are sold in."""
    for unit in ("B", "kB", "MB", "GB"):
        if size_bytes < 1000:
            return f"{size_bytes:.3g} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.3g} TB"


def processor_text(size_bytes: int, vram_bytes: int) -> str:
    """Return where a model lies, as Ollama writes it: ``100% GPU``, ``25%/75% CPU/GPU``."""
    if vram_bytes <= 0 or size_bytes <= 0:
        return "100% CPU"
    cpu = math.ceil(100 * max(size_bytes - vram_bytes, 0) / size_bytes)
    return f"{cpu}%/{100 - cpu}% CPU/GPU" if cpu else "100% GPU"


def time_text(timestamp: str, now: datetime) -> str:
    """Return an ISO time as a distance from ``now``; as it came when it is not one."""
    try:
        moment = datetime.fromisoformat(timestamp)
    except ValueError:
        return timestamp
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    distance_s = (moment - now).total_seconds()
    if distance_s > _AGE_S:  # how Ollama says that a model stays
        return "forever"
    if distance_s < -_AGE_S:  # a zero: nobody knows
        return "-"
    length = _duration_text(abs(distance_s))
    return f"in {length}" if distance_s >= 0 else f"{length} ago"


def _duration_text(length_s: float) -> str:
    for unit, unit_s in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if length_s >= unit_s:
            count = int(length_s // unit_s)
            return f"{count} {unit}{'s' if count > 1 else ''}"
    return f"{int(length_s)} s"
