"""Each fault as a client sees it on the socket."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from sollol.bench.sim.config import SimConfig, SimModel
from sollol.bench.sim.faults import Fault
from sollol.bench.sim.node import SimNode
from tests.raw_http import RawAnswer, render, talk, wait_until

pytestmark = pytest.mark.sim

MODEL = SimModel("a")
CHAT: dict[str, Any] = {
    "model": "a",
    "messages": [{"role": "user", "content": "hi"}],
    "options": {"num_predict": 6},
}
QUIET_S = 0.1


@pytest.fixture
async def node() -> AsyncIterator[SimNode]:
    async with SimNode(SimConfig(models=(MODEL, SimModel("b")))) as made:
        yield made


async def chat(node: SimNode, *, stream: bool = True, quiet_s: float = 5.0) -> RawAnswer:
    body = json.dumps(CHAT | {"stream": stream}).encode()
    request = render("POST", "/api/chat", body, {"Connection": "close"})
    return await talk(node.port, request, quiet_s=quiet_s)


async def is_well(node: SimNode) -> bool:
    answer = await chat(node)
    return answer.status == 200 and answer.records[-1]["done"] and answer.ending == "eof"


async def test_without_faults_all_is_well(node: SimNode) -> None:
    answer = await chat(node)
    assert [record["done"] for record in answer.records] == [False] * 6 + [True]
    assert answer.chunks[-1] == b""


async def test_refuse_closes_the_listener_until_cleared(node: SimNode) -> None:
    node.set_fault(Fault("refuse"))
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", node.port)
    node.clear_faults()
    assert await is_well(node)


async def test_refuse_may_be_set_again_at_once(node: SimNode) -> None:
    node.set_fault(Fault("refuse"))
    node.clear_faults()
    node.set_fault(Fault("refuse"))
    await node.stop_listening()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", node.port)
    await node.start_listening()
    node.clear_faults()
    assert await is_well(node)


async def test_black_hole_takes_connections_and_says_nothing(node: SimNode) -> None:
    node.set_fault(Fault("black_hole", times=1))
    answer = await chat(node, quiet_s=QUIET_S)
    assert (answer.head, answer.ending) == (b"", "open")
    assert node.requests == []
    assert await is_well(node)


async def test_reset_on_accept(node: SimNode) -> None:
    node.set_fault(Fault("reset_on_accept", times=1))
    answer = await chat(node)
    assert (answer.head, answer.ending) == (b"", "reset")
    assert await is_well(node)


async def test_close_before_head(node: SimNode) -> None:
    node.set_fault(Fault("close_before_head"))
    answer = await chat(node)
    assert (answer.head, answer.ending) == (b"", "eof")


async def test_hang_before_head_holds_the_request_until_the_client_leaves(node: SimNode) -> None:
    node.set_fault(Fault("hang_before_head", times=1))
    answer = await chat(node, quiet_s=QUIET_S)
    assert (answer.head, answer.ending) == (b"", "open")
    await wait_until(lambda: node.in_flight == 0)
    assert node.requests[0].outcome == "failed"
    assert await is_well(node)


@pytest.mark.parametrize("status", [429, 500, 502, 503, 529])
async def test_status(node: SimNode, status: int) -> None:
    node.set_fault(Fault("status", status=status, message="out of order"))
    answer = await chat(node)
    assert answer.status == status
    assert json.loads(answer.body) == {"error": "out of order"}
    assert not node.loads


async def test_status_has_the_words_and_the_dialect_of_the_route(node: SimNode) -> None:
    node.set_fault(Fault("status", status=503))
    body = json.dumps(CHAT).encode()
    request = render("POST", "/v1/chat/completions", body, {"Connection": "close"})
    answer = await talk(node.port, request)
    error = json.loads(answer.body)["error"]
    assert error["message"].startswith("server busy, please try again.  maximum")
    assert error["type"] == "api_error"


async def test_garbage_is_not_http(node: SimNode) -> None:
    node.set_fault(Fault("garbage"))
    answer = await chat(node)
    assert answer.ending == "eof"
    assert not answer.head.startswith(b"HTTP/")


@pytest.mark.parametrize("records", [0, 1, 4])
async def test_cut_ends_without_the_last_chunk(node: SimNode, records: int) -> None:
    node.set_fault(Fault("cut_after_n_records", records=records))
    answer = await chat(node)
    assert (answer.status, answer.ending) == (200, "eof")
    assert len(answer.chunks) == records
    assert b"" not in answer.chunks
    assert node.requests[0].outcome == "failed"


async def test_reset_comes_after_the_records(node: SimNode) -> None:
    node.set_fault(Fault("reset_after_n_records", records=3))
    answer = await chat(node)
    assert answer.ending == "reset"
    assert len(answer.records) == 3


async def test_an_end_without_done_is_clean_http(node: SimNode) -> None:
    node.set_fault(Fault("end_without_done_after_n", records=2))
    answer = await chat(node)
    assert answer.chunks[-1] == b""
    assert [record["done"] for record in answer.records] == [False, False]


async def test_an_error_record_ends_the_stream(node: SimNode) -> None:
    node.set_fault(Fault("error_record_after_n", records=2, message="boom"))
    answer = await chat(node)
    assert answer.status == 200
    assert answer.records[-1] == {"error": "boom"}
    assert answer.chunks[-1] == b""
    assert len(answer.records) == 3


async def test_an_error_before_the_first_record_has_a_status(node: SimNode) -> None:
    node.set_fault(Fault("error_record_after_n", records=0, message="boom"))
    answer = await chat(node)
    assert (answer.status, json.loads(answer.body)) == (500, {"error": "boom"})


async def test_an_error_may_be_the_first_record(node: SimNode) -> None:
    node.set_fault(Fault("error_record_first", message="boom"))
    answer = await chat(node)
    assert (answer.status, answer.records) == (200, [{"error": "boom"}])
    assert answer.chunks[-1] == b""
    whole = await chat(node, stream=False)
    assert (whole.status, json.loads(whole.body)) == (500, {"error": "boom"})


async def test_a_load_that_hangs_holds_up_other_loads_only(node: SimNode) -> None:
    assert await is_well(node)
    node.set_fault(Fault("hang_in_load", model="b", times=1))
    body = json.dumps(CHAT | {"model": "b"}).encode()
    request = render("POST", "/api/chat", body, {"Connection": "close"})
    hanging, behind = (asyncio.ensure_future(talk(node.port, request)) for _ in range(2))
    await wait_until(lambda: node.in_flight == 2)
    assert await is_well(node)
    assert len(node.loads) == 1
    hanging.cancel()
    assert (await behind).status == 200
    assert [load.model for load in node.loads] == ["a:latest", "b:latest"]


async def test_an_error_on_v1_is_an_empty_chunk_and_no_done(node: SimNode) -> None:
    node.set_fault(Fault("error_record_after_n", records=1))
    body = json.dumps(CHAT | {"stream": True}).encode()
    request = render("POST", "/v1/chat/completions", body, {"Connection": "close"})
    answer = await talk(node.port, request)
    last = json.loads(answer.chunks[-2].removeprefix(b"data: "))
    assert last["model"] == ""
    assert b"[DONE]" not in answer.body


async def test_hang_keeps_the_slot_until_the_client_leaves(node: SimNode) -> None:
    node.set_fault(Fault("hang_after_n_records", records=2, times=1))
    answer = await chat(node, quiet_s=QUIET_S)
    assert (len(answer.records), answer.ending) == (2, "open")
    await wait_until(lambda: node.in_flight == 0)
    assert await is_well(node)


@pytest.mark.parametrize(
    ("kind", "ending"),
    [
        ("cut_after_n_records", "eof"),
        ("reset_after_n_records", "reset"),
        ("hang_after_n_records", "open"),
    ],
)
async def test_an_answer_in_one_piece_breaks_in_its_middle(
    node: SimNode, kind: Any, ending: str
) -> None:
    node.set_fault(Fault(kind))
    answer = await chat(node, stream=False, quiet_s=QUIET_S if ending == "open" else 5.0)
    promised = int(dict(answer.headers)["Content-Length"])
    assert len(answer.body) == promised // 2
    assert answer.ending == ending


async def test_slow_drip_sends_all_in_the_end(node: SimNode) -> None:
    node.set_fault(Fault("slow_drip"))
    answer = await chat(node)
    assert answer.records[-1]["done"]
    assert answer.chunks[-1] == b""


@pytest.mark.parametrize("delta_bytes", [7, -7])
async def test_wrong_content_length(node: SimNode, delta_bytes: int) -> None:
    node.set_fault(Fault("wrong_content_length", delta_bytes=delta_bytes))
    answer = await chat(node, stream=False)
    promised = int(dict(answer.headers)["Content-Length"])
    assert promised - len(answer.body) == delta_bytes


async def test_huge_line(node: SimNode) -> None:
    node.set_fault(Fault("huge_line", records=2, size_bytes=300_000))
    answer = await chat(node)
    lengths = [len(record["message"]["content"]) for record in answer.records]
    assert [length > 300_000 for length in lengths] == [False, False, True] + [False] * 4
    assert answer.records[-1]["done"]


async def test_half_close_ends_the_answer_and_then_its_side(node: SimNode) -> None:
    node.set_fault(Fault("half_close"))
    answer = await talk(node.port, render("POST", "/api/chat", json.dumps(CHAT).encode()))
    assert answer.chunks[-1] == b""
    assert answer.ending == "eof"
    assert "Connection" not in dict(answer.headers)
    await wait_until(lambda: node.open_connections == 0)


async def test_a_fault_hits_its_path_model_and_number_of_times(node: SimNode) -> None:
    node.set_fault(Fault("status", path="/api/ch*", model="a", status=500, times=2))
    version = await talk(node.port, render("GET", "/api/version", headers={"Connection": "close"}))
    assert version.status == 200
    other = json.dumps(CHAT | {"model": "c"}).encode()
    request = render("POST", "/api/chat", other, {"Connection": "close"})
    assert (await talk(node.port, request)).status == 404
    assert [(await chat(node)).status for _ in range(3)] == [500, 500, 200]
    assert node.state.faults.active == []


async def test_every_connection_can_be_reset_at_once(node: SimNode) -> None:
    node.set_fault(Fault("hang_before_head"))
    asked = [asyncio.ensure_future(chat(node)) for _ in range(3)]
    await wait_until(lambda: node.in_flight == 3)
    node.reset_connections()
    assert {answer.ending for answer in await asyncio.gather(*asked)} == {"reset"}


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="no such fault"):
        Fault("explode")  # type: ignore[arg-type]
