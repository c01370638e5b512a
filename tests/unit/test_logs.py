"""Logs: one renderer for all, secrets masked, and never a failure for the caller."""

import io
import json
import logging
import os
import threading
from collections.abc import Iterator
from typing import Any, Literal

import pytest
import structlog

from sollol.log_writer import MAX_UNWRITTEN, _output, flush, info
from sollol.logs import MASK, configure


class _Terminal(io.TextIOWrapper):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def stream() -> Iterator[io.TextIOWrapper]:
    """A place for lines; logging is as it was afterwards."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    yield io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    root.handlers[:] = before
    root.setLevel(level)
    structlog.reset_defaults()
    _output.put, _output.flush, _output.is_off = None, None, False


def _text(stream: io.TextIOWrapper) -> str:
    flush()
    buffer = stream.buffer
    assert isinstance(buffer, io.BytesIO)
    return buffer.getvalue().decode()


def _lines(stream: io.TextIOWrapper) -> list[dict[str, Any]]:
    return [json.loads(line) for line in _text(stream).splitlines()]


def test_a_line_is_json_with_a_utc_time_and_the_fields(stream: io.TextIOWrapper) -> None:
    configure("info", "json", stream)
    structlog.get_logger().info("request_done", node="gpu1", ttft_s=0.25)
    (line,) = _lines(stream)
    assert list(line)[:3] == ["timestamp", "level", "event"]
    assert line["timestamp"].endswith("Z")
    assert line | {"timestamp": ""} == {
        "timestamp": "", "level": "info", "event": "request_done", "node": "gpu1", "ttft_s": 0.25,
    }  # fmt: skip


def test_lines_below_the_level_are_not_written(stream: io.TextIOWrapper) -> None:
    configure("warning", "json", stream)
    log = structlog.get_logger()
    log.info("no")
    logging.getLogger("somewhere").info("no")
    log.warning("yes")
    assert [line["event"] for line in _lines(stream)] == ["yes"]


def test_lines_of_others_are_written_alike(stream: io.TextIOWrapper) -> None:
    configure("info", "json", stream)
    structlog.get_logger().info("one")
    logging.getLogger("uvicorn.error").warning("two %s", 2)
    assert _lines(stream)[1]["event"] == "two 2"
    assert _lines(stream)[1]["logger"] == "uvicorn.error"


def test_chatter_of_libraries_is_left_out(stream: io.TextIOWrapper) -> None:
    configure("debug", "json", stream)
    logging.getLogger("uvicorn.access").critical("GET /")
    assert _lines(stream) == []


@pytest.mark.parametrize(
    "name",
    ["authorization", "Authorization", "api_key", "x-api-key", "token", "hf_token", "password",
     "cookie", "set-cookie", "client_secret"],
)  # fmt: skip
@pytest.mark.parametrize("style", ["json", "console"])
def test_secrets_are_masked_by_name_wherever_they_are(
    stream: io.TextIOWrapper, name: str, style: Literal["json", "console"]
) -> None:
    configure("info", style, stream)
    structlog.get_logger().info("e", **{name: "canary"}, headers={name: "canary", "n": [1]})
    logging.getLogger("x").error("e", extra={name: "canary"})
    assert "canary" not in _text(stream)
    assert _text(stream).count(MASK) == 2


def test_counts_of_tokens_and_key_ids_are_no_secrets(stream: io.TextIOWrapper) -> None:
    configure("info", "json", stream)
    structlog.get_logger().info("e", prompt_tokens=3, key_id="k1", tokens=4)
    assert (
        _lines(stream)[0] | {"prompt_tokens": 3, "key_id": "k1", "tokens": 4} == _lines(stream)[0]
    )


def _fail(canary: str) -> None:
    raise ValueError("broken")


@pytest.mark.parametrize("writer", ["structlog", "stdlib"])
def test_an_exception_is_one_line_without_local_variables(
    stream: io.TextIOWrapper, writer: str
) -> None:
    configure("info", "json", stream)
    try:
        _fail("canary")
    except ValueError:
        if writer == "structlog":
            structlog.get_logger().exception("failed")
        else:
            logging.getLogger("x").exception("failed")
    (line,) = _lines(stream)
    assert line["exception"][0]["exc_type"] == "ValueError"
    assert line["exception"][0]["exc_value"] == "broken"
    assert line["exception"][0]["frames"][-1]["name"] == "_fail"
    assert "canary" not in _text(stream)


def test_the_console_shows_tracebacks_without_local_variables(stream: io.TextIOWrapper) -> None:
    configure("info", "console", stream)
    try:
        _fail("can" + "ary")
    except ValueError:
        structlog.get_logger().exception("failed")
    assert "ValueError: broken" in _text(stream)
    assert "canary" not in _text(stream)
    assert "\x1b[" not in _text(stream)


@pytest.mark.parametrize("value", ["\ud800", 2**70, {(1, 2): 3}, object(), b"\xff", {1, 2}])
def test_any_value_can_be_logged(stream: io.TextIOWrapper, value: object) -> None:
    configure("info", "json", stream)
    structlog.get_logger().info("odd", value=value, after=1)
    assert _lines(stream)[0]["after"] == 1


def test_a_reader_that_left_is_no_failure_of_the_caller(stream: io.TextIOWrapper) -> None:
    configure("info", "json", stream)
    stream.close()
    structlog.get_logger().info("nobody reads this")
    logging.getLogger("x").error("nor this")


def test_auto_is_for_people_on_a_terminal_and_for_programs_elsewhere(
    stream: io.TextIOWrapper,
) -> None:
    configure("info", "auto", stream)
    structlog.get_logger().info("one", n=1)
    assert _lines(stream)[0]["n"] == 1
    terminal = _Terminal(io.BytesIO(), encoding="utf-8")
    configure("info", "auto", terminal)
    structlog.get_logger().info("two", n=1)
    assert _text(terminal).startswith("\x1b[")
    assert "two" in _text(terminal)


def test_a_terminal_is_not_steered_by_what_callers_write(stream: io.TextIOWrapper) -> None:
    configure("info", "console", stream)
    structlog.get_logger().info("request_done", model="a\x1b[2J\u202e\u009b31m")
    text = _text(stream)
    assert "\\x1b[2J" in text
    assert not {"\x1b", "\u202e", "\u009b"} & set(text)


@pytest.mark.parametrize("level", ["debug", "info", "warning"])
@pytest.mark.parametrize("form", ["json", "console"])
def test_the_quick_way_writes_the_same_line(
    stream: io.TextIOWrapper, level: Any, form: Any
) -> None:
    configure(level, form, stream)
    structlog.get_logger().info("request_done", node="a", status=200)
    info("request_done", {"node": "a", "status": 200})
    lines = _text(stream).splitlines()
    assert len(lines) == (0 if level == "warning" else 2)
    if lines and form == "json":
        one, two = (json.loads(line) | {"timestamp": ""} for line in lines)
        assert one == two


@pytest.mark.usefixtures("stream")
def test_a_pipe_that_nobody_reads_stops_nobody() -> None:
    reader, writer = os.pipe()
    taken: list[bytes] = []
    with open(reader, "rb") as pipe:
        taking = threading.Thread(target=lambda: taken.extend(pipe))
        with open(writer, "w", encoding="utf-8") as stream:
            configure("info", "json", stream)
            for number in range(MAX_UNWRITTEN * 2):  # returns, though a pipe holds a few hundred
                info("e", {"number": number})
            taking.start()
            flush()
        taking.join()
    lines = [json.loads(line) for line in taken]
    numbers = [line["number"] for line in lines if line["event"] == "e"]
    dropped = [line["count"] for line in lines if line["event"] == "log_lines_dropped"]
    assert numbers == sorted(set(numbers))  # on a slow machine there is room again now and then
    assert MAX_UNWRITTEN <= len(numbers) < MAX_UNWRITTEN * 2
    assert sum(dropped) == MAX_UNWRITTEN * 2 - len(numbers)
