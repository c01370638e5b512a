"""Writes the reference pages of the documentation: ``python -m sollol.cli.reference``.

They are made from the settings model and the commands; a test fails when the files differ.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import typer.main

from sollol.cli.main import app
from sollol.cli.routes_text import routes_page
from sollol.cli.settings_text import scalar
from sollol.settings import Settings
from sollol.settings.model import environment_name

FOLDER = Path("docs/reference")

_SETTINGS_HEAD = """\
# Settings

A value comes from, in this order: the command line, an environment variable, the file `sollol.yaml`
in the working directory (or the one that `--config` or `SOLLOL_CONFIG` names), the default below.
On the command line every setting is `--set group.name=value`; the usual ones have options of their
own ([commands](cli.md)). An unknown name is an error in all of them. `sollol config show` prints the
values in force with their origin, `sollol config init` writes a file to begin with.
"""
_NODES_TEXT = """\
As `SOLLOL_NODES` and `--set nodes=`: URLs separated by commas, such as `gpu1,http://gpu2:8080`; the
variable also takes a JSON list of the mappings below. On the command line `--node URL` may be
repeated. A source's nodes replace those of the sources after it. In the file:

```yaml
nodes:
  - gpu1
  - url: https://gpu2.example.com
    name: gpu2
    slots: 8
```

An entry is a URL, or a mapping of:
"""
_MODELS_TEXT = """\
As `SOLLOL_MODELS` and `--set models=`: a JSON object of the mappings below; a source's models replace
those of the sources after it. Names are compared as Ollama compares them: `llama3` is `llama3:latest`.
[Rules for models](../guides/models.md) explains them. In the file:

```yaml
models:
  llama3.1:70b:
    pin: [gpu1:11434]
    fallback: [llama3.1:8b]
  gpt-4o:
    alias_of: llama3.1:70b
```

A model has a mapping of:
"""
_ENTRIES = {"nodes": (_NODES_TEXT, "NodeSettings"), "models": (_MODELS_TEXT, "ModelSettings")}
_WORKERS_TEXT = """\
`sharding.workers` as a variable and with `--set`: `host:port=GB` separated by commas, such as
`10.0.0.2:50052=24,10.0.0.3=16`, or a JSON list of the mappings below. In the file:

```yaml
sharding:
  workers:
    - 10.0.0.2:50052=24
    - address: 10.0.0.3:50052
      memory_gb: 16
      memory_gb_per_s: 400
```

A worker is such a text, or a mapping of:
"""
_NESTED = {"sharding": (_WORKERS_TEXT, "WorkerSettings")}
"""Groups with a setting that has entries."""
_METRICS_HEAD = """\
# Metrics

`GET /metrics` in the Prometheus text format. Times are seconds, sizes bytes. `node` is a node's id,
empty for a request that reached none or several; `task` is `chat`, `generate`, `embed`, `show`, `transcribe`, `image`, `other`, `manage` or `cloud`;
`priority` is 1 to 10; `rule` is `cost`, `policy`, `explore`, `trial` or `patience`; `outcome` is
`ok` (also for an error of the request itself that a node answered and that was passed on) or the code of an error. Histograms have `_bucket`, `_sum` and `_count`.
"""
_CLI_HEAD = """\
# Commands

Exit codes: 0 done, 1 failed, 2 wrong usage or settings, 130 stopped with Ctrl-C.
"""


def settings_page() -> str:
    """Return the page of all settings, a table for each group."""
    schema = Settings.model_json_schema()
    parts = [_SETTINGS_HEAD]
    for group, property_ in schema["properties"].items():
        parts.append(f"## {group}\n")
        if group in _ENTRIES:
            text, name = _ENTRIES[group]
            parts += [property_["description"] + "\n", text, _table(schema["$defs"][name], "")]
            continue
        members = schema["$defs"][property_["$ref"].rpartition("/")[2]]
        parts += [members["description"] + "\n", _table(members, group)]
        if group in _NESTED:
            text, name = _NESTED[group]
            parts += [text, _table(schema["$defs"][name], "")]
    return "\n".join(parts)


def commands_page() -> str:
    """Return the page of all commands with their arguments, options and examples."""
    root: Any = typer.main.get_command(app)
    return "\n".join([_CLI_HEAD, *_command("sollol", root)])


def metrics_page() -> str:
    """Return the page of all metrics, each with its type, labels and meaning."""
    # Only here: prometheus-client takes longer to import than the commands.
    from sollol.metrics import ALL

    lines = [_METRICS_HEAD, "| Name | Type | Labels | Meaning |", "| --- | --- | --- | --- |"]
    for name, kind, labels, text in ALL:
        listed = ", ".join(f"`{label}`" for label in labels)
        lines.append(f"| `{name}` | {kind} | {listed} | {text} |")
    return "\n".join(lines) + "\n"


def _table(members: Mapping[str, Any], group: str) -> str:
    columns = ["Name", "Type", "Default", *(["Environment"] if group else []), "Meaning"]
    rows = [columns, ["---"] * len(columns)]
    for name, property_ in members["properties"].items():
        default = property_.get("default")
        is_given = name in members.get("required", ())
        variable = [f"`{environment_name(f'{group}.{name}')}`"] if group else []
        rows.append(
            [
                f"`{name}`",
                _type(property_),
                "required" if is_given else "" if default is None else f"`{scalar(default)}`",
                *variable,
                " ".join(property_["description"].split()),
            ]
        )
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _type(schema: Mapping[str, Any]) -> str:
    if "anyOf" in schema:
        return _type(schema["anyOf"][0])
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "$ref" in schema.get("items", {}):
        return "list of entries, see below"
    if schema["type"] == "array":
        return f"list of {_kind(schema['items'])}s{_bounds(schema['items'])}"
    return f"{_kind(schema)}{_bounds(schema)}"


def _kind(schema: Mapping[str, Any]) -> str:
    name = {"path": "path", "password": "secret text"}.get(schema.get("format", ""))
    return name or {"string": "text", "boolean": "true or false"}.get(
        schema["type"], schema["type"]
    )


def _bounds(schema: Mapping[str, Any]) -> str:
    signs = {"exclusiveMinimum": "above", "minimum": "from", "maximum": "to"}
    return "".join(f" {sign} {schema[key]:g}" for key, sign in signs.items() if key in schema)


def _command(path: str, command: Any) -> Iterator[str]:
    yield f"## {path}\n\n{_plain(command.help)}\n"
    parameters = [p for p in command.params if not getattr(p, "hidden", False)]
    rows = [_parameter(parameter) for parameter in parameters if parameter.name != "help"]
    yield f"```text\n{_usage(path, command, parameters)}\n```\n"
    if rows:
        yield "| Option | Default | Meaning |\n| --- | --- | --- |\n" + "".join(rows)
    if command.epilog:
        yield _examples(command.epilog)
    for name, member in getattr(command, "commands", {}).items():
        yield from _command(f"{path} {name}", member)


def _usage(path: str, command: Any, parameters: list[Any]) -> str:
    if hasattr(command, "commands"):
        return f"{path} [OPTIONS] {'[COMMAND]' if command.invoke_without_command else 'COMMAND'}"
    arguments = [_argument(p) for p in parameters if p.param_type_name == "argument"]
    return " ".join([path, "[OPTIONS]", *arguments])


def _argument(parameter: Any) -> str:
    name = str(parameter.name).upper()
    return name if parameter.required else f"[{name}]"


def _parameter(parameter: Any) -> str:
    names = f"`{'`, `'.join(parameter.opts)}`"
    if parameter.param_type_name == "argument":
        names = f"`{_argument(parameter)}`"
    elif not getattr(parameter, "is_flag", False):
        names = f"`{parameter.opts[0]} {parameter.metavar or 'VALUE'}`"
    meaning = _plain(parameter.help or "")
    if parameter.envvar:
        meaning += f" Environment: `{parameter.envvar}`."
    return f"| {names} | {_default(parameter)} | {meaning} |\n"


def _default(parameter: Any) -> str:
    if isinstance(parameter.show_default, str):
        return f"`{parameter.show_default}`"
    default = parameter.default
    return "" if default in (None, False, ()) else f"`{default}`"


def _examples(epilog: str) -> str:
    lines = [line for line in epilog.splitlines() if line.strip()]
    commands = [line.strip() for line in lines if not line.rstrip().endswith(":")]
    return "Examples:\n\n```sh\n" + "\n".join(commands) + "\n```\n"


def _plain(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()


def write(folder: Path = FOLDER) -> None:
    """Write the pages below ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "settings.md").write_text(settings_page(), encoding="utf-8")
    (folder / "cli.md").write_text(commands_page(), encoding="utf-8")
    (folder / "metrics.md").write_text(metrics_page(), encoding="utf-8")
    (folder / "routes.md").write_text(routes_page(), encoding="utf-8")


if __name__ == "__main__":
    write()
