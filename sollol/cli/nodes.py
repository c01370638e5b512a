"""``sollol nodes``: the nodes of the running gateway."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sollol.cli.gateway import Gateway, JsonOption, UrlOption
from sollol.cli.output import print_json, print_table, printable

if TYPE_CHECKING:
    from rich.text import Text

EXAMPLES = """Examples:

  sollol nodes

  sollol nodes --json | jq '.nodes[] | select(.state != "healthy")'"""

_COLUMNS = ("NODE", "ENGINE", "VERSION", "STATE", "BUSY", "MODELS", "IN MEMORY", "PROBLEM")
_STYLES = {"healthy": "green", "unhealthy": "red", "draining": "yellow"}


def nodes(url: UrlOption = None, as_json: JsonOption = False) -> None:
    """Show the nodes: state, slots in use, and the models in their memory."""
    answer = Gateway(url).nodes()
    if as_json:
        print_json(answer)
        return
    if not answer["nodes"]:
        print("The gateway has no nodes. Add one with: sollol serve --node URL")
        return
    print_table(_COLUMNS, [_row(node) for node in answer["nodes"]])
    queue = answer.get("queue")
    if queue:
        print(f"\nWaiting: {queue.get('length', 0)} of at most {queue.get('max_length', '?')}")


def _row(node: Mapping[str, Any]) -> "list[str | Text]":
    from rich.text import Text

    state = str(node.get("state", ""))
    return [
        str(node.get("id", "")),
        str(node.get("engine", "")),
        str(node.get("version", "")),
        Text(printable(state), style=_STYLES.get(state, "")),
        f"{node.get('in_flight', 0)}/{node.get('slots', '?')}",
        str(len(node.get("models") or ())),
        ", ".join(str(model.get("name", "")) for model in node.get("resident") or ()),
        str(node.get("last_error") or ""),
    ]
