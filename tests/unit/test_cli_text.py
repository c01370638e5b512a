"""What the ``sollol`` command says of itself, and values as people read them."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import typer.main

from sollol.cli import reference
from sollol.cli.main import app
from sollol.cli.nodes import problem
from sollol.cli.output import bytes_text, printable, processor_text, time_text
from sollol.cli.routes_text import routes_page


def _commands(path: str, command: Any) -> Iterator[tuple[str, Any]]:
    yield path, command
    for name, member in getattr(command, "commands", {}).items():
        yield from _commands(f"{path} {name}", member)


@pytest.mark.parametrize(
    ("path", "command"), list(_commands("sollol", typer.main.get_command(app)))
)
def test_every_command_and_option_has_help_and_every_command_an_example(
    path: str, command: Any
) -> None:
    assert command.help
    assert not [p.name for p in command.params if not p.help]
    assert "commands" in vars(command) or f"{path}" in command.epilog


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("settings.md", reference.settings_page()),
        ("cli.md", reference.commands_page()),
        ("metrics.md", reference.metrics_page()),
        ("routes.md", routes_page()),
    ],
)
def test_the_reference_pages_are_those_of_the_code(page: str, text: str) -> None:
    written = Path(__file__).parents[2] / reference.FOLDER / page
    assert written.read_text(encoding="utf-8") == text, "write them with: make reference"


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (815_319_791, "815 MB"), (4.7e9, "4.7 GB"),
     (2e15, "2e+03 TB")],
)  # fmt: skip
def test_sizes(size_bytes: float, text: str) -> None:
    assert bytes_text(size_bytes) == text


@pytest.mark.parametrize(
    ("size_bytes", "vram_bytes", "text"),
    [(10, 10, "100% GPU"), (10, 0, "100% CPU"), (0, 0, "100% CPU"), (100, 25, "75%/25% CPU/GPU"),
     (10, 12, "100% GPU")],
)  # fmt: skip
def test_processors(size_bytes: int, vram_bytes: int, text: str) -> None:
    assert processor_text(size_bytes, vram_bytes) == text


@pytest.mark.parametrize(
    ("timestamp", "text"),
    [
        ("2026-01-01T00:00:30Z", "in 30 s"),
        ("2026-01-01T00:01:00+00:00", "in 1 minute"),
        ("2025-12-31T20:00:00Z", "4 hours ago"),
        ("2026-01-03T01:00:00.123456789Z", "in 2 days"),
        ("2025-12-31T00:00:00", "1 day ago"),
        ("2318-01-01T00:00:00Z", "forever"),
        ("0001-01-01T00:00:00Z", "-"),
        ("soon", "soon"),
    ],
)
def test_times(timestamp: str, text: str) -> None:
    assert time_text(timestamp, datetime(2026, 1, 1, tzinfo=UTC)) == text


def test_what_could_steer_a_terminal_is_removed() -> None:
    assert printable("a\x1b[2J\x07b\nc\td\x9be\r") == "a[2Jb\nc\tde"


def test_the_problem_of_a_node_is_its_error_or_what_is_slow_or_its_double() -> None:
    slow = {"name": "llama3.2", "tokens_per_s": 4.8712, "best_tokens_per_s": 52.0}
    node = {"last_error": "", "slow": [slow], "duplicate_of": "gpu0"}
    assert problem(node) == "slow: llama3.2 at 4.87 of 52 tokens/s"
    assert problem(node | {"last_error": "refused"}) == "refused"
    assert problem(node | {"slow": []}) == "the same server as gpu0, probably"
    assert problem({}) == ""
