"""``sollol config``: show, find and begin the settings file."""

from pathlib import Path
from typing import Annotated, Any

import typer

from sollol.cli.environment import ConfigOption, SetOption, read_settings
from sollol.cli.errors import CommandError
from sollol.cli.gateway import JsonOption
from sollol.cli.output import print_json

app = typer.Typer(help="Show the settings in force, or begin a settings file.")

_SHOW = """Examples:

  sollol config show

  SOLLOL_SERVER__PORT=8080 sollol config show --json"""
_PATH = """Example:

  sollol config path"""
_INIT = """Examples:

  sollol config init

  sollol config init /etc/sollol.yaml --force"""


@app.command("show", epilog=_SHOW)
def show(
    config: ConfigOption = None, assignments: SetOption = None, as_json: JsonOption = False
) -> None:
    """Print every setting as YAML, with what gave each its value; keys are masked."""
    loaded = read_settings(config, assignments or ())
    if not as_json:
        from sollol.cli.settings_text import effective_yaml

        print(effective_yaml(loaded), end="")
        return
    values: dict[str, Any] = loaded.settings.model_dump(mode="json")
    print_json({"settings": values, "sources": loaded.sources})


@app.command("path", epilog=_PATH)
def path(config: ConfigOption = None) -> None:
    """Print the path of the settings file that is read."""
    found = read_settings(config).path
    if found is None:
        raise CommandError("No settings file is read. Begin one with: sollol config init")
    print(found.absolute())


@app.command("init", epilog=_INIT)
def init(
    path: Annotated[Path, typer.Argument(help="File to write; - prints it.")] = Path("sollol.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Replace a file that exists.")] = False,
) -> None:
    """Write a settings file that explains every setting and changes none."""
    from sollol.cli.settings_text import template

    if str(path) == "-":
        print(template(), end="")
        return
    try:
        with path.open("w" if force else "x", encoding="utf-8") as file:
            file.write(template())
    except FileExistsError:
        raise CommandError(f"{path} exists. Replace it with: --force") from None
    except OSError as error:
        raise CommandError(f"{path}: {error.strerror}") from None
    print(f"Wrote {path}.")
