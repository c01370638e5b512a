"""From when on a worker counts as hung."""

import pytest

from sollol.sharding.memory import BATCH_TOKENS
from sollol.sharding.silence import FACTOR, FLOOR_S, MARGIN, Silence, Wait, limit_s

ONE, OTHER = "10.0.0.1:50052", "10.0.0.2:50052"


def test_nobody_is_waited_for_at_first() -> None:
    assert Silence().worst(5.0) == ("", 0.0)


def test_a_wait_lasts_until_the_thread_is_woken() -> None:
    silence = Silence()
    silence.look([Wait(ONE, 7, 100)], 10.0)
    silence.look([Wait(ONE, 7, 100), Wait(OTHER, 8, 5)], 14.0)
    assert silence.worst(15.0) == (ONE, 5.0)
    assert silence.longest_s == 0.0
    silence.look([Wait(ONE, 7, 101), Wait(OTHER, 8, 5)], 16.0)
    assert silence.worst(17.0) == (OTHER, 3.0)
    assert silence.longest_s == 4.0  # it was seen to last so long, and less than 6
    silence.look([], 18.0)
    assert silence.worst(19.0) == ("", 0.0)
    assert silence.longest_s == 4.0


def test_of_another_coordinator_nothing_is_left_but_the_longest_wait() -> None:
    silence = Silence()
    silence.look([Wait(ONE, 7, 100)], 0.0)
    silence.look([Wait(ONE, 7, 100)], 9.0)
    silence.look([Wait(ONE, 7, 101)], 10.0)
    silence.forget()
    assert silence.worst(11.0) == ("", 0.0)
    silence.look([Wait(ONE, 7, 101)], 20.0)
    assert silence.worst(20.0) == (ONE, 0.0)
    assert silence.longest_s == 9.0


@pytest.mark.parametrize(
    ("prompt_bytes", "tokens_per_s", "longest_s", "limit"),
    [
        (0, 80.0, 0.0, FLOOR_S),
        (100_000, 80.0, 0.0, FLOOR_S),
        (100_000, 0.5, 0.0, MARGIN * BATCH_TOKENS / 0.5),
        (200, 0.5, 0.0, MARGIN * 82 / 0.5),
        (200, 80.0, 20.0, FACTOR * 20.0),
    ],
)
def test_slow_workers_may_be_silent_for_longer(
    prompt_bytes: int, tokens_per_s: float, longest_s: float, limit: float
) -> None:
    assert limit_s(prompt_bytes, tokens_per_s, longest_s) == limit
