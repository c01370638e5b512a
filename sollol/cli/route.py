"""``sollol route``: which node would answer a request, without making it."""

from typing import Annotated

import typer

from sollol.cli.decision_text import (
    complexity_text,
    print_lines,
    print_options,
    seconds,
    tokens_text,
)
from sollol.cli.gateway import Gateway, JsonOption, UrlOption
from sollol.cli.output import print_json

EXAMPLES = """Examples:

  sollol route llama3.2 "Why is the sky blue?"

  sollol route llama3.2 "Why is the sky blue?" --priority 9 --json"""

_WOULD = {
    "run": "begins at once",
    "wait": "waits for a slot",
    "refuse": "is refused: the queue is full",
}
_WOULD_UNLOADED = {
    "run": "begins at once",
    "load": "waits until that is done",
    "refuse": "is refused for some seconds",
}


def route(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="The model, as `sollol models` names it.")
    ],
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What would be asked.")],
    priority: Annotated[
        int | None,
        typer.Option("--priority", metavar="1-10", min=1, max=10, help="Larger is more urgent."),
    ] = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show where a chat would go at this moment and what that would take; nothing is asked."""
    body: dict[str, object] = {"model": model, "messages": [{"role": "user", "content": prompt}]}
    if priority is not None:
        body["priority"] = priority
    question = {"path": "/api/chat", "body": body}
    answer = Gateway(url).send("POST", "/sollol/v1/route", question)
    if as_json:
        print_json(answer)
        return
    if not answer["decision"]["rule"]:
        print_lines(why=answer["decision"]["reason"], it=_WOULD_UNLOADED[answer["would"]])
        return
    print_options(answer["decision"])
    print()
    print_lines(
        why=answer["decision"]["reason"],
        it=_WOULD.get(answer["would"], answer["would"]),
        waits=f"{seconds(answer['predicted_wait_s'])} s, predicted",
        done_in=f"{seconds(answer['predicted_s'])} s, predicted",
        tokens=tokens_text(answer["decision"]),
        complexity=complexity_text(answer["complexity"]),
    )
