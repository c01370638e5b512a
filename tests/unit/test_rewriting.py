"""Bodies that nodes get otherwise than callers sent them."""

import json

import pytest

from sollol.gateway.body import Body
from sollol.gateway.rewriting import Changes, KeepAlive, rewritten
from sollol.wire.kinds import CHAT, EMBED, GENERATE, V1_CHAT, BodyKind
from sollol.wire.peek import peek


def sent(text: str, body: bytes, kind: BodyKind = CHAT, *, overrides: bool = False) -> bytes:
    keep_alive = KeepAlive(text, overrides=overrides).of(kind, seen := peek(kind, body))
    return rewritten(kind, Body(body), seen, {}, Changes(keep_alive=keep_alive)).view()


@pytest.mark.parametrize(
    ("text", "expected"), [("10m", "10m"), ("-1", -1), ("90", 90), ("1.5", 1.5), ("-1h", "-1h")]
)
@pytest.mark.parametrize("kind", [CHAT, GENERATE, EMBED])
def test_keep_alive_is_added_where_the_caller_says_nothing(
    text: str, expected: object, kind: BodyKind
) -> None:
    for body in (b'{"model":"m"}', b'{"model":"m","keep_alive":null}'):
        assert json.loads(sent(text, body, kind)) == {"model": "m", "keep_alive": expected}


def test_what_the_caller_says_stays_unless_it_is_overridden() -> None:
    body = b'{"model":"m","messages":[1],"KEEP_ALIVE":0}'
    assert sent("5m", body) == body
    overridden = json.loads(sent("5m", body, overrides=True))
    assert overridden == {"model": "m", "messages": [1], "KEEP_ALIVE": "5m"}


def test_a_request_to_unload_is_never_touched() -> None:
    body = b'{"model":"m","keep_alive":0}'
    assert sent("5m", body, overrides=True) == body


def test_a_route_without_the_field_is_left_alone() -> None:
    body = b'{"model":"m"}'
    assert sent("5m", body, V1_CHAT) == body


def test_without_a_policy_a_body_is_the_same_object() -> None:
    body = Body(b'{"model":"m"}')
    seen = peek(CHAT, body.view())
    assert rewritten(CHAT, body, seen, {}, Changes()) is body


def test_model_priority_and_keep_alive_are_changed_in_one_go() -> None:
    body = b'{"priority":9,"model":"gpt-4o","x":1.50}'
    changes = Changes("llama3:8b", ("priority",), b'"5m"')
    sut = rewritten(CHAT, Body(body), peek(CHAT, body), {}, changes)
    assert sut.view() == b'{"model":"llama3:8b","x":1.50,"keep_alive":"5m"}'
