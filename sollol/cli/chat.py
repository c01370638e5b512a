"""``sollol chat``: talk to a model through the gateway."""

import contextlib
import sys
from typing import Annotated

import typer

from sollol.cli.errors import CommandError
from sollol.cli.gateway import Gateway, UrlOption
from sollol.cli.output import printable

EXAMPLES = """Examples:

  sollol chat llama3.2 "Why is the sky blue?"

  git diff | sollol chat llama3.2 "Write a commit message for this diff"

  sollol chat llama3.2"""

_HINT = "Ctrl-C stops an answer, /clear forgets the talk, /bye or Ctrl-D leaves."


def chat(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="The model, as `sollol models` names it.")
    ],
    prompt: Annotated[
        str | None,
        typer.Argument(
            metavar="PROMPT",
            help="What to say; without it, a talk begins. Piped text is added to it.",
        ),
    ] = None,
    system: Annotated[
        str | None, typer.Option("--system", metavar="TEXT", help="Instructions for the model.")
    ] = None,
    url: UrlOption = None,
) -> None:
    """Ask a model once, or talk with it."""
    talk = _Talk(Gateway(url), model, system)
    if prompt is None and sys.stdin.isatty():
        talk.repeat()
        return
    question = "\n\n".join(part for part in (prompt, _piped()) if part)
    if not question:
        raise CommandError("Nothing to ask: give a prompt, or pipe text in.", exit_code=2)
    talk.ask(question)


def _piped() -> str:
    return "" if sys.stdin.isatty() else sys.stdin.read().strip()


class _Talk:
    """The messages of one conversation."""

    def __init__(self, gateway: Gateway, model: str, system: str | None) -> None:
        self._gateway = gateway
        self._model = model
        self._opening = [{"role": "system", "content": system}] if system else []
        self._messages = list(self._opening)

    def repeat(self) -> None:
        """Read questions and print answers until the user leaves."""
        with contextlib.suppress(ImportError):  # gives input() line editing, where there is one
            import readline  # noqa: F401

        print(f"{self._model}: {_HINT}")
        while (line := _read_line()) not in (None, "/bye", "/exit"):
            if line == "/clear":
                self._messages = list(self._opening)
            elif line:
                self._answer_or_explain(line)

    def ask(self, question: str) -> None:
        """Print the answer as it arrives; what was said so far stays in the talk if it is stopped.

        Raises:
            CommandError: there is no (complete) answer; the question is forgotten.
        """
        self._messages.append({"role": "user", "content": question})
        said: list[str] = []
        try:
            for record in self._gateway.chat(self._model, self._messages):
                message = record.get("message") or {}
                _print_thought(message.get("thinking") or "")
                said.append(message.get("content") or "")
                _print_now(said[-1])
        except CommandError:
            self._messages.pop()
            raise
        except KeyboardInterrupt:
            self._messages.append({"role": "assistant", "content": "".join(said)})
            raise
        finally:
            _print_now("\n" if any(said) else "")
        self._messages.append({"role": "assistant", "content": "".join(said)})

    def _answer_or_explain(self, question: str) -> None:
        try:
            self.ask(question)
        except CommandError as error:
            print(error, file=sys.stderr)
        except KeyboardInterrupt:
            print("(stopped)")


def _read_line() -> str | None:
    try:
        return input(">>> ").strip()
    except EOFError:
        print()
        return None
    except KeyboardInterrupt:
        print(f"\n{_HINT}")
        return ""


def _print_thought(text: str) -> None:
    if text and sys.stdout.isatty():
        _print_now(text, dim=True)


def _print_now(text: str, *, dim: bool = False) -> None:
    text = printable(text)
    sys.stdout.write(typer.style(text, dim=True) if dim else text)
    sys.stdout.flush()
