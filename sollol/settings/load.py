"""Puts the sources of settings together: command line > environment > file > default."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from sollol.settings.address import is_same_server
from sollol.settings.model import Settings
from sollol.settings.nodes import DiscoverySettings, NodeSettings
from sollol.settings.scheduling import ModelSettings
from sollol.settings.sharding import WorkerSettings
from sollol.settings.sources import (
    Given,
    Source,
    command_line,
    defaults_of_the_machine,
    environment,
    suggestion,
    yaml_file,
)

DEFAULT_FILE = Path("sollol.yaml")

_BY_NAME = {
    "nodes": ("node", NodeSettings.model_fields),
    "models": ("model", ModelSettings.model_fields),
}
"""What the entries of settings with entries are called, and their own settings."""
_IN_GROUPS = {"sharding": ("worker", WorkerSettings.model_fields)}
"""The same of entries in a group."""


class SettingsError(Exception):
    """The settings cannot be used; ``lines`` has one line for each reason, naming its source."""

    def __init__(self, lines: tuple[str, ...]) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines


@dataclass(frozen=True, slots=True)
class Loaded:
    """Settings with their origin.

    ``sources`` maps ``group.name`` to what gave its value; a setting with its default is absent.
    ``path`` is the file that was read, if one was.
    """

    settings: Settings
    sources: Mapping[str, str]
    path: Path | None


def load_settings(
    cli: Mapping[str, object], env: Mapping[str, str], config_path: Path | None = None
) -> Settings:
    """Return the settings; see :func:`load`."""
    return load(cli, env, config_path).settings


def load(
    cli: Mapping[str, object], env: Mapping[str, str], config_path: Path | None = None
) -> Loaded:
    """Read every source and return the settings with the origin of each value.

    Args:
        cli: ``group.name`` to value, as the command line gave it; ``None`` means not given.
        env: the environment.
        config_path: the file to read; without it the path in ``SOLLOL_CONFIG``, else
            ``sollol.yaml`` in the working directory if there is one.

    Raises:
        SettingsError: something in a source is wrong; all of it is listed.
    """
    path, missing = _find_file(env, config_path)
    sources = [
        defaults_of_the_machine(env),
        yaml_file(path) if path else Source({}),
        environment(env),
        command_line(cli),
    ]
    given: dict[str, Given] = {}
    for source in sources:
        given.update(source.values)
    errors = [*missing, *(line for source in sources for line in source.errors)]
    settings = _validate(given, errors)
    if settings:
        settings = _without_itself(settings, given, errors)
    if errors or settings is None:
        raise SettingsError(tuple(errors))
    return Loaded(settings, {name: _origin(value) for name, value in given.items()}, path)


def _find_file(
    env: Mapping[str, str], config_path: Path | None
) -> tuple[Path | None, tuple[str, ...]]:
    if config_path is not None:
        where, path = "command line: --config", config_path
    elif named := env.get("SOLLOL_CONFIG"):
        where, path = "environment: SOLLOL_CONFIG", Path(named)
    else:
        return (DEFAULT_FILE if DEFAULT_FILE.is_file() else None), ()
    if path.exists():
        return path, ()
    return None, (f"{where}: {path}: no such file",)


def _validate(given: Mapping[str, Given], errors: list[str]) -> Settings | None:
    tree: dict[str, object] = {}
    for name, value in given.items():
        group, _, member = name.partition(".")
        if not member:
            tree[group] = value.value
            continue
        members = tree.setdefault(group, {})
        if isinstance(members, dict):
            members[member] = value.value
    try:
        return Settings.model_validate(tree)
    except ValidationError as error:
        errors += [_message(details, given) for details in error.errors(include_url=False)]
        return None


def _without_itself(settings: Settings, given: dict[str, Given], errors: list[str]) -> Settings:
    """Keep discovery from finding this gateway.

    ``OLLAMA_HOST`` may name it for the ``ollama`` command, and it may have Ollama's own port.
    """
    server, discovery = settings.server, settings.discovery
    if not discovery.local or not is_same_server(discovery.local_url, server.host, server.port):
        return settings
    value = given.pop("discovery.local_url", None)
    if value and value.spelling != "OLLAMA_HOST":
        errors.append(f"{value.where}: {value.spelling}: is the address of this gateway itself")
    changes: dict[str, object] = {"local_url": DiscoverySettings().local_url}
    if is_same_server(DiscoverySettings().local_url, server.host, server.port):
        given["discovery.local"] = Given(False, "the gateway has that port itself", "")
        changes["local"] = False
    return settings.model_copy(update={"discovery": discovery.model_copy(update=changes)})


def _origin(value: Given) -> str:
    return f"environment {value.spelling}" if value.where == "environment" else value.where


def _message(details: ErrorDetails, given: Mapping[str, Given]) -> str:
    name = _path(details["loc"])
    first = str(details["loc"][0])
    setting = first if first in _BY_NAME else name.split("[")[0]
    value = given.get(setting, Given(None, "default", setting))
    where = value.where
    if value.lines:
        nearest = max((path for path in value.lines if name.startswith(path)), key=len, default="")
        if nearest:
            where = f"{where.rpartition(':')[0]}:{value.lines[nearest]}"
    spelling = value.spelling + name.removeprefix(setting)
    return f"{where}: {spelling}: {_reason(details)}"


def _path(location: tuple[int | str, ...]) -> str:
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}"
    return path.removeprefix(".")


def _reason(details: ErrorDetails) -> str:
    if details["type"] == "value_error":
        return str(details["ctx"]["error"])
    name = str(details["loc"][-1])
    if details["type"] == "extra_forbidden":
        kind, known = {**_BY_NAME, **_IN_GROUPS}[str(details["loc"][0])]
        near = suggestion(name, known)
        return f"did you mean {near}?" if near else f"a {kind} has no such setting"
    given = details["input"]
    if name == "api_key" or not isinstance(given, str | int | float) or len(str(given)) > 80:
        return details["msg"]
    return f"{details['msg']}, got {given!r}"
