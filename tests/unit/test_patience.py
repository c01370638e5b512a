"""How long a node may be silent, as data."""

from typing import Any

import msgspec
import pytest

from sollol.gateway.patience import Bounds, Sight, comes_late, more_s, silence_s
from sollol.types import Ask, Lease, Task

BOUNDS = Bounds(first_byte_s=600.0, load_s=330.0, stall_s=60.0)
CHAT = Ask(task=Task.CHAT)
UNKNOWN = Lease(1, "r", "n", "m", 0.0, predicted_s=5.0)
KNOWN = msgspec.structs.replace(UNKNOWN, first_byte_s=4.0, token_s=0.05)


def ask(**given: Any) -> Ask:
    return Ask(**({"task": Task.CHAT} | given))


@pytest.mark.parametrize(
    ("asked", "lease", "streams", "seconds"),
    [
        (CHAT, UNKNOWN, True, 600.0),  # nothing was measured there
        (CHAT, KNOWN, True, 40.0),  # ten times the prompt
        (CHAT, msgspec.structs.replace(KNOWN, first_byte_s=0.1), True, 30.0),  # never less
        (CHAT, msgspec.structs.replace(KNOWN, first_byte_s=100.0), True, 600.0),  # never more
        (CHAT, KNOWN, False, 600.0),  # nobody knows how long it gets
        (ask(max_output_tokens=100), KNOWN, False, 90.0),
        (ask(max_output_tokens=100), KNOWN, True, 40.0),
        (ask(needs=frozenset({"tools"})), KNOWN, True, 600.0),
        (ask(needs=frozenset({"tools"}), max_output_tokens=100), KNOWN, True, 90.0),
        (ask(images=1), KNOWN, True, 600.0),
        (ask(task=Task.GENERATE), KNOWN, True, 40.0),
        (ask(task=Task.EMBED), KNOWN, False, 40.0),
        (ask(task=Task.IMAGE), KNOWN, False, 600.0),
        (ask(task=Task.OTHER), KNOWN, True, 600.0),
    ],
)
def test_how_long_a_node_with_the_model_in_memory_may_be_silent(
    asked: Ask, lease: Lease, streams: bool, seconds: float
) -> None:
    assert silence_s(asked, lease, streams=streams, bounds=BOUNDS) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("lease", "waited_s", "sight", "seconds"),
    [
        (KNOWN, 30.0, Sight(), 10.0),  # the rest of ten times the prediction
        (KNOWN, 40.0, Sight(), 0.0),
        (KNOWN, 41.0, Sight(), 0.0),
        (KNOWN, 30.0, Sight(is_loading=True), 300.0),
        (KNOWN, 330.0, Sight(is_loading=True), 0.0),
        (KNOWN, 330.0, Sight(has_progress=True), 0.0),  # of something else
        (KNOWN, 330.0, Sight(is_loading=True, has_progress=True), 270.0),  # up to the bound of all
        (KNOWN, 600.0, Sight(is_loading=True, has_progress=True), 0.0),
        (KNOWN, 40.0, Sight(serves_others=True), 30.0),
        (KNOWN, 590.0, Sight(serves_others=True), 10.0),
        (KNOWN, 600.0, Sight(serves_others=True), 0.0),
        (UNKNOWN, 30.0, Sight(), 570.0),
        (UNKNOWN, 30.0, Sight(is_loading=True), 300.0),
        (msgspec.structs.replace(KNOWN, predicted_s=45.0), 330.0, Sight(is_loading=True), 120.0),
    ],
)
def test_how_much_longer_to_wait_by_what_is_seen(
    lease: Lease, waited_s: float, sight: Sight, seconds: float
) -> None:
    more = more_s(CHAT, lease, waited_s, sight, streams=True, bounds=BOUNDS)
    assert more == pytest.approx(seconds)


def test_a_load_shortens_nothing_of_the_wait_for_an_answer_in_one_piece() -> None:
    more = more_s(CHAT, KNOWN, 400.0, Sight(is_loading=True), streams=False, bounds=BOUNDS)
    assert more == 200.0


def test_what_begins_at_its_end() -> None:
    assert not comes_late(CHAT, streams=True)
    assert comes_late(CHAT, streams=False)
    assert comes_late(ask(needs=frozenset({"tools", "vision"})), streams=True)


def test_the_first_look_is_at_the_floor_or_at_the_bound() -> None:
    assert BOUNDS.first_look_s == 30.0
    assert BOUNDS._replace(first_byte_s=1.0).first_look_s == 1.0
