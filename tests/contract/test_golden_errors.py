"""The error answers of a real Ollama, byte for byte, out of our own reading of the body.

Not in the extract: the 403 for cloud models (a setting of the node) and what is wrong inside a
message of ``/v1``, both left to the nodes.
"""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from sollol.errors import SollolError
from sollol.wire.bodies import error_response
from sollol.wire.checks import check_request, model_not_found
from sollol.wire.kinds import BODY_KINDS, OPTIONAL, BodyKind
from sollol.wire.multipart import peek_form
from sollol.wire.peek import peek

ENTRIES: list[dict[str, Any]] = json.loads(
    (Path(__file__).parent / "golden_errors.json").read_text(encoding="utf-8")
)["entries"]


def refusal(kind: BodyKind, body: bytes) -> SollolError:
    """Return what a request ends in when no node has any model."""
    try:
        seen = peek_form(body, b"application/json") if kind.is_multipart else peek(kind, body)
        check_request(kind, seen)
    except SollolError as error:
        return error
    return model_not_found(kind, seen.model)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry["name"])
def test_a_refused_request_is_answered_as_ollama_does(entry: dict[str, Any]) -> None:
    kind = BODY_KINDS[entry["path"]]
    status, content_type, body = error_response(
        kind.dialect, refusal(kind, entry["request"].encode())
    )
    assert (status, content_type.decode(), without_id(body.decode())) == (
        entry["status"],
        entry["content_type"],
        without_id(entry["body"]),
    )


def without_id(body: str) -> str:
    """Return a body without the random id of Anthropic's errors, whose form is checked here."""
    return re.sub(r"req_[0-9a-f]{24}", "req_", body)


def test_every_kind_of_body_is_in_the_extract() -> None:
    optional = {kind.path for kind in OPTIONAL}
    assert {entry["path"] for entry in ENTRIES} == set(BODY_KINDS) - optional
