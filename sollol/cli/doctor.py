"""``sollol doctor``: what would keep a gateway from working here."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from sollol.cli.environment import ConfigOption, SetOption, read_settings
from sollol.cli.errors import CommandError
from sollol.cli.gateway import JsonOption
from sollol.cli.output import print_json

if TYPE_CHECKING:
    from sollol.cli.checks import Check

EXAMPLES = """Examples:

  sollol doctor

  SOLLOL_NODES=gpu1,gpu2 sollol doctor --json"""

_COLORS = {"ok": typer.colors.GREEN, "warn": typer.colors.YELLOW, "fail": typer.colors.RED}


def doctor(
    config: ConfigOption = None, assignments: SetOption = None, as_json: JsonOption = False
) -> None:
    """Check this machine, the settings, the nodes and the workers, and say what to do; exit 1 if one fails."""
    from sollol.cli.checks import check_all, check_settings
    from sollol.cli.shard_checks import check_sharding

    try:
        settings = read_settings(config, assignments or ()).settings
    except CommandError as error:
        checks: list[Check] = [check_settings(error.lines)]
    else:
        checks = [
            check_settings(()),
            *check_all(settings, Path("/proc/cpuinfo")),
            *check_sharding(settings),
        ]
    if as_json:
        print_json({"checks": [check.as_dict() for check in checks]})
    else:
        _print(checks)
    if any(check.status == "fail" for check in checks):
        raise typer.Exit(1)


def _print(checks: "list[Check]") -> None:
    for check in checks:
        mark = f"{check.status:4}"
        if sys.stdout.isatty():
            mark = typer.style(mark, fg=_COLORS[check.status])
        print(f"{mark}  {check.subject}: {check.finding}")
        for line in check.advice.splitlines():
            print(f"      {line}")
