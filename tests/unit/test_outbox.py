"""What is put is written in order, soon, and never to a closed connection."""

import asyncio

from sollol.upstream.outbox import MAX_HELD_BYTES, Outbox


class Wire(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.is_closed = False

    def write(self, data: object) -> None:
        assert isinstance(data, bytes)
        self.written.append(data)

    def is_closing(self) -> bool:
        return self.is_closed


async def test_pieces_of_a_turn_are_written_in_order_when_it_is_over() -> None:
    one, two, gone = Wire(), Wire(), Wire()
    outbox = Outbox()
    for wire, data in ((one, b"1"), (two, b"2"), (one, b"3"), (gone, b"4")):
        outbox.put(wire, data)
    gone.is_closed = True
    assert (one.written, two.written) == ([], [])
    await asyncio.sleep(0)
    assert (one.written, two.written, gone.written) == ([b"1", b"3"], [b"2"], [])


async def test_what_is_flushed_is_not_written_again() -> None:
    wire = Wire()
    outbox = Outbox()
    outbox.put(wire, b"1")
    outbox.flush()
    outbox.put(wire, b"2")
    assert wire.written == [b"1"]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert wire.written == [b"1", b"2"]


async def test_much_is_not_held() -> None:
    wire = Wire()
    outbox = Outbox()
    outbox.put(wire, b"x" * MAX_HELD_BYTES)
    outbox.put(wire, b"y")
    assert sum(map(len, wire.written)) == MAX_HELD_BYTES + 1
