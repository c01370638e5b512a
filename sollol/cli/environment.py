"""Builds the settings for a command: the only place of SOLLOL that reads ``os.environ``."""

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sollol.cli.errors import CommandError

if TYPE_CHECKING:
    from sollol.settings import Loaded

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        show_default="./sollol.yaml, if there is one",
        help="Settings file to read; SOLLOL_CONFIG may name it too.",
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="GROUP.NAME=VALUE",
        help="Give any other setting a value; may be repeated. `sollol config show` lists all.",
    ),
]


def read_settings(
    config: Path | None,
    assignments: Iterable[str] = (),
    options: Mapping[str, object] | None = None,
) -> "Loaded":
    """Return the settings in force, with the origin of each value.

    Args:
        config: the file of ``--config``.
        assignments: ``group.name=value`` of each ``--set``; of two for one name the last counts.
        options: settings that have options of their own; they win over ``assignments``.

    Raises:
        CommandError: exit code 2, one line for each thing that is wrong.
    """
    from sollol.settings import SettingsError

    try:
        return settings_reader(config, assignments, options)()
    except SettingsError as error:
        raise CommandError(error.lines, exit_code=2) from None


def settings_reader(
    config: Path | None,
    assignments: Iterable[str] = (),
    options: Mapping[str, object] | None = None,
) -> "Callable[[], Loaded]":
    """Return what reads the settings, with the same command line each time.

    It raises SettingsError; the arguments are those of :func:`read_settings`.

    Raises:
        CommandError: an assignment is not written as one.
    """
    from sollol.settings import load

    given = {name: value for name, value in (options or {}).items() if value is not None}
    values = {**_parsed(assignments), **given}
    return lambda: load(values, os.environ, config)


def _parsed(assignments: Iterable[str]) -> dict[str, object]:
    parsed: dict[str, object] = {}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals:
            line = f"command line: --set {assignment}: write it as group.name=value"
            raise CommandError(line, exit_code=2)
        parsed[name.strip()] = value.strip()
    return parsed
