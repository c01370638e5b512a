"""What bodies may take together, and who makes way."""

from collections.abc import Mapping

import pytest

from sollol.errors import Overloaded
from sollol.gateway.body import Body
from sollol.gateway.body_store import BodyStore, Incoming, Waiters
from sollol.gateway.body_writer import SPOOL_BYTES
from sollol.types import Comer

URGENT = Comer("me", 9)


def incoming(store: BodyStore, *pieces: bytes, priority: int = 5) -> Incoming:
    made = Incoming(store, lambda: Comer("me", priority))
    for piece in pieces:
        made.write(piece)
    return made


def kept(store: BodyStore, content: bytes) -> Body:
    body = store.keep(content)
    assert body is not None
    return body


class Waiting:
    """Stands in for those who wait: says who leaves, and remembers what it was asked."""

    def __init__(self, *leaving: str) -> None:
        self.leaving = list(leaving)
        self.asked: list[tuple[dict[str, int], int, Comer]] = []

    def make_way(self, sizes: Mapping[str, int], needed_bytes: int, comer: Comer) -> list[str]:
        self.asked.append((dict(sizes), needed_bytes, comer))
        return self.leaving

    def store(self, max_file_bytes: int) -> BodyStore:
        return BodyStore(0, max_file_bytes, Waiters(self.make_way, lambda: 7.0))


def test_what_does_not_fit_the_memory_goes_to_a_file() -> None:
    sut = BodyStore(max_memory_bytes=100)
    first = kept(sut, b"x" * 60)
    assert sut.keep(b"y" * 60) is None
    second = incoming(sut, b"y" * 30, b"y" * 30).finish()
    assert (first.is_in_file, second.is_in_file) == (False, True)
    assert second.view() == b"y" * 60
    assert (sut.memory_bytes, sut.file_bytes) == (60, 60)
    for body in (first, second, second):  # closed twice, counted once
        with body:
            pass
    assert (sut.memory_bytes, sut.file_bytes) == (0, 0)
    assert kept(sut, b"z" * 60).view() == b"z" * 60


def test_nothing_fits_a_full_memory() -> None:
    sut = BodyStore(max_memory_bytes=10)
    kept(sut, b"x" * 10)
    assert kept(sut, b"").view() == b""
    with incoming(sut).finish() as empty:
        assert empty.view() == b""


def test_long_bodies_lie_in_files_however_much_memory_there_is() -> None:
    sut = BodyStore()
    piece = b"x" * (SPOOL_BYTES // 2)
    coming = incoming(sut, piece, piece)
    assert (sut.memory_bytes, sut.file_bytes) == (SPOOL_BYTES, 0)
    coming.write(b"x")
    assert (sut.memory_bytes, sut.file_bytes) == (0, SPOOL_BYTES + 1)
    coming.discard()
    assert (sut.memory_bytes, sut.file_bytes) == (0, 0)


def test_a_body_that_broke_off_in_memory_is_counted_no_more() -> None:
    sut = BodyStore()
    incoming(sut, b"x" * 10).discard()
    assert sut.memory_bytes == 0


def test_full_files_take_no_more_and_say_when_to_come_again() -> None:
    waiting = Waiting()
    sut = waiting.store(100)
    with incoming(sut, b"x" * 80).finish():
        with pytest.raises(Overloaded, match="max_spooled_bytes") as raised:
            sut.make_room(30, lambda: URGENT)
        assert raised.value.retry_after_s == 7.0
        assert waiting.asked == [({}, 10, URGENT)]
        sut.make_room(20, lambda: URGENT)
        coming = incoming(sut, b"y" * 20)
        with pytest.raises(Overloaded):
            coming.write(b"y")
        coming.discard()
        assert sut.file_bytes == 80
    sut.make_room(100, lambda: URGENT)


def test_a_body_that_moves_to_a_file_needs_room_for_all_of_it() -> None:
    sut = BodyStore(max_memory_bytes=50, max_file_bytes=40)
    coming = incoming(sut, b"x" * 50)
    with pytest.raises(Overloaded):
        coming.write(b"x")
    coming.discard()
    assert (sut.memory_bytes, sut.file_bytes) == (0, 0)


def test_who_waits_makes_way_and_counts_no_more_from_then_on() -> None:
    waiting = Waiting("b")
    sut = waiting.store(100)
    bodies = {name: incoming(sut, b"x" * 40).finish() for name in "abc"[:2]}
    for name, body in bodies.items():
        sut.waits(name, body)
    sut.make_room(50, lambda: URGENT)
    assert waiting.asked == [({"a": 40, "b": 40}, 30, URGENT)]
    urgent = incoming(sut, b"y" * 50)  # "b" is still there, but on its way out
    assert sut.file_bytes == 130
    assert len(waiting.asked) == 1
    for body in (bodies["b"], urgent.finish(), bodies["a"]):
        with body:
            pass
    assert sut.file_bytes == 0
    waiting.leaving = []
    with pytest.raises(Overloaded):
        sut.make_room(101, lambda: URGENT)
    assert waiting.asked[-1] == ({}, 1, URGENT)


def test_those_in_memory_are_never_asked_to_leave() -> None:
    waiting = Waiting()
    sut = BodyStore(100, 0, Waiters(waiting.make_way, lambda: 7.0))
    with kept(sut, b"x" * 100) as body:
        sut.waits("a", body)
        with pytest.raises(Overloaded):
            sut.make_room(1, lambda: URGENT)
    assert waiting.asked == [({}, 1, URGENT)]


def test_a_changed_body_is_counted_too() -> None:
    sut = BodyStore()
    with sut.hold(Body(b"x" * 10)):
        assert sut.memory_bytes == 10
    assert sut.memory_bytes == 0


def test_alone_it_has_no_bounds() -> None:
    sut = BodyStore()
    sut.make_room(10**15, lambda: URGENT)
    with pytest.raises(Overloaded) as raised:
        BodyStore(0, 0).make_room(1, lambda: URGENT)
    assert raised.value.retry_after_s
