"""How urgent a request is: headers before fields, and what counts as ours."""

import json

import pytest

from sollol.errors import InvalidRequest
from sollol.wire import kinds
from sollol.wire.peek import peek
from sollol.wire.urgency import body_priority, deadline_s_of, priority_of


def priority(header: bytes | None, field: int | None = None, maximum: int = 10) -> int:
    headers = {} if header is None else {b"x-sollol-priority": header}
    return priority_of(headers, field, default=5, maximum=maximum)


@pytest.mark.parametrize(
    ("header", "field", "expected"),
    [(None, None, 5), (None, 8, 8), (b"2", 8, 2), (b" 10 ", None, 10), (b"1", None, 1)],
)
def test_the_header_counts_before_the_field(
    header: bytes | None, field: int | None, expected: int
) -> None:
    assert priority(header, field) == expected


def test_none_is_above_the_highest_that_is_allowed() -> None:
    assert priority(b"9", maximum=6) == 6
    assert priority(None, 9, maximum=6) == 6
    assert priority(None, maximum=3) == 3


@pytest.mark.parametrize("wrong", [b"0", b"11", b"-1", b"high", b"", b"5.0", b"05", b"\xff"])
def test_a_wrong_priority_is_refused_in_words(wrong: bytes) -> None:
    with pytest.raises(InvalidRequest, match="integer from 1 to 10, larger is more urgent; got"):
        priority(wrong)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(1, 1), (10, 10), (0, None), (11, None), (5.5, None), ("5", None), (True, None), (None, None)],
)
def test_a_field_is_ours_when_it_is_an_integer_from_1_to_10(
    value: object, expected: int | None
) -> None:
    body = json.dumps({"model": "m", "Priority": value}).encode()
    assert body_priority(peek(kinds.CHAT, body).fields) == expected


def test_most_bodies_name_none() -> None:
    assert body_priority(peek(kinds.CHAT, b"{}").fields) is None


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (b"30", 30.0),
        (b" 2.5 ", 2.5),
        (b"0.001", 0.001),
        (b"7.", 7.0),
        (b"3.7699999999999996", 3.7699999999999996),
    ],
)
def test_a_deadline_is_in_seconds(header: bytes, expected: float) -> None:
    assert deadline_s_of({b"x-sollol-deadline": header}) == expected


def test_without_the_header_there_is_no_deadline() -> None:
    assert deadline_s_of({}) is None


@pytest.mark.parametrize(
    "wrong",
    [b"0", b"-1", b"soon", b"", b"nan", b"inf", b"1_0", b"1e3", b"2026-01-01T00:00:00Z", b"9" * 12],
)
def test_a_wrong_deadline_is_refused_in_words(wrong: bytes) -> None:
    with pytest.raises(InvalidRequest, match="number of seconds above 0, counted from now"):
        deadline_s_of({b"x-sollol-deadline": wrong})
