import json
import math
from typing import Any

import pytest

from sollol.errors import ProtocolViolation, UpstreamCut
from sollol.wire.ollama import Clock
from sollol.wire.translate_request import LocalAnswer, Translated
from sollol.wire.translate_response import ResponseTranslator
from tests.translating import translated


def put(path: str, **fields: Any) -> Translated:
    looks = iter(range(0, 10**9, 7)).__next__
    return translated(path, fields, clock=Clock(monotonic_ns=looks))


def answer(path: str, **fields: Any) -> ResponseTranslator:
    response = put(path, **fields).response
    assert not isinstance(response, LocalAnswer)
    return response


def listed(*vectors: object, prompt_tokens: int = 5) -> bytes:
    data = [{"embedding": vector, "index": index} for index, vector in enumerate(vectors)]
    usage = {"prompt_tokens": prompt_tokens, "total_tokens": prompt_tokens}
    return json.dumps({"object": "list", "usage": usage, "data": data[::-1]}).encode()


def test_both_requests_ask_the_one_route_with_their_own_norm() -> None:
    embed = put("/api/embed", input="a", truncate=True, options={"num_ctx": 1})
    assert embed.target == "/v1/embeddings"
    assert json.loads(embed.body) == {
        "model": "up",
        "input": ["a"],
        "encoding_format": "float",
        "embd_normalize": 2,
    }
    older = json.loads(put("/api/embeddings", prompt="a").body)
    assert (older["input"], older["embd_normalize"]) == (["a"], -1)


@pytest.mark.parametrize("value", ["", None, []])
def test_nothing_to_embed_only_loads(value: object) -> None:
    response = put("/api/embed", input=value).response
    assert isinstance(response, LocalAnswer)
    assert response.body == b'{"model":"m","embeddings":[]}'


def test_an_empty_prompt_only_loads() -> None:
    response = put("/api/embeddings").response
    assert isinstance(response, LocalAnswer)
    assert response.body == b'{"embedding":[]}'


def test_vectors_come_in_the_order_of_the_inputs_and_as_they_were_written() -> None:
    response = answer("/api/embed", input=["a", "b"])
    assert (response.streaming, response.content_type) == (
        False,
        b"application/json; charset=utf-8",
    )
    body = listed([0.6, 0.8], [1.0, -0.0012259576469659805])
    assert response.feed(body[:20]) + response.feed(body[20:]) == b""
    assert response.finish() == (
        b'{"model":"m","embeddings":[[0.6, 0.8],[1.0, -0.0012259576469659805]],'
        b'"total_duration":7,"prompt_eval_count":5}'
    )


def test_fewer_dimensions_have_length_one() -> None:
    response = answer("/api/embed", input="a", dimensions=2)
    response.feed(listed([3.0, 4.0, 12.0]))
    [vector] = json.loads(response.finish())["embeddings"]
    assert vector == [0.6, 0.8]
    assert math.hypot(*vector) == pytest.approx(1)


@pytest.mark.parametrize("dimensions", [0, -1, 3, 9])
def test_dimensions_the_vector_does_not_exceed_change_nothing(dimensions: int) -> None:
    response = answer("/api/embed", input="a", dimensions=dimensions)
    response.feed(listed([3.0, 4.0, 12.0], prompt_tokens=0))
    told = json.loads(response.finish())
    assert told["embeddings"] == [[3.0, 4.0, 12.0]]
    assert "prompt_eval_count" not in told


def test_a_zero_vector_stays_zero() -> None:
    response = answer("/api/embed", input="a", dimensions=1)
    response.feed(listed([0.0, 1.0]))
    assert json.loads(response.finish())["embeddings"] == [[0.0]]


def test_the_older_answer_is_one_vector() -> None:
    response = answer("/api/embeddings", prompt="a")
    response.feed(listed([3.5, 4]))
    assert response.finish() == b'{"embedding":[3.5, 4]}'


@pytest.mark.parametrize(
    "body", [b"x", b"{}", b"[]", listed(), listed([1], [2]), listed("AAAA"), listed(["a", "b"])]
)
def test_what_is_no_list_of_vectors_is_the_nodes_fault(body: bytes) -> None:
    response = answer("/api/embed", input="a", dimensions=1)
    response.feed(body)
    with pytest.raises(ProtocolViolation):
        response.finish()


def test_an_empty_body_is_a_cut() -> None:
    with pytest.raises(UpstreamCut):
        answer("/api/embed", input="a").finish()


def test_a_server_without_embeddings_keeps_its_words() -> None:
    text = "This server does not support embeddings. Start it with `--embeddings`"
    body = json.dumps({"error": {"code": 501, "message": text}}).encode()
    status, told = answer("/api/embed", input="a").error(501, body)
    assert (status, json.loads(told)) == (501, {"error": text})


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"error":"no"}', b"\xff", b"[" * 100_000])
def test_what_is_no_error_of_a_llama_server_says_nothing_of_a_length(body: bytes) -> None:
    assert answer("/api/embed", input="a").error(500, body)[0] == 500
