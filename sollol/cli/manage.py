"""``sollol pull`` and ``sollol rm``: models on the disks of the nodes."""

import sys
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from sollol.cli.gateway import Gateway, UrlOption
from sollol.cli.output import printable

PULL_EXAMPLES = """Examples:

  sollol pull llama3.2

  sollol pull llama3.2 --nodes gpu1:11434,gpu2:11434"""

RM_EXAMPLES = """Examples:

  sollol rm llama3.2

  sollol rm llama3.2 --nodes gpu1:11434"""

NodesOption = Annotated[
    str | None,
    typer.Option(
        "--nodes",
        metavar="IDS",
        show_default="what the gateway chooses",
        help="Ids as `sollol nodes` shows them, with commas between, or `all`.",
    ),
]


def pull(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="The model, as the registry names it.")
    ],
    nodes: NodesOption = None,
    url: UrlOption = None,
) -> None:
    """Pull a model to nodes, or renew it where it is."""
    records = Gateway(url).pull(model, nodes)
    if sys.stdout.isatty():
        _draw(records)
        return
    _list(records)


def rm(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="The model, as `sollol models` names it.")
    ],
    nodes: NodesOption = None,
    url: UrlOption = None,
) -> None:
    """Delete a model from every node that has it."""
    asked = Gateway(url).delete(model, nodes)
    print(f"deleted {printable(model)} from {printable(', '.join(asked))}")


def _draw(records: Iterator[dict[str, Any]]) -> None:
    """Show a bar for each layer, at the place of the node that is furthest behind."""
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )
    from rich.text import Text

    layers: dict[str, Any] = {}
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns) as bars:
        for record in records:
            status = printable(str(record.get("status", "")))
            if not record.get("total"):
                bars.console.print(Text(status))
                continue
            layer = record.get("digest") or status
            if layer not in layers:
                layers[layer] = bars.add_task(status, total=record["total"])
            bars.update(layers[layer], completed=record.get("completed", 0))


def _list(records: Iterator[dict[str, Any]]) -> None:
    """Print each step once, for a file or another program."""
    last = ""
    for record in records:
        status = printable(str(record.get("status", "")))
        if status != last:
            print(status, flush=True)
        last = status
