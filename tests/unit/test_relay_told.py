"""What is read of a node's answer that says what went wrong."""

import pytest

from sollol.gateway.refusals import MAX_RETRY_AFTER_S, asked_wait_s


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
    assert asked_wait_s([(b"retry-after", given)]) == seconds
