"""What was learned survives a restart; nothing that is in the file can do harm."""

import asyncio
import os
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis.strategies import (
    dictionaries,
    floats,
    integers,
    lists,
    none,
    recursive,
    sampled_from,
    text,
)
from structlog.testing import capture_logs

from sollol.gateway import estimates
from sollol.gateway.estimates import Estimates, read, write
from sollol.scheduling.decision import Grant
from sollol.scheduling.limits import SchedulerLimits
from sollol.scheduling.scheduler import Scheduler
from sollol.types import (
    Ask,
    Engine,
    Measured,
    Model,
    NodeState,
    NodeView,
    Resident,
    RouteRequest,
    Task,
)

GIB = 1024**3
ANSWER = Measured(
    load_s=2.0, prompt_tokens=1500, cached_tokens=0, prompt_s=0.5,
    output_tokens=200, output_s=4.0, total_s=6.5,
)  # fmt: skip


def view(name: str, *models: str, resident: tuple[str, ...] = ()) -> NodeView:
    return NodeView(
        name, f"http://{name}", Engine.OLLAMA, NodeState.HEALTHY, slots=2,
        models={m: Model(m, m, size_bytes=4 * GIB) for m in models},
        resident={m: Resident(m, m, size_bytes=5 * GIB, vram_bytes=5 * GIB) for m in resident},
    )  # fmt: skip


def scheduler(*views: NodeView) -> Scheduler:
    made = Scheduler(SchedulerLimits(10), Random(1))
    for one in views:
        made.node_changed(one, 0.0)
    return made


def ask(sut: Scheduler, at: float, conversation: int = 0) -> Grant:
    asked = Ask(Task.CHAT, prompt_bytes=4000, conversation=conversation)
    request = RouteRequest(f"r{at}", "m", at, at + 100, ask=asked, caller="someone")
    (effect,) = sut.submit(request, at)
    assert isinstance(effect, Grant)
    return effect


def taught(*views: NodeView, answers: int = 6) -> Scheduler:
    """Return a scheduler that has seen some answers of one conversation, two at a time."""
    sut = scheduler(*(views or (view("a", "m", "n", resident=("n",)),)))
    for number in range(answers):
        at = number * 20.0
        first, second = ask(sut, at, 7), ask(sut, at + 0.1)
        sut.release(first.lease, at + 6.5, ANSWER)
        sut.release(second.lease, at + 6.6, ANSWER)
    return sut


def in_a_file(learned: dict[str, object]) -> Any:
    return msgspec.json.decode(msgspec.json.encode(learned))


def test_a_restarted_scheduler_predicts_as_the_one_before() -> None:
    before = taught()
    kept = in_a_file(before.learned())
    early, late = scheduler(), scheduler(view("a", "m", "n", resident=("n",)))
    fresh = ask(scheduler(view("a", "m", "n", resident=("n",))), 0.0).lease.predicted_s
    assert early.take_learned(kept) == late.take_learned(kept) == 0
    early.node_changed(view("a", "m", "n", resident=("n",)), 0.0)
    predicted = ask(before, 500.0).lease.predicted_s
    load_s = 2.0
    for again in (early, late):
        assert ask(again, 0.0).lease.predicted_s == pytest.approx(predicted + load_s, rel=0.2)
    assert fresh > 2 * predicted or fresh < predicted / 2


def test_a_node_that_comes_after_a_restart_is_taken_for_an_average_one() -> None:
    before = taught()
    again = scheduler()
    again.take_learned(in_a_file(before.learned()))
    for sut in (before, again):
        sut.node_removed("a")
        sut.node_changed(view("new", "m", "n", resident=("n",)), 600.0)
    assert ask(again, 600.0).lease.predicted_s == pytest.approx(
        ask(before, 600.0).lease.predicted_s, rel=0.1
    )
    assert ask(again, 600.0).lease.predicted_s < 60.0


def test_what_is_kept_is_the_same_after_a_restart_without_an_answer() -> None:
    kept = in_a_file(taught(view("a", "m", "n", resident=("m", "n"))).learned())
    for views in ((), (view("a", "m", "n", resident=("m", "n")),)):
        again = scheduler(*views)
        assert again.take_learned(kept) == 0
        assert in_a_file(again.learned()) == kept


def test_what_is_kept_holds_no_caller_and_no_conversation() -> None:
    assert "someone" not in str(taught().learned())


def test_how_far_a_runner_is_believed_and_how_much_fits_are_kept() -> None:
    kept = in_a_file(taught(view("a", "m", "n", resident=("m", "n"))).learned())
    ((name, fits_bytes, fits_models, _, _),) = kept["memory"]["capacity"]
    assert (name, fits_bytes, fits_models) == ("a", 10 * GIB, 2)
    ((node, model, trust),) = kept["memory"]["trust"]
    assert (node, model) == ("a", "m")
    assert 0.0 <= trust <= 1.0


def test_what_is_kept_of_a_node_that_was_removed_is_dropped() -> None:
    again = scheduler()
    again.take_learned(in_a_file(taught(view("a", "m", "n", resident=("m",))).learned()))
    again.node_removed("a")
    again.node_changed(view("a", "m"), 0.0)
    again.node_removed("a")
    kept: Any = again.learned()
    assert kept["memory"] == {"capacity": [], "trust": []}
    assert kept["rates"]["pairs"] == []


def test_later_answers_change_nothing_in_what_was_handed_out() -> None:
    sut = taught()
    learned = sut.learned()
    before = msgspec.json.encode(learned)
    sut.release(ask(sut, 900.0).lease, 910.0, ANSWER)
    assert msgspec.json.encode(learned) == before


@pytest.mark.parametrize("kept", [None, [], {}, {"version": 2}, "text", 1])
def test_what_is_of_another_make_is_refused(kept: object) -> None:
    with pytest.raises(ValueError, match="not estimates"):
        scheduler().take_learned(kept)


ODD = recursive(
    none()
    | integers()
    | floats()
    | text(max_size=3)
    | sampled_from([10**400, -1, 1e300, "m", "a"]),
    lambda inner: lists(inner, max_size=6) | dictionaries(text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
PATHS = (
    ("rates",), ("lengths",), ("memory",),
    ("rates", "pairs"), ("rates", "slopes"), ("rates", "decode"), ("rates", "decode", "nodes"),
    ("rates", "load", "models"), ("lengths", "outputs"), ("lengths", "tokens_per_byte"),
    ("memory", "capacity"), ("memory", "trust"),
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(path=sampled_from(PATHS), row=integers(0, 5), place=integers(0, 5), odd=ODD)
def test_a_damaged_file_never_breaks_a_prediction(
    path: tuple[str, ...], row: int, place: int, odd: Any
) -> None:
    kept = in_a_file(KEPT)
    inner = kept
    for name in path[:-1]:
        inner = inner[name]
    listed = inner[path[-1]]
    if isinstance(listed, list) and row < len(listed):
        if place < len(listed[row]):
            listed[row][place] = odd
        else:
            listed[row] = odd
    else:
        inner[path[-1]] = odd
    sut = scheduler(view("a", "m", "n"))
    assert sut.take_learned(kept) >= 0
    sut.node_changed(view("b", "m"), 0.0)
    grant = ask(sut, 0.0)
    assert 0.0 < grant.lease.predicted_s < 1e9
    sut.release(grant.lease, 5.0, ANSWER)
    msgspec.json.encode(sut.learned())


KEPT = taught(view("a", "m", "n", resident=("m", "n")), view("b", "m")).learned()


def test_the_rows_that_do_not_fit_are_counted_and_the_others_taken() -> None:
    kept = in_a_file(KEPT)
    kept["rates"]["pairs"][0][2] = [99.0, 0.0, 3]
    kept["rates"]["slopes"].append(["a", "steep"])
    kept["lengths"]["outputs"].append([])
    kept["memory"]["capacity"].append(["a", "much", 0, None, None])
    kept["memory"]["trust"].append(["a", "m", 2.0])
    kept["rates"]["load"]["nodes"].append(["a"])
    assert scheduler().take_learned(kept) == 6


async def test_a_file_is_written_when_something_was_learned_and_read_again(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "down" / "estimates.json"
    sut = Estimates(taught(), path)
    await sut.load()
    await sut.save()
    written = path.read_bytes()
    assert path.stat().st_mode & 0o077 == 0
    path.unlink()
    await sut.save()
    assert not path.exists()
    path.write_bytes(written)
    again = scheduler()
    with capture_logs() as logs:
        await Estimates(again, path).load()
    assert logs == []
    assert msgspec.json.encode(again.learned()) == written
    assert os.listdir(path.parent) == [path.name]


async def test_without_a_path_nothing_is_read_or_written(tmp_path: Path) -> None:
    sut = Estimates(taught(), None)
    await sut.load()
    await sut.save()
    assert os.listdir(tmp_path) == []


async def test_it_is_saved_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "estimates.json"
    sut = Estimates(taught(), path)
    running = asyncio.ensure_future(sut.run())
    await asyncio.sleep(0)
    assert read(path) is None
    sut.stop()
    await running
    assert read(path) is not None


async def test_what_cannot_be_read_is_told_once_and_written_anew(tmp_path: Path) -> None:
    deep = b"[" * 100_000
    path = tmp_path / "estimates.json"
    for content in (b"", b"\xff\xfe", b"{}", b'{"version": 1', deep):
        path.write_bytes(content)
        with capture_logs() as logs:
            await Estimates(scheduler(), path).load()
        (line,) = logs
        assert line["event"] == "estimates_not_read"
        assert "delete it" in line["advice"]
    await Estimates(taught(), path).save()
    assert read(path) is not None


async def test_what_fits_only_in_part_is_told_once(tmp_path: Path) -> None:
    path = tmp_path / "estimates.json"
    path.write_bytes(b'{"version": 1, "rates": {"pairs": [[], 1]}, "lengths": 3}')
    with capture_logs() as logs:
        await Estimates(scheduler(), path).load()
    (line,) = logs
    assert (line["event"], line["dropped"]) == ("estimates_partly_read", 2)


async def test_what_is_no_plain_file_or_too_long_is_not_opened(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    long = tmp_path / "long"
    with long.open("wb") as file:
        file.truncate(estimates.MAX_BYTES + 1)
    for path in (pipe, tmp_path, long):
        with capture_logs() as logs:
            await Estimates(scheduler(), path).load()
        assert [line["event"] for line in logs] == ["estimates_not_read"]
    with capture_logs() as logs:  # nor replaced: others may have it in use
        await Estimates(taught(), pipe).save()
    assert [line["event"] for line in logs] == ["estimates_not_saved"]
    assert pipe.is_fifo()


async def test_a_place_that_cannot_be_written_is_told_once_until_it_can(tmp_path: Path) -> None:
    block = tmp_path / "block"
    block.write_text("a file where a folder should be")
    scheduled = taught()
    sut = Estimates(scheduled, block / "estimates.json")
    with capture_logs() as logs:
        await sut.save()
        await sut.save()
    (line,) = logs
    assert line["event"] == "estimates_not_saved"
    assert "scheduling.state_file" in line["advice"]
    block.unlink()
    with capture_logs() as logs:
        await sut.save()
    assert logs == []
    assert (block / "estimates.json").exists()


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "estimates.json"
    write(path, {"version": 1})
    with pytest.raises(TypeError):
        write(path, {"version": object()})
    assert read(path) == {"version": 1}
    assert os.listdir(tmp_path) == [path.name]


def test_a_link_is_followed_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    link = tmp_path / "estimates.json"
    link.symlink_to(tmp_path / "real" / "file.json")
    write(link, {"version": 1})
    assert link.is_symlink()
    assert read(tmp_path / "real" / "file.json") == {"version": 1}
