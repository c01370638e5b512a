"""When a node is asked next."""

import pytest

from sollol.nodes.prober import next_look_s


@pytest.mark.parametrize(
    ("interval_s", "has_failed", "is_down", "seconds"),
    [
        (5.0, False, False, 5.0),
        (5.0, True, False, 1.0),  # whether it is down is to be known soon
        (5.0, True, True, 2.0),
        (5.0, False, True, 2.0),  # it answered, but not yet often enough
        (0.1, True, False, 0.1),
        (0.1, True, True, 0.1),
    ],
)
def test_a_node_is_asked_sooner_after_a_failure(
    interval_s: float, has_failed: bool, is_down: bool, seconds: float
) -> None:
    assert next_look_s(interval_s, has_failed=has_failed, is_down=is_down) == seconds
