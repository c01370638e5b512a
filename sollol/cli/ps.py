"""``sollol ps``: the models that are in a node's memory."""

from datetime import UTC, datetime

from sollol.cli.gateway import Gateway, JsonOption, UrlOption
from sollol.cli.locations import with_nodes
from sollol.cli.output import bytes_text, print_json, print_table, processor_text, time_text

EXAMPLES = """Examples:

  sollol ps

  sollol ps --url http://gateway:11435 --json"""


def ps(url: UrlOption = None, as_json: JsonOption = False) -> None:
    """Show the models in memory, where they lie and until when they stay."""
    listed = with_nodes(Gateway(url), "/api/ps", "resident")
    if as_json:
        print_json({"models": listed})
        return
    if not listed:
        print("No model is in memory.")
        return
    now = datetime.now(UTC)
    rows = [
        [
            str(model.get("name", "")),
            str(model.get("digest", ""))[:12],
            bytes_text(model.get("size") or 0),
            processor_text(model.get("size") or 0, model.get("size_vram") or 0),
            str(model.get("context_length") or ""),
            time_text(str(model.get("expires_at", "")), now),
            ", ".join(model.get("nodes", ())),
        ]
        for model in listed
    ]
    print_table(("NAME", "ID", "SIZE", "PROCESSOR", "CONTEXT", "UNTIL", "NODES"), rows)
