"""Decisions as the commands print them."""

import pytest

from sollol.cli.decision_text import complexity_text, print_lines, print_options, seconds

TERMS = ("wait", "load", "prefill", "decode", "risk", "eviction", "crowding", "total")


def an_option(node: str, **fields: object) -> dict[str, object]:
    return {
        "node": node, "chosen": False, "terms": {f"{name}_s": 0.5 for name in TERMS},
        "is_resident": True, "in_flight": 2, "why_wait": "", **fields,
    }  # fmt: skip


def test_options_are_rows_and_those_left_out_are_counted(
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = [
        an_option("a", chosen=True),
        an_option("[::1]:11434", terms=None, is_resident=False, why_wait="it is loading m"),
    ]
    print_options({"options": options, "considered": 5})
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[1] == ["->", "a", *["0.500"] * 8, "2", "in", "memory"]
    assert lines[2][:2] == ["[::1]:11434", "-"]
    assert " ".join(lines[2]).endswith("must load; it is loading m")
    assert " ".join(lines[3]) == "... and 3 more that could not be better"


def test_no_options_are_no_table(capsys: pytest.CaptureFixture[str]) -> None:
    print_options({"options": [], "considered": 2})
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (0, "0"), (0.0004, "0.000"), (1.23456, "1.235"), (12.34, "12.3")],
)
def test_seconds_have_the_digits_that_matter(value: float | None, text: str) -> None:
    assert seconds(value) == text


def test_classes_of_requests_in_words() -> None:
    assert complexity_text(None) == ""
    assert complexity_text({"size": "light", "needs": []}) == "light"
    needs = {"size": "heavy", "needs": ["tools", "vision"]}
    assert complexity_text(needs) == "heavy, needs tools, vision"


def test_lines_without_a_text_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    print_lines(done_in="5 s", error="", why="\x1b[31mbecause")
    assert capsys.readouterr().out == "Done in:     5 s\nWhy:         [31mbecause\n"
