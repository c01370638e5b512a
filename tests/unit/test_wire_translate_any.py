"""Whatever JSON a caller sends, it is translated or refused, never a failure of ours."""

from typing import Any

import msgspec
from hypothesis import given, settings, strategies as st

from sollol.errors import InvalidRequest
from sollol.wire.translate_request import LocalAnswer
from tests.translating import translated

keys = st.sampled_from(
    [
        "messages",
        "prompt",
        "suffix",
        "system",
        "template",
        "context",
        "raw",
        "format",
        "images",
        "options",
        "think",
        "keep_alive",
        "logprobs",
        "top_logprobs",
        "stream",
        "tools",
        "input",
        "dimensions",
        "role",
        "content",
        "thinking",
        "tool_calls",
        "tool_name",
        "tool_call_id",
        "function",
        "name",
        "arguments",
        "id",
        "temperature",
        "seed",
        "stop",
        "num_predict",
        "num_ctx",
    ]
)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["", "json", "user", "tool", "5m", "AAAA", "true"])
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=12,
)
messages = st.lists(
    st.fixed_dictionaries(
        {}, optional={"role": st.text(max_size=3), "content": st.text(max_size=3)}
    ),
    max_size=3,
)
bodies = st.dictionaries(keys, values, max_size=6) | st.fixed_dictionaries(
    {"messages": messages, "prompt": st.text(max_size=3)}, optional={"options": values}
)
paths = st.sampled_from(["/api/chat", "/api/generate", "/api/embed", "/api/embeddings"])


@settings(deadline=None)
@given(paths, bodies)
def test_any_body_is_translated_or_refused(path: str, fields: dict[str, Any]) -> None:
    try:
        asked = translated(path, fields)
    except InvalidRequest:
        return
    if isinstance(asked.response, LocalAnswer):
        msgspec.json.decode(asked.response.body)
        return
    assert msgspec.json.decode(asked.body)["model"] == "up"
    assert asked.target.startswith("/")
