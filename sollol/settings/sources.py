"""Reads the sources of settings into flat ``group.name`` mappings that remember their origin."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

import yaml

from sollol.settings.address import ollama_host_url
from sollol.settings.model import NOT_SETTINGS, environment_name, setting_names

# Kubernetes and docker links describe a service called "sollol" with variables of this shape.
_SERVICE_LINK = re.compile(
    r"SOLLOL_(SERVICE_(HOST|PORT)(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)


@dataclass(frozen=True, slots=True)
class Given:
    """A value as a source gave it.

    ``where`` names the source in messages and ``spelling`` the setting as it is written there.
    ``lines`` maps what lies below the value (``nodes[0].url``) to its line in the file.
    """

    value: object
    where: str
    spelling: str
    lines: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Source:
    """The values of one source, and a line for each thing in it that cannot be used."""

    values: Mapping[str, Given]
    errors: tuple[str, ...] = ()


def command_line(given: Mapping[str, object]) -> Source:
    """Read options of the command line; keys are ``group.name``, ``None`` means not given."""
    values: dict[str, Given] = {}
    errors: list[str] = []
    for name, value in given.items():
        if name not in setting_names():
            errors.append(f"command line: {name}: {_unknown(name)}")
        elif value is not None:
            values[name] = Given(value, "command line", name)
    return Source(values, tuple(errors))


def environment(env: Mapping[str, str]) -> Source:
    """Read ``SOLLOL_GROUP__NAME`` variables; an empty one counts as not set."""
    known = {environment_name(name): name for name in setting_names()}
    values: dict[str, Given] = {}
    errors: list[str] = []
    for variable, value in env.items():
        if not _is_ours(variable, value):
            continue
        if variable in known:
            values[known[variable]] = Given(value, "environment", variable)
            continue
        name = variable.removeprefix("SOLLOL_").replace("__", ".").lower()
        errors.append(f"environment: {variable}: {_unknown(name, environment_name)}")
    return Source(values, tuple(errors))


_XDG = (
    ("XDG_CACHE_HOME", "embedded.cache_dir", "sollol"),
    ("XDG_STATE_HOME", "scheduling.state_file", "sollol/estimates.json"),
)


def defaults_of_the_machine(env: Mapping[str, str]) -> Source:
    """Read the variables of others that change a default: ``OLLAMA_*``, ``XDG_*_HOME``."""
    values: dict[str, Given] = {}
    errors: list[str] = []
    if host := env.get("OLLAMA_HOST"):
        try:
            url = ollama_host_url(host)
        except ValueError as error:
            errors.append(f"environment: OLLAMA_HOST: {error}")
        else:
            values["discovery.local_url"] = Given(url, "environment", "OLLAMA_HOST")
    if models := env.get("OLLAMA_MODELS"):
        values["sharding.store"] = Given(models, "environment", "OLLAMA_MODELS")
    for variable, setting, path in _XDG:
        home = Path(env.get(variable, ""))
        if home.is_absolute():  # the XDG specification: a relative path is to be ignored
            values[setting] = Given(home / path, "environment", variable)
    return Source(values, tuple(errors))


def yaml_file(path: Path) -> Source:
    """Read a settings file; messages name its path and line."""
    try:
        loader = yaml.SafeLoader(path.read_text(encoding="utf-8"))
        root = loader.get_single_node()
        if root is None:
            return Source({})
        if not isinstance(root, yaml.MappingNode):
            return Source({}, (f"{path}:1: expected groups of settings, such as server:",))
        return _leaves(path, root, loader)
    except OSError as error:
        return Source({}, (f"{path}: {error.strerror}",))
    except yaml.YAMLError as error:
        return Source({}, (_yaml_error(path, error),))
    except ValueError as error:  # not UTF-8, or a date that does not exist
        return Source({}, (f"{path}: {error}",))
    except RecursionError:
        return Source({}, (f"{path}: nested too deeply",))


def suggestion(name: str, names: Iterable[str]) -> str | None:
    """Return the name most like ``name``, if one is like it; first those that end like it."""
    names = tuple(names)
    ending = name.rpartition(".")[2]
    same_ending = [other for other in names if other.rpartition(".")[2] == ending]
    close = get_close_matches(name, same_ending, n=1, cutoff=0) or get_close_matches(name, names, 1)
    return close[0] if close else None


def _is_ours(variable: str, value: str) -> bool:
    if not variable.startswith("SOLLOL_") or not value or variable in NOT_SETTINGS:
        return False
    if variable == "SOLLOL_PORT" and re.match(r"(tcp|udp|sctp)://", value):
        return False
    return not _SERVICE_LINK.fullmatch(variable)


def _unknown(name: str, spell: Callable[[str], str] = str) -> str:
    if members := [other for other in setting_names() if other.startswith(f"{name}.")]:
        return f"is a group; set one of its members, such as {spell(members[0])}"
    if near := suggestion(name, setting_names()):
        return f"did you mean {spell(near)}?"
    return "no such setting; `sollol config show` lists all"


def _leaves(path: Path, root: yaml.MappingNode, loader: yaml.SafeLoader) -> Source:
    values: dict[str, Given] = {}
    errors: list[str] = []
    for name, line, node in _flatten(root, ""):
        where = f"{path}:{line}"
        if name in values:
            errors.append(f"{where}: {name}: given twice")
        elif name not in setting_names():
            errors.append(f"{where}: {name}: {_unknown(name)}")
        else:
            value = loader.construct_object(node, deep=True)
            values[name] = Given(value, where, name, dict(_lines(node, name)))
    return Source(values, tuple(errors))


def _flatten(mapping: yaml.MappingNode, prefix: str) -> Iterator[tuple[str, int, yaml.Node]]:
    """Yield name, line and value of each setting; null is "not given", as in an emptied group."""
    for key, node in mapping.value:
        name = f"{prefix}{key.value}" if isinstance(key, yaml.ScalarNode) else f"{prefix}?"
        if node.tag == "tag:yaml.org,2002:null":
            if name not in setting_names() and not _is_group(name):
                yield name, key.start_mark.line + 1, node
        elif isinstance(node, yaml.MappingNode) and name not in setting_names():
            yield from _flatten(node, f"{name}.")
        else:
            yield name, key.start_mark.line + 1, node


def _is_group(name: str) -> bool:
    return any(other.startswith(f"{name}.") for other in setting_names())


def _lines(node: yaml.Node, path: str) -> Iterator[tuple[str, int]]:
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield f"{path}[{index}]", item.start_mark.line + 1
            yield from _lines(item, f"{path}[{index}]")
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield f"{path}.{key.value}", key.start_mark.line + 1
            yield from _lines(value, f"{path}.{key.value}")


def _yaml_error(path: Path, error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        mark = error.problem_mark
        return f"{path}: line {mark.line + 1}, column {mark.column + 1}: {error.problem}"
    return f"{path}: not valid YAML: {str(error).splitlines()[0]}"
