"""The error answers of a real Ollama, byte for byte, out of our own reading of the body."""

import pytest

from sollol.errors import SollolError
from sollol.wire.bodies import error_response
from sollol.wire.checks import check_request, model_not_found
from sollol.wire.kinds import BODY_KINDS, OPTIONAL, BodyKind
from sollol.wire.multipart import peek_form
from sollol.wire.peek import peek
from tests.contract.golden import Entry, make_answer, read_differences, read_entries

ENTRIES = [
    entry
    for entry in read_entries()
    if entry.method == "POST"
    and entry.path in BODY_KINDS
    and BODY_KINDS[entry.path] not in OPTIONAL
    and entry.name not in read_differences()
]


def refusal(kind: BodyKind, body: bytes) -> SollolError:
    """Return what a request ends in when no node has any model."""
    try:
        seen = peek_form(body, b"application/json") if kind.is_multipart else peek(kind, body)
        check_request(kind, seen)
    except SollolError as error:
        return error
    return model_not_found(kind, seen.model)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_a_refused_request_is_answered_as_ollama_does(entry: Entry) -> None:
    kind = BODY_KINDS[entry.path]
    status, content_type, body = error_response(kind.dialect, refusal(kind, entry.request))
    answer = make_answer(status, [("content-type", content_type.decode())], body.decode())
    told = {"content-type": entry.answer.headers["content-type"]}
    assert (answer.status, answer.headers, answer.body) == (
        entry.answer.status, told, entry.answer.body,
    )  # fmt: skip


def test_every_kind_of_body_is_recorded() -> None:
    assert {entry.path for entry in ENTRIES} == set(BODY_KINDS) - {kind.path for kind in OPTIONAL}
