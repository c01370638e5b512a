"""Decisions as the commands print them: a table of what was compared, and sentences around it."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sollol.cli.output import print_table, printable

if TYPE_CHECKING:
    from rich.text import Text

_TERMS = ("wait", "load", "prefill", "decode", "risk", "eviction", "crowding", "total")
_COLUMNS = ("", "NODE", *(name.upper() for name in _TERMS), "BUSY", "NOTE")

Told = Mapping[str, Any]


def print_options(decision: Told) -> None:
    """Print the nodes that were compared, with seconds by term; the chosen one is marked."""
    options = decision["options"]
    if options:
        print_table(_COLUMNS, [_row(option) for option in options])
    more = decision["considered"] - len(options)
    if more > 0 and options:
        print(f"... and {more} more that could not be better")


def seconds(value: float | None) -> str:
    """Return a duration with as many digits as matter; ``-`` for none."""
    if value is None:
        return "-"
    if value == 0:
        return "0"
    return f"{value:.3f}" if value < 10 else f"{value:.1f}"


def print_lines(**lines: str) -> None:
    """Print labelled lines, those that are empty left out."""
    for label, text in lines.items():
        if text:
            print(printable(f"{label.replace('_', ' ').capitalize() + ':':<12} {text}"))


def complexity_text(complexity: Told | None) -> str:
    """Return the class of a request in words."""
    if complexity is None:
        return ""
    needs = ", ".join(complexity["needs"])
    return str(complexity["size"]) + (f", needs {needs}" if needs else "")


def tokens_text(decision: Told) -> str:
    """Return the tokens that were predicted."""
    return (
        f"{decision['prompt_tokens']} of prompt, {decision['output_tokens']} of answer, predicted"
    )


def _row(option: Told) -> "list[str | Text]":
    terms = option["terms"]
    costs = [seconds(terms[f"{name}_s"]) if terms else "-" for name in _TERMS]
    in_memory = "in memory" if option["is_resident"] else "must load"
    note = "; ".join(part for part in (in_memory, option["why_wait"]) if part)
    mark = "->" if option["chosen"] else ""
    return [mark, option["node"], *costs, str(option["in_flight"]), note]
