"""``sollol models``: every model of every node."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from sollol.cli.gateway import Gateway, JsonOption, UrlOption
from sollol.cli.locations import with_nodes
from sollol.cli.output import bytes_text, print_json, print_table, time_text

EXAMPLES = """Examples:

  sollol models

  sollol models --json | jq -r '.models[].name'"""


def models(url: UrlOption = None, as_json: JsonOption = False) -> None:
    """Show the models and the nodes that have them on disk."""
    listed = with_nodes(Gateway(url), "/api/tags", "models")
    if as_json:
        print_json({"models": listed})
        return
    if not listed:
        print("No node has a model.")
        return
    now = datetime.now(UTC)
    rows = [
        [
            str(model.get("name", "")),
            str(model.get("digest", ""))[:12],
            bytes_text(model.get("size") or 0),
            time_text(str(model.get("modified_at", "")), now),
            ", ".join(_node_texts(model)),
        ]
        for model in listed
    ]
    print_table(("NAME", "ID", "SIZE", "MODIFIED", "NODES"), rows)


def _node_texts(model: Mapping[str, Any]) -> list[str]:
    """Return the nodes of a model; those that have another digest of it are marked."""
    others = model.get("outvoted", ())
    return [
        f"{node} (another digest)" if node in others else node for node in model.get("nodes", ())
    ]
