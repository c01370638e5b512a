"""Whether two addresses lead to one server."""

from dataclasses import replace

import pytest
from hypothesis import given, strategies as st

from sollol.nodes.duplicates import (
    Fingerprint,
    Place,
    Verdict,
    compare,
    could_be_here,
    is_same_place,
    suspects,
)
from sollol.types import Engine

STOCK = frozenset({("m:latest", "d1", "2026-01-01T00:00:00.123456789Z")})
IDLE = Fingerprint(Engine.OLLAMA, "0.33.0", STOCK, frozenset())
LOADED = replace(IDLE, resident=frozenset({("m:latest", "2026-01-01T00:05:00.5Z")}))
LATER = replace(IDLE, resident=frozenset({("m:latest", "2026-01-01T00:06:00.5Z")}))
EMPTY = Fingerprint(Engine.OLLAMA, "0.33.0", frozenset(), frozenset())
LLAMA = Fingerprint(Engine.LLAMA_SERVER, "b1", frozenset({("m", "", "")}), frozenset())


def place(*addresses: str, port: int = 11434, path: str = "", is_here: bool = False) -> Place:
    return Place(frozenset(addresses), port, path, is_here)


@pytest.mark.parametrize(
    ("before", "other", "after", "is_here", "verdict"),
    [
        (LOADED, LOADED, LOADED, False, Verdict.LIKELY),
        (IDLE, IDLE, IDLE, False, Verdict.POSSIBLE),
        (IDLE, LOADED, IDLE, False, Verdict.DIFFERENT),  # a shared store, but not the same server
        (IDLE, LOADED, LOADED, False, Verdict.UNKNOWN),  # loaded between the two looks
        (LOADED, LOADED, LATER, False, Verdict.UNKNOWN),
        (LOADED, replace(LOADED, version="0.34.0"), LOADED, True, Verdict.DIFFERENT),
        (EMPTY, EMPTY, EMPTY, False, Verdict.UNKNOWN),  # all fresh nodes are alike
        (EMPTY, EMPTY, EMPTY, True, Verdict.POSSIBLE),
        (LLAMA, LLAMA, LLAMA, False, Verdict.UNKNOWN),
        (LLAMA, LLAMA, LLAMA, True, Verdict.POSSIBLE),
    ],
)
def test_what_servers_say_is_judged(
    before: Fingerprint, other: Fingerprint, after: Fingerprint, is_here: bool, verdict: Verdict
) -> None:
    assert compare(before, other, after, is_here=is_here) is verdict


def test_places_are_the_same_with_a_common_address_port_and_path() -> None:
    one = place("10.0.0.1", "10.0.0.2")
    assert is_same_place(one, place("10.0.0.2"))
    assert not is_same_place(one, place("10.0.0.3"))
    assert not is_same_place(one, place("10.0.0.1", port=1))
    assert not is_same_place(one, place("10.0.0.1", path="/ollama"))
    assert not is_same_place(place(), place())


def test_only_places_of_this_machine_could_be_one_listener() -> None:
    here, there = place("127.0.0.1", is_here=True), place("10.0.0.1")
    assert could_be_here(here, place("10.0.0.9", is_here=True))
    assert not could_be_here(here, there)
    assert not could_be_here(here, place("10.0.0.9", port=1, is_here=True))


def test_suspects_share_an_address_or_a_stock() -> None:
    places = {"a": place("10.0.0.1"), "b": place("10.0.0.1"), "c": place("10.0.0.3"),
              "d": place("10.0.0.4"), "e": place("10.0.0.5")}  # fmt: skip
    prints = {"c": LOADED, "d": IDLE, "e": EMPTY}
    assert suspects(places, prints) == [("a", "b"), ("c", "d")]


moments = st.sampled_from(["t1", "t2"])
fingerprints = st.builds(
    Fingerprint,
    st.sampled_from(list(Engine)),
    st.sampled_from(["1", "2"]),
    st.frozensets(st.tuples(st.sampled_from("mn"), st.just("d"), moments), max_size=2),
    st.frozensets(st.tuples(st.sampled_from("mn"), moments), max_size=2),
)


@given(fingerprints, fingerprints, fingerprints, st.booleans())
def test_nothing_but_equal_answers_makes_a_suspect(
    before: Fingerprint, other: Fingerprint, after: Fingerprint, is_here: bool
) -> None:
    verdict = compare(before, other, after, is_here=is_here)
    if verdict.is_suspect:
        assert before == other == after
    if verdict is Verdict.DIFFERENT:
        assert before == after != other


@given(st.dictionaries(st.sampled_from("abcdef"), fingerprints))
def test_equal_stocks_with_times_are_always_looked_at(prints: dict[str, Fingerprint]) -> None:
    places = {node_id: place(f"10.0.0.{ord(node_id)}") for node_id in prints}
    found = suspects(places, prints)
    for first, one in prints.items():
        for second, other in prints.items():
            is_alike = first != second and one.has_times and one.stock() == other.stock()
            assert (((first, second) in found) or ((second, first) in found)) == is_alike
