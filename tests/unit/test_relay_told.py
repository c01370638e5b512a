"""What is read of a node's answer that says what went wrong."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from sollol.gateway.relay import MAX_RETRY_AFTER_S, _failed


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        (b"0", 0.0),
        (b"30", 30.0),
        (b"9" * 400, MAX_RETRY_AFTER_S),
        (b"-1", None),
        (b"1.5", None),
        (b"nan", None),
        (b"Wed, 21 Oct 2026 07:28:00 GMT", None),
    ],
)
def test_a_wait_that_a_node_asks_for_is_a_number_within_reason(
    given: bytes, seconds: float | None
) -> None:
    upstream: Any = SimpleNamespace(status=429, headers=[(b"retry-after", given)])
    error = _failed(cast(Any, upstream), b"text/plain", b"later")
    assert error.retry_after_s == seconds
