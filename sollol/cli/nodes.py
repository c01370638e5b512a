"""``sollol nodes``: the nodes of the running gateway; see, add, drain and remove them."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import typer

from sollol.cli.gateway import Gateway, JsonOption, UrlOption
from sollol.cli.output import print_json, print_table, printable

if TYPE_CHECKING:
    from rich.text import Text

EXAMPLES = """Examples:

  sollol nodes

  sollol nodes --json | jq '.nodes[] | select(.state != "healthy")'

  sollol nodes add gpu3 --slots 4"""
ADD_EXAMPLES = """Examples:

  sollol nodes add gpu3

  sollol nodes add http://gpu4:8080 --name big --engine llama_server --slots 8"""
REMOVE_EXAMPLES = """Examples:

  sollol nodes remove gpu3:11434

  sollol nodes remove gpu3:11434 --drain-s 0"""

_PATH = "/sollol/v1/nodes"
_COLUMNS = ("NODE", "ENGINE", "VERSION", "STATE", "BUSY", "MODELS", "IN MEMORY", "PROBLEM")
_STYLES = {
    "healthy": "green",
    "unhealthy": "red",
    "ejected": "red",
    "half_open": "yellow",
    "draining": "yellow",
}

app = typer.Typer(invoke_without_command=True)
IdArgument = Annotated[str, typer.Argument(metavar="ID", help="The node, as `sollol nodes` shows.")]


@app.callback()
def nodes(context: typer.Context, url: UrlOption = None, as_json: JsonOption = False) -> None:
    """Show the nodes: state, slots in use, and the models in their memory."""
    context.obj = url
    if context.invoked_subcommand is None:
        _show(Gateway(url).nodes(), as_json)


@app.command("add", epilog=ADD_EXAMPLES)
def add(
    context: typer.Context,
    node_url: Annotated[
        str,
        typer.Argument(
            metavar="NODE_URL", help="Its base address; http:// and port 11434 are assumed."
        ),
    ],
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="Its id; host:port if not given.")
    ] = None,
    slots: Annotated[
        int | None,
        typer.Option(
            "--slots", metavar="NUMBER", min=1, help="Requests it runs at once for one model."
        ),
    ] = None,
    engine: Annotated[
        str,
        typer.Option("--engine", metavar="ENGINE", help="auto, ollama, llama_server or openai."),
    ] = "auto",
    url: UrlOption = None,
) -> None:
    """Add a node until the gateway restarts; list it in sollol.yaml to keep it.

    A node that asks for a key is added through the file or the API: a command line can be seen.
    """
    body = {"url": node_url, "name": name, "slots": slots, "engine": engine}
    given = {key: value for key, value in body.items() if value is not None}
    status = Gateway(url or context.obj).send("POST", _PATH, given)
    problem = f": {status['last_error']}" if status["last_error"] else ""
    print(printable(f"Added {status['id']} ({status['engine']}, {status['state']}{problem})."))
    if problem:
        undo = f"sollol nodes remove {status['id']}"
        print(printable(f"It gets requests as soon as it answers. Undo: {undo}"))


@app.command("remove", epilog=REMOVE_EXAMPLES)
def remove(
    context: typer.Context,
    node_id: IdArgument,
    drain_s: Annotated[
        float | None,
        typer.Option(
            "--drain-s",
            metavar="SECONDS",
            min=0,
            max=86400,
            show_default="server.shutdown_grace_s of the gateway",
            help="Time that requests in flight get to finish.",
        ),
    ] = None,
    url: UrlOption = None,
) -> None:
    """Remove a node once its requests have finished; Ctrl-C does not stop that.

    One that is listed in the settings comes back when they are read again.
    """
    query = "" if drain_s is None else f"?drain_s={drain_s:g}"
    gateway = Gateway(url or context.obj)
    removed = gateway.send("DELETE", _node(node_id) + query, extra_s=drain_s or 0)
    cut = removed["cut_requests"]
    print(printable(f"Removed {node_id}" + (f"; {cut} requests were cut off." if cut else ".")))


@app.command("drain", epilog="Examples:\n\n  sollol nodes drain gpu3:11434")
def drain(context: typer.Context, node_id: IdArgument, url: UrlOption = None) -> None:
    """Give a node no new requests; what is on it finishes."""
    _set_draining(url or context.obj, node_id, True)
    print(printable(f"{node_id} gets no new requests. Undo: sollol nodes resume {node_id}"))


@app.command("resume", epilog="Examples:\n\n  sollol nodes resume gpu3:11434")
def resume(context: typer.Context, node_id: IdArgument, url: UrlOption = None) -> None:
    """Give a drained node requests again."""
    _set_draining(url or context.obj, node_id, False)
    print(printable(f"{node_id} gets requests again."))


def _set_draining(url: str | None, node_id: str, is_draining: bool) -> None:
    Gateway(url).send("PATCH", _node(node_id), {"draining": is_draining})


def _node(node_id: str) -> str:
    return f"{_PATH}/{quote(node_id, safe=':[]')}"


def _show(answer: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(answer)
        return
    if not answer["nodes"]:
        print("The gateway has no nodes. Add one with: sollol nodes add URL")
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
        problem(node),
    ]


def problem(node: Mapping[str, Any]) -> str:
    """Return what a person should know of a node's condition; empty when all is well."""
    error = str(node.get("last_error") or "")
    if error:
        return error
    slow = node.get("slow") or ()
    if slow:
        return "slow: " + ", ".join(map(_speeds, slow))
    if not node.get("duplicate_of"):
        return ""
    return f"the same server as {node['duplicate_of']}, probably"


def _speeds(slow: Mapping[str, Any]) -> str:
    best = slow["best_tokens_per_s"]
    return f"{slow['name']} at {slow['tokens_per_s']:.3g} of {best:.3g} tokens/s"
