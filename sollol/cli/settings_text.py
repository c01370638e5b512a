"""The settings as text, made from the model: the file in force and a file to begin with."""

import json
import textwrap
from collections.abc import Mapping
from typing import Any

import yaml

from sollol.settings import Loaded, Settings

_WIDTH = 96
_HEAD = """\
# Settings of SOLLOL. Each line shows a default: take its leading # away to change it.
# The command line and SOLLOL_GROUP__NAME variables win over this file.
"""
_NODES = """\
#nodes:
#  - gpu1
#  - http://gpu2:11434
#  - url: https://gpu3.example.com
#    name: gpu3
#    engine: openai
#    slots: 8
#    api_key: the key that this node asks for
"""
_MODELS = """\
#models:
#  llama3.1:70b:
#    pin: [gpu1:11434]
#    fallback: [llama3.1:8b]
#  gpt-4o:
#    alias_of: llama3.1:70b
"""
_ENTRIES = {"nodes": _NODES, "models": _MODELS}


def effective_yaml(loaded: Loaded) -> str:
    """Return the settings in force as YAML, each with its source; a key shows as asterisks."""
    values: dict[str, Any] = loaded.settings.model_dump(mode="json")
    lines: list[str] = []
    for group, members in values.items():
        if group not in _ENTRIES:
            lines.append(f"{group}:")
            lines += [_member(f"{group}.{name}", members[name], loaded) for name in members]
            continue
        lines += [f"# {loaded.sources.get(group, 'default')}", _block({group: _given(members)})]
    return "\n".join(lines) + "\n"


def template() -> str:
    """Return a settings file in which every setting stands, explained and commented out."""
    schema = Settings.model_json_schema()
    parts = [_HEAD]
    for group, property_ in schema["properties"].items():
        if group in _ENTRIES:
            parts.append(_comment(property_["description"]) + _ENTRIES[group])
            continue
        members = schema["$defs"][property_["$ref"].rpartition("/")[2]]
        body = "".join(_commented(name, text) for name, text in members["properties"].items())
        parts.append(f"{_comment(members['description'])}{group}:\n{body}")
    return "\n".join(parts)


def scalar(value: Any) -> str:
    """Return one YAML value on one line."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, str) and _is_plain(value):
        return value
    return json.dumps(value)  # JSON is YAML


def _given(entries: Any) -> Any:
    """Return nodes or models without what says nothing."""
    if isinstance(entries, Mapping):
        return {name: _without_nothing(entry) for name, entry in entries.items()}
    return [_without_nothing(entry) for entry in entries]


def _without_nothing(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in entry.items() if value not in (None, [])}


def _is_plain(text: str) -> bool:
    try:
        return text.isprintable() and bool(yaml.safe_load(text) == text)
    except yaml.YAMLError:
        return False


def _member(name: str, value: Any, loaded: Loaded) -> str:
    return f"  {name.partition('.')[2]}: {scalar(value)}  # {loaded.sources.get(name, 'default')}"


def _block(value: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(value), sort_keys=False, allow_unicode=True).rstrip("\n")


def _commented(name: str, property_: Mapping[str, Any]) -> str:
    value = scalar(property_.get("default"))
    return f"{_comment(property_['description'], '  ')}  #{name}: {value}\n"


def _comment(text: str, indent: str = "") -> str:
    mark = f"{indent}# "
    plain = " ".join(text.split())
    return textwrap.fill(plain, _WIDTH, initial_indent=mark, subsequent_indent=mark) + "\n"
