"""``sollol explain``: why a request went where it went, and what came of it."""

from typing import Annotated, Any
from urllib.parse import quote

import typer

from sollol.cli.decision_text import (
    Told,
    complexity_text,
    print_lines,
    print_options,
    seconds,
    tokens_text,
)
from sollol.cli.errors import CommandError
from sollol.cli.gateway import Gateway, JsonOption, UrlOption
from sollol.cli.output import print_json, print_table

EXAMPLES = """Examples:

  sollol explain

  sollol explain 3f9c21ab-1d

  sollol explain --last 20"""

_PATH = "/sollol/v1/decisions"
_COLUMNS = (
    "REQUEST",
    "TIME",
    "MODEL",
    "PRIORITY",
    "OUTCOME",
    "NODE",
    "WAITED",
    "PREDICTED",
    "REAL",
)
_REAL = (("load", "load_s"), ("prefill", "prompt_s"), ("decode", "output_s"), ("total", "total_s"))
_CONTINUED = {
    "continued": "another node went on",
    "failed": "another node was to go on, and failed too",
    "refused": "no other node could go on",
    "cancelled": "the client left while another node went on",
}


def explain(
    request_id: Annotated[
        str | None,
        typer.Argument(
            metavar="REQUEST_ID", help="As X-Sollol-Request-Id told it; the latest if not given."
        ),
    ] = None,
    last: Annotated[
        int | None,
        typer.Option(
            "--last", metavar="NUMBER", min=1, max=200, help="List so many, newest first."
        ),
    ] = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show which nodes were compared for a request, what was predicted and what it took."""
    if request_id is not None and last is not None:
        raise CommandError("Give the id of a request or --last, not both.", exit_code=2)
    answer = Gateway(url).get(_path(request_id, last))
    if as_json:
        print_json(answer)
    elif not answer["decisions"]:
        print("No request is known yet.")
    elif last is not None:
        print_table(_COLUMNS, [_row(request) for request in answer["decisions"]])
    else:
        _print_all(answer["decisions"])


def _path(request_id: str | None, last: int | None) -> str:
    if request_id is not None:
        return f"{_PATH}/{quote(request_id, safe=':')}"
    return f"{_PATH}?limit={last or 1}"


def _print_all(requests: list[dict[str, Any]]) -> None:
    for number, request in enumerate(requests):
        if number:
            print()
        _print(request)


def _print(request: Told) -> None:
    error = f": {request['error']}" if request["error"] else ""
    own_id = f" ({request['id']})" if request["id"] != request["request_id"] else ""
    print_lines(
        request=f"{request['request_id']}{own_id}",
        asked=f"{request['task']} of {request['model']} by {request['caller'] or 'unknown'}, "
        f"priority {request['priority']}, {_time(request)}",
        complexity=complexity_text(request["complexity"]),
        outcome=request["outcome"] + error,
        waiting=_waiting(request["waiting"]),
        broke_off=_continuation(request["continuation"]),
        took=f"{seconds(request['duration_s'])} s from arrival to end"
        if request["duration_s"] is not None
        else "",
    )
    for attempt in request["attempts"]:
        _print_attempt(attempt)


def _print_attempt(attempt: Told) -> None:
    decision = attempt["decision"]
    print()
    if decision is None:
        print_lines(node=attempt["node"], why="takes no slot", error=attempt["error"])
        return
    print_options(decision)
    print()
    print_lines(
        goes_on="with the answer that broke off" if attempt["continues"] else "",
        why=decision["reason"],
        tokens=tokens_text(decision),
        waited=f"{seconds(attempt['queue_wait_s'])} s for a slot",
        predicted=_predicted(attempt),
        real=_real(attempt["measured"]),
        error=attempt["error"],
    )


def _continuation(continuation: Told | None) -> str:
    if continuation is None:
        return ""
    how = _CONTINUED[continuation["outcome"]]
    reason = f": {continuation['reason']}" if continuation["reason"] else ""
    tokens = "some" if continuation["tokens"] is None else continuation["tokens"]
    return f"after {tokens} tokens; {how}{reason}"


def _predicted(attempt: Told) -> str:
    terms = next(o["terms"] for o in attempt["decision"]["options"] if o["chosen"])
    total = f"total {seconds(attempt['predicted_s'])} s"
    parts = [f"{name} {seconds(terms[f'{name}_s'])}" for name in ("load", "prefill", "decode")]
    return ", ".join([*parts, total])


def _real(measured: Told | None) -> str:
    if measured is None:
        return ""
    parts = [f"{name} {seconds(measured[field])}" for name, field in _REAL]
    counts = f"{_count(measured, 'prompt_tokens')} of prompt, {_count(measured, 'output_tokens')} of answer"
    cached = measured["cached_tokens"]
    return f"{', '.join(parts)} s; {counts}" + (f", {cached} cached" if cached else "")


def _count(measured: Told, field: str) -> str:
    return "?" if measured[field] is None else str(measured[field])


def _waiting(waiting: Told | None) -> str:
    if waiting is None:
        return ""
    return (
        f"place {waiting['position']}, for {seconds(waiting['waited_s'])} s; "
        f"predicted {seconds(waiting['predicted_wait_s'])} s more. {waiting['why']}"
    )


def _time(request: Told) -> str:
    return str(request["arrived_at"])[:19].replace("T", " ") + " UTC"


def _row(request: Told) -> list[str]:
    last = request["attempts"][-1] if request["attempts"] else None
    measured = last and last["measured"]
    return [
        request["request_id"],
        _time(request)[11:19],
        request["model"],
        str(request["priority"]),
        request["outcome"],
        request["node"],
        seconds(request["queue_wait_s"]),
        seconds(last["predicted_s"] if last else None),
        seconds(measured["total_s"] if measured else None),
    ]
