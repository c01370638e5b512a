"""Progress of several nodes merged into one stream, in any order of what they say and how they end."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from sollol.errors import ProtocolViolation
from sollol.wire import progress
from sollol.wire.progress import ProgressMerger, failure_text

Record = dict[str, Any]
LAYERS = {"sha256:aa": 100, "sha256:bb": 7, "sha256:cc": 1}
STEPS = [{"status": s} for s in ("pulling manifest", "verifying sha256 digest", "writing manifest")]


@st.composite
def scripts(draw: st.DrawFn) -> list[Record]:
    """Return what one node says: layers that advance (or begin again), steps, and an end."""
    said: list[Record] = [STEPS[0]]
    for digest, total in LAYERS.items():
        if draw(st.booleans()):
            for completed in draw(st.lists(st.integers(0, total), max_size=5)):
                record = {"status": f"pulling {digest[-2:]}", "digest": digest, "total": total}
                said.append({**record, "completed": completed} if completed else record)
    said += STEPS[1:]
    end = draw(st.sampled_from(["success", "disk full", "broken", "cut"]))
    last = {"status": "success"} if end == "success" else {"error": end}
    return said if end == "cut" else [*said, last]


def play(
    said: Sequence[Sequence[Record]], order: Sequence[int], takes: Sequence[bool]
) -> tuple[ProgressMerger, list[Record]]:
    """Let the nodes speak in an order, the client read now and then; return what it was told."""
    names = [f"n{place}" for place in range(len(said))]
    merger = ProgressMerger(names)
    left = [list(script) for script in said]
    told: list[bytes] = []
    for turn, choice in enumerate([*order, *range(len(said)), *[0] * 200]):
        open_ones = [place for place in range(len(said)) if merger.is_working(names[place])]
        if not open_ones:
            break
        place = open_ones[choice % len(open_ones)]
        if not left[place]:
            merger.failed(names[place], "it ended early")
        else:
            line = json.dumps(left[place].pop(0)).encode() + b"\n"
            if merger.feed(names[place], line) and merger.is_working(names[place]):
                merger.succeed(names[place])
        if takes[turn % len(takes)]:
            told.append(merger.take())
    told.append(merger.take())
    return merger, [json.loads(line) for line in b"".join(told).splitlines()]


@settings(max_examples=300)
@given(
    st.lists(scripts(), min_size=1, max_size=4),
    st.lists(st.integers(0, 3), max_size=40),
    st.lists(st.booleans(), min_size=1, max_size=7),
)
def test_whatever_nodes_say(said: list[list[Record]], order: list[int], takes: list[bool]) -> None:
    merger, told = play(said, order, takes)
    assert merger.is_done
    for digest, total in LAYERS.items():
        layer = [record for record in told if record.get("digest") == digest]
        assert {record["total"] for record in layer} <= {total}
        completed = [record.get("completed", 0) for record in layer]
        assert completed == sorted(set(completed)), "falls, or is told twice"
    steps = [record for record in told if "digest" not in record]
    assert len({record["status"] for record in steps}) == len(steps)
    assert [s for s in STEPS if s in steps] == steps
    assert not any(record.get("status") == "success" or "error" in record for record in told)
    succeeded = [place for place, script in enumerate(said) if script[-1] == {"status": "success"}]
    if len(succeeded) == len(said):
        assert merger.error == ""
        assert json.loads(merger.success) == {"status": "success"}
    else:
        assert merger.error
        if succeeded:
            assert "; succeeded on " in merger.error
            named = merger.error.rpartition(" on ")[2].split(", ")
            assert sorted(named) == [f"n{place}" for place in succeeded]


def fed(merger: ProgressMerger, node: str, **record: object) -> list[Record]:
    merger.feed(node, json.dumps(record).encode() + b"\n")
    return [json.loads(line) for line in merger.take().splitlines()]


def test_a_layer_is_as_far_as_the_node_furthest_behind() -> None:
    merger = ProgressMerger(["a", "b"])
    layer: dict[str, Any] = {"status": "pulling aa", "digest": "sha256:aa", "total": 10}
    assert fed(merger, "a", **layer) == [layer]
    assert fed(merger, "b", **layer) == []
    assert fed(merger, "a", **layer, completed=6) == []
    assert fed(merger, "b", **layer, completed=4) == [{**layer, "completed": 4}]
    merger.failed("b", "disk full")
    assert [json.loads(line) for line in merger.take().splitlines()] == [{**layer, "completed": 6}]


def test_a_slow_reader_gets_the_latest_of_a_layer_only() -> None:
    merger = ProgressMerger(["a"])
    for completed in range(1, 1000):
        record = {"status": "pulling", "digest": "d", "total": 1000, "completed": completed}
        merger.feed("a", json.dumps(record).encode() + b"\n")
    assert json.loads(merger.take())["completed"] == 999


def test_one_node_is_passed_on_byte_for_byte() -> None:
    merger = ProgressMerger(["a"])
    line = b'{"status":"pulling aa", "digest":"sha256:aa","total":5,"x_new":1 }\n'
    merger.feed("a", line)
    assert merger.take() == line


def test_a_total_does_not_change() -> None:
    merger = ProgressMerger(["a", "b"])
    fed(merger, "a", status="s", digest="d", total=10, completed=1)
    merger.failed("a", "x")
    assert fed(merger, "b", status="s", digest="d", total=20, completed=15) == [
        {"status": "s", "digest": "d", "total": 10, "completed": 10}
    ]


@pytest.mark.parametrize("line", [b"no", b"[]", b'{"total":"x"}', b'{"status":1}', b"[" * 5000])
def test_what_is_no_progress_is_the_nodes_fault(line: bytes) -> None:
    with pytest.raises(ProtocolViolation, match="cannot be read"):
        ProgressMerger(["a"]).feed("a", line)


def test_a_node_cannot_fill_the_memory() -> None:
    merger = ProgressMerger(["a"])
    with pytest.raises(ProtocolViolation, match="more than"):
        for number in range(progress.MAX_LINES + 1):
            merger.feed("a", b'{"status":"step %d"}\n' % number)
    with pytest.raises(ProtocolViolation, match="more than 4096 bytes"):
        ProgressMerger(["a"]).feed("a", b'{"status":"%b"}\n' % (b"x" * progress.MAX_LINE_BYTES))


def test_failures_are_told_as_one_where_they_are_alike() -> None:
    assert failure_text({}, ["a"]) == ""
    assert failure_text({"a": "no", "b": "no"}, []) == "no"
    assert failure_text({"a": "no", "b": "full"}, []) == "node a: no; node b: full"
    assert failure_text({"a": "no"}, ["b", "c"]) == "node a: no; succeeded on b, c"
