"""Workloads over HTTP: the load generator, and whole runs with a gateway of their own."""

import asyncio
from functools import partial
from pathlib import Path

import pytest

from sollol.bench.balance import DIRECT_POLICIES
from sollol.bench.common.children import ChildFailed, Children
from sollol.bench.faults.script import Outage, act_out
from sollol.bench.fleets import Fleet
from sollol.bench.live.bodies import Sending, write_all
from sollol.bench.live.client import Generator, Received
from sollol.bench.live.processes import RunningNodes, gateway_settings, start_nodes
from sollol.bench.live.run import Setup, make_replay, run_policy
from sollol.bench.live.scaled_loop import ScaledLoop
from sollol.bench.sim.config import SimConfig
from sollol.bench.sim.node import Fault, SimNode
from sollol.bench.workload import EMBEDDER, MODELS, Request, synthetic

ALL = (*MODELS, EMBEDDER)
BY_NAME = {model.name: model for model in ALL}
NODE = SimConfig(models=ALL, vram_gib=64.0, slots=4, max_loaded=6, reference_gib=5.0)
FLEET = Fleet("two", {"a": NODE, "b": NODE})
SCALE = 0.01


def mix(count: int = 40) -> list[Request]:
    return synthetic(rate_per_s=1.0, requests=count, seed=1)


async def send(
    node: SimNode, sendings: list[Sending], *, timeout_s: float = 30.0, scale: float = 0.001
) -> tuple[list[Received], list[int]]:
    ended: list[int] = []
    generator = Generator(sendings, scale, lambda index, model: node.port, ended.append)
    await generator.run(timeout_s)
    return generator.received, ended


async def test_every_request_is_sent_when_due_and_read_to_its_end() -> None:
    sendings = write_all(mix(), BY_NAME)
    async with SimNode(NODE) as node:
        received, ended = await send(node, sendings)
        assert sorted(ended) == list(range(len(sendings)))
        assert [request.body for request in node.requests] == [s.body for s in sendings]
    assert {one.outcome for one in received} == {"served"}
    for one in received:
        assert one.due_at <= one.sent_at <= one.first_byte_at <= one.ended_at
        assert one.durations_s()["total"] > 0
        assert one.header("content-type").startswith("application/")
        assert one.header("X-Nothing") == ""


async def test_what_is_cached_is_read_from_the_answer() -> None:
    (sending,) = write_all(mix(1), BY_NAME)
    async with SimNode(SimConfig(models=ALL, reports_cached_count=True)) as node:
        received, _ = await send(node, [sending] * 2)
    assert [one.cached_tokens() > 0 for one in received] == [False, True]


async def test_an_error_of_the_server_is_told_by_its_status() -> None:
    sendings = write_all(mix(1), BY_NAME)
    async with SimNode(SimConfig(models=())) as node:
        received, _ = await send(node, sendings)
    assert received[0].outcome == "http_404"


@pytest.mark.parametrize(
    ("fault", "outcomes"),
    [
        (
            Fault("cut_after_n_records", records=2, path="/api/chat"),
            {"connection_lost", "cut", "http_0"},
        ),
        (Fault("reset_on_accept"), {"connection_lost", "cut", "http_0"}),
        (Fault("end_without_done_after_n", records=2, path="/api/chat"), {"cut"}),
        (Fault("close_before_head"), {"http_0"}),
    ],
)
async def test_an_answer_that_is_not_whole_is_no_success(fault: Fault, outcomes: set[str]) -> None:
    sendings = [s for s in write_all(mix(), BY_NAME) if s.path == "/api/chat"][:1]
    async with SimNode(NODE) as node:
        node.set_fault(fault)
        received, _ = await send(node, sendings)
    assert received[0].outcome in outcomes


async def test_an_answer_may_come_in_any_pieces() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for piece in (b"HTTP/1.1 200 OK\r\nX-So", b"llol-Node: b\r\n\r\n", b'{"done":true}'):
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
        writer.close()
        await writer.wait_closed()

    sendings = write_all(mix(1), BY_NAME)
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        generator = Generator(sendings, 0.001, lambda index, model: port, lambda index: None)
        await generator.run(10.0)
    (received,) = generator.received
    assert received.outcome == "served"
    assert received.header("X-Sollol-Node") == "b"


async def test_nobody_who_listens_is_told() -> None:
    sendings = write_all(mix(1), BY_NAME)
    async with SimNode(NODE) as node:
        await node.stop_listening()
        received, ended = await send(node, sendings)
    assert received[0].outcome == "not_connected"
    assert ended == [0]
    assert received[0].sent_at == 0.0


async def test_what_never_ends_is_given_up() -> None:
    sendings = write_all(mix(1), BY_NAME)
    async with SimNode(NODE) as node:
        node.set_fault(Fault("hang_before_head"))
        received, ended = await send(node, sendings, timeout_s=0.5)
    assert received[0].outcome == "unfinished"
    assert ended == [0]


@pytest.mark.parametrize("policy", ["fastest", "round_robin", *DIRECT_POLICIES])
def test_a_run_over_http(policy: str, tmp_path: Path) -> None:
    told: list[int] = []
    requests = mix()
    setup = Setup(FLEET, tmp_path, SCALE)
    result = run_policy(setup, policy, requests, seed=1, progress=told.append)
    assert {record.outcome for record in result.records} == {"served"}
    assert told == list(range(1, len(requests) + 1))
    assert len(result.lateness_s) == len(requests)
    assert result.loads >= len({request.model for request in requests})
    assert result.ended_at > requests[-1].at
    for record, request in zip(result.records, requests, strict=True):
        assert (record.arrived_at, record.model) == (request.at, request.model)
        assert record.first_byte_s <= record.latency_s
        if policy in DIRECT_POLICIES:
            assert record.node in FLEET.nodes


def test_a_policy_is_a_setting_of_the_gateway() -> None:
    assert "scheduling.policy=round_robin" in gateway_settings("round_robin", 1, 0.1)


def test_a_gateway_that_does_not_start_says_why(tmp_path: Path) -> None:
    setup = Setup(FLEET, tmp_path, SCALE)
    with pytest.raises(ChildFailed, match="gateway ended with exit code"):
        run_policy(setup, "no such policy", mix(1), seed=1, progress=lambda _: None)


def test_nodes_that_are_gone_are_noticed(tmp_path: Path) -> None:
    with Children(tmp_path) as children:
        nodes: RunningNodes = start_nodes(children, tmp_path, FLEET, SCALE)
        nodes.child.process.kill()
        nodes.child.process.wait()
        with pytest.raises(ChildFailed, match="does not answer"):
            nodes.states()


def test_a_request_that_got_no_answer_has_no_timings() -> None:
    sendings = write_all(mix(1), BY_NAME)
    received = [Received(due_at=10.0, ended_at=10.5, error="not_connected")]
    replay = make_replay(sendings, received, [{"loads": [], "unloads": []}], 0.1)
    (record,) = replay.records
    assert (record.outcome, record.load_s, record.node_wait_s) == ("not_connected", 0.0, 0.0)
    assert record.latency_s == record.first_byte_s == pytest.approx(5.0)
    assert replay.lateness_s == []


def test_a_loop_in_the_nodes_time_has_longer_seconds() -> None:
    async def sleep() -> float:
        loop = asyncio.get_running_loop()
        started = loop.time()
        await asyncio.sleep(20.0)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(20.0):
                await asyncio.Event().wait()
        return loop.time() - started

    with asyncio.Runner(loop_factory=partial(ScaledLoop, 0.001)) as runner:
        assert runner.run(sleep()) >= 40.0


def test_nodes_fail_as_the_script_has_it(tmp_path: Path) -> None:
    outages = [Outage("a", "dies", 0.0, 15.0), Outage("b", "runner crashes", 16.0, 1000.0)]
    setup = Setup(FLEET, tmp_path, SCALE, outages)
    result = run_policy(setup, "direct_round_robin", mix(), seed=1, progress=lambda _: None)
    outcomes = {record.outcome for record in result.records}
    assert {"served", "http_500"} <= outcomes
    assert outcomes & {"not_connected", "connection_lost"}


async def test_a_side_channel_that_refuses_is_noticed() -> None:
    async with SimNode(NODE) as node:
        with pytest.raises(OSError, match="side channel answered"):
            await act_out([Outage("a", "hangs", 0.0, 0.0)], {"a": node.port}, SCALE)
